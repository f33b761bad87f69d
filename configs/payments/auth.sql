-- The database of auth: users and their events.
CREATE TABLE users (
    user_id       bigint PRIMARY KEY,
    email         text NOT NULL,
    name          text NOT NULL,
    registered_at timestamptz NOT NULL DEFAULT now()
);

-- Events, written in the transaction of what they tell of. `id` is the header of that name, `aggregateid` the key,
-- `type` the topic. Delete rows whenever you like: an event is what was inserted.
CREATE TABLE outbox (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    aggregateid text NOT NULL,
    type        text NOT NULL,
    payload     json NOT NULL
);
