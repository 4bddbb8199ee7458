//! When probes sample, and how one that hangs costs only itself.
//!
//! Ticks lie on whole seconds of the wall clock, so that rows of different hosts and tables line up; the wait for the
//! next one is measured on the monotonic clock, so that a clock that is set cannot make it long. A table is due when
//! the tick is a multiple of its interval; the first tick samples all.
//!
//! Each probe has a thread. At a tick the thread is told, if it has answered the tick before; if not, the tick is
//! skipped for that probe, and counted. One that had nothing to sample is asked every ten seconds. A probe cannot be
//! interrupted (a read from a dead mount never is), but nobody waits for it. Rows that come late are sent all the same:
//! they say when they were due. A probe that panics loses that tick's rows, and nothing else.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arrow_array::RecordBatch;
use nodescope_model::catalogue::{Catalogue, Table};
use nodescope_model::rows::{Rows, Stamp};
use nodescope_service::errors::chain;
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use tokio_util::sync::CancellationToken;

use crate::pace::Pace;
use crate::probe::{Probe, ProbeError, Tick};

/// Name of the probe that watches over the others.
pub const OWN: &str = "agent";

/// How often a probe is asked that had nothing to sample (no RDMA port, no card): often enough for what is plugged in
/// while the host runs, and to wake it every second for nothing would be a tenth of what an idle agent costs.
const ABSENT_EVERY: Duration = Duration::from_secs(10);

/// At the end, time for probes to finish what they are at.
const FAREWELL: Duration = Duration::from_secs(2);

/// Takes what a probe sampled.
pub type Sink = Arc<dyn Fn(&Arc<Table>, RecordBatch) + Send + Sync>;

/// What a probe has done so far.
#[derive(Debug, Clone, Default)]
pub struct ProbeCount {
    /// Ticks answered.
    pub samples: u64,
    /// Rows given.
    pub rows: u64,
    /// Ticks answered with an error.
    pub errors: u64,
    /// Ticks that took longer than the probe's interval.
    pub timeouts: u64,
    /// Ticks at which it was not asked.
    pub skipped: u64,
    /// Time spent.
    pub spent: Duration,
    /// CPU time used.
    pub cpu: Duration,
    /// Of it, in the newest sample.
    pub last_spent: Option<Duration>,
    /// What was wrong with the newest sample, or why there is nothing to sample.
    pub last_error: Option<String>,
    /// Since when it has been busy.
    pub busy_since: Option<Instant>,
}

/// One probe's count, shared with whoever reports it.
#[derive(Debug)]
pub struct ProbeFacts {
    /// Its name.
    pub name: &'static str,
    /// Its interval.
    pub every: Duration,
    count: Mutex<ProbeCount>,
    /// Whether there was nothing to sample when it was asked last.
    has_nothing: AtomicBool,
}

impl ProbeFacts {
    /// None yet.
    pub fn new(name: &'static str, every: Duration) -> Arc<Self> {
        Arc::new(Self { name, every, count: Mutex::default(), has_nothing: AtomicBool::new(false) })
    }

    /// As it is now.
    pub fn count(&self) -> ProbeCount {
        self.count.lock().clone()
    }
}

/// A probe with its thread.
struct Worker {
    facts: Arc<ProbeFacts>,
    ticks: SyncSender<Tick>,
    thread: JoinHandle<()>,
    asked: bool,
}

/// What is the same in all rows of this host.
#[derive(Debug, Clone)]
pub struct Place {
    /// Identification code of the platform node.
    pub node: String,
    /// Name of the host.
    pub host: String,
}

/// Why the ticker cannot start.
#[derive(Debug, thiserror::Error)]
pub enum TickerError {
    /// The system gives no thread.
    #[error("cannot start a thread for {probe}")]
    Thread {
        /// For whom.
        probe: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A probe fills a table that is not in the catalogue.
    #[error("the catalogue has no table {0} with an interval")]
    NoTable(&'static str),
}

/// Asks probes at their ticks.
pub struct Ticker {
    interval: Duration,
    pace: Pace,
    workers: Vec<Worker>,
}

impl Ticker {
    /// A ticker without probes, that asks none more often than `interval`, and all as `pace` says.
    pub fn new(interval: Duration, pace: Pace) -> Self {
        Self { interval, pace, workers: Vec::new() }
    }

    /// How often a probe is asked.
    ///
    /// # Errors
    /// When the catalogue does not say.
    pub fn interval_of(&self, catalogue: &Catalogue, probe: &dyn Probe) -> Result<Duration, TickerError> {
        let name = probe.table();
        let every = catalogue.get(name).and_then(|t| t.every).ok_or(TickerError::NoTable(name))?;
        Ok(every.max(self.interval))
    }

    /// Adds a probe, with a thread of its own.
    ///
    /// # Errors
    /// When the table is unknown or there is no thread to be had.
    pub fn add(
        &mut self,
        probe: Box<dyn Probe>,
        facts: Arc<ProbeFacts>,
        catalogue: &Catalogue,
        place: &Place,
        sink: &Sink,
    ) -> Result<(), TickerError> {
        let name = probe.table();
        // One tick in the hand and none waiting: a probe that falls behind is not chased through old ticks.
        let (ticks, told) = sync_channel(0);
        let tables = Tables::of(probe.as_ref(), catalogue)?;
        let worker = Sampling { probe, tables, facts: facts.clone(), place: place.clone(), sink: sink.clone() };
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || worker.run(&told))
            .map_err(|source| TickerError::Thread { probe: name, source })?;
        self.workers.push(Worker { facts, ticks, thread, asked: false });
        Ok(())
    }

    /// Ticks until told to stop. Then waits a little for the probes to end, so that what they have just sampled is
    /// taken, and their ports and files are free for whoever comes after them.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut last = 0;
        loop {
            let (tick, wait) = next_tick(now_us(), last, self.interval);
            tokio::select! {
                () = stop.cancelled() => return self.end().await,
                () = tokio::time::sleep(wait) => {}
            }
            last = tick;
            self.tell(tick);
        }
    }

    /// Lets the probes end, but for those that hang.
    async fn end(self) {
        let until = Instant::now() + FAREWELL;
        // Each ends when nobody can tell it a tick any more.
        let mut threads: Vec<_> = self.workers.into_iter().map(|worker| (worker.facts.name, worker.thread)).collect();
        loop {
            threads.retain(|(_, thread)| !thread.is_finished());
            if threads.is_empty() {
                return;
            }
            if Instant::now() >= until {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let probes: Vec<_> = threads.iter().map(|(name, _)| *name).collect();
        tracing::warn!(probes = probes.join(","), "these do not end and are left to themselves");
    }

    fn tell(&mut self, ts_micros: i64) {
        let factor = self.pace.factor();
        for worker in &mut self.workers {
            let tick = Tick { ts_micros, first: !worker.asked };
            // Who watches over the cost is not slowed down by it.
            let stretch = if worker.facts.name == OWN { 1 } else { factor };
            let mut every = worker.facts.every.saturating_mul(stretch);
            if worker.facts.has_nothing.load(Ordering::Relaxed) {
                every = every.max(ABSENT_EVERY);
            }
            if !tick.is_due(every) {
                continue;
            }
            match worker.ticks.try_send(tick) {
                Ok(()) => worker.asked = true,
                Err(TrySendError::Full(_)) => {
                    let mut count = worker.facts.count.lock();
                    count.skipped += 1;
                    if count.busy_since.is_some_and(|since| since.elapsed() >= worker.facts.every)
                        && count.skipped.is_power_of_two()
                    {
                        tracing::warn!(probe = worker.facts.name, skipped = count.skipped, "a probe does not answer");
                    }
                }
                // Its thread has gone, which it does only where its rows were taken: that panicked.
                Err(TrySendError::Disconnected(_)) => {
                    let mut count = worker.facts.count.lock();
                    count.errors += 1;
                    count.last_error = Some("its thread has ended: see the log".to_owned());
                }
            }
        }
    }
}

/// The next tick after now, and how long until then. Never the last one again: a wake-up may come a little early, and
/// a clock may go back a little. A clock that is set far back starts anew from where it is.
fn next_tick(now: i64, last: i64, interval: Duration) -> (i64, Duration) {
    let step = i64::try_from(interval.as_micros()).unwrap_or(i64::MAX).max(1);
    let mut tick = (now.div_euclid(step) + 1).saturating_mul(step);
    if tick <= last && last - tick < 2 * step {
        tick = last + step;
    }
    (tick, Duration::from_micros(u64::try_from(tick - now).unwrap_or(0)))
}

/// CPU time used by this thread, or by the whole process.
pub(crate) fn cpu_time(clock: ClockId) -> Duration {
    let used = clock_gettime(clock);
    let part = |n: i64| u64::try_from(n).unwrap_or(0);
    Duration::from_secs(part(used.tv_sec)) + Duration::from_nanos(part(used.tv_nsec))
}

pub(crate) fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

struct Sampling {
    probe: Box<dyn Probe>,
    tables: Tables,
    facts: Arc<ProbeFacts>,
    place: Place,
    sink: Sink,
}

impl Sampling {
    /// Answers ticks until the ticker is gone.
    fn run(mut self, told: &Receiver<Tick>) {
        while let Ok(tick) = told.recv() {
            let before = cpu_time(ClockId::ThreadCPUTime);
            self.facts.count.lock().busy_since = Some(Instant::now());
            let (batches, result) = self.tables.sample(self.probe.as_mut(), &tick, &self.place);
            self.account(&batches, result);
            for (table, batch) in batches {
                (self.sink)(&table, batch);
            }
            self.facts.count.lock().cpu += cpu_time(ClockId::ThreadCPUTime).saturating_sub(before);
        }
    }

    fn account(&self, batches: &[(Arc<Table>, RecordBatch)], result: Result<(), ProbeError>) {
        let mut count = self.facts.count.lock();
        let spent = count.busy_since.take().map(|since| since.elapsed()).unwrap_or_default();
        count.samples += 1;
        count.rows += batches.iter().map(|(_, batch)| batch.num_rows() as u64).sum::<u64>();
        count.spent += spent;
        count.last_spent = Some(spent);
        count.timeouts += u64::from(spent > self.facts.every);
        let has_nothing = batches.is_empty() && matches!(result, Err(ProbeError::Absent(_)));
        self.facts.has_nothing.store(has_nothing, Ordering::Relaxed);
        match result {
            Ok(()) => count.last_error = None,
            Err(error) => {
                let text = chain(&error);
                if count.last_error.as_ref() != Some(&text) {
                    match &error {
                        ProbeError::Absent(_) => {
                            tracing::info!(probe = self.facts.name, reason = text, "nothing to sample");
                        }
                        _ => tracing::warn!(probe = self.facts.name, error = text, "a probe failed"),
                    }
                }
                // What is not there is no fault.
                count.errors += u64::from(!matches!(error, ProbeError::Absent(_)));
                count.last_error = Some(text);
            }
        }
    }
}

/// The rows under construction of all tables a probe fills, its own first.
pub struct Tables {
    rows: Vec<Rows>,
}

impl Tables {
    /// Of that probe.
    ///
    /// # Errors
    /// When it fills a table that is not in the catalogue.
    pub fn of(probe: &dyn Probe, catalogue: &Catalogue) -> Result<Self, TickerError> {
        let names = std::iter::once(probe.table()).chain(probe.beside().iter().copied());
        let rows = names.map(|name| catalogue.get(name).map(Rows::new).ok_or(TickerError::NoTable(name)));
        Ok(Self { rows: rows.collect::<Result<_, _>>()? })
    }

    /// One tick of the probe: its rows, table by table where there are any, and whether it went well.
    pub fn sample(
        &mut self,
        probe: &mut dyn Probe,
        tick: &Tick,
        place: &Place,
    ) -> (Vec<(Arc<Table>, RecordBatch)>, Result<(), ProbeError>) {
        let stamp = Stamp { ts_micros: tick.ts_micros, node: &place.node, host: &place.host };
        let sampled = catch_unwind(AssertUnwindSafe(|| {
            let Some((own, beside)) = self.rows.split_first_mut() else { return (Vec::new(), Ok(())) };
            let result = probe.sample(tick, own);
            probe.sample_beside(tick, beside);
            let filled = self.rows.iter_mut().filter(|rows| !rows.is_empty());
            (filled.map(|rows| (rows.table().clone(), rows.finish(&stamp))).collect(), result)
        }));
        sampled.unwrap_or_else(|_| {
            // Half a row may have been begun.
            self.rows.iter_mut().for_each(|rows| *rows = Rows::new(&rows.table().clone()));
            (Vec::new(), Err(ProbeError::Driver { library: "the probe itself", message: "it panicked".to_owned() }))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn ticks_lie_on_whole_seconds_and_come_once() {
        assert_eq!(next_tick(1_500_000, 0, SECOND), (2_000_000, Duration::from_millis(500)));
        // Woken early: not the same tick again.
        assert_eq!(next_tick(1_999_999, 2_000_000, SECOND), (3_000_000, Duration::from_micros(1_000_001)));
        // Late by more than a tick: go on from now.
        assert_eq!(next_tick(5_100_000, 2_000_000, SECOND).0, 6_000_000);
        // Set back by an hour: go on from there.
        assert_eq!(next_tick(1_500_000, 3_600_000_000, SECOND).0, 2_000_000);
        assert_eq!(next_tick(61_000_000, 0, Duration::from_secs(60)).0, 120_000_000);
    }

    /// Answers each tick when told to.
    struct Slow(&'static str, mpsc::Receiver<Result<(), &'static str>>);

    impl Probe for Slow {
        fn table(&self) -> &'static str {
            self.0
        }

        fn sample(&mut self, _: &Tick, rows: &mut Rows) -> Result<(), ProbeError> {
            match self.1.recv() {
                Ok(Err("panic")) => panic!("as told"),
                Ok(Err(why)) => return Err(ProbeError::Absent(why.to_owned())),
                _ => {}
            }
            rows.begin().int("total_bytes", 1);
            Ok(())
        }
    }

    #[tokio::test]
    async fn at_the_end_what_is_being_sampled_is_waited_for_and_what_hangs_is_not() {
        let catalogue = Catalogue::built_in();
        let (sent, received) = mpsc::channel();
        let sink: Sink = Arc::new(move |table, _| drop(sent.send(table.name.clone())));
        let place = Place { node: "n".into(), host: "h".into() };
        let mut ticker = Ticker::new(SECOND, Pace::default());
        let mut wakes = Vec::new();
        for _ in 0..2 {
            let (wake, woken) = mpsc::channel();
            let facts = ProbeFacts::new("memory", SECOND);
            ticker.add(Box::new(Slow("memory", woken)), facts, &catalogue, &place, &sink).unwrap();
            wakes.push(wake);
        }
        let facts: Vec<_> = ticker.workers.iter().map(|w| w.facts.clone()).collect();
        let began = Instant::now();
        while facts.iter().any(|f| f.count().busy_since.is_none()) {
            assert!(began.elapsed() < Duration::from_secs(20), "they are never asked");
            ticker.tell(1_000_000);
            std::thread::sleep(Duration::from_millis(1));
        }
        let stop = CancellationToken::new();
        stop.cancel();
        let ending = tokio::spawn(ticker.run(stop));
        tokio::time::sleep(Duration::from_millis(50)).await;
        wakes[0].send(Ok(())).unwrap();
        ending.await.unwrap();
        assert_eq!(received.try_iter().collect::<Vec<_>>(), ["memory"]);
    }

    #[test]
    fn a_probe_that_hangs_costs_only_itself() {
        let catalogue = Catalogue::built_in();
        let (sent, received) = mpsc::channel();
        let sink: Sink = Arc::new(move |table, batch| {
            let _ = sent.send((table.name.clone(), batch.num_rows()));
        });
        let place = Place { node: "n".into(), host: "h".into() };
        let mut ticker = Ticker::new(SECOND, Pace::default());
        let mut wakes = Vec::new();
        for _ in 0..2 {
            let (wake, woken) = mpsc::channel();
            let probe = Slow("memory", woken);
            let every = ticker.interval_of(&catalogue, &probe).unwrap();
            ticker.add(Box::new(probe), ProbeFacts::new("memory", every), &catalogue, &place, &sink).unwrap();
            wakes.push(wake);
        }
        let facts: Vec<_> = ticker.workers.iter().map(|w| w.facts.clone()).collect();
        let until = |what: &mut dyn FnMut() -> bool| {
            let began = Instant::now();
            while !what() {
                assert!(began.elapsed() < Duration::from_secs(60), "it does not happen");
                std::thread::yield_now();
            }
        };
        // Both threads have to be waiting before a tick can be handed over.
        let mut second = 0;
        until(&mut || {
            second += 1;
            ticker.tell(second * 1_000_000);
            facts.iter().all(|f| f.count().busy_since.is_some())
        });
        let skipped = facts[1].count().skipped;
        // The first answers, the second hangs.
        wakes[0].send(Ok(())).unwrap();
        assert_eq!(received.recv().unwrap(), ("memory".to_owned(), 1));
        until(&mut || facts[0].count().samples == 1);
        ticker.tell(200_000_000);
        assert_eq!(facts[1].count().skipped, skipped + 1);
        // It panics; the next tick is answered again, with a reason.
        wakes[1].send(Err("panic")).unwrap();
        until(&mut || facts[1].count().errors == 1);
        assert!(facts[1].count().last_error.unwrap().contains("panicked"));
        wakes[1].send(Err("there is none")).unwrap();
        let mut second = 300;
        while facts[1].count().samples < 2 {
            second += 1;
            ticker.tell(second * 1_000_000);
            std::thread::yield_now();
        }
        let count = facts[1].count();
        assert_eq!((count.errors, count.last_error.as_deref()), (1, Some("there is none")));
    }
}
