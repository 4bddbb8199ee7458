//! Who sent a record, and which of the sender's records it is.
//!
//! An *agent* is one installation: its id is made once and kept with its spool. A *boot* is one run of
//! the agent process. Within a boot, records are numbered densely from 0 (*seq*). Together the three
//! name a record for ever, so a record that is sent twice can be taken once.
//!
//! Why a new boot for every run: after a power cut the spool may have forgotten records that Kafka has
//! already taken. Going on with the old numbers would give a number to two different records, and the
//! second would be dropped as a duplicate.

use serde::{Deserialize, Serialize};

/// Longest agent id that is taken from a record, in bytes.
pub const MAX_AGENT_ID: usize = 128;

/// The name of one record.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RecordId {
    /// One installation of an agent, or of any other program that produces records.
    pub agent: String,
    /// One run of it. Grows from run to run.
    pub boot: u64,
    /// Dense within the boot, from 0.
    pub seq: u64,
}

impl std::fmt::Display for RecordId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.agent, self.boot, self.seq)
    }
}
