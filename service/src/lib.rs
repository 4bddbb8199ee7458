//! What every long-running process of Nodescope needs, and none should have its own way of.
//!
//! - [`settings`]: one TOML file, environment and flags; every mistake at once.
//! - [`kafka`]: how to reach Kafka, as properties of its client library.
//! - [`topic`] (feature `kafka`): the client library's set-up, and a topic that is there.
//! - [`node`]: what this machine belongs to.
//! - [`stop`]: being asked to stop.
//! - [`errors`]: errors as people read them.
//! - [`http`]: `/metrics`, `/healthz`, `/readyz`.
//! - [`logs`]: structured logs on standard error.

pub mod errors;
pub mod http;
pub mod kafka;
pub mod logs;
pub mod node;
pub mod settings;
pub mod stop;
#[cfg(feature = "kafka")]
pub mod topic;
