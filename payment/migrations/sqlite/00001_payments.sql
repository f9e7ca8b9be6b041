-- +goose Up
CREATE TABLE payments (
    id         TEXT    PRIMARY KEY,
    hold       TEXT    NOT NULL,
    buyer      TEXT    NOT NULL,
    amount     INTEGER NOT NULL CHECK (amount > 0),
    currency   TEXT    NOT NULL CHECK (length(currency) = 3),
    source     TEXT    NOT NULL,
    state      TEXT    NOT NULL,
    order_id   TEXT    NOT NULL DEFAULT '',
    reason     TEXT    NOT NULL DEFAULT '',
    giving_up  INTEGER NOT NULL DEFAULT 0,
    attempts   INTEGER NOT NULL DEFAULT 0,
    next_at    INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    CONSTRAINT payments_state CHECK (state IN
        ('pending', 'authorised', 'capturing', 'captured', 'voided', 'refunded', 'failed')),
    CONSTRAINT payments_ordered CHECK (state NOT IN ('capturing', 'captured') OR order_id <> ''),
    -- What is voided at the provider is not confirmed by anybody.
    CONSTRAINT payments_given_up CHECK (NOT giving_up OR state NOT IN ('capturing', 'captured'))
);
CREATE UNIQUE INDEX payments_one_live ON payments (hold) WHERE state NOT IN ('failed', 'voided', 'refunded');
CREATE INDEX payments_due ON payments (next_at) WHERE state IN ('pending', 'authorised', 'capturing');

-- +goose StatementBegin
CREATE TRIGGER payments_forward BEFORE UPDATE ON payments
WHEN NEW.state <> OLD.state AND (OLD.state || '>' || NEW.state) NOT IN (
        'pending>authorised', 'pending>failed', 'pending>voided', 'pending>refunded',
        'authorised>capturing', 'authorised>failed', 'authorised>voided', 'authorised>refunded',
        'capturing>captured', 'capturing>failed', 'captured>refunded')
    OR NEW.hold <> OLD.hold OR NEW.amount <> OLD.amount OR NEW.currency <> OLD.currency
BEGIN
    SELECT RAISE(ABORT, 'payments_forward');
END;
-- +goose StatementEnd
