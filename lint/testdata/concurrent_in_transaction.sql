-- wants: ban-concurrent-index-creation-in-transaction
-- +goose Up
CREATE INDEX CONCURRENTLY IF NOT EXISTS holds_buyer ON holds (buyer);
ALTER TABLE holds ADD COLUMN seat text;
