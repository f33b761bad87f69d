-- The database of the registration service.
CREATE TABLE registrations (
    id            text PRIMARY KEY,
    event_id      text NOT NULL,
    user_id       text NOT NULL,
    status        text NOT NULL,
    registered_at timestamptz NOT NULL DEFAULT now()
);
