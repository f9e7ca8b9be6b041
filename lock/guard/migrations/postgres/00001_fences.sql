-- +goose Up
CREATE TABLE fences (
    resource TEXT   PRIMARY KEY CHECK (length(resource) BETWEEN 1 AND 512),
    token    BIGINT NOT NULL CHECK (token > 0),
    owner    TEXT   NOT NULL
);
CREATE SEQUENCE fence_tokens;

-- +goose Down
DROP SEQUENCE fence_tokens;
DROP TABLE fences;
