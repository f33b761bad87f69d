//! Kafka as a sink: data and position in one Kafka transaction.
