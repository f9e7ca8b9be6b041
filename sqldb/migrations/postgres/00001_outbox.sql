-- +goose Up

-- STABLE, although the clock moves within a statement: a VOLATILE function cannot be
-- compared by an index, and every sweep for what is due would read its whole table.
-- +goose StatementBegin
CREATE FUNCTION holdfast_now() RETURNS bigint LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
BEGIN
    RETURN (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
END $$;
-- +goose StatementEnd

-- What is added to transaction ids so that positions never go back, also after a restore
-- into a cluster that has counted less far. Migrate replaces it when it sees that.
CREATE FUNCTION holdfast_outbox_shift() RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE
    AS 'SELECT 0::bigint';

CREATE TABLE outbox (
    position bigint NOT NULL DEFAULT (pg_current_xact_id()::text::bigint + holdfast_outbox_shift()),
    id       bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    topic    text   NOT NULL,
    kind     text   NOT NULL,
    payload  bytea  NOT NULL,
    at       bigint NOT NULL,
    PRIMARY KEY (position, id)
);
CREATE INDEX outbox_follow ON outbox (topic, position, id);
CREATE INDEX outbox_trim ON outbox (at);
