//! The doors of the query server. Each speaks one protocol over the same engine, the same limits and the same
//! rules about what may be asked.

pub mod postgres;
