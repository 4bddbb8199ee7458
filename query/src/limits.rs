//! What a query may cost, and how many may run at once.
//!
//! A database that many people ask is only as reliable as its worst question. So everything a statement
//! can consume has a bound: the memory of all queries together, the time from its first byte to its last
//! row, the rows it returns, the length of its text, and its place among the queries that run. DataFusion
//! bounds memory by its pool; the rest is ours. [`Admission`] lets a fixed number of statements run, lets a
//! few more wait for a short while, and turns the others away at once with the reason, because a queue
//! that grows without end only makes everybody time out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The bounds that every query server keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Memory of all running queries together, in bytes; what does not fit is spilled or refused.
    pub memory_bytes: usize,
    /// Memory of one query, in bytes; `None` leaves it to the common pool.
    pub query_memory_bytes: Option<usize>,
    /// The longest a statement may take, from its arrival to its last row.
    pub statement_timeout: Duration,
    /// Rows that one statement may return.
    pub max_rows: u64,
    /// Sessions open at one time.
    pub max_connections: usize,
    /// Statements that run at one time; others wait.
    pub concurrent_queries: usize,
    /// Statements that may wait at one time; others are refused.
    pub queue_length: usize,
    /// The longest that a statement waits for its turn.
    pub queue_wait: Duration,
    /// Length of a statement's text and of its parameters, in bytes.
    pub max_statement_bytes: usize,
    /// Operators in one text. A chain of operators becomes a tree as deep as the chain is long, and a tree that
    /// is deep enough exhausts the stack of whoever walks it.
    pub max_statement_operators: usize,
    /// Prepared statements, and likewise portals, that one session may keep.
    pub max_prepared: usize,
}

impl Default for Limits {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Limits {
            memory_bytes: 1 << 30,
            query_memory_bytes: None,
            statement_timeout: Duration::from_secs(60),
            max_rows: 10_000_000,
            max_connections: 100,
            concurrent_queries: 2 * cores,
            queue_length: 100,
            queue_wait: Duration::from_secs(10),
            max_statement_bytes: 1 << 20,
            max_statement_operators: 2_000,
            max_prepared: 1_000,
        }
    }
}

/// The gate before execution, shared by all doors of a server.
#[derive(Debug)]
pub struct Admission {
    slots: Arc<Semaphore>,
    waiting: AtomicUsize,
    concurrent: usize,
    queue_length: usize,
    queue_wait: Duration,
}

/// The right to run one statement; dropping it lets the next one in.
#[derive(Debug)]
pub struct Admitted {
    _permit: OwnedSemaphorePermit,
}

/// Why a statement may not run now.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AdmissionRefused {
    /// The queue is as long as it may become.
    #[error("too many queries: {running} are running and {waiting} are waiting")]
    QueueFull {
        /// Statements that run.
        running: usize,
        /// Statements that wait.
        waiting: usize,
    },
    /// No turn came in time.
    #[error("the query waited {waited:?} for its turn and none of the {running} running queries ended")]
    Waited {
        /// Statements that run.
        running: usize,
        /// How long it waited.
        waited: Duration,
    },
}

impl AdmissionRefused {
    /// What the asker can do about it.
    pub fn hint(&self) -> &'static str {
        "Ask again in a moment, ask for a shorter time range, or raise `concurrent_queries` on the server."
    }
}

/// Counts a waiter for as long as it waits, however the waiting ends.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Admission {
    /// A gate with the concurrency and the queue that `limits` names; at least one statement may always run.
    pub fn new(limits: &Limits) -> Self {
        let concurrent = limits.concurrent_queries.clamp(1, Semaphore::MAX_PERMITS);
        Admission {
            slots: Arc::new(Semaphore::new(concurrent)),
            waiting: AtomicUsize::new(0),
            concurrent,
            queue_length: limits.queue_length,
            queue_wait: limits.queue_wait,
        }
    }

    /// Waits for a turn. The future may be dropped at any time; its place is then free.
    ///
    /// # Errors
    /// When the queue is full, or when no turn comes within the longest wait.
    pub async fn admit(&self) -> Result<Admitted, AdmissionRefused> {
        if let Ok(permit) = Arc::clone(&self.slots).try_acquire_owned() {
            return Ok(Admitted { _permit: permit });
        }
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        if before >= self.queue_length {
            return Err(AdmissionRefused::QueueFull { running: self.concurrent, waiting: before });
        }
        match tokio::time::timeout(self.queue_wait, Arc::clone(&self.slots).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Admitted { _permit: permit }),
            // The semaphore is never closed, so only time can have run out.
            Ok(Err(_)) | Err(_) => Err(AdmissionRefused::Waited { running: self.concurrent, waited: self.queue_wait }),
        }
    }

    /// Statements that wait for their turn now.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(concurrent_queries: usize, queue_length: usize) -> Arc<Admission> {
        let queue_wait = Duration::from_secs(3);
        Arc::new(Admission::new(&Limits { concurrent_queries, queue_length, queue_wait, ..Limits::default() }))
    }

    #[tokio::test]
    async fn a_full_queue_refuses_at_once_and_says_why() {
        let gate = gate(1, 0);
        let _running = gate.admit().await.expect("the first may run");
        let refused = gate.admit().await.expect_err("no queue");
        assert_eq!(refused, AdmissionRefused::QueueFull { running: 1, waiting: 0 });
        assert_eq!(gate.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_gets_the_slot_that_becomes_free_or_gives_up_in_time() {
        let gate = gate(1, 1);
        let running = gate.admit().await.expect("the first may run");
        let waiter = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.admit().await }
        });
        tokio::task::yield_now().await;
        assert_eq!(gate.waiting(), 1);
        drop(running);
        let running = waiter.await.expect("no panic").expect("its turn came");
        assert!(matches!(gate.admit().await, Err(AdmissionRefused::Waited { .. })));
        assert_eq!(gate.waiting(), 0);
        drop(running);
        gate.admit().await.expect("the slot is free again");
    }

    #[tokio::test]
    async fn a_waiter_that_goes_away_leaves_the_queue() {
        let gate = gate(1, 1);
        let _running = gate.admit().await.expect("the first may run");
        {
            let mut waiting = Box::pin(gate.admit());
            assert!(futures::poll!(&mut waiting).is_pending());
            assert_eq!(gate.waiting(), 1);
        }
        assert_eq!(gate.waiting(), 0);
    }
}
