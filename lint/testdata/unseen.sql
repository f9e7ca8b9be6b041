-- wants:
-- +goose Up
CREATE TABLE seats (id text PRIMARY KEY, sale text NOT NULL, CONSTRAINT seats_sale CHECK (sale <> ''));
CREATE INDEX seats_sale ON seats (sale);
-- +goose StatementBegin
CREATE FUNCTION seats_forward() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RETURN NEW;
END $$;
-- +goose StatementEnd
