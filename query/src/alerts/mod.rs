//! Alerts: what rules find becomes incidents, and incidents are told to whoever must know.
//!
//! The way of an alert, and the files in its order:
//!
//! 1. [`summary`] makes a sentence of a row.
//! 2. [`incident`] makes incidents of the rows of run after run: pending, firing, resolved. It reckons and does nothing
//!    else.
//! 3. [`sink`] commits what changed to the table `alert`, together with the run; [`record`] is an incident as a row, and
//!    back.
//! 4. [`report`] hands on the rows of rules that make no incidents.
//! 5. [`outlets`] tells what is committed: to [`alertmanager`]s, [`webhook`]s and topics of [`kafka`]. What has been
//!    told is noted in the table `notification`, so what is still owed can be read from the store at any time.
//!
//! [`replay`] runs a rule over time that has passed, to see what it would have said.
//!
//! **Promises.** Of a key there is one incident at a time. An incident is raised once and is over once. Each outlet is
//! told of both at least once, in this order, whatever is killed: twice only when its answer is
//! lost, or we die between it and our note of it.

pub mod alertmanager;
pub mod incident;
pub mod kafka;
pub mod outlets;
pub mod record;
pub mod replay;
pub mod report;
pub mod settings;
pub mod sink;
pub mod summary;
pub mod webhook;

pub use outlets::Outlets;
pub use settings::AlertSettings;
