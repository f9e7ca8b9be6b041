-- +goose Up
CREATE TABLE payments (
    id         text   PRIMARY KEY,
    hold       text   NOT NULL,
    buyer      text   NOT NULL,
    amount     bigint NOT NULL CHECK (amount > 0),
    currency   text   NOT NULL CHECK (length(currency) = 3),
    source     text   NOT NULL,
    state      text   NOT NULL,
    order_id   text   NOT NULL DEFAULT '',
    reason     text   NOT NULL DEFAULT '',
    giving_up  boolean NOT NULL DEFAULT false,
    attempts   bigint NOT NULL DEFAULT 0,
    next_at    bigint NOT NULL,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL,
    CONSTRAINT payments_state CHECK (state IN
        ('pending', 'authorised', 'capturing', 'captured', 'voided', 'refunded', 'failed')),
    CONSTRAINT payments_ordered CHECK (state NOT IN ('capturing', 'captured') OR order_id <> ''),
    -- What is voided at the provider is not confirmed by anybody.
    CONSTRAINT payments_given_up CHECK (NOT giving_up OR state NOT IN ('capturing', 'captured'))
);
CREATE UNIQUE INDEX payments_one_live ON payments (hold) WHERE state NOT IN ('failed', 'voided', 'refunded');
CREATE INDEX payments_due ON payments (next_at) WHERE state IN ('pending', 'authorised', 'capturing');

-- +goose StatementBegin
CREATE FUNCTION payments_forward() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.state <> OLD.state AND (OLD.state || '>' || NEW.state) NOT IN (
        'pending>authorised', 'pending>failed', 'pending>voided', 'pending>refunded',
        'authorised>capturing', 'authorised>failed', 'authorised>voided', 'authorised>refunded',
        'capturing>captured', 'capturing>failed', 'captured>refunded')
        OR NEW.hold <> OLD.hold OR NEW.amount <> OLD.amount OR NEW.currency <> OLD.currency THEN
        RAISE EXCEPTION 'a payment only goes forward' USING ERRCODE = 'check_violation', CONSTRAINT = 'payments_forward';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER payments_forward BEFORE UPDATE ON payments FOR EACH ROW EXECUTE FUNCTION payments_forward();
