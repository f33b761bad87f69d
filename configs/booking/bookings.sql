-- The database of the booking service.
CREATE TABLE bookings (
    booking_id   text PRIMARY KEY,
    user_id      text NOT NULL,
    total_amount numeric(12, 2) NOT NULL,
    currency     text NOT NULL,
    booking_date date NOT NULL,
    status       text NOT NULL
);

-- Events, written in the transaction of what they tell of: booking-requested, booking-cancelled.
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
