//! SQL on a schedule: rollups, detections and reports, by one mechanism.
//!
//! A rule is a file (see [`crate::definition`]). Its SQL is asked once of each window of event time, and what it finds
//! goes to the rule's sink.

pub mod run;
pub mod sink;
pub mod windows;
