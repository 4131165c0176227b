-- What base has in each directory, in short, and the directories among it: the start reads nothing more of one that is as it was.
CREATE TABLE fingerprints (dir BLOB PRIMARY KEY, sum BLOB NOT NULL) WITHOUT ROWID;
CREATE INDEX bases_inner ON bases (parent) WHERE hash IS NULL;
