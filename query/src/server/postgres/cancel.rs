//! Cancelling a statement from another connection.
//!
//! PostgreSQL's clients cancel by opening a second connection and sending the number and the secret that the first
//! one was given. So there is a register of sessions by number; a session puts a fresh token into its slot when a
//! statement begins and takes it out when it ends, and a request that names the right secret cancels whatever token
//! is there. It can never hit the statement after.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use pgwire::messages::startup::SecretKey;
use tokio_util::sync::CancellationToken;

#[derive(Debug)]
struct Slot {
    secret: Bytes,
    running: Option<CancellationToken>,
}

/// The sessions that are open, by their numbers.
#[derive(Debug, Default)]
pub(super) struct CancelRegistry {
    sessions: Mutex<HashMap<i32, Slot>>,
}

/// One session's entry; dropping it removes it.
#[derive(Debug)]
pub(super) struct Registration {
    registry: Arc<CancelRegistry>,
    pid: i32,
    secret: Bytes,
}

/// The time during which a statement can be cancelled; it ends as it is dropped.
#[derive(Debug)]
pub(super) struct Cancellable {
    registry: Arc<CancelRegistry>,
    pid: i32,
    token: CancellationToken,
}

impl CancelRegistry {
    /// Enters a session. The secret has 32 bytes where the client's protocol allows that, otherwise four.
    pub(super) fn register(self: &Arc<Self>, long_secret: bool) -> Registration {
        let secret = if long_secret {
            Bytes::copy_from_slice(&rand::random::<[u8; 32]>())
        } else {
            Bytes::copy_from_slice(&rand::random::<[u8; 4]>())
        };
        let mut sessions = self.sessions.lock();
        loop {
            let pid = rand::random_range(1..i32::MAX);
            if let Entry::Vacant(vacant) = sessions.entry(pid) {
                vacant.insert(Slot { secret: secret.clone(), running: None });
                return Registration { registry: Arc::clone(self), pid, secret };
            }
        }
    }

    /// Cancels the statement that runs in session `pid`, if there is one and the secret is right.
    pub(super) fn cancel(&self, pid: i32, secret: &[u8]) -> bool {
        let sessions = self.sessions.lock();
        let Some(slot) = sessions.get(&pid) else { return false };
        if !same(&slot.secret, secret) {
            return false;
        }
        match &slot.running {
            Some(token) => {
                token.cancel();
                true
            }
            None => false,
        }
    }
}

/// Compares without telling by its time where two secrets differ.
pub(super) fn same(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len() && left.iter().zip(right).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

impl Registration {
    /// The number of the session.
    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    /// What the client must show to cancel.
    pub(super) fn secret(&self) -> SecretKey {
        SecretKey::Bytes(self.secret.clone())
    }

    /// Begins a statement that can be cancelled.
    pub(super) fn begin(&self) -> Cancellable {
        let token = CancellationToken::new();
        if let Some(slot) = self.registry.sessions.lock().get_mut(&self.pid) {
            slot.running = Some(token.clone());
        }
        Cancellable { registry: Arc::clone(&self.registry), pid: self.pid, token }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registry.sessions.lock().remove(&self.pid);
    }
}

impl Cancellable {
    /// The token that a request cancels.
    pub(super) fn token(&self) -> &CancellationToken {
        &self.token
    }
}

impl Drop for Cancellable {
    fn drop(&mut self) {
        if let Some(slot) = self.registry.sessions.lock().get_mut(&self.pid) {
            slot.running = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_secret_cancels_and_only_what_runs() {
        let registry = Arc::new(CancelRegistry::default());
        let session = registry.register(true);
        let other = registry.register(false);
        assert_ne!(session.pid(), other.pid());
        let secret = session.secret().to_bytes();
        assert_eq!((secret.len(), other.secret().to_bytes().len()), (32, 4));

        assert!(!registry.cancel(session.pid(), &secret), "nothing runs");
        let first = session.begin();
        assert!(!registry.cancel(session.pid(), b"guess"));
        assert!(!registry.cancel(other.pid(), &secret));
        assert!(!first.token().is_cancelled());
        assert!(registry.cancel(session.pid(), &secret));
        assert!(first.token().is_cancelled());
        drop(first);

        let second = session.begin();
        assert!(!second.token().is_cancelled(), "the next statement is another one");
        drop(second);
        let pid = session.pid();
        drop(session);
        assert!(!registry.cancel(pid, &secret), "the session has ended");
    }
}
