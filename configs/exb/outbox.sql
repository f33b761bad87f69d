-- Of each of the three databases, domain, system and integration: the events of its services.
-- `aggregatetype` is the family, customer for the topic customer.events; `version` counts an aggregate's events,
-- and no two of them are the same. Delete rows whenever you like: an event is what was inserted.
CREATE TABLE outbox (
    id             uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    aggregatetype  text NOT NULL,
    aggregateid    text NOT NULL,
    version        bigint NOT NULL,
    type           text NOT NULL,
    occurred_at    timestamptz NOT NULL DEFAULT now(),
    correlation_id text,
    -- As W3C has it: 00-<trace>-<span>-<flags>.
    traceparent    text,
    payload        jsonb NOT NULL,
    UNIQUE (aggregatetype, aggregateid, version)
);
