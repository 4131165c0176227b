-- Rows and base entries lie in the order in which they were first written, which is directory by directory, and not in that
-- of their ids, which are random: a directory is read with its neighbours, and what is new goes to the end.
CREATE TABLE rows_placed (
    number INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    seq INTEGER NOT NULL,
    class INTEGER NOT NULL,
    unnumbered INTEGER,
    data BLOB NOT NULL
);
INSERT INTO rows_placed (id, seq, class, unnumbered, data)
    SELECT id, seq, class, unnumbered, data FROM rows ORDER BY seq;
DROP TABLE rows;
ALTER TABLE rows_placed RENAME TO rows;
CREATE UNIQUE INDEX rows_seq ON rows (seq);
CREATE INDEX rows_unnumbered ON rows (unnumbered) WHERE unnumbered IS NOT NULL;
CREATE INDEX rows_class ON rows (class) WHERE class <> 1;

CREATE TABLE bases_placed (
    number INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    parent BLOB NOT NULL,
    name BLOB NOT NULL,
    inode INTEGER NOT NULL,
    born INTEGER NOT NULL,
    hash BLOB,
    sibling INTEGER NOT NULL,
    data BLOB NOT NULL
);
INSERT INTO bases_placed (id, parent, name, inode, born, hash, sibling, data)
    SELECT id, parent, name, inode, born, hash, sibling, data FROM bases ORDER BY parent, name;
DROP TABLE bases;
ALTER TABLE bases_placed RENAME TO bases;
CREATE INDEX bases_name ON bases (parent, name);
CREATE INDEX bases_inode ON bases (inode, born);
CREATE INDEX bases_hash ON bases (hash) WHERE hash IS NOT NULL;
CREATE INDEX bases_sibling ON bases (sibling) WHERE sibling = 1;
