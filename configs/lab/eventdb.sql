-- The database of the event service: events that people register for.
CREATE TABLE events (
    id        text PRIMARY KEY,
    name      text NOT NULL,
    starts_at timestamptz NOT NULL,
    capacity  integer NOT NULL
);
