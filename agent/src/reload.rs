//! Other settings while the agent runs: from its file, when that has changed or on SIGHUP.
//!
//! The file is read whole, with environment and command line over it as at the start. Mistakes leave everything as it
//! is and are told, all of them, in the log, in the table `agent` and in the metrics. What is right replaces the
//! settings as a whole: the agent ends its probes and begins them anew (see `run`), and goes back to the former ones
//! when it cannot begin with the new.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::settings::AgentSettings;

/// How often it is looked whether the file has changed.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What there is to tell of it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct ReloadFacts {
    /// First sixteen digits of the file's SHA-256, as it is in force; `None` without a file.
    pub hash: Option<String>,
    /// Times that other settings came into force.
    pub loaded: u64,
    /// Times that they were refused.
    pub refused: u64,
    /// What was wrong the last time, until it is right.
    pub error: Option<String>,
}

/// Reads the settings anew, or says all that is wrong with them.
pub type ReadSettings = Box<dyn Fn() -> Result<AgentSettings, String> + Send + Sync>;

/// Where other settings come from.
pub struct Reload {
    file: Option<PathBuf>,
    read: Option<ReadSettings>,
    seen: Option<Seen>,
    /// Another version that was there at the last look.
    changing: Option<Seen>,
    hangup: Option<Signal>,
    facts: Arc<Mutex<ReloadFacts>>,
}

/// A version of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    modified: Option<SystemTime>,
    length: u64,
}

impl Reload {
    /// Settings that stay as they are.
    pub fn never() -> Self {
        Self { file: None, read: None, seen: None, changing: None, hangup: None, facts: Arc::default() }
    }

    /// Settings that `read` gives, from this file if there is one. Call it within the runtime.
    pub fn from(file: Option<PathBuf>, read: ReadSettings) -> Self {
        let mut reload = Self { file, read: Some(read), ..Self::never() };
        reload.seen = reload.look();
        reload.facts.lock().hash = reload.hash();
        reload.hangup =
            signal(SignalKind::hangup()).map_err(|error| tracing::warn!(%error, "SIGHUP cannot be waited for")).ok();
        reload
    }

    /// For whoever reports it.
    pub fn facts(&self) -> Arc<Mutex<ReloadFacts>> {
        self.facts.clone()
    }

    fn look(&self) -> Option<Seen> {
        let metadata = std::fs::metadata(self.file.as_ref()?).ok()?;
        Some(Seen { modified: metadata.modified().ok(), length: metadata.len() })
    }

    fn hash(&self) -> Option<String> {
        let bytes = std::fs::read(self.file.as_ref()?).ok()?;
        Some(Sha256::digest(bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect())
    }

    /// Waits for other settings, and for ever where there are none.
    pub async fn next(&mut self) -> AgentSettings {
        loop {
            match &mut self.hangup {
                Some(hangup) => tokio::select! {
                    _ = hangup.recv() => tracing::info!("the settings are read anew, as SIGHUP asks"),
                    () = tokio::time::sleep(LOOK_EVERY) => if !self.has_changed() { continue },
                },
                None if self.read.is_some() => {
                    tokio::time::sleep(LOOK_EVERY).await;
                    if !self.has_changed() {
                        continue;
                    }
                }
                None => std::future::pending().await,
            }
            self.seen = self.look();
            let Some(read) = &self.read else { continue };
            match read() {
                Ok(settings) => return settings,
                Err(mistakes) => self.refused(&mistakes),
            }
        }
    }

    /// A file that is away for a moment, or was another at the last look, is being written, and half of one may well be
    /// settings. It has changed once it is the same twice.
    fn has_changed(&mut self) -> bool {
        let now = self.look().filter(|now| Some(now) != self.seen.as_ref());
        let before = std::mem::replace(&mut self.changing, now);
        self.changing.is_some() && self.changing == before
    }

    /// The new settings are in force.
    pub fn in_force(&self) {
        let hash = self.hash();
        tracing::info!(hash, "other settings are in force");
        let mut facts = self.facts.lock();
        facts.loaded += 1;
        facts.error = None;
        facts.hash = hash;
    }

    /// They could not be put into force.
    pub fn refused(&self, why: &str) {
        tracing::error!("the settings have mistakes, and those in force stay:\n{why}");
        let mut facts = self.facts.lock();
        facts.refused += 1;
        facts.error = Some(why.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_changed_when_it_changes_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("settings.toml");
        std::fs::write(&file, "a").unwrap();
        let mut reload = Reload { file: Some(file.clone()), ..Reload::never() };
        reload.seen = reload.look();
        assert!(!reload.has_changed());
        std::fs::write(&file, "ab").unwrap();
        assert!(!reload.has_changed(), "it may be half of it");
        std::fs::write(&file, "abc").unwrap();
        assert!(!reload.has_changed());
        assert!(reload.has_changed());
        std::fs::remove_file(&file).unwrap();
        assert!(!reload.has_changed());
        std::fs::write(&file, "a").unwrap();
        reload.seen = reload.look();
        assert!(!reload.has_changed());
    }
}
