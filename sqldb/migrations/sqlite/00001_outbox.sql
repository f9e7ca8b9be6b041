-- +goose Up
-- AUTOINCREMENT: an id is never used again, also after the newest rows were trimmed.
CREATE TABLE outbox (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    topic   TEXT    NOT NULL,
    kind    TEXT    NOT NULL,
    payload BLOB    NOT NULL,
    at      INTEGER NOT NULL
);
CREATE INDEX outbox_follow ON outbox (topic, id);
CREATE INDEX outbox_trim ON outbox (at);
