-- +goose Up

-- fillfactor: the row of a hot sale is written again and again; new versions that fit into
-- the same page cost no index anything. So no index covers a column that changes.
CREATE TABLE sales (
    id           text   PRIMARY KEY,
    name         text   NOT NULL,
    currency     text   NOT NULL,
    price        bigint NOT NULL CONSTRAINT sales_price CHECK (price > 0),
    stock        bigint NOT NULL CONSTRAINT sales_stock CHECK (stock > 0),
    held         bigint NOT NULL DEFAULT 0 CONSTRAINT sales_held CHECK (held >= 0),
    sold         bigint NOT NULL DEFAULT 0 CONSTRAINT sales_sold CHECK (sold >= 0),
    per_buyer    bigint NOT NULL,
    hold_us      bigint NOT NULL,
    opens_at     bigint NOT NULL,
    created_at   bigint NOT NULL,
    version      bigint NOT NULL DEFAULT 0,
    CONSTRAINT sales_not_oversold CHECK (sold + held <= stock)
) WITH (fillfactor = 50);
CREATE INDEX sales_newest ON sales (created_at, id);

CREATE TABLE sale_buyers (
    sale  text   NOT NULL REFERENCES sales (id),
    buyer text   NOT NULL,
    taken bigint NOT NULL CONSTRAINT sale_buyers_taken CHECK (taken >= 0),
    cap   bigint NOT NULL,
    PRIMARY KEY (sale, buyer),
    CONSTRAINT sale_buyers_limit CHECK (taken <= cap)
);

-- A permit is a hash of the request's key.
CREATE TABLE holds (
    id         text    PRIMARY KEY,
    sale       text    NOT NULL REFERENCES sales (id),
    buyer      text    NOT NULL,
    permit     text    NOT NULL,
    state      text    NOT NULL CONSTRAINT holds_state CHECK (state IN
        ('held', 'confirmed', 'released', 'expired', 'cancelled')),
    payment    text    NOT NULL DEFAULT '',
    extended   boolean NOT NULL DEFAULT false,
    created_at bigint  NOT NULL,
    expires_at bigint  NOT NULL,
    changed_at bigint  NOT NULL
);
CREATE INDEX holds_due ON holds (expires_at) WHERE state = 'held';
CREATE INDEX holds_sale ON holds (sale, id);
CREATE INDEX holds_changed ON holds (changed_at);

CREATE TABLE orders (
    id         text   PRIMARY KEY,
    sale       text   NOT NULL REFERENCES sales (id),
    hold       text   NOT NULL REFERENCES holds (id),
    buyer      text   NOT NULL,
    payment    text   NOT NULL,
    amount     bigint NOT NULL,
    currency   text   NOT NULL,
    state      text   NOT NULL CONSTRAINT orders_state CHECK (state IN ('confirmed', 'cancelled')),
    created_at bigint NOT NULL,
    CONSTRAINT orders_hold UNIQUE (hold),
    CONSTRAINT orders_payment UNIQUE (payment)
);
