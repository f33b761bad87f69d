//! The tests, by what they are about.

mod audit;
mod broker_faults;
mod changes;
mod encodings;
mod exactly_once;
mod files;
mod high_availability;
mod mongodb;
mod mongodb_faults;
mod position;
mod position_faults;
mod registry_faults;
mod rest;
mod snapshots;
mod source_faults;
mod stopping;
mod takeover;
mod values;
