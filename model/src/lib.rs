//! The vocabulary every part of Nodescope shares.
//!
//! - [`catalogue`]: which tables there are, which columns they have, what each means.
//! - [`rows`]: filling one tick's rows of a table; [`cells`]: the values of one column of it.
//! - [`record`]: one table's rows as a Kafka record, and back.
//! - [`conform`]: bringing somebody else's batch into the catalogue's shape, or saying why not.
//! - [`identity`]: who sent a record (agent, boot) and which of them it is (seq).
//! - [`page`]: the catalogue as a page for people.
//! - [`accident`]: rows of `quarantine` and `loss`, which any stage may have to write.
//!
//! **Invariant:** nothing here reads a host, speaks Kafka or knows SQL.

pub mod accident;
pub mod catalogue;
pub mod cells;
pub mod conform;
pub mod identity;
pub mod page;
pub mod record;
pub mod rows;
pub mod seqs;
