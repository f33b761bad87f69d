//! Postgres logical replication as a source of changes.
