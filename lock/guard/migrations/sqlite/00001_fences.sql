-- +goose Up
CREATE TABLE fences (
    resource TEXT    PRIMARY KEY CHECK (length(resource) BETWEEN 1 AND 512),
    token    INTEGER NOT NULL CHECK (token > 0),
    owner    TEXT    NOT NULL
);
CREATE TABLE fence_tokens (one INTEGER PRIMARY KEY CHECK (one = 1), last INTEGER NOT NULL);
INSERT INTO fence_tokens VALUES (1, 0);

-- +goose Down
DROP TABLE fence_tokens;
DROP TABLE fences;
