-- +goose Up

-- That a payment is authorised is written down together with its order.
DROP TRIGGER payments_forward;
-- +goose StatementBegin
CREATE TRIGGER payments_forward BEFORE UPDATE ON payments
WHEN NEW.state <> OLD.state AND (OLD.state || '>' || NEW.state) NOT IN (
        'pending>authorised', 'pending>capturing', 'pending>failed', 'pending>voided', 'pending>refunded',
        'authorised>capturing', 'authorised>failed', 'authorised>voided', 'authorised>refunded',
        'capturing>captured', 'capturing>failed', 'captured>refunded')
    OR NEW.hold <> OLD.hold OR NEW.amount <> OLD.amount OR NEW.currency <> OLD.currency
BEGIN
    SELECT RAISE(ABORT, 'payments_forward');
END;
-- +goose StatementEnd
