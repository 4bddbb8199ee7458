//! Operators' questions about failures, energy, demand, fabric and money, each beside an oracle.
//!
//! An oracle is the same question answered another way: plain loops over the rows the test made up, often minute by
//! minute where the SQL cuts intervals. Fleets are small, random and the same for the same seed.
#![allow(unreachable_pub, reason = "modules of a test")]

mod demand;
mod energy;
mod fabric;
mod failures;
mod fleet;
mod inventory;
mod metering;
#[path = "../support/numbers.rs"]
mod numbers;
mod risk;
#[allow(dead_code, reason = "shared with other tests, which use all of it")]
mod store;
mod stragglers;
