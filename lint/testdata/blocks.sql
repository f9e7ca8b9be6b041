-- wants: adding-required-field changing-column-type constraint-missing-not-valid require-concurrent-index-creation
-- +goose Up
CREATE INDEX holds_buyer ON holds (buyer);
ALTER TABLE holds ADD COLUMN seat text NOT NULL;
ALTER TABLE holds ALTER COLUMN extended TYPE bigint USING extended::int;
ALTER TABLE orders ADD CONSTRAINT orders_amount CHECK (amount > 0);
-- +goose Down
DROP TABLE holds;
