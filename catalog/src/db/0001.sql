-- Times are microseconds since 1970 (UTC), GTID sets MySQL's text, digests 32 bytes.
-- Numbers that stand for words: sealing 1 = zstd, 2 = zstd then age; kind 1 = schema, 2 = accounts, 3 = rows.
PRAGMA application_id = 1213682770;

CREATE TABLE archive (
    one         INTEGER PRIMARY KEY CHECK (one = 1),
    repository  TEXT NOT NULL,
    generation  INTEGER NOT NULL
) STRICT;

CREATE TABLE timeline (
    id              INTEGER PRIMARY KEY,
    parent          INTEGER REFERENCES timeline (id),
    reason          TEXT NOT NULL,
    starting_gtids  TEXT NOT NULL,
    created_us      INTEGER NOT NULL
) STRICT;

CREATE TABLE segment (
    timeline         INTEGER NOT NULL REFERENCES timeline (id),
    sequence         INTEGER NOT NULL,
    server           TEXT NOT NULL,
    binlog           TEXT NOT NULL,
    start_offset     INTEGER NOT NULL,
    end_offset       INTEGER NOT NULL,
    gtids_before     TEXT NOT NULL,
    gtids_added      TEXT NOT NULL,
    first_commit_us  INTEGER,
    last_commit_us   INTEGER,
    events           INTEGER NOT NULL,
    transactions     INTEGER NOT NULL,
    plain_blake3     BLOB NOT NULL,
    previous_blake3  BLOB,
    PRIMARY KEY (timeline, sequence)
) STRICT, WITHOUT ROWID;

CREATE TABLE segment_object (
    timeline       INTEGER NOT NULL,
    sequence       INTEGER NOT NULL,
    place          INTEGER NOT NULL,
    plain_size     INTEGER NOT NULL,
    plain_blake3   BLOB NOT NULL,
    stored_size    INTEGER NOT NULL,
    stored_blake3  BLOB NOT NULL,
    sealing        INTEGER NOT NULL,
    PRIMARY KEY (timeline, sequence, place),
    FOREIGN KEY (timeline, sequence) REFERENCES segment (timeline, sequence)
) STRICT, WITHOUT ROWID;

CREATE TABLE dump (
    id               TEXT PRIMARY KEY,
    timeline         INTEGER NOT NULL REFERENCES timeline (id),
    server           TEXT NOT NULL,
    server_version   TEXT NOT NULL,
    gtids            TEXT NOT NULL,
    position_binlog  TEXT,
    position_offset  INTEGER,
    started_us       INTEGER NOT NULL,
    finished_us      INTEGER NOT NULL,
    method           TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE dump_file (
    dump           TEXT NOT NULL REFERENCES dump (id),
    load_order     INTEGER NOT NULL,
    name           TEXT NOT NULL,
    kind           INTEGER NOT NULL,
    schema_name    TEXT,
    table_name     TEXT,
    table_rows     INTEGER,
    plain_size     INTEGER NOT NULL,
    plain_blake3   BLOB NOT NULL,
    stored_size    INTEGER NOT NULL,
    stored_blake3  BLOB NOT NULL,
    sealing        INTEGER NOT NULL,
    PRIMARY KEY (dump, load_order)
) STRICT, WITHOUT ROWID;

CREATE TABLE key_generation (
    server         TEXT NOT NULL,
    generation     INTEGER NOT NULL,
    taken_us       INTEGER NOT NULL,
    stored_size    INTEGER NOT NULL,
    stored_blake3  BLOB NOT NULL,
    PRIMARY KEY (server, generation)
) STRICT, WITHOUT ROWID;

CREATE TABLE keys_in_generation (
    server      TEXT NOT NULL,
    generation  INTEGER NOT NULL,
    place       INTEGER NOT NULL,
    key_id      TEXT NOT NULL,
    PRIMARY KEY (server, generation, place),
    FOREIGN KEY (server, generation) REFERENCES key_generation (server, generation)
) STRICT, WITHOUT ROWID;
