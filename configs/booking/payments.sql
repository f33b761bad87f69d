-- The database of the payment service.
CREATE TABLE payments (
    payment_id text PRIMARY KEY,
    booking_id text NOT NULL,
    amount     numeric(12, 2) NOT NULL,
    currency   text NOT NULL,
    status     text NOT NULL
);

-- Events, written in the transaction of what they tell of: payment-succeeded, payment-failed, refund-processed.
-- `aggregateid` is the booking's id. Delete rows whenever you like: an event is what was inserted.
CREATE TABLE outbox (
    id             uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    aggregateid    text NOT NULL,
    type           text NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    correlation_id text,
    -- As W3C has it: 00-<trace>-<span>-<flags>.
    traceparent    text,
    payload        jsonb NOT NULL
);
