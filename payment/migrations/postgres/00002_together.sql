-- +goose Up

-- That a payment is authorised is written down together with its order.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION payments_forward() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.state <> OLD.state AND (OLD.state || '>' || NEW.state) NOT IN (
        'pending>authorised', 'pending>capturing', 'pending>failed', 'pending>voided', 'pending>refunded',
        'authorised>capturing', 'authorised>failed', 'authorised>voided', 'authorised>refunded',
        'capturing>captured', 'capturing>failed', 'captured>refunded')
        OR NEW.hold <> OLD.hold OR NEW.amount <> OLD.amount OR NEW.currency <> OLD.currency THEN
        RAISE EXCEPTION 'a payment only goes forward' USING ERRCODE = 'check_violation', CONSTRAINT = 'payments_forward';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
