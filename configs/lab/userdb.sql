-- The database of the user service.
CREATE TABLE users (
    id         text PRIMARY KEY,
    username   text NOT NULL UNIQUE,
    email      text NOT NULL,
    full_name  text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- What the notification service is told, written in the transaction of what it tells of: the payload is the whole
-- event, {eventType, userId, email, name, timestamp} and of UserUpdated `changes`; `aggregateid` is the user's id.
-- Delete rows whenever you like: an event is what was inserted.
CREATE TABLE outbox (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    aggregateid text NOT NULL,
    type        text NOT NULL,
    payload     jsonb NOT NULL
);
