//! Telling: what is committed goes to every outlet, in order, until it is taken.
//!
//! Each outlet has a queue and a task of its own, so one that is away holds up no other. A message leaves the queue when
//! the outlet has taken it; then a row of the table `notification` says so. What is owed is thus what the store holds in
//! `alert` and not in `notification`, and of reports what has run and is not there: a restart reads it back, and so does
//! an outlet whose queue was full. The first row of an outlet says since when it is there (`begun`): it is told no
//! history, and all that happens from then on, even when it has never yet answered.
//!
//! **Twice** is told what an outlet took when we died before the row was written, or when its answer was lost. Each
//! message has a name for this (the incident and its state, or the report), by which the other side may know it again.
//!
//! **Inhibition.** A rule may name others as causes of its own incidents (`inhibited_by`). While one of those fires with
//! the same values in the columns that both keys have, an incident that has not been told yet waits. It is told when the
//! cause is over and it is not, and never if it is over first. What has been told is told to be over in any case.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, SecondsFormat, Utc};
use datafusion::arrow::array::cast::AsArray;
use datafusion::arrow::array::{Array, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, TimestampMicrosecondType};
use nodescope_model::catalogue::Table;
use nodescope_model::rows::{Rows, Stamp};
use nodescope_service::errors::chain;
use nodescope_store::StoreError;
use nodescope_store::journal::Journal;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::incident::{Incident, State};
use super::{record, report};
use crate::definition::{Definition, SinkName};
use crate::engine::Engine;
use crate::own::OwnError;
use crate::schedule::now_us;

/// The journal of what has been told.
pub const JOURNAL: &str = "journal.alerts";

/// Messages that wait for one outlet in memory, and how many of them may be reports, which are large. More are read from
/// the store when these are told.
const LONGEST_QUEUE: (usize, usize) = (10_000, 64);

/// Pauses after a failure: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

/// The longest that the end of the process waits for outlets.
const CLOSING: Duration = Duration::from_secs(15);

/// What ended longer ago is not told any more, in microseconds.
const OWED_FOR_US: i64 = 7 * 86_400_000_000;

/// So long after its end an incident is among those that an outlet is reminded of, in microseconds.
const REMIND_OF_END_US: i64 = 15 * 60_000_000;

/// One thing to tell.
#[derive(Debug, Clone)]
pub enum Message {
    /// An incident is raised, or is over.
    Incident(State, Arc<Incident>),
    /// The rows of a rule.
    Report {
        /// Its name: rule, window and revision.
        about: String,
        /// What is told.
        body: Arc<Value>,
    },
}

impl Message {
    /// What it is about.
    pub fn about(&self) -> &str {
        match self {
            Self::Incident(_, incident) => &incident.id,
            Self::Report { about, .. } => about,
        }
    }

    /// What it says of it.
    pub fn state(&self) -> &'static str {
        match self {
            Self::Incident(state, _) => state.as_str(),
            Self::Report { .. } => "report",
        }
    }

    /// As JSON, for webhooks and topics.
    pub fn body(&self, labels: &[(String, String)]) -> Value {
        match self {
            Self::Report { body, .. } => {
                let mut body = body.as_ref().clone();
                body["labels"] = labels.iter().cloned().collect();
                body
            }
            Self::Incident(state, incident) => {
                let labels: BTreeMap<_, _> = labels.iter().cloned().collect();
                json!({
                    "version": 1,
                    "incident": incident.id,
                    "state": state.as_str(),
                    "rule": incident.about.rule,
                    "title": incident.about.title,
                    "severity": incident.about.severity,
                    "techniques": incident.about.techniques.split(',').filter(|t| !t.is_empty()).collect::<Vec<_>>(),
                    "summary": incident.summary,
                    "key": incident.key,
                    "found": incident.found,
                    "began": time(incident.began_us),
                    "fired": incident.fired_us.map(time),
                    "ended": incident.ended_us.filter(|_| *state == State::Resolved).map(time),
                    "labels": labels,
                })
            }
        }
    }
}

/// A time as RFC 3339 has it.
pub(crate) fn time(us: i64) -> String {
    DateTime::<Utc>::from_timestamp_micros(us)
        .map(|time| time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
        .unwrap_or_default()
}

/// Why an outlet did not take something. No secret is in the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TellError {
    /// It may take it later.
    #[error("{0}")]
    Later(String),
    /// It will never take this.
    #[error("{0}")]
    Never(String),
}

/// Somebody to be told.
#[async_trait]
pub trait Outlet: std::fmt::Debug + Send + Sync {
    /// Its name in the table `notification`.
    fn name(&self) -> &str;

    /// Whether it is told of all incidents; otherwise of reports alone that are sent to it.
    fn takes_incidents(&self) -> bool {
        true
    }

    /// How many messages it takes at once.
    fn most(&self) -> usize {
        1
    }

    /// Tells. `Ok` means that all have been taken.
    async fn tell(&self, messages: &[Message]) -> Result<(), TellError>;

    /// How often it wants to be told of everything that fires; `None` for never.
    fn remind_every(&self) -> Option<Duration> {
        None
    }

    /// Tells everything that fires, and what was over lately.
    async fn remind(&self, _incidents: &[Arc<Incident>]) -> Result<(), TellError> {
        Ok(())
    }
}

type Labels = [(&'static str, String); 1];

/// What there is to count of telling.
#[derive(Debug, Clone, Default)]
pub struct TellMetrics {
    told: Family<Labels, Counter>,
    failed: Family<Labels, Counter>,
    refused: Family<Labels, Counter>,
    full: Family<Labels, Counter>,
    waiting: Family<Labels, Gauge>,
    unnoted: Counter,
}

impl TellMetrics {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("nodescope_outlet");
        registry.register("told", "Messages that an outlet has taken", metrics.told.clone());
        registry.register("failures", "Tries that an outlet did not take", metrics.failed.clone());
        registry.register(
            "refused",
            "Messages that are dropped: the outlet will never take them, or a report cannot be made again",
            metrics.refused.clone(),
        );
        registry.register(
            "queue_full",
            "Messages that found the queue full, and are read from the store later",
            metrics.full.clone(),
        );
        registry.register("waiting", "Messages that wait", metrics.waiting.clone());
        registry.register(
            "unnoted",
            "Messages told whose row could not be written: they are told again",
            metrics.unnoted.clone(),
        );
        metrics
    }
}

/// All outlets. Clones are the same ones.
#[derive(Debug, Clone, Default)]
pub struct Outlets(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    lanes: Vec<Arc<Lane>>,
    /// Rules whose rows are told as they are.
    reports: Vec<Arc<Definition>>,
    known: Mutex<Known>,
    notes: mpsc::Sender<Entry>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    metrics: TellMetrics,
}

/// One outlet and what waits for it.
#[derive(Debug)]
struct Lane {
    outlet: Arc<dyn Outlet>,
    queue: Mutex<Queue>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Message>,
    /// What waits, and what has been told of incidents that are not over.
    seen: BTreeSet<(String, &'static str)>,
    /// Something found the queue full.
    overflowed: bool,
}

impl Queue {
    fn has_room_for(&self, message: &Message) -> bool {
        let is_report = |message: &Message| matches!(message, Message::Report { .. });
        let (all, reports) = LONGEST_QUEUE;
        let waiting = &self.waiting;
        waiting.len() < all
            && (!is_report(message) || waiting.iter().filter(|other| is_report(other)).count() < reports)
    }
}

/// What fires, as far as telling is concerned.
#[derive(Debug, Default)]
struct Known {
    /// By rule and name.
    firing: BTreeMap<(String, String), Arc<Incident>>,
    /// Over, and by when.
    lately: VecDeque<Arc<Incident>>,
    /// Raised, and not told because of another.
    waiting: BTreeSet<(String, String)>,
    causes: BTreeMap<String, Vec<String>>,
}

/// What the task that writes notes is given.
#[derive(Debug)]
enum Entry {
    Note(Note),
    /// To be answered when all notes before it are written.
    Flush(oneshot::Sender<()>),
}

/// Something that has been told.
#[derive(Debug)]
struct Note {
    outlet: String,
    about: String,
    state: &'static str,
    tries: u32,
}

impl Known {
    /// Whether another incident is the cause of this one.
    fn is_inhibited(&self, incident: &Incident) -> bool {
        let causes = self.causes.get(&incident.about.rule).into_iter().flatten();
        causes.flat_map(|cause| self.of_rule(cause)).any(|other| {
            let pairs = incident.key.iter().filter_map(|(name, value)| Some((value, other.key.get(name)?)));
            let mut common = pairs.peekable();
            common.peek().is_some() && common.all(|(ours, theirs)| ours == theirs)
        })
    }

    fn of_rule<'a>(&'a self, rule: &'a str) -> impl Iterator<Item = &'a Arc<Incident>> {
        let from = (rule.to_owned(), String::new());
        self.firing.range(from..).take_while(move |((of, _), _)| of == rule).map(|(_, incident)| incident)
    }

    fn over(&mut self, incident: &Arc<Incident>) {
        self.lately.push_back(Arc::clone(incident));
        self.forget(now_us());
    }

    fn forget(&mut self, now_us: i64) {
        self.lately.retain(|incident| incident.ended_us.is_some_and(|ended| now_us - ended < REMIND_OF_END_US));
    }
}

fn name(incident: &Incident) -> (String, String) {
    (incident.about.rule.clone(), incident.id.clone())
}

impl Outlets {
    /// Opens outlets: what the store says is owed is told first. The rules say which are causes of others, and which make
    /// reports.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn open(
        outlets: Vec<Arc<dyn Outlet>>,
        rules: &[Definition],
        engine: &Arc<Engine>,
        node: &str,
        metrics: TellMetrics,
        shutdown: &CancellationToken,
    ) -> Result<Self, OutletsError> {
        if outlets.is_empty() {
            return Ok(Self::default());
        }
        let journal = Journal::open(engine.reader().store(), JOURNAL).await?;
        // All that we and others have written before is seen: what is told twice or never again hangs on it.
        engine.reader().look_anew().await?;
        engine.reader().expect(journal.partition(), journal.next()).await;
        let (notes, noted) = mpsc::channel(4_096);
        let lane = |outlet| Arc::new(Lane { outlet, queue: Mutex::default(), wake: Notify::new() });
        let lanes: Vec<_> = outlets.into_iter().map(lane).collect();
        let causes = |rule: &Definition| Some((rule.name.clone(), rule.alert.as_ref()?.inhibited_by.clone()));
        let known = Known { causes: rules.iter().filter_map(causes).collect(), ..Known::default() };
        let reports = |rule: &&Definition| matches!(rule.sink, Some(SinkName::Kafka(_) | SinkName::Webhook(_)));
        let reports = rules.iter().filter(reports).cloned().map(Arc::new).collect();
        let tasks = Mutex::default();
        let shared = Arc::new(Shared { lanes, reports, known: Mutex::new(known), notes, tasks, metrics });
        tokio::spawn(note(journal, Arc::clone(engine), node.to_owned(), noted, shared.metrics.clone()));
        shared.learn(engine).await?;
        for lane in &shared.lanes {
            shared.owed(lane, engine).await?;
        }
        // That an outlet is there must be written before anything happens that it is to be told.
        shared.flush().await;
        for lane in &shared.lanes {
            let run = run(Arc::clone(&shared), Arc::clone(lane), Arc::clone(engine), shutdown.clone());
            shared.tasks.lock().push(tokio::spawn(run));
        }
        Ok(Self(Some(shared)))
    }

    /// Waits until what is being told is told, and all notes are written; for so long and no longer. New messages are
    /// no longer told, which `shutdown` has said before.
    pub async fn close(&self) {
        let Some(shared) = &self.0 else { return };
        let tasks = std::mem::take(&mut *shared.tasks.lock());
        let closing = async {
            for task in tasks {
                let _ = task.await;
            }
            shared.flush().await;
        };
        if tokio::time::timeout(CLOSING, closing).await.is_err() {
            tracing::warn!("an outlet is still being told; it may be told twice");
        }
    }

    /// Whether there is an outlet of that name.
    pub fn has(&self, name: &str) -> bool {
        self.0.as_ref().is_some_and(|shared| shared.lanes.iter().any(|lane| lane.outlet.name() == name))
    }

    /// Tells of incidents that have changed, and whose rows are committed.
    pub(crate) async fn changed(&self, changed: Vec<Incident>) {
        let Some(shared) = &self.0 else { return };
        for incident in changed {
            shared.changed(Arc::new(incident)).await;
        }
    }

    /// Tells one outlet of a report.
    pub(crate) fn report(&self, outlet: &str, report: &Message) {
        let Some(shared) = &self.0 else { return };
        for lane in shared.lanes.iter().filter(|lane| lane.outlet.name() == outlet) {
            shared.push(lane, report.clone());
        }
    }
}

/// Why outlets do not open.
#[derive(Debug, thiserror::Error)]
pub enum OutletsError {
    /// The store cannot be looked at.
    #[error("the store of what has been told cannot be read")]
    Store(#[from] StoreError),
    /// What has been told cannot be read.
    #[error("what has been told cannot be read back")]
    Read(#[from] OwnError),
}

impl Shared {
    async fn changed(&self, incident: Arc<Incident>) {
        let mut untold = Vec::new();
        let mut news = Vec::new();
        {
            let mut known = self.known.lock();
            match incident.state {
                State::Pending | State::Withdrawn => return,
                State::Firing => {
                    let is_new = known.firing.insert(name(&incident), Arc::clone(&incident)).is_none();
                    if is_new && known.is_inhibited(&incident) {
                        known.waiting.insert(name(&incident));
                    } else if is_new {
                        news.push(Message::Incident(State::Firing, incident));
                    }
                }
                State::Resolved => {
                    if known.firing.remove(&name(&incident)).is_none() {
                        // A correction of what is over and told.
                        return;
                    }
                    if known.waiting.remove(&name(&incident)) {
                        untold.push(incident.id.clone());
                    } else {
                        known.over(&incident);
                        news.push(Message::Incident(State::Resolved, incident));
                    }
                    // What waited for it is told now.
                    for id in known.waiting.clone() {
                        if let Some(freed) = known.firing.get(&id).filter(|freed| !known.is_inhibited(freed)) {
                            news.push(Message::Incident(State::Firing, Arc::clone(freed)));
                            known.waiting.remove(&id);
                        }
                    }
                }
            }
        }
        for lane in self.lanes.iter().filter(|lane| lane.outlet.takes_incidents()) {
            for message in &news {
                self.push(lane, message.clone());
            }
            for about in &untold {
                self.noted(Note {
                    outlet: lane.outlet.name().to_owned(),
                    about: about.clone(),
                    state: "untold",
                    tries: 0,
                })
                .await;
            }
        }
    }

    fn push(&self, lane: &Lane, message: Message) {
        let mut queue = lane.queue.lock();
        if queue.overflowed || !queue.has_room_for(&message) {
            queue.overflowed = true;
            self.metrics.full.get_or_create(&labels(&lane.outlet)).inc();
        } else if queue.seen.insert((message.about().to_owned(), message.state())) {
            queue.waiting.push_back(message);
        }
        self.metrics.waiting.get_or_create(&labels(&lane.outlet)).set(queue.waiting.len() as i64);
        lane.wake.notify_one();
    }

    async fn noted(&self, note: Note) {
        if self.notes.send(Entry::Note(note)).await.is_err() {
            self.metrics.unnoted.inc();
        }
    }

    /// Waits until all notes are written.
    async fn flush(&self) {
        let (sent, written) = oneshot::channel();
        if self.notes.send(Entry::Flush(sent)).await.is_ok() {
            let _ = written.await;
        }
    }

    /// Learns from the store what fires, and what was over lately.
    async fn learn(&self, engine: &Engine) -> Result<(), OwnError> {
        let incidents = record::read(engine, None, now_us().saturating_sub(REMIND_OF_END_US)).await?;
        let mut known = self.known.lock();
        for incident in incidents.into_iter().map(Arc::new) {
            match incident.state {
                State::Firing => {
                    known.firing.insert(name(&incident), incident);
                }
                State::Resolved => known.over(&incident),
                State::Pending | State::Withdrawn => {}
            }
        }
        Ok(())
    }

    /// Puts into the queue what the store says an outlet is owed of incidents. One that is new is owed what is open, and
    /// no history.
    async fn owed(&self, lane: &Lane, engine: &Engine) -> Result<(), OwnError> {
        if !lane.outlet.takes_incidents() {
            return Ok(());
        }
        let now = now_us();
        let Told { told, since_us } = told(engine, lane.outlet.name()).await?;
        if since_us.is_none() {
            let outlet = lane.outlet.name().to_owned();
            self.noted(Note { about: outlet.clone(), outlet, state: "begun", tries: 0 }).await;
        }
        let oldest = now.saturating_sub(OWED_FOR_US).max(since_us.unwrap_or(now));
        let mut incidents = record::read(engine, None, oldest).await?;
        incidents.sort_by(|a, b| (a.fired_us, &a.id).cmp(&(b.fired_us, &b.id)));
        let is_told = |incident: &Incident, state: &str| told.contains(&(incident.id.clone(), state.to_owned()));
        for incident in incidents.into_iter().map(Arc::new) {
            let (firing, resolved) = (is_told(&incident, "firing"), is_told(&incident, "resolved"));
            match incident.state {
                State::Firing if firing => {
                    lane.queue.lock().seen.insert((incident.id.clone(), State::Firing.as_str()));
                }
                State::Firing => {
                    let mut known = self.known.lock();
                    if known.is_inhibited(&incident) {
                        known.waiting.insert(name(&incident));
                    } else {
                        drop(known);
                        self.push(lane, Message::Incident(State::Firing, incident));
                    }
                }
                State::Resolved if !resolved && !is_told(&incident, "untold") => {
                    if !firing {
                        self.push(lane, Message::Incident(State::Firing, Arc::clone(&incident)));
                    }
                    self.push(lane, Message::Incident(State::Resolved, incident));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes reports anew that the store says an outlet is owed, as many as there is room for.
    async fn owed_reports(&self, lane: &Lane, engine: &Engine) -> Result<(), OwnError> {
        let name = lane.outlet.name();
        let of_lane = |rule: &&Arc<Definition>| rule.sink.as_ref().is_some_and(|sink| sink.to_string() == name);
        for rule in self.reports.iter().filter(of_lane) {
            for run in report::owed(engine, rule, name).await? {
                if lane.queue.lock().overflowed {
                    return Ok(());
                }
                match run.ask(engine).await {
                    Ok(rows) => self.push(lane, report::report(&run, &rows)),
                    Err(error) => {
                        tracing::error!(rule = rule.name, error = chain(&error), "a report cannot be made again");
                        self.metrics.refused.get_or_create(&labels(&lane.outlet)).inc();
                    }
                }
            }
        }
        Ok(())
    }

    /// Puts into the queue what is owed of all that is committed at this moment. Nothing is being told meanwhile.
    async fn read_anew(&self, lane: &Lane, engine: &Engine) -> Result<(), OutletsError> {
        // What was told just now must not be taken for something that is owed.
        self.flush().await;
        engine.reader().look_anew().await?;
        {
            let mut queue = lane.queue.lock();
            queue.seen = queue.waiting.iter().map(|message| (message.about().to_owned(), message.state())).collect();
            queue.overflowed = false;
        }
        self.owed(lane, engine).await?;
        Ok(self.owed_reports(lane, engine).await?)
    }

    /// What an outlet with a memory as short as ours wants to hear again.
    fn reminders(&self) -> Vec<Arc<Incident>> {
        let mut known = self.known.lock();
        known.forget(now_us());
        let firing = known.firing.values().filter(|incident| !known.waiting.contains(&name(incident)));
        firing.chain(&known.lately).cloned().collect()
    }
}

/// What an outlet has been told of incidents.
struct Told {
    /// Names and states.
    told: BTreeSet<(String, String)>,
    /// When it was first there, microseconds since 1970; `None` for one that is new.
    since_us: Option<i64>,
}

async fn told(engine: &Engine, outlet: &str) -> Result<Told, OwnError> {
    let sql = "SELECT about, state, min(ts) AS ts FROM notification WHERE outlet = $outlet AND state <> 'report' \
         GROUP BY about, state";
    let values = [("outlet".to_owned(), outlet.into())];
    let (mut told, mut since_us) = (BTreeSet::new(), None);
    for batch in engine.own(sql, &values).await?.collect().await? {
        let texts = |at: usize| cast(batch.column(at), &DataType::Utf8).ok();
        let times = batch.column(2).as_primitive_opt::<TimestampMicrosecondType>();
        let (Some(abouts), Some(states), Some(times)) = (texts(0), texts(1), times) else { continue };
        let (abouts, states) = (abouts.as_string::<i32>(), states.as_string::<i32>());
        told.extend((0..abouts.len()).map(|at| (abouts.value(at).to_owned(), states.value(at).to_owned())));
        since_us = since_us.into_iter().chain(times.iter().flatten()).min();
    }
    Ok(Told { told, since_us })
}

fn labels(outlet: &Arc<dyn Outlet>) -> Labels {
    [("outlet", outlet.name().to_owned())]
}

/// Tells one outlet until told to stop.
async fn run(shared: Arc<Shared>, lane: Arc<Lane>, engine: Arc<Engine>, shutdown: CancellationToken) {
    let outlet = &lane.outlet;
    let labels = labels(outlet);
    let mut reminder = tokio::time::interval(outlet.remind_every().unwrap_or(Duration::from_secs(3_600)));
    reminder.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut pause, mut tries, mut most) = (PAUSES.0, 0, outlet.most());
    // Reports that were committed and not told before we began.
    let mut anew = shared.reports.iter().any(|rule| rule.sink.as_ref().is_some_and(|s| s.to_string() == outlet.name()));
    while !shutdown.is_cancelled() {
        let batch: Vec<Message> = lane.queue.lock().waiting.iter().take(most).cloned().collect();
        let told = if batch.is_empty() {
            anew |= lane.queue.lock().overflowed;
            if anew {
                let read = tokio::select! {
                    () = shutdown.cancelled() => return,
                    read = shared.read_anew(&lane, &engine) => read,
                };
                anew = read.is_err();
                if let Err(error) = read {
                    tracing::warn!(outlet = outlet.name(), error = chain(&error), "what is owed cannot be read");
                    tokio::time::sleep(PAUSES.0).await;
                }
                continue;
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = lane.wake.notified() => continue,
                _ = reminder.tick(), if outlet.remind_every().is_some() => {
                    let reminders = shared.reminders();
                    // Nothing is dropped when these are refused.
                    outlet.remind(&reminders).await.map_err(|error| TellError::Later(error.to_string()))
                }
            }
        } else {
            tries += 1;
            // What has been begun is waited for: the other side may have taken it.
            outlet.tell(&batch).await
        };
        match told {
            Ok(()) => {
                for message in &batch {
                    shared.metrics.told.get_or_create(&labels).inc();
                    let (about, state) = (message.about().to_owned(), message.state());
                    shared.noted(Note { outlet: outlet.name().to_owned(), about, state, tries }).await;
                }
                take(&shared, &lane, batch.len());
                (pause, tries, most) = (PAUSES.0, 0, outlet.most());
            }
            // One of several may be what is wrong: they go one by one.
            Err(TellError::Never(_)) if batch.len() > 1 => most = 1,
            Err(TellError::Never(why)) => {
                tracing::error!(outlet = outlet.name(), why, "an outlet refuses a message, which is dropped");
                shared.metrics.refused.get_or_create(&labels).inc();
                take(&shared, &lane, batch.len());
                (pause, tries) = (PAUSES.0, 0);
            }
            Err(TellError::Later(why)) => {
                shared.metrics.failed.get_or_create(&labels).inc();
                tracing::warn!(outlet = outlet.name(), why, "an outlet does not take what it is told; trying again");
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(PAUSES.1);
            }
        }
    }
}

fn take(shared: &Shared, lane: &Lane, count: usize) {
    let mut queue = lane.queue.lock();
    let taken: Vec<Message> = queue.waiting.drain(..count).collect();
    for message in &taken {
        let about = || message.about().to_owned();
        if !matches!(message, Message::Incident(State::Firing, _)) {
            queue.seen.remove(&(about(), message.state()));
            queue.seen.remove(&(about(), State::Firing.as_str()));
        }
    }
    shared.metrics.waiting.get_or_create(&labels(&lane.outlet)).set(queue.waiting.len() as i64);
}

/// Writes rows of what has been told, all that wait in one append. It ends when all outlets have.
async fn note(
    mut journal: Journal,
    engine: Arc<Engine>,
    node: String,
    mut entries: mpsc::Receiver<Entry>,
    metrics: TellMetrics,
) {
    let Some(table) = engine.reader().store().catalogue().get("notification").map(Arc::clone) else { return };
    let mut batch = Vec::new();
    while entries.recv_many(&mut batch, 1_000).await > 0 {
        let (mut rows, mut count, mut waiting) = (Rows::new(&table), 0, Vec::new());
        for entry in batch.drain(..) {
            match entry {
                Entry::Flush(sender) => waiting.push(sender),
                Entry::Note(note) => {
                    count += 1;
                    rows.begin()
                        .text("outlet", note.outlet.as_str())
                        .text("about", note.about.as_str())
                        .text("state", note.state)
                        .int("tries", i64::from(note.tries));
                }
            }
        }
        if count > 0 {
            let rows = rows.finish(&Stamp { ts_micros: now_us(), node: &node, host: "" });
            if let Err(error) = append(&mut journal, &table, &rows).await {
                let error = chain(&error);
                tracing::error!(error, "what has been told cannot be noted; it is told again after a restart");
                metrics.unnoted.inc_by(count);
            }
        }
        for sender in waiting {
            let _ = sender.send(());
        }
    }
}

/// Appends, past what another process has appended: both notes are true.
async fn append(journal: &mut Journal, table: &Arc<Table>, rows: &RecordBatch) -> Result<(), StoreError> {
    loop {
        match journal.append(vec![(Arc::clone(table), vec![rows.clone()])]).await {
            Err(StoreError::AlreadyWritten { .. }) => journal.catch_up().await?,
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests;
