-- +goose Up
CREATE TABLE ledger_accounts (
    id              TEXT    PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 200),
    kind            TEXT    NOT NULL CHECK (kind IN ('asset', 'liability')),
    currency        TEXT    NOT NULL CHECK (length(currency) = 3),
    overdraft       INTEGER NOT NULL,
    posted_debits   INTEGER  NOT NULL DEFAULT 0 CHECK (posted_debits >= 0),
    posted_credits  INTEGER  NOT NULL DEFAULT 0 CHECK (posted_credits >= 0),
    pending_debits  INTEGER  NOT NULL DEFAULT 0 CHECK (pending_debits >= 0),
    pending_credits INTEGER  NOT NULL DEFAULT 0 CHECK (pending_credits >= 0),
    created_at      INTEGER  NOT NULL,
    CONSTRAINT ledger_accounts_covered CHECK (overdraft OR CASE kind
        WHEN 'asset' THEN posted_debits - posted_credits - pending_credits
        ELSE posted_credits - posted_debits - pending_debits END >= 0)
);

CREATE TABLE ledger_transfers (
    id         TEXT   PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 200),
    debit      TEXT   NOT NULL REFERENCES ledger_accounts (id),
    credit     TEXT   NOT NULL REFERENCES ledger_accounts (id),
    amount     INTEGER NOT NULL CHECK (amount > 0 AND amount <= 9007199254740992),
    currency   TEXT   NOT NULL,
    two_phase  INTEGER NOT NULL,
    state      TEXT   NOT NULL CHECK (state IN ('pending', 'posted', 'voided', 'expired')),
    posted     INTEGER NOT NULL DEFAULT 0,
    refunded   INTEGER NOT NULL DEFAULT 0,
    expires_at INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    CONSTRAINT ledger_transfers_two_accounts CHECK (debit <> credit),
    CONSTRAINT ledger_transfers_posted CHECK (posted BETWEEN 0 AND amount AND (posted > 0) = (state = 'posted')),
    CONSTRAINT ledger_transfers_refunded CHECK (refunded BETWEEN 0 AND posted)
);
CREATE INDEX ledger_transfers_due ON ledger_transfers (expires_at) WHERE state = 'pending' AND expires_at > 0;

-- What was done to a transfer afterwards, under the caller's id.
CREATE TABLE ledger_steps (
    id          TEXT   PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 200),
    transfer_id TEXT   NOT NULL REFERENCES ledger_transfers (id),
    step        TEXT   NOT NULL CHECK (step IN ('post', 'void', 'refund')),
    amount      INTEGER NOT NULL CHECK (amount >= 0),
    created_at  INTEGER NOT NULL
);

-- Debits are positive, credits negative.
CREATE TABLE ledger_entries (
    transfer_id TEXT   NOT NULL REFERENCES ledger_transfers (id),
    step_id     TEXT   NOT NULL,
    account_id  TEXT   NOT NULL REFERENCES ledger_accounts (id),
    amount      INTEGER NOT NULL CHECK (amount <> 0),
    created_at  INTEGER NOT NULL,
    PRIMARY KEY (transfer_id, step_id, account_id)
);
CREATE INDEX ledger_entries_account ON ledger_entries (account_id);

-- +goose StatementBegin
CREATE TRIGGER ledger_transfers_forward BEFORE UPDATE ON ledger_transfers
WHEN OLD.state <> 'pending' AND NEW.state <> OLD.state
    OR NEW.amount <> OLD.amount OR NEW.debit <> OLD.debit OR NEW.credit <> OLD.credit
    OR NEW.refunded < OLD.refunded
BEGIN
    SELECT RAISE(ABORT, 'ledger_transfers_forward');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER ledger_entries_no_update BEFORE UPDATE ON ledger_entries
BEGIN
    SELECT RAISE(ABORT, 'ledger_append_only');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER ledger_entries_no_delete BEFORE DELETE ON ledger_entries
BEGIN
    SELECT RAISE(ABORT, 'ledger_append_only');
END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER ledger_transfers_no_delete BEFORE DELETE ON ledger_transfers
BEGIN
    SELECT RAISE(ABORT, 'ledger_append_only');
END;
-- +goose StatementEnd
