//! SQL over the store: operators' questions, in DataFusion, by the PostgreSQL protocol.
//!
//! The way of a question, and the rooms in its order:
//!
//! 1. [`server`] speaks the protocol, lets users in, and knows how far each may go.
//! 2. [`statement`] says what a text asks for, and refuses whatever would change something; `compat` answers what
//!    psql, Grafana and drivers ask of PostgreSQL's system tables.
//! 3. [`session`] holds what a connection has set for itself, its time zone first of all.
//! 4. [`engine`] plans and runs within [`limits`]; [`rewrite`] and [`functions`] teach it time and counters.
//! 5. [`views`] answers what operators ask.
//! 6. [`table`] is a table as of one moment: sealed files and hot segments (`hot`) as one, each row once.
//!
//! What is asked again and again is a file ([`definition`]): a view, or a rule of the [`schedule`], which asks in the
//! server's [`own`] name and puts what it finds back into the store. What somebody must know of it is told by [`alerts`].
//!
//! **Invariants.** No statement of a user's writes; the schedule writes, by its journal alone. No statement runs without
//! a bound on its time, memory and rows.

pub mod alerts;
mod compat;
pub mod definition;
pub mod engine;
pub mod functions;
mod hot;
pub mod limits;
pub mod metrics;
pub mod own;
mod revisions;
pub mod rewrite;
pub mod rollups;
pub mod schedule;
pub mod score;
pub mod server;
pub mod session;
pub mod settings;
pub mod statement;
pub mod table;
pub mod views;
