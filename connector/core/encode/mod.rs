//! Changes to bytes.
