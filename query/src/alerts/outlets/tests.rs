//! Outlets over a store in memory: who is told, in which order, and how often, through restarts.

use std::collections::VecDeque;

use nodescope_model::catalogue::Catalogue;
use nodescope_store::Store;
use nodescope_store::cut::Reader;

use super::*;
use crate::alerts::incident::About;
use crate::definition::Purpose;
use crate::engine::Spill;
use crate::limits::Limits;
use crate::schedule::run::{self, Ended, Run};
use crate::schedule::windows::Window;

/// An outlet that notes what it is told, and refuses as often as it is asked to.
#[derive(Debug, Default)]
struct Ear {
    name: &'static str,
    heard: Mutex<Vec<String>>,
    refusals: Mutex<VecDeque<TellError>>,
    tries: Mutex<Vec<tokio::time::Instant>>,
    news: Notify,
    is_deaf: std::sync::atomic::AtomicBool,
}

impl Ear {
    fn new(name: &'static str) -> Arc<Self> {
        Arc::new(Self { name, ..Self::default() })
    }

    async fn hears(&self, count: usize) -> Vec<String> {
        loop {
            let news = self.news.notified();
            let heard = self.heard.lock().clone();
            if heard.len() >= count {
                return heard;
            }
            tokio::time::timeout(Duration::from_secs(300), news).await.expect("nothing more is told");
        }
    }
}

#[async_trait]
impl Outlet for Arc<Ear> {
    fn name(&self) -> &str {
        self.name
    }

    fn most(&self) -> usize {
        8
    }

    async fn tell(&self, messages: &[Message]) -> Result<(), TellError> {
        self.tries.lock().push(tokio::time::Instant::now());
        if self.is_deaf.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(TellError::Later("away".into()));
        }
        if let Some(refusal) = self.refusals.lock().pop_front() {
            return Err(refusal);
        }
        let words = messages.iter().map(|message| format!("{} {}", message.about(), message.state()));
        self.heard.lock().extend(words);
        self.news.notify_one();
        Ok(())
    }
}

struct Place {
    store: Store,
    engine: Arc<Engine>,
    journal: tokio::sync::Mutex<Journal>,
    sequence: std::sync::atomic::AtomicI64,
}

impl Place {
    async fn new() -> Self {
        let objects = Arc::new(object_store::memory::InMemory::new());
        let store = Store::new(objects, Arc::new(Catalogue::built_in()), "memory:");
        let spill = Spill { folder: None, bytes: 1 << 30 };
        let engine = Engine::new(Reader::new(store.clone(), 1 << 20), Limits::default(), spill).unwrap();
        let journal = tokio::sync::Mutex::new(Journal::open(&store, "journal.schedule").await.unwrap());
        let place = Self { store, engine: Arc::new(engine), journal, sequence: 0.into() };
        // So that the journal is there before anybody looks.
        place.commit("first", "of all", State::Withdrawn).await;
        place
    }

    async fn open(&self, ear: &Arc<Ear>, rules: &[Definition]) -> (Outlets, CancellationToken) {
        self.seen().await;
        let stop = CancellationToken::new();
        let outlets: Vec<Arc<dyn Outlet>> = vec![Arc::new(Arc::clone(ear))];
        let metrics = TellMetrics::default();
        (Outlets::open(outlets, rules, &self.engine, "n", metrics, &stop).await.unwrap(), stop)
    }

    /// An incident that is committed.
    async fn commit(&self, rule: &str, host: &str, state: State) -> Incident {
        let now = now_us();
        let incident = Incident {
            about: Arc::new(About {
                rule: rule.into(),
                title: "t".into(),
                severity: "info".into(),
                techniques: "T1,T2".into(),
            }),
            id: format!("{rule}-{host}"),
            sequence: self.sequence.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1,
            state,
            key: [("host".to_owned(), host.to_owned())].into(),
            found: [("busy".to_owned(), "0.9".to_owned())].into(),
            summary: "s".into(),
            began_us: now - 2,
            fired_us: (state != State::Pending).then_some(now - 1),
            lapsed_us: None,
            ended_us: (state == State::Resolved).then_some(now),
        };
        let text = "/* title = \"x\"\nevery = \"1m\"\nsink = \"table:sample\" */ SELECT 1 FROM sample WHERE ts < $to";
        let rule = Arc::new(Definition::parse("x", text, Purpose::Rule).unwrap());
        let run = Run { rule, window: Window { starts_us: 0, ends_us: 1 }, revision: 0, began_us: now };
        let table = self.store.catalogue().get("alert").unwrap();
        let rows = record::rows(table, "n", &run, std::slice::from_ref(&incident));
        self.journal.lock().await.append(vec![(Arc::clone(table), rows)]).await.unwrap();
        incident
    }

    /// A run that found rows, and is committed.
    async fn ran(&self, rule: &Arc<Definition>, ends_us: i64) -> Run {
        let window = Window { starts_us: ends_us - 1_000_000, ends_us };
        let run = Run { rule: Arc::clone(rule), window, revision: 0, began_us: ends_us };
        let table = self.store.catalogue().get("schedule_run").unwrap();
        let ended = Ended { state: "done", error: None, rows: Some(1), ended_us: now_us() };
        let row = run::row(table, "n", &run, &ended, None);
        self.journal.lock().await.append(vec![(Arc::clone(table), vec![row])]).await.unwrap();
        run
    }

    /// Waits until what is committed is seen: a reader looks at the store every now and then.
    async fn seen(&self) {
        let committed = usize::try_from(self.sequence.load(std::sync::atomic::Ordering::SeqCst)).unwrap();
        self.rows("SELECT rule FROM alert", committed).await;
    }

    /// Waits until so many rows say what has been told.
    async fn noted(&self, count: usize) {
        self.rows("SELECT about FROM notification WHERE state <> 'begun'", count).await;
    }

    async fn rows(&self, sql: &str, count: usize) {
        let count_rows = async || {
            let rows = self.engine.own(sql, &[]).await.unwrap().collect().await.unwrap();
            rows.iter().map(datafusion::arrow::array::RecordBatch::num_rows).sum::<usize>()
        };
        let noted = async {
            while count_rows().await < count {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), noted).await.expect("too few notes");
    }
}

fn rule(name: &str, causes: &str) -> Definition {
    let text = format!(
        "/* title = \"x\"\nevery = \"1m\"\nsink = \"alert\"\n[alert]\nseverity = \"info\"\nkey = [\"host\"]\n\
         summary = \"{{host}}\"\ninhibited_by = [{causes}] */ SELECT host FROM sample WHERE ts < $to"
    );
    Definition::parse(name, &text, Purpose::Rule).unwrap_or_else(|e| panic!("{e}"))
}

#[tokio::test]
async fn an_incident_comes_back_from_the_store_as_it_was() {
    let place = Place::new().await;
    let incident = place.commit("r", "h", State::Resolved).await;
    place.commit("r", "i", State::Withdrawn).await;
    let read = record::read(&place.engine, Some("r"), 0).await.unwrap();
    assert_eq!(read, [incident]);
}

#[tokio::test]
async fn each_is_told_once_through_restarts() {
    let place = Place::new().await;
    let ear = Ear::new("ear");
    let (outlets, stop) = place.open(&ear, &[]).await;
    outlets.changed(vec![place.commit("r", "a", State::Firing).await]).await;
    // The same once more, because it lapsed and came back.
    outlets.changed(vec![place.commit("r", "a", State::Firing).await]).await;
    assert_eq!(ear.hears(1).await, ["r-a firing"]);
    place.noted(1).await;
    stop.cancel();
    // While we are away one is raised and one is over: what is committed is told.
    place.commit("r", "a", State::Resolved).await;
    place.commit("r", "b", State::Firing).await;
    let (outlets, stop) = place.open(&ear, &[]).await;
    assert_eq!(ear.hears(3).await[1..], ["r-a resolved", "r-b firing"]);
    outlets.changed(vec![place.commit("r", "b", State::Resolved).await]).await;
    assert_eq!(ear.hears(4).await[3..], ["r-b resolved"]);
    place.noted(4).await;
    stop.cancel();
    let (outlets, _stop) = place.open(&ear, &[]).await;
    outlets.changed(vec![place.commit("r", "c", State::Firing).await]).await;
    assert_eq!(ear.hears(5).await.len(), 5);
}

#[tokio::test]
async fn who_was_never_told_anything_is_told_what_is_open() {
    let place = Place::new().await;
    place.commit("r", "old", State::Resolved).await;
    place.commit("r", "open", State::Firing).await;
    let ear = Ear::new("ear");
    let _open = place.open(&ear, &[]).await;
    assert_eq!(ear.hears(1).await, ["r-open firing"]);
}

#[tokio::test]
async fn who_is_away_from_the_beginning_misses_nothing_through_restarts() {
    let place = Place::new().await;
    place.commit("r", "old", State::Resolved).await;
    let ear = Ear::new("ear");
    ear.is_deaf.store(true, std::sync::atomic::Ordering::SeqCst);
    let (outlets, stop) = place.open(&ear, &[]).await;
    for state in [State::Firing, State::Resolved] {
        outlets.changed(vec![place.commit("r", "a", state).await]).await;
    }
    stop.cancel();
    ear.is_deaf.store(false, std::sync::atomic::Ordering::SeqCst);
    let _open = place.open(&ear, &[]).await;
    assert_eq!(ear.hears(2).await, ["r-a firing", "r-a resolved"], "and no history");
}

#[tokio::test(start_paused = true)]
async fn who_is_away_is_told_later_and_in_order() {
    let place = Place::new().await;
    let ear = Ear::new("ear");
    *ear.refusals.lock() = (0..10).map(|n| TellError::Later(format!("away {n}"))).collect();
    let (outlets, _stop) = place.open(&ear, &[]).await;
    for (host, state) in [("a", State::Firing), ("b", State::Firing), ("a", State::Resolved)] {
        outlets.changed(vec![place.commit("r", host, state).await]).await;
    }
    assert_eq!(ear.hears(3).await, ["r-a firing", "r-b firing", "r-a resolved"]);
    // Pauses grow, and not for ever.
    let tries = ear.tries.lock().clone();
    let pauses: Vec<u128> = tries.windows(2).take(10).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
    assert_eq!(pauses, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000]);
}

#[tokio::test]
async fn a_message_that_is_refused_spoils_no_other() {
    let place = Place::new().await;
    let ear = Ear::new("ear");
    ear.refusals.lock().push_back(TellError::Never("first of all".into()));
    ear.refusals.lock().push_back(TellError::Never("that one".into()));
    let (outlets, _stop) = place.open(&ear, &[]).await;
    let incidents = vec![place.commit("r", "a", State::Firing).await, place.commit("r", "b", State::Firing).await];
    outlets.changed(incidents).await;
    assert_eq!(ear.hears(1).await, ["r-b firing"]);
}

#[tokio::test]
async fn a_cause_silences_its_effects() {
    let place = Place::new().await;
    let ear = Ear::new("ear");
    let rules = [rule("silent", ""), rule("hot", "\"silent\"")];
    let (outlets, stop) = place.open(&ear, &rules).await;
    outlets.changed(vec![place.commit("silent", "a", State::Firing).await]).await;
    for host in ["a", "b"] {
        outlets.changed(vec![place.commit("hot", host, State::Firing).await]).await;
    }
    assert_eq!(ear.hears(2).await, ["silent-a firing", "hot-b firing"]);
    place.noted(2).await;
    stop.cancel();
    // A restart knows it too.
    let (outlets, _stop) = place.open(&ear, &rules).await;
    outlets.changed(vec![place.commit("silent", "a", State::Resolved).await]).await;
    assert_eq!(ear.hears(4).await[2..], ["silent-a resolved", "hot-a firing"]);
    // And what is over before its cause is not told at all.
    outlets.changed(vec![place.commit("silent", "c", State::Firing).await]).await;
    outlets.changed(vec![place.commit("hot", "c", State::Firing).await]).await;
    outlets.changed(vec![place.commit("hot", "c", State::Resolved).await]).await;
    outlets.changed(vec![place.commit("silent", "c", State::Resolved).await]).await;
    assert_eq!(ear.hears(6).await[4..], ["silent-c firing", "silent-c resolved"]);
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_is_read_from_the_store() {
    let place = Place::new().await;
    let ear = Ear::new("ear");
    ear.is_deaf.store(true, std::sync::atomic::Ordering::SeqCst);
    let (outlets, _stop) = place.open(&ear, &[]).await;
    let shared = outlets.0.as_ref().unwrap();
    let first = place.commit("r", "first", State::Firing).await;
    outlets.changed(vec![first.clone()]).await;
    {
        let mut queue = shared.lanes[0].queue.lock();
        while queue.waiting.len() < LONGEST_QUEUE.0 {
            queue.waiting.push_back(Message::Report { about: "x".into(), body: Arc::new(Value::Null) });
        }
    }
    outlets.changed(vec![place.commit("r", "late", State::Firing).await]).await;
    ear.is_deaf.store(false, std::sync::atomic::Ordering::SeqCst);
    let heard = ear.hears(LONGEST_QUEUE.0 + 1).await;
    assert!(heard.contains(&"r-late firing".to_owned()), "{:?}", heard.last());
}

#[tokio::test(start_paused = true)]
async fn reports_that_do_not_fit_or_outlive_us_are_made_anew() {
    let place = Place::new().await;
    let text = "/* title = \"x\"\nevery = \"1s\"\nsink = \"kafka:x\" */ SELECT count(*) AS n FROM alert WHERE ts < $to";
    let rule = Definition::parse("r", text, Purpose::Rule).unwrap();
    let (rules, shared) = ([rule.clone()], Arc::new(rule));
    let ear = Ear::new("kafka:x");
    ear.is_deaf.store(true, std::sync::atomic::Ordering::SeqCst);
    let (outlets, stop) = place.open(&ear, &rules).await;
    let mut wanted = Vec::new();
    for second in 1..=i64::try_from(LONGEST_QUEUE.1).unwrap() + 20 {
        let run = place.ran(&shared, second * 1_000_000).await;
        let rows = run.ask(&place.engine).await.unwrap();
        outlets.report("kafka:x", &report::report(&run, &rows));
        wanted.push(format!("r@{second}000000.0 report"));
    }
    assert!(outlets.0.as_ref().unwrap().lanes[0].queue.lock().waiting.len() <= LONGEST_QUEUE.1, "it is bounded");
    ear.is_deaf.store(false, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(ear.hears(wanted.len()).await, wanted);
    place.noted(wanted.len()).await;
    stop.cancel();
    // We die between a commit and the telling.
    place.ran(&shared, 1_000_000_000).await;
    let _open = place.open(&ear, &rules).await;
    wanted.push("r@1000000000.0 report".to_owned());
    assert_eq!(ear.hears(wanted.len()).await, wanted);
}
