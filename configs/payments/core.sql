-- The database of core: payments and their events.
CREATE TABLE payments (
    payment_id text PRIMARY KEY,
    user_id    bigint NOT NULL,
    -- In minor units.
    amount     bigint NOT NULL,
    currency   text NOT NULL,
    status     text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Events, written in the transaction of what they tell of. `id` is the header of that name, `aggregateid` the key,
-- `type` the topic. Delete rows whenever you like: an event is what was inserted.
CREATE TABLE outbox (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    aggregateid text NOT NULL,
    type        text NOT NULL,
    payload     json NOT NULL
);
