-- +goose Up

CREATE TABLE sales (
    id           TEXT   PRIMARY KEY,
    name         TEXT   NOT NULL,
    currency     TEXT   NOT NULL,
    price        INTEGER NOT NULL CONSTRAINT sales_price CHECK (price > 0),
    stock        INTEGER NOT NULL CONSTRAINT sales_stock CHECK (stock > 0),
    held         INTEGER NOT NULL DEFAULT 0 CONSTRAINT sales_held CHECK (held >= 0),
    sold         INTEGER NOT NULL DEFAULT 0 CONSTRAINT sales_sold CHECK (sold >= 0),
    per_buyer    INTEGER NOT NULL,
    hold_us      INTEGER NOT NULL,
    opens_at     INTEGER NOT NULL,
    created_at   INTEGER NOT NULL,
    version      INTEGER NOT NULL DEFAULT 0,
    CONSTRAINT sales_not_oversold CHECK (sold + held <= stock)
);
CREATE INDEX sales_newest ON sales (created_at, id);

CREATE TABLE sale_buyers (
    sale  TEXT   NOT NULL REFERENCES sales (id),
    buyer TEXT   NOT NULL,
    taken INTEGER NOT NULL CONSTRAINT sale_buyers_taken CHECK (taken >= 0),
    cap   INTEGER NOT NULL,
    PRIMARY KEY (sale, buyer),
    CONSTRAINT sale_buyers_limit CHECK (taken <= cap)
);

-- A permit is a hash of the request's key.
CREATE TABLE holds (
    id         TEXT    PRIMARY KEY,
    sale       TEXT    NOT NULL REFERENCES sales (id),
    buyer      TEXT    NOT NULL,
    permit     TEXT    NOT NULL,
    state      TEXT    NOT NULL CONSTRAINT holds_state CHECK (state IN
        ('held', 'confirmed', 'released', 'expired', 'cancelled')),
    payment    TEXT    NOT NULL DEFAULT '',
    extended   INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER  NOT NULL,
    expires_at INTEGER  NOT NULL,
    changed_at INTEGER  NOT NULL
);
CREATE INDEX holds_due ON holds (expires_at) WHERE state = 'held';
CREATE INDEX holds_sale ON holds (sale, id);
CREATE INDEX holds_changed ON holds (changed_at);

CREATE TABLE orders (
    id         TEXT   PRIMARY KEY,
    sale       TEXT   NOT NULL REFERENCES sales (id),
    hold       TEXT   NOT NULL REFERENCES holds (id),
    buyer      TEXT   NOT NULL,
    payment    TEXT   NOT NULL,
    amount     INTEGER NOT NULL,
    currency   TEXT   NOT NULL,
    state      TEXT   NOT NULL CONSTRAINT orders_state CHECK (state IN ('confirmed', 'cancelled')),
    created_at INTEGER NOT NULL,
    CONSTRAINT orders_hold UNIQUE (hold),
    CONSTRAINT orders_payment UNIQUE (payment)
);
