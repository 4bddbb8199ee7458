//! SQL on a schedule: rollups, detections and reports, by one mechanism.
//!
//! A rule is a file (see [`crate::definition`]). Its SQL is asked once of each window of event time, and what it finds
//! goes to the rule's sink. The way of a run, and the files in its order:
//!
//! 1. [`rules`]: which rules there are; all are planned before any runs.
//! 2. [`windows`]: which windows are due; [`late`]: which must run again, because rows came late.
//! 3. [`run`] asks; [`sink`] makes rows of tables of what was found.
//! 4. Those rows, and the row of `schedule_run` that says that the run took place, go into **one** append to a journal
//!    (see [`nodescope_store::journal`]): so "done" and "its rows are there" are the same fact, whatever is killed.
//! 5. [`progress`]: a restart reads back what is done, and goes on there.
//!
//! **Order.** Windows of one rule run one after the other, the oldest first. A rule that reads what another fills waits
//! for that one's windows, unless that one fails. Late rows of one become late rows of the other, by the same journal.
//!
//! **Of two schedules** on one store the second to append is refused by the store, and stops. It has written nothing.
//!
//! **Failures.** A run that fails is tried again, after pauses that grow, and holds up no other rule. A window that has
//! failed for an hour is passed over, with a row that says so; late rows may still make it run.
//!
//! **Far behind.** Windows missed while no schedule ran are made up for, the oldest first, up to `schedule.catch_up`.
//! Windows that run again never take the last free place from those that are due.

pub(crate) mod built_in;
mod late;
pub mod metrics;
pub mod progress;
pub mod rules;
pub mod run;
pub mod settings;
pub mod sink;
pub mod windows;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use datafusion::arrow::array::RecordBatch;
use nodescope_model::catalogue::Table;
use nodescope_service::errors::chain;
use nodescope_store::StoreError;
use nodescope_store::cut::Positions;
use nodescope_store::journal::{Journal, SCHEDULE};
use tokio::task::{JoinError, JoinSet};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use self::late::{Concern, Look, Marks};
use self::metrics::ScheduleMetrics;
use self::progress::Progress;
use self::rules::Rule;
use self::run::{Ended, Run};
pub use self::settings::ScheduleSettings;
use self::sink::{Sink, SinkError, Sinks};
use self::windows::{Grid, Window, micros};
use crate::definition::{Mistakes, SinkName};
use crate::engine::Engine;
use crate::own::OwnError;

/// How often it is looked what is due.
const TICK: Duration = Duration::from_millis(250);

/// How often new segments are looked for, if nothing of our own has been written.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Pause after the first failure, and the longest.
const PAUSES_US: (i64, i64) = (1_000_000, 300_000_000);

/// A window that fails is passed over so long after it was due, after so many tries.
const GIVE_UP: (i64, u32) = (3_600_000_000, 5);

/// After so many failures in a row, others no longer wait for a rule.
const PATIENCE: u32 = 3;

/// The longest that telling outside may hold up a rule.
const TELLING: Duration = Duration::from_secs(60);

/// How long runs under way may still take when the schedule is asked to stop.
const GRACE: Duration = Duration::from_secs(5);

/// Why a schedule does not start, or ends.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    /// Rules are not right.
    #[error("the rules are not right:\n{0}")]
    Rules(Mistakes),
    /// Somebody else runs a schedule on this store.
    #[error(
        "another schedule writes to this store, and the store lets only one: this one stops. Run `nodescope schedule` \
         once, or set schedule.enabled = false for `nodescope up`"
    )]
    Fenced(#[source] StoreError),
    /// The store cannot be read or written.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// What has run cannot be read back.
    #[error("what has run cannot be read back")]
    Progress(#[source] OwnError),
    /// A sink cannot be opened.
    #[error("rule {rule} has no sink")]
    Sink {
        /// Name of the rule.
        rule: String,
        /// Why not.
        #[source]
        source: SinkError,
    },
    /// The catalogue lacks the table of runs.
    #[error("the catalogue has no table schedule_run")]
    NoTable,
    /// A task died.
    #[error("a run died in its sink")]
    Died(#[source] JoinError),
}

/// Plans the rules, opens the schedule and runs it until told to stop.
///
/// # Errors
/// When rules are wrong, another schedule writes to the store, or the store fails for good.
pub async fn serve(
    settings: ScheduleSettings,
    engine: Arc<Engine>,
    sinks: Sinks,
    metrics: ScheduleMetrics,
    shutdown: CancellationToken,
) -> Result<(), ScheduleError> {
    let rules = rules::plan(&engine, settings.rules.clone()).await.map_err(ScheduleError::Rules)?;
    tracing::info!(rules = rules.len(), "the schedule begins");
    let schedule = Schedule::open(engine, rules, &sinks, &settings, metrics, now_us()).await?;
    schedule.run(now_us, shutdown).await
}

/// Now, microseconds since 1970.
pub fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// All rules, and where each stands.
#[derive(Debug)]
pub struct Schedule {
    engine: Arc<Engine>,
    journal: Journal,
    /// `schedule_run`.
    table: Arc<Table>,
    node: String,
    lanes: Vec<Lane>,
    /// Up to where segments have been looked at.
    looked: Positions,
    looks: u64,
    looked_at: Option<Instant>,
    tasks: JoinSet<Task>,
    running: usize,
    /// How many of those run again.
    repeating: usize,
    concurrency: usize,
    /// The lane whose turn is next.
    turn: usize,
    metrics: ScheduleMetrics,
}

/// One rule, and where it stands.
#[derive(Debug)]
struct Lane {
    rule: Rule,
    grid: Grid,
    /// Lanes that fill what this one reads.
    upstream: Vec<usize>,
    /// `None` while a run is under way or told outside.
    sink: Option<Box<dyn Sink>>,
    /// End of the last window that is done.
    ended_us: i64,
    /// Nothing that ended at or before this has ever run.
    first_us: i64,
    /// The window that runs for the first time now.
    begun: Option<Window>,
    marks: Marks,
    revisions: HashMap<i64, i64>,
    failures: u32,
    not_before_us: i64,
    /// The last run was a repetition: a due window goes first now.
    repeated: bool,
}

/// A task that has ended.
#[derive(Debug)]
enum Task {
    Ran(Ran),
    Told(usize, Box<dyn Sink>),
}

/// A run that has ended and is not committed.
#[derive(Debug)]
struct Ran {
    lane: usize,
    run: Run,
    repeats: bool,
    taken: Result<Vec<(Arc<Table>, RecordBatch)>, String>,
    rows: u64,
    ended_us: i64,
    sink: Box<dyn Sink>,
}

impl Lane {
    fn name(&self) -> &str {
        &self.rule.definition.name
    }

    fn concern(&self, now_us: i64) -> Concern {
        let restate = micros(self.rule.definition.restate);
        Concern {
            grid: self.grid,
            begun_us: self.begun.map_or(self.ended_us, |window| window.ends_us),
            oldest_us: now_us.saturating_sub(restate).max(self.first_us.saturating_add(1)),
        }
    }

    /// Up to which end the windows are done, as those see it who wait for it: a rule that fails lets them pass.
    fn done_for(&self, ends_us: i64) -> bool {
        self.failures >= PATIENCE || self.ended_us >= self.grid.last_end(ends_us)
    }
}

fn pause_us(failures: u32) -> i64 {
    PAUSES_US.0.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(PAUSES_US.1)
}

impl Schedule {
    /// Opens the journal and reads back what has run. Rules that have never run begin.
    ///
    /// # Errors
    /// When the store cannot be read or written, or a sink cannot be opened.
    pub async fn open(
        engine: Arc<Engine>,
        rules: Vec<Rule>,
        sinks: &Sinks,
        settings: &ScheduleSettings,
        metrics: ScheduleMetrics,
        now_us: i64,
    ) -> Result<Self, ScheduleError> {
        let store = engine.reader().store();
        let table = Arc::clone(store.catalogue().get("schedule_run").ok_or(ScheduleError::NoTable)?);
        // First the journal, then what is in it: whoever appends after this is noticed by our own first append.
        let journal = Journal::open(store, SCHEDULE).await?;
        // A partition that has just been made is in no list that readers have.
        engine.reader().look_anew().await?;
        engine.reader().expect(journal.partition(), journal.next()).await;
        let names: BTreeSet<&str> = rules.iter().map(|rule| rule.definition.name.as_str()).collect();
        let restate = rules.iter().map(|rule| rule.definition.restate).max().unwrap_or_default();
        let progress = Progress::read(&engine, &names, restate, now_us).await.map_err(ScheduleError::Progress)?;
        let mut looked = progress.settled.clone();
        if looked.is_empty() {
            // Nothing has ever run, so nothing that is there can be late.
            engine.reader().news(&mut looked).await?;
        }
        let upstream = rules::upstream(&rules);
        let mut lanes = Vec::with_capacity(rules.len());
        for (rule, upstream) in rules.into_iter().zip(upstream) {
            let grid = Grid::of(&rule.definition);
            let name = rule.definition.name.clone();
            let back = match rule.definition.sink {
                Some(SinkName::Table(_)) => micros(settings.backfill),
                _ => 0,
            };
            let known = progress.ended_us.get(&name).copied();
            let oldest_us = grid.last_end(now_us.saturating_sub(micros(settings.catch_up)));
            let ended_us = known.unwrap_or_else(|| grid.last_end(now_us.saturating_sub(back))).max(oldest_us);
            if known.is_some_and(|known| known < ended_us) {
                tracing::warn!(rule = name, "is too far behind: windows older than schedule.catch_up are passed over");
            }
            let of_rule = progress.revisions.iter().filter(|((rule, _), _)| *rule == name);
            lanes.push(Lane {
                sink: Some(
                    sinks
                        .open(&rule.definition, &engine)
                        .await
                        .map_err(|source| ScheduleError::Sink { rule: name.clone(), source })?,
                ),
                grid,
                upstream,
                ended_us,
                first_us: progress.first_us.get(&name).copied().unwrap_or(if known.is_some() { 0 } else { ended_us }),
                begun: None,
                marks: Marks::default(),
                revisions: of_rule.map(|((_, end), revision)| (*end, *revision)).collect(),
                failures: 0,
                not_before_us: 0,
                repeated: false,
                rule,
            });
        }
        let mut schedule = Self {
            engine,
            journal,
            table,
            node: settings.node.clone(),
            lanes,
            looked,
            looks: 0,
            looked_at: None,
            tasks: JoinSet::new(),
            running: 0,
            repeating: 0,
            concurrency: settings.concurrency.max(1),
            turn: 0,
            metrics,
        };
        schedule.begin(&progress, now_us).await?;
        Ok(schedule)
    }

    /// Writes down where rules begin that have never run, or anew: a restart before their first run must not move that.
    async fn begin(&mut self, progress: &Progress, now_us: i64) -> Result<(), ScheduleError> {
        let ended = Ended { state: "begun", error: None, rows: None, ended_us: now_us };
        let rows: Vec<RecordBatch> = self
            .lanes
            .iter()
            .filter(|lane| progress.ended_us.get(lane.name()) != Some(&lane.ended_us))
            .map(|lane| {
                let window = lane.grid.ending(lane.ended_us);
                let run = Run { rule: Arc::clone(&lane.rule.definition), window, revision: 0, began_us: now_us };
                run::row(&self.table, &self.node, &run, &ended, None)
            })
            .collect();
        let tables = vec![(Arc::clone(&self.table), rows)];
        self.append(tables).await
    }

    /// Runs until told to stop. `clock` says what time it is, in microseconds since 1970.
    ///
    /// # Errors
    /// When another schedule writes to the store, or the store fails for good.
    pub async fn run(mut self, clock: fn() -> i64, shutdown: CancellationToken) -> Result<(), ScheduleError> {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let first = tokio::select! {
                () = shutdown.cancelled() => break,
                Some(ended) = self.tasks.join_next() => Some(ended),
                _ = ticks.tick() => None,
            };
            // What is left in the middle by the end of the process is either in the store or not; a restart sees which.
            let round = async {
                self.take(first).await?;
                self.round(clock()).await
            };
            tokio::select! {
                () = shutdown.cancelled() => break,
                done = round => done?,
            }
        }
        let _ = tokio::time::timeout(GRACE, self.drain()).await;
        Ok(())
    }

    /// Commits what is under way, and begins nothing new.
    async fn drain(&mut self) -> Result<(), ScheduleError> {
        while let Some(ended) = self.tasks.join_next().await {
            self.take(Some(ended)).await?;
        }
        Ok(())
    }

    /// Looks for late rows, and begins what is due.
    ///
    /// # Errors
    /// None at present: a store that is away is looked at again.
    async fn round(&mut self, now_us: i64) -> Result<(), ScheduleError> {
        if self.looked_at.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
            let before = self.looked.clone();
            match self.look(now_us).await {
                Ok(()) => self.looked_at = Some(Instant::now()),
                Err(error) => {
                    // Marks may be made twice, and none may be left out.
                    self.looked = before;
                    tracing::warn!(error = chain(&error), "the store cannot be looked at; trying again");
                    return Ok(());
                }
            }
        }
        self.start(now_us);
        for lane in &self.lanes {
            self.metrics.stands(lane.name(), lane.grid.behind_us(lane.ended_us, now_us), lane.marks.len());
        }
        Ok(())
    }

    /// Looks at the segments that have come, and marks the windows that they came too late for.
    async fn look(&mut self, now_us: i64) -> Result<(), StoreError> {
        let before = self.looked.clone();
        let engine = Arc::clone(&self.engine);
        let news = engine.reader().news(&mut self.looked).await?;
        self.looks += 1;
        let look = Look::new(self.looks, before);
        for lane in &mut self.lanes {
            for _ in 0..lane.marks.forget_before(lane.concern(now_us).oldest_us) {
                self.metrics.too_late(&lane.rule.definition.name);
            }
        }
        if !news.missed.is_empty() {
            let partitions: Vec<String> = news.missed.iter().map(ToString::to_string).collect();
            tracing::warn!(
                partitions = partitions.join(", "),
                "segments have come and gone unseen: windows that may be restated run again"
            );
            for at in 0..self.lanes.len() {
                let concern = self.lanes[at].concern(now_us);
                self.mark(at, concern.all(), &look, now_us);
            }
        }
        for segment in &news.segments {
            for part in &segment.parts {
                let reads = |lane: &Lane| {
                    !lane.rule.definition.restate.is_zero() && lane.rule.reads.contains(part.table.as_str())
                };
                let concerned: Vec<usize> = (0..self.lanes.len()).filter(|at| reads(&self.lanes[*at])).collect();
                let concerns: Vec<Concern> = concerned.iter().map(|at| self.lanes[*at].concern(now_us)).collect();
                let found = Concern::of_part(&concerns, engine.reader().store(), segment, part).await?;
                for (at, (ends, too_late)) in concerned.into_iter().zip(found) {
                    self.mark(at, ends.into_iter(), &look, now_us);
                    if too_late {
                        self.metrics.too_late(self.lanes[at].name());
                    }
                }
            }
        }
        Ok(())
    }

    fn mark(&mut self, at: usize, ends: impl Iterator<Item = i64>, look: &Arc<Look>, now_us: i64) {
        let lane = &mut self.lanes[at];
        if lane.rule.definition.restate.is_zero() {
            return;
        }
        let new = ends.filter(|end| lane.marks.add(*end, look, now_us)).count();
        if new > 0 {
            self.metrics.late(self.lanes[at].name(), new as u64);
        }
    }

    /// Begins runs, one of each rule at the most, until enough are under way.
    fn start(&mut self, now_us: i64) {
        let count = self.lanes.len();
        for step in 0..count {
            if self.running >= self.concurrency {
                return;
            }
            let at = (self.turn + step) % count;
            let Some((window, repeats)) = self.next(at, now_us) else { continue };
            let lane = &mut self.lanes[at];
            let Some(sink) = lane.sink.take() else { continue };
            let revision = if repeats {
                lane.marks.begin(window.ends_us);
                lane.revisions.get(&window.ends_us).map_or(1, |revision| revision + 1)
            } else {
                lane.begun = Some(window);
                0
            };
            lane.repeated = repeats;
            let run = Run { rule: Arc::clone(&lane.rule.definition), window, revision, began_us: now_us };
            self.tasks.spawn(perform(Arc::clone(&self.engine), at, run, repeats, sink));
            self.running += 1;
            self.repeating += usize::from(repeats);
            self.turn = at + 1;
        }
    }

    /// The window of a rule that is to run next, and whether it runs again.
    fn next(&self, at: usize, now_us: i64) -> Option<(Window, bool)> {
        let lane = &self.lanes[at];
        lane.sink.as_ref()?;
        let due = lane.grid.due(lane.ended_us, now_us).filter(|window| {
            now_us >= lane.not_before_us && lane.upstream.iter().all(|up| self.lanes[*up].done_for(window.ends_us))
        });
        // In turns, when there are both: neither a backlog nor late rows that never end hold up the other.
        if let Some(window) = due
            && lane.repeated
        {
            return Some((window, false));
        }
        let room = self.repeating < self.concurrency.saturating_sub(1).max(1);
        let again = lane.marks.ripe(now_us).filter(|_| room).map(|end| (lane.grid.ending(end), true));
        again.or(due.map(|window| (window, false)))
    }

    /// Takes what has ended: commits runs, all in one append, and has them told outside.
    async fn take(&mut self, first: Option<Result<Task, JoinError>>) -> Result<(), ScheduleError> {
        let mut ended = Vec::new();
        let mut next = first;
        while let Some(task) = next.or_else(|| self.tasks.try_join_next()) {
            match task.map_err(ScheduleError::Died)? {
                Task::Told(at, sink) => self.lanes[at].sink = Some(sink),
                Task::Ran(ran) => ended.push(ran),
            }
            next = None;
        }
        if ended.is_empty() {
            return Ok(());
        }
        self.running -= ended.len();
        self.repeating -= ended.iter().filter(|ran| ran.repeats).count();
        let mut told = Vec::with_capacity(ended.len());
        let mut tables = Vec::new();
        let mut notes = Vec::with_capacity(ended.len());
        for ran in ended {
            self.note(ran, &mut tables, &mut notes, &mut told);
        }
        // Which marks are gone with these runs is in the same append as what the runs brought.
        let settled = late::to_json(Marks::settled(self.lanes.iter().map(|lane| &lane.marks), &self.looked));
        let rows = notes.iter().enumerate().map(|(at, (run, ended))| {
            run::row(&self.table, &self.node, run, ended, (at == 0).then_some(settled.as_str()))
        });
        tables.push((Arc::clone(&self.table), rows.collect()));
        self.append(tables).await?;
        for (lane, run, sink) in told {
            self.tasks.spawn(tell(lane, run, sink));
        }
        Ok(())
    }

    /// Works out what the end of a run means for its rule.
    fn note(
        &mut self,
        ran: Ran,
        tables: &mut Vec<(Arc<Table>, Vec<RecordBatch>)>,
        notes: &mut Vec<(Run, Ended)>,
        told: &mut Vec<(usize, Run, Box<dyn Sink>)>,
    ) {
        let Ran { lane: at, run, repeats, taken, rows, ended_us, sink } = ran;
        let lane = &mut self.lanes[at];
        let name = lane.rule.definition.name.as_str();
        #[allow(clippy::cast_precision_loss, reason = "seconds")]
        self.metrics.run_seconds.observe((ended_us - run.began_us).max(0) as f64 / 1e6);
        lane.begun = None;
        let end = run.window.ends_us;
        match taken {
            Ok(more) => {
                tables.extend(more.into_iter().map(|(table, batch)| (table, vec![batch])));
                self.metrics.ran(name, rows);
                if repeats {
                    lane.marks.done(end);
                    lane.revisions.insert(end, run.revision);
                } else {
                    lane.ended_us = end;
                    lane.failures = 0;
                }
                let oldest = ended_us.saturating_sub(micros(lane.rule.definition.restate));
                lane.revisions.retain(|end, _| *end >= oldest);
                notes.push((run.clone(), Ended { state: "done", error: None, rows: Some(rows), ended_us }));
                told.push((at, run, sink));
            }
            Err(error) => {
                lane.sink = Some(sink);
                self.metrics.failed(name);
                tracing::warn!(rule = name, window_ends_us = end, error, "a run failed");
                if repeats {
                    lane.marks.failed(end, ended_us, pause_us);
                } else {
                    lane.failures += 1;
                    lane.not_before_us = ended_us + pause_us(lane.failures);
                    // It is still to come, so nothing can be late for it.
                    lane.marks.forget(end);
                    let (longest, tries) = GIVE_UP;
                    if lane.failures >= tries && ended_us - lane.grid.due_us(run.window) >= longest {
                        tracing::error!(rule = name, window_ends_us = end, "a window is passed over");
                        self.metrics.given_up(name);
                        lane.ended_us = end;
                        lane.failures = 0;
                        lane.not_before_us = 0;
                    }
                }
                notes.push((run, Ended { state: "failed", error: Some(error), rows: None, ended_us }));
            }
        }
    }

    async fn append(&mut self, tables: Vec<(Arc<Table>, Vec<RecordBatch>)>) -> Result<(), ScheduleError> {
        let began = Instant::now();
        self.journal.append(tables).await.map_err(|error| match error {
            StoreError::AlreadyWritten { .. } => ScheduleError::Fenced(error),
            other => ScheduleError::Store(other),
        })?;
        self.metrics.commit_seconds.observe(began.elapsed().as_secs_f64());
        // What we have written is looked at before anything new begins, so that nobody who reads it is late for it.
        self.looked_at = None;
        Ok(())
    }
}

/// Asks, and hands what was found to the sink. A fault of the engine costs this run and no other.
async fn perform(engine: Arc<Engine>, lane: usize, run: Run, repeats: bool, mut sink: Box<dyn Sink>) -> Task {
    let began = Instant::now();
    let asked = run.clone();
    let answer = AbortOnDropHandle::new(tokio::spawn(async move { asked.ask(&engine).await })).await;
    let mut rows = 0;
    let taken = match answer {
        Ok(Ok(batches)) => {
            rows = batches.iter().map(|batch| batch.num_rows() as u64).sum();
            sink.take(&run, &batches).map_err(|error| chain(&error))
        }
        Ok(Err(error)) => Err(chain(&error)),
        Err(_) => Err("the engine died of it; the log holds the details".to_owned()),
    };
    let ended_us = run.began_us.saturating_add(micros(began.elapsed()));
    Task::Ran(Ran { lane, run, repeats, taken, rows, ended_us, sink })
}

/// Has a committed run told outside, for so long and no longer.
async fn tell(lane: usize, run: Run, mut sink: Box<dyn Sink>) -> Task {
    if tokio::time::timeout(TELLING, sink.committed(&run)).await.is_err() {
        tracing::warn!(rule = run.rule.name, "telling outside takes too long");
    }
    Task::Told(lane, sink)
}

#[cfg(test)]
mod tests;
