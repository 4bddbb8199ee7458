//! History, straight into a store.
