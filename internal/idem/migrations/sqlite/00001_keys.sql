-- +goose Up
CREATE TABLE idempotency_keys (
    scope      BLOB   PRIMARY KEY CHECK (length(scope) = 32),
    request    BLOB   NOT NULL CHECK (length(request) = 32),
    answer     BLOB   NOT NULL,
    expires_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX idempotency_keys_expiry ON idempotency_keys (expires_at);
