-- The database of the notification service.
CREATE TABLE notifications (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id         text NOT NULL,
    template_id     text NOT NULL,
    delivery_status text NOT NULL
);

-- Events, written in the transaction of what they tell of: notification-sent.
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
