-- Encrypted binlogs that were kept as they are. Place 0 of the objects is the header, the others are the body in order.
CREATE TABLE file (
    server           TEXT NOT NULL,
    binlog           TEXT NOT NULL,
    mark             TEXT NOT NULL,
    server_version   TEXT NOT NULL,
    gtids_before     TEXT NOT NULL,
    gtids_added      TEXT NOT NULL,
    first_commit_us  INTEGER,
    last_commit_us   INTEGER,
    events           INTEGER NOT NULL,
    transactions     INTEGER NOT NULL,
    key_id           TEXT NOT NULL,
    key_generation   INTEGER NOT NULL,
    taken_us         INTEGER NOT NULL,
    body_blake3      BLOB NOT NULL,
    PRIMARY KEY (server, binlog, mark)
) STRICT, WITHOUT ROWID;

CREATE TABLE file_object (
    server         TEXT NOT NULL,
    binlog         TEXT NOT NULL,
    mark           TEXT NOT NULL,
    place          INTEGER NOT NULL,
    plain_size     INTEGER NOT NULL,
    plain_blake3   BLOB NOT NULL,
    stored_size    INTEGER NOT NULL,
    stored_blake3  BLOB NOT NULL,
    sealing        INTEGER NOT NULL,
    PRIMARY KEY (server, binlog, mark, place),
    FOREIGN KEY (server, binlog, mark) REFERENCES file (server, binlog, mark)
) STRICT, WITHOUT ROWID;
