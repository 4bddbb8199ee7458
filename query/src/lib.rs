//! Answers: SQL over the store.
