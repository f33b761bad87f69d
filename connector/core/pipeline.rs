//! Joins one source to one sink.
