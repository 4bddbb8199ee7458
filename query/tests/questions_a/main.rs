//! Operators' questions about capacity, use, availability, links and the telemetry itself, each beside an oracle.
//!
//! An oracle is the same question answered another way: plain loops over the hosts that the test made up. Regions are
//! small, random, and the same for the same seed.

#![allow(unreachable_pub, reason = "a program of tests")]

mod capacity;
mod hosts;
mod hours;
mod links;
#[path = "../support/numbers.rs"]
mod numbers;
mod region;
#[path = "../questions_b/store.rs"]
#[allow(dead_code, reason = "shared with other tests, which use all of it")]
mod store;
mod telemetry;
