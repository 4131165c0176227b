-- A first sync writes every index once for each file. So rows lie under their position, which needs no index of its own; of a
-- hash its first eight bytes are enough to find it by, and of an inode its number: what is found is compared whole.
CREATE TABLE rows_by_seq (
    seq INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    class INTEGER NOT NULL,
    unnumbered INTEGER,
    data BLOB NOT NULL
);
INSERT INTO rows_by_seq (seq, id, class, unnumbered, data)
    SELECT seq, id, class, unnumbered, data FROM rows ORDER BY seq;
DROP TABLE rows;
ALTER TABLE rows_by_seq RENAME TO rows;
CREATE INDEX rows_unnumbered ON rows (unnumbered) WHERE unnumbered IS NOT NULL;
CREATE INDEX rows_class ON rows (class) WHERE class <> 1;

CREATE TABLE bases_by_key (
    number INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    parent BLOB NOT NULL,
    name BLOB NOT NULL,
    inode INTEGER NOT NULL,
    hash BLOB,
    sibling INTEGER NOT NULL,
    data BLOB NOT NULL
);
INSERT INTO bases_by_key (number, id, parent, name, inode, hash, sibling, data)
    SELECT number, id, parent, name, inode, substr(hash, 1, 8), sibling, data FROM bases ORDER BY number;
DROP TABLE bases;
ALTER TABLE bases_by_key RENAME TO bases;
CREATE INDEX bases_name ON bases (parent, name);
CREATE INDEX bases_inode ON bases (inode);
CREATE INDEX bases_hash ON bases (hash) WHERE hash IS NOT NULL;
CREATE INDEX bases_sibling ON bases (sibling) WHERE sibling = 1;
CREATE INDEX bases_inner ON bases (parent) WHERE hash IS NULL;
