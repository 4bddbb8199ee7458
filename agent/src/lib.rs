//! Samples one server and sends the rows to Kafka.

pub mod accelerators;
pub mod exposition;
pub mod host_root;
pub mod probe;
pub mod probes;
