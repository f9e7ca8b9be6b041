-- +goose Up
CREATE TABLE idempotency_keys (
    scope      bytea  PRIMARY KEY CHECK (length(scope) = 32),
    request    bytea  NOT NULL CHECK (length(request) = 32),
    answer     bytea  NOT NULL,
    expires_at bigint NOT NULL
);
CREATE INDEX idempotency_keys_expiry ON idempotency_keys (expires_at);
