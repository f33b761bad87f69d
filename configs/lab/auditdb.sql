-- The database of the audit service.
CREATE TABLE audit_log (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    action    text NOT NULL,
    user_id   text NOT NULL,
    details   jsonb NOT NULL,
    logged_at timestamptz NOT NULL DEFAULT now()
);
