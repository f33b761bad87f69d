-- The database of the ticket service.
CREATE TABLE tickets (
    ticket_id       text PRIMARY KEY,
    event_id        text NOT NULL,
    available_seats integer NOT NULL,
    price           numeric(12, 2) NOT NULL,
    status          text NOT NULL
);

-- Events, written in the transaction of what they tell of: ticket-created, ticket-updated.
-- `aggregateid` is the ticket's id. Delete rows whenever you like: an event is what was inserted.
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
