-- wants:
-- +goose NO TRANSACTION
-- +goose Up
CREATE INDEX CONCURRENTLY IF NOT EXISTS holds_buyer ON holds (buyer);
-- +goose Down
DROP TABLE holds;
