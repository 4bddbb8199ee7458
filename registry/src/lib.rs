//! The registry: what things are, and what they were before.
//!
//! Samples say what a machine does. The registry says what it is: which node it belongs to, under which identifier,
//! what it can do, when it is worked on, what may run on it. People write it, seldom, in files of CSV or JSON; it is
//! kept in the store like everything else, in tables of which nothing is ever overwritten.
//!
//! The way of a file through this crate, and the modules in its order:
//!
//! 1. [`kinds`]: which kinds of things there are. Their fields are those of the catalogue's tables `registry_…`.
//! 2. [`parse`]: a file's text becomes sheets of rows, each with its place.
//! 3. [`value`]: a cell becomes a value of its field's type.
//! 4. [`entries`]: what the store says already, every history folded out of all that was ever imported.
//! 5. [`check`]: the whole is examined with what is there, and every mistake is told, with file and row.
//! 6. [`mod@write`]: what is new goes into the journal of the registry, all kinds in one append.
//! 7. [`export`]: the same files, out again.
//!
//! **History.** An entry has a key (node, host, and what else names it) and a `valid_from`. It holds until the next
//! entry of its key begins. Another entry with the same key and the same `valid_from` is a *correction*: the newer one
//! counts, at all times. One with a later `valid_from` is a *change*: both count, each in its time. A *revocation* is
//! an entry that ends the one before and says nothing in its place.
//!
//! **Invariants.** An import is applied whole or not at all. An import of what is there already changes nothing. Of two
//! imports at once, the second is examined again with what the first has written. Each append is stamped later than
//! the one before, whatever the clock says, so that "newer" is never in doubt.

pub mod check;
pub mod entries;
pub mod export;
pub mod kinds;
pub mod parse;
pub mod value;
pub mod write;

use std::fmt;

use nodescope_store::StoreError;

/// Mistakes shown at the most. More than these have one cause.
const SHOWN: usize = 1_000;

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// File and row, as people look for them.
    pub place: String,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// Everything that is wrong, one line each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mistakes(pub Vec<Mistake>);

impl Mistakes {
    /// Notes one.
    pub fn add(&mut self, place: impl fmt::Display, what: impl fmt::Display) {
        self.0.push(Mistake { place: place.to_string(), what: what.to_string() });
    }

    /// Goes on if there are none.
    ///
    /// # Errors
    /// All of them.
    pub fn none(self) -> Result<(), Self> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, mistake) in self.0.iter().take(SHOWN).enumerate() {
            write!(f, "{}{mistake}", if at == 0 { "" } else { "\n" })?;
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

impl std::error::Error for Mistakes {}

/// Why the registry did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// What was given is wrong.
    #[error("{0}")]
    Mistakes(#[from] Mistakes),
    /// The store failed. Nothing was applied by half; the same import may be tried again.
    #[error("the store failed; nothing was applied by half, try again")]
    Store(#[from] StoreError),
    /// Others wrote all the time.
    #[error("others have written to the registry {0} times meanwhile; nothing was applied, try again")]
    Contended(u32),
    /// The clock or the registry is beyond the times that can be stored.
    #[error("the clock of this machine, or the newest entry of the registry, lies beyond the year 2199")]
    Clock,
    /// A file cannot be written.
    #[error("the registry cannot be written as {form}")]
    Form {
        /// CSV or JSON.
        form: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
