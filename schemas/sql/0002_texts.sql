-- Bytes of contents that merges look back on.
CREATE TABLE texts (
    number INTEGER PRIMARY KEY,
    node BLOB NOT NULL,
    hash BLOB NOT NULL,
    stood INTEGER NOT NULL,
    bytes BLOB NOT NULL,
    UNIQUE (node, hash)
);
CREATE INDEX texts_hash ON texts (hash);
