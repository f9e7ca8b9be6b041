-- +goose Up
CREATE TABLE ledger_accounts (
    id              text    PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 200),
    kind            text    NOT NULL CHECK (kind IN ('asset', 'liability')),
    currency        text    NOT NULL CHECK (length(currency) = 3),
    overdraft       boolean NOT NULL,
    posted_debits   bigint  NOT NULL DEFAULT 0 CHECK (posted_debits >= 0),
    posted_credits  bigint  NOT NULL DEFAULT 0 CHECK (posted_credits >= 0),
    pending_debits  bigint  NOT NULL DEFAULT 0 CHECK (pending_debits >= 0),
    pending_credits bigint  NOT NULL DEFAULT 0 CHECK (pending_credits >= 0),
    created_at      bigint  NOT NULL,
    CONSTRAINT ledger_accounts_covered CHECK (overdraft OR CASE kind
        WHEN 'asset' THEN posted_debits - posted_credits - pending_credits
        ELSE posted_credits - posted_debits - pending_debits END >= 0)
);

CREATE TABLE ledger_transfers (
    id         text   PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 200),
    debit      text   NOT NULL REFERENCES ledger_accounts (id),
    credit     text   NOT NULL REFERENCES ledger_accounts (id),
    amount     bigint NOT NULL CHECK (amount > 0 AND amount <= 9007199254740992),
    currency   text   NOT NULL,
    two_phase  boolean NOT NULL,
    state      text   NOT NULL CHECK (state IN ('pending', 'posted', 'voided', 'expired')),
    posted     bigint NOT NULL DEFAULT 0,
    refunded   bigint NOT NULL DEFAULT 0,
    expires_at bigint NOT NULL DEFAULT 0,
    created_at bigint NOT NULL,
    CONSTRAINT ledger_transfers_two_accounts CHECK (debit <> credit),
    CONSTRAINT ledger_transfers_posted CHECK (posted BETWEEN 0 AND amount AND (posted > 0) = (state = 'posted')),
    CONSTRAINT ledger_transfers_refunded CHECK (refunded BETWEEN 0 AND posted)
);
CREATE INDEX ledger_transfers_due ON ledger_transfers (expires_at) WHERE state = 'pending' AND expires_at > 0;

-- What was done to a transfer afterwards, under the caller's id.
CREATE TABLE ledger_steps (
    id          text   PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 200),
    transfer_id text   NOT NULL REFERENCES ledger_transfers (id),
    step        text   NOT NULL CHECK (step IN ('post', 'void', 'refund')),
    amount      bigint NOT NULL CHECK (amount >= 0),
    created_at  bigint NOT NULL
);

-- Debits are positive, credits negative.
CREATE TABLE ledger_entries (
    transfer_id text   NOT NULL REFERENCES ledger_transfers (id),
    step_id     text   NOT NULL,
    account_id  text   NOT NULL REFERENCES ledger_accounts (id),
    amount      bigint NOT NULL CHECK (amount <> 0),
    created_at  bigint NOT NULL,
    PRIMARY KEY (transfer_id, step_id, account_id)
);
CREATE INDEX ledger_entries_account ON ledger_entries (account_id);

-- +goose StatementBegin
CREATE FUNCTION ledger_transfers_forward() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.state <> 'pending' AND NEW.state <> OLD.state
        OR NEW.amount <> OLD.amount OR NEW.debit <> OLD.debit OR NEW.credit <> OLD.credit
        OR NEW.refunded < OLD.refunded THEN
        RAISE EXCEPTION 'a transfer only goes forward' USING ERRCODE = 'check_violation', CONSTRAINT = 'ledger_transfers_forward';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER ledger_transfers_forward BEFORE UPDATE ON ledger_transfers
    FOR EACH ROW EXECUTE FUNCTION ledger_transfers_forward();

-- +goose StatementBegin
CREATE FUNCTION ledger_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the ledger is append-only' USING ERRCODE = 'check_violation', CONSTRAINT = 'ledger_append_only';
END $$;
-- +goose StatementEnd
CREATE TRIGGER ledger_entries_append_only BEFORE UPDATE OR DELETE ON ledger_entries
    FOR EACH ROW EXECUTE FUNCTION ledger_append_only();
CREATE TRIGGER ledger_transfers_append_only BEFORE DELETE ON ledger_transfers
    FOR EACH ROW EXECUTE FUNCTION ledger_append_only();
