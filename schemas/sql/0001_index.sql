-- The index of one account on one machine. Written once; a later change is a file of its own.
CREATE TABLE rows (
    id BLOB PRIMARY KEY,
    seq INTEGER NOT NULL,
    class INTEGER NOT NULL,
    unnumbered INTEGER,
    data BLOB NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX rows_seq ON rows (seq);
CREATE INDEX rows_unnumbered ON rows (unnumbered) WHERE unnumbered IS NOT NULL;
CREATE INDEX rows_class ON rows (class) WHERE class <> 1;

CREATE TABLE places (
    parent BLOB NOT NULL,
    name BLOB NOT NULL,
    node BLOB NOT NULL,
    PRIMARY KEY (parent, name, node)
) WITHOUT ROWID;

CREATE TABLE bases (
    id BLOB PRIMARY KEY,
    parent BLOB NOT NULL,
    name BLOB NOT NULL,
    inode INTEGER NOT NULL,
    born INTEGER NOT NULL,
    hash BLOB,
    sibling INTEGER NOT NULL,
    data BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX bases_name ON bases (parent, name);
CREATE INDEX bases_inode ON bases (inode, born);
CREATE INDEX bases_hash ON bases (hash) WHERE hash IS NOT NULL;
CREATE INDEX bases_sibling ON bases (sibling) WHERE sibling = 1;

CREATE TABLE members (
    node BLOB PRIMARY KEY,
    base BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE marks (node BLOB PRIMARY KEY) WITHOUT ROWID;

CREATE TABLE kept (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    path BLOB NOT NULL,
    hash BLOB,
    data BLOB NOT NULL
);
CREATE INDEX kept_path ON kept (path);
CREATE INDEX kept_hash ON kept (hash) WHERE hash IS NOT NULL;

CREATE TABLE cursors (peer INTEGER PRIMARY KEY, run INTEGER NOT NULL, seq INTEGER NOT NULL);
CREATE TABLE singles (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
