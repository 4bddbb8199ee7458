//! Live rows, through Kafka.
