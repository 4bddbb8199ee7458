//! Who is told of incidents and reports, by a schedule that is a process: topics of the embedded broker and webhooks,
//! through kills of the schedule, a broker that is away, and receivers that refuse. (Alertmanager: `alertmanager.rs`.)

mod support;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rdkafka::Message;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Headers;
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;
use tokio_postgres::Client;

use support::embedded::{self, free_port};
use support::killing::seed;
use support::scheduled::{self, Known, now_us, schedule};
use support::{PATIENCE, Process, Site, connect, number, until};

/// A host is wrong from the row that says so to the next that does not: what is found does not depend on how busy the
/// machine of the test is.
const WRONG: &str = r#"/*
title = "Something is wrong"
every = "1s"
window = "1h"
wait = "0s"
sink = "alert"
[alert]
severity = "critical"
resolve_after = "0s"
key = ["node", "host"]
summary = "{host} says {content}"
*/
SELECT node, host, 'wrong' AS content FROM known WHERE ts >= $from AND ts < $to GROUP BY node, host
HAVING max(CASE WHEN content = 'wrong' THEN number END) = max(number)"#;

/// A rule whose rows are told as they are.
fn reports_to(sink: &str) -> String {
    format!(
        "/*\ntitle = \"What was written\"\nevery = \"1s\"\nwait = \"1s\"\nsink = \"{sink}\"\n*/\n\
         SELECT host, number, content FROM known WHERE ts >= $from AND ts < $to ORDER BY number"
    )
}

/// Turns a host wrong, and waits until the store says so.
async fn raise(source: &mut Known, client: &Client, host: &str) {
    source.write(now_us(), &[host], "wrong").await;
    until(client, &format!("select count(*) from alert where host = '{host}' and state = 'firing'"), |n| n == 1).await;
}

/// Turns it right again.
async fn calm(source: &mut Known, client: &Client, host: &str) {
    source.write(now_us(), &[host], "right").await;
    until(client, &format!("select count(*) from alert where host = '{host}' and state = 'resolved'"), |n| n == 1)
        .await;
}

async fn begun(source: &mut Known, client: &Client, rules: i64) {
    source.write(now_us(), &["well"], "right").await;
    until(client, "select count(*) from schedule_run where state = 'begun'", |begun| begun == rules).await;
}

/// What the outlet has been told, as the store has it.
async fn noted(client: &Client, outlet: &str, count: i64) {
    let told = format!("select count(*) from notification where outlet = '{outlet}' and state <> 'begun'");
    until(client, &told, |told| told >= count).await;
}

fn log(site: &Site) -> String {
    std::fs::read_to_string(site.folder.path().join("schedule.log")).unwrap_or_default()
}

/// Waits until the schedule has logged this so often.
async fn logged(site: &Site, what: &str, times: usize) {
    let began = Instant::now();
    while log(site).matches(what).count() < times {
        assert!(began.elapsed() < PATIENCE, "`{what}` is not in the log:\n{}", log(site));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A message of a topic: key, state, body.
type Told = (String, String, Value);

/// A topic of the embedded broker, read from its beginning.
struct Topic {
    consumer: BaseConsumer,
    /// By offset: the broker may give a record twice.
    told: BTreeMap<i64, Told>,
}

impl Topic {
    fn open(broker: SocketAddr, topic: &str) -> Self {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", broker.to_string())
            .set("group.id", "test")
            .set("enable.auto.commit", "false")
            .set("fetch.wait.max.ms", "50")
            .set("reconnect.backoff.max.ms", "200")
            .create()
            .expect("a consumer");
        let mut all = TopicPartitionList::new();
        all.add_partition_offset(topic, 0, Offset::Beginning).expect("a partition");
        consumer.assign(&all).expect("it is there");
        Self { consumer, told: BTreeMap::new() }
    }

    /// Reads until all of these are there, each by its key and its state.
    fn hears(&mut self, wanted: &BTreeSet<(String, String)>) {
        let began = Instant::now();
        loop {
            let there: BTreeSet<_> = self.told.values().map(|(key, state, _)| (key.clone(), state.clone())).collect();
            if wanted.is_subset(&there) {
                return;
            }
            let missing: Vec<_> = wanted.difference(&there).collect();
            assert!(began.elapsed() < PATIENCE, "{missing:?} are missing");
            // An error is a broker that is away.
            let Some(Ok(message)) = self.consumer.poll(Duration::from_millis(100)) else { continue };
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
            let headers = message.headers().expect("headers");
            let state = headers.iter().find(|header| header.key == "state").and_then(|header| header.value);
            let body = serde_json::from_slice(message.payload().expect("a body")).expect("JSON");
            let told = (text(message.key().expect("a key")), text(state.expect("a state")), body);
            self.told.insert(message.offset(), told);
        }
    }

    /// How often each has come. Whatever came twice was the same.
    fn times(&self) -> BTreeMap<(String, String), usize> {
        let mut bodies: BTreeMap<(String, String), (&Value, usize)> = BTreeMap::new();
        for (key, state, body) in self.told.values() {
            let (first, times) = bodies.entry((key.clone(), state.clone())).or_insert((body, 0));
            assert_eq!(*first, body, "{key} {state} was told twice, and not the same");
            *times += 1;
        }
        bodies.into_iter().map(|(name, (_, times))| (name, times)).collect()
    }
}

/// Incidents and their states as the store has them.
async fn incidents(client: &Client) -> BTreeSet<(String, String)> {
    let sql = "select distinct incident, state from alert where state in ('firing', 'resolved')";
    client.query(sql, &[]).await.expect("an answer").iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Reports that runs of the rule `found` have made.
async fn reports(client: &Client) -> BTreeSet<(String, String)> {
    let sql = "select rule || '@' || window_microseconds || '.' || revision from schedule_run \
               where rule = 'found' and state = 'done' and \"rows\" > 0";
    client.query(sql, &[]).await.expect("an answer").iter().map(|row| (row.get(0), "report".to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_told_of_everything_through_kills_and_outages() {
    let address = free_port();
    let settings = [
        ("NODESCOPE_KAFKA_BROKERS", address.to_string()),
        ("NODESCOPE_ALERTS_KAFKA_TOPIC", "incidents".to_owned()),
        ("NODESCOPE_ALERTS_LABELS", "site=test".to_owned()),
        ("NODESCOPE_ALERTS_TIMEOUT", "5s".to_owned()),
        ("NODESCOPE_KAFKA_PROPERTIES", "message.max.bytes=2000".to_owned()),
    ];
    let report = reports_to("kafka:found");
    let rules = [("wrong.sql", WRONG), ("found.sql", report.as_str())];
    let (site, store) = scheduled::site(&rules, &[], &settings);
    let mut source = Known::new(&store).await;
    let mut process = schedule(&site);
    let (_query, server) = site.query();
    let client = connect(server).await;
    begun(&mut source, &client, 2).await;

    // The broker is away from the beginning, one incident is raised and over, and the schedule is killed.
    raise(&mut source, &client, "h0").await;
    calm(&mut source, &client, "h0").await;
    process.kill();
    let mut process = schedule(&site);
    let mut broker = embedded::start(site.folder.path(), address);
    noted(&client, "kafka:incidents", 2).await;
    let (mut alerts, mut found) = (Topic::open(address, "incidents"), Topic::open(address, "found"));
    alerts.hears(&incidents(&client).await);

    // The schedule is killed between the two messages of one.
    raise(&mut source, &client, "h1").await;
    noted(&client, "kafka:incidents", 3).await;
    process.kill();
    let mut process = schedule(&site);
    calm(&mut source, &client, "h1").await;
    noted(&client, "kafka:incidents", 4).await;

    // The broker goes away for so long that a message is given up and tried again.
    let failures = log(&site).matches("trying again").count();
    broker.kill();
    raise(&mut source, &client, "h2").await;
    calm(&mut source, &client, "h2").await;
    logged(&site, "trying again", failures + 1).await;
    let mut broker = embedded::start(site.folder.path(), address);
    noted(&client, "kafka:incidents", 6).await;
    let told = incidents(&client).await;
    alerts.hears(&told);
    let once: BTreeMap<_, _> = told.into_iter().map(|name| (name, 1)).collect();
    assert_eq!(alerts.times(), once, "nobody was killed between an answer and our note of it");

    // Now schedule and broker are killed at any moment.
    let mut random = StdRng::seed_from_u64(seed());
    let hosts: Vec<String> = (3..9).map(|host| format!("h{host}")).collect();
    let mut kills = 0;
    for host in &hosts {
        source.write(now_us(), &[host], "wrong").await;
        tokio::time::sleep(Duration::from_millis(random.random_range(200..1_500))).await;
        if random.random_range(0..3) == 0 {
            broker.kill();
            broker = embedded::start(site.folder.path(), address);
        } else {
            process.kill();
            process = schedule(&site);
        }
        kills += 1;
    }
    // Each must have been raised before it is right again.
    for host in &hosts {
        let raised = format!("select count(*) from alert where host = '{host}' and state = 'firing'");
        until(&client, &raised, |n| n == 1).await;
    }
    let all: Vec<&str> = hosts.iter().map(String::as_str).collect();
    source.write(now_us(), &all, "right").await;
    until(&client, "select count(*) from alert where state = 'resolved'", |n| n == 9).await;
    // What was told before these is what they wait behind.
    raise(&mut source, &client, "last").await;
    calm(&mut source, &client, "last").await;
    let last = now_us();
    let ran = "select max(window_microseconds) from schedule_run where rule = 'found' and state = 'done'";
    until(&client, ran, |end| end > last).await;

    let wanted = incidents(&client).await;
    assert_eq!(wanted.len(), 2 * 10, "{wanted:?}");
    alerts.hears(&wanted);
    let times = alerts.times();
    assert!(times.keys().eq(wanted.iter()), "somebody was told what there was not: {times:?}");
    let first = |incident: &str, state: &str| alerts.told.values().position(|(i, s, _)| i == incident && s == state);
    for (incident, _) in &wanted {
        assert!(first(incident, "firing") < first(incident, "resolved"), "{incident} was over before it was raised");
    }
    for (incident, state, body) in alerts.told.values() {
        assert_eq!((&body["incident"], &body["state"]), (&Value::from(&**incident), &Value::from(&**state)));
        assert_eq!((&body["rule"], &body["labels"]["site"]), (&Value::from("wrong"), &Value::from("test")));
        assert_eq!(body["ended"].is_string(), state == "resolved");
    }
    let wanted = reports(&client).await;
    found.hears(&wanted);
    let told_reports = found.times();
    assert!(told_reports.keys().eq(wanted.iter()));
    let bodies: BTreeMap<_, _> = found.told.values().map(|(key, _, body)| (key, body)).collect();
    let rows: Vec<&Value> = bodies.values().flat_map(|body| body["rows"].as_array().expect("rows")).collect();
    let numbers: BTreeSet<i64> = rows.iter().map(|row| row["number"].as_i64().expect("a number")).collect();
    assert_eq!(numbers.len(), rows.len(), "a row is in two reports");
    let found_rows = "select sum(\"rows\")::bigint from schedule_run where rule = 'found' and state = 'done'";
    assert_eq!(number(&client, found_rows).await, i64::try_from(rows.len()).ok());
    assert!(bodies.values().all(|body| body["labels"]["site"] == "test" && body["left_out"] == 0));

    // What is too large for Kafka is dropped, and holds up nothing.
    let many: Vec<String> = (0..100).map(|host| format!("host{host}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    source.write(now_us() + 2_000_000, &many, "right").await;
    logged(&site, "which is dropped", 1).await;
    let last = now_us() + 2_000_000;
    source.write(last, &["well"], "right").await;
    until(&client, ran, |end| end > last).await;
    let newest = reports(&client).await.into_iter().max().expect("a report");
    found.hears(&[newest].into());

    let twice = alerts.told.len() - times.len() + found.told.len() - told_reports.len();
    assert!(process.interrupt().success(), "Ctrl-C is a clean end");
    println!("{kills} kills; {} messages, {twice} of them twice", alerts.told.len() + found.told.len());
}

/// Secrets of the test, none of which may be in a log.
const SECRETS: [&str; 3] = ["T0PSECRETPATH", "T0PSECRETTOKEN", "T0PSECRETKEY"];

/// How the receiver answers.
#[derive(Debug, Clone, Copy)]
enum Answer {
    Status(u16),
    Elsewhere,
    Echo,
    Never,
}

/// A receiver of webhooks that answers as it is told, and takes everything after that.
#[derive(Clone)]
struct Receiver {
    address: SocketAddr,
    /// When, and under which idempotency key.
    posted: Arc<Mutex<Vec<(Instant, String)>>>,
    reports: Arc<Mutex<Vec<(String, Value)>>>,
    /// Asked for where it pointed to.
    elsewhere: Arc<Mutex<Vec<String>>>,
    answers: Arc<Mutex<VecDeque<Answer>>>,
    takes_reports: Arc<std::sync::atomic::AtomicBool>,
}

async fn receive(State(receiver): State<Receiver>, uri: Uri, headers: HeaderMap, body: String) -> Response {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    if uri.path() == "/weekly" {
        if !receiver.takes_reports.load(std::sync::atomic::Ordering::SeqCst) {
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        let body = serde_json::from_str(&body).expect("JSON");
        receiver.reports.lock().push((text("Idempotency-Key"), body));
        return StatusCode::OK.into_response();
    }
    if uri.path() != format!("/hooks/{}", SECRETS[0]) {
        receiver.elsewhere.lock().push(uri.to_string());
        return StatusCode::OK.into_response();
    }
    assert_eq!(text("Authorization"), format!("Bearer {}", SECRETS[1]));
    assert!(text("X-Nodescope-Signature").starts_with("t="));
    receiver.posted.lock().push((Instant::now(), text("Idempotency-Key")));
    let answer = receiver.answers.lock().pop_front();
    match answer {
        None => StatusCode::OK.into_response(),
        Some(Answer::Status(code)) => StatusCode::from_u16(code).expect("a status").into_response(),
        Some(Answer::Elsewhere) => {
            let to = format!("http://{}/elsewhere", receiver.address);
            (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, to)]).into_response()
        }
        Some(Answer::Echo) => {
            (StatusCode::NOT_FOUND, format!("Cannot POST {uri} with {}", text("Authorization"))).into_response()
        }
        Some(Answer::Never) => std::future::pending().await,
    }
}

impl Receiver {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let receiver = Self {
            address: listener.local_addr().expect("an address"),
            posted: Arc::default(),
            reports: Arc::default(),
            elsewhere: Arc::default(),
            answers: Arc::default(),
            takes_reports: Arc::default(),
        };
        let app = Router::new().fallback(receive).with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        receiver
    }

    fn answers(&self, answers: &[Answer]) {
        self.answers.lock().extend(answers);
    }

    /// Waits until so much has been posted.
    async fn posted(&self, count: usize) -> Vec<(Instant, String)> {
        let began = Instant::now();
        loop {
            let posted = self.posted.lock().clone();
            if posted.len() >= count {
                return posted;
            }
            assert!(began.elapsed() < PATIENCE, "only {posted:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A counter of one outlet at `/metrics`.
fn counted(address: SocketAddr, name: &str, outlet: &str) -> u64 {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("it reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("text");
    let begin = format!("nodescope_outlet_{name}{{outlet=\"{outlet}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&begin)?.parse().ok()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_told_until_it_takes_it_and_nobody_sees_its_secrets() {
    let receiver = Receiver::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let address = file("address", format!("http://{}/hooks/{}\n", receiver.address, SECRETS[0]));
    let metrics = free_port();
    let settings = [
        ("NODESCOPE_SCHEDULE_HTTP_ADDRESS", metrics.to_string()),
        ("NODESCOPE_ALERTS_WEBHOOKS", format!("chat=file:{address}")),
        ("NODESCOPE_ALERTS_REPORT_WEBHOOKS", format!("weekly=http://{}/weekly", receiver.address)),
        ("NODESCOPE_ALERTS_WEBHOOK_TOKEN_FILE", file("token", SECRETS[1].to_owned())),
        ("NODESCOPE_ALERTS_WEBHOOK_SECRET_FILE", file("secret", SECRETS[2].to_owned())),
        ("NODESCOPE_ALERTS_TIMEOUT", "3s".to_owned()),
        ("NODESCOPE_LOG_FILTER", "info,reqwest=debug,hyper=debug,hyper_util=debug".to_owned()),
    ];
    let report = reports_to("webhook:weekly");
    let rules = [("wrong.sql", WRONG), ("found.sql", report.as_str())];
    let (site, store) = scheduled::site(&rules, &[], &settings);
    let mut source = Known::new(&store).await;
    let mut process: Process = schedule(&site);
    let (_query, server) = site.query();
    let client = connect(server).await;
    begun(&mut source, &client, 2).await;

    // It is raised and over while the receiver still refuses the first message.
    receiver.answers(&[Answer::Status(500), Answer::Never, Answer::Status(429)]);
    receiver.answers(&[Answer::Status(200), Answer::Elsewhere, Answer::Echo, Answer::Status(503)]);
    raise(&mut source, &client, "h0").await;
    calm(&mut source, &client, "h0").await;
    let posted = receiver.posted(8).await;
    noted(&client, "webhook:chat", 2).await;
    let keys: Vec<&str> = posted.iter().map(|(_, key)| key.as_str()).collect();
    let incident = keys[0].strip_suffix("/firing").expect("first it is raised").to_owned();
    let told = |state: &str| std::iter::repeat_n(format!("{incident}/{state}"), 4);
    assert_eq!(keys, told("firing").chain(told("resolved")).collect::<Vec<_>>(), "each until it was taken, in order");
    for message in [&posted[..4], &posted[4..]] {
        for (pair, pause) in message.windows(2).zip([500, 1_000, 2_000]) {
            assert!(pair[1].0 - pair[0].0 >= Duration::from_millis(pause), "it was tried again at once");
        }
    }
    assert!(receiver.elsewhere.lock().is_empty(), "{:?}", receiver.elsewhere.lock());
    let of_chat = |name: &str| counted(metrics, name, "webhook:chat");
    assert_eq!((of_chat("failures_total"), of_chat("told_total"), of_chat("refused_total")), (6, 2, 0));

    // What is never taken is counted and holds up nothing.
    receiver.answers(&[Answer::Status(400)]);
    raise(&mut source, &client, "h1").await;
    calm(&mut source, &client, "h1").await;
    let posted = receiver.posted(10).await;
    assert!(posted[8].1.ends_with("/firing") && posted[9].1.ends_with("/resolved"), "{posted:?}");
    noted(&client, "webhook:chat", 3).await;
    assert_eq!((of_chat("failures_total"), of_chat("told_total"), of_chat("refused_total")), (6, 3, 1));
    let tries = "select sum(tries)::bigint from notification where outlet = 'webhook:chat'";
    assert_eq!(number(&client, tries).await, Some(4 + 4 + 1));

    // Reports that have run and were not taken outlive the schedule.
    let owed = reports(&client).await;
    assert!(!owed.is_empty() && receiver.reports.lock().is_empty());
    assert_eq!(counted(metrics, "told_total", "webhook:weekly"), 0);
    process.kill();
    receiver.takes_reports.store(true, std::sync::atomic::Ordering::SeqCst);
    let mut process = schedule(&site);
    let told = || receiver.reports.lock().iter().map(|(key, _)| key.clone()).collect::<BTreeSet<String>>();
    let owed: BTreeSet<String> = owed.into_iter().map(|(report, state)| format!("{report}/{state}")).collect();
    let began = Instant::now();
    while !owed.is_subset(&told()) {
        assert!(began.elapsed() < PATIENCE, "{owed:?} were owed, and told {:?}", told());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for (key, body) in receiver.reports.lock().iter() {
        assert_eq!(*key, format!("{}/report", body["report"].as_str().expect("a name")));
        assert!(!body["rows"].as_array().expect("rows").is_empty());
    }
    assert!(process.interrupt().success(), "Ctrl-C is a clean end");
    let log = log(&site);
    assert!(log.contains("trying again") && log.contains("which is dropped"), "{log}");
    for secret in SECRETS {
        assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
    }
}
