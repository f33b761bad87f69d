//! The tests, by what they are about.

mod audit;
mod broker_faults;
mod changes;
mod dead_letters;
mod encodings;
mod exactly_once;
mod files;
mod high_availability;
mod mongodb;
mod mongodb_faults;
mod orders;
mod outbox;
mod payments;
mod position;
mod position_faults;
mod registry_faults;
mod rest;
mod routes;
mod snapshot_changes;
mod snapshot_modes;
mod snapshots;
mod source_faults;
mod stopping;
mod takeover;
mod values;
