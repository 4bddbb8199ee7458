//! Alertmanager itself: through kills of ours and restarts of its, each incident arrives once when it fires and once
//! when it is over.
//!
//! Skipped where Alertmanager is not installed, unless `NODESCOPE_TEST_ALERTMANAGER` says that it must be.

mod support;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use nodescope_store::Store;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use support::embedded::free_port;
use support::killing::seed;
use support::scheduled::{self, Known, now_us, schedule};
use support::{PATIENCE, Site, connect, number};

/// Hosts that something is wrong with, one after the other.
const HOSTS: usize = 6;

/// How long something is wrong with one.
const WRONG_FOR: Duration = Duration::from_secs(9);

/// How long after one the next is.
const STEP: Duration = Duration::from_secs(3);

const RULE: &str = r#"/*
title = "Something is wrong"
every = "1s"
window = "2s"
wait = "1s"
sink = "alert"
[alert]
severity = "critical"
for = "1s"
resolve_after = "2s"
key = ["node", "host"]
summary = "{host} says {content}"
techniques = ["T1496.001"]
*/
SELECT node, host, max(content) AS content FROM known WHERE ts >= $from AND ts < $to AND content = 'wrong'
GROUP BY node, host"#;

/// What has been told, in the order in which it came: incident or key, and state.
type Told = Arc<Mutex<Vec<(String, String)>>>;

#[derive(Clone, Default)]
struct Heard {
    /// By Alertmanager: host and state.
    notified: Told,
    /// By us: idempotency key and state.
    posted: Told,
}

async fn notified(State(heard): State<Heard>, body: String) {
    let body: Value = serde_json::from_str(&body).expect("JSON");
    for alert in body["alerts"].as_array().expect("alerts") {
        assert_eq!(alert["labels"]["alertname"], "wrong");
        assert_eq!(alert["labels"]["severity"], "critical");
        assert_eq!(alert["labels"]["site"], "test");
        let host = alert["labels"]["host"].as_str().expect("a host");
        assert_eq!(alert["annotations"]["summary"], format!("{host} says wrong"));
        heard.notified.lock().push((host.to_owned(), alert["status"].as_str().expect("a status").to_owned()));
    }
}

async fn posted(State(heard): State<Heard>, headers: HeaderMap, body: String) {
    let body: Value = serde_json::from_str(&body).expect("JSON");
    let key = headers["Idempotency-Key"].to_str().expect("text").to_owned();
    let (incident, state) = (body["incident"].as_str().expect("a name"), body["state"].as_str().expect("a state"));
    assert_eq!(key, format!("{incident}/{state}"));
    assert!(headers["X-Nodescope-Signature"].to_str().expect("text").starts_with("t="));
    heard.posted.lock().push((incident.to_owned(), state.to_owned()));
}

/// The receiver of all notifications.
async fn receiver(heard: &Heard) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let app = Router::new().route("/notified", post(notified)).route("/posted", post(posted)).with_state(heard.clone());
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let names = ["prometheus-alertmanager", "alertmanager"];
    std::env::split_paths(&path).flat_map(|folder| names.map(|name| folder.join(name))).find(|file| file.is_file())
}

/// An Alertmanager with its data in a folder.
struct Alertmanager {
    child: Child,
    program: PathBuf,
    folder: PathBuf,
    address: SocketAddr,
}

impl Alertmanager {
    fn start(program: &Path, folder: &Path, address: SocketAddr, receiver: SocketAddr) -> Self {
        let config = format!(
            "route:\n  receiver: test\n  group_by: [incident]\n  group_wait: 200ms\n  group_interval: 1s\n  \
             repeat_interval: 24h\nreceivers:\n- name: test\n  webhook_configs:\n  - url: http://{receiver}/notified\n    \
             send_resolved: true\n"
        );
        std::fs::write(folder.join("alertmanager.yml"), config).expect("a file");
        let child = Self::spawn(program, folder, address);
        Self { child, program: program.to_owned(), folder: folder.to_owned(), address }
    }

    fn spawn(program: &Path, folder: &Path, address: SocketAddr) -> Child {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("alertmanager.log"));
        let child = Command::new(program)
            .arg(format!("--config.file={}", folder.join("alertmanager.yml").display()))
            .arg(format!("--storage.path={}", folder.join("alertmanager").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--cluster.listen-address=")
            .stdout(Stdio::null())
            .stderr(log.expect("a log"))
            .spawn()
            .expect("Alertmanager starts");
        let began = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(began.elapsed() < PATIENCE, "Alertmanager does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        child
    }

    /// As systemd does it.
    fn stop(&mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill is there").success());
        self.child.wait().expect("it ends");
    }

    fn start_again(&mut self) {
        self.child = Self::spawn(&self.program, &self.folder, self.address);
    }
}

impl Drop for Alertmanager {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn site(receiver: SocketAddr, alertmanager: SocketAddr, secret: &Path) -> (Site, Store) {
    let settings = [
        ("NODESCOPE_ALERTS_ALERTMANAGERS", format!("http://{alertmanager}")),
        ("NODESCOPE_ALERTS_WEBHOOKS", format!("test=http://{receiver}/posted")),
        ("NODESCOPE_ALERTS_WEBHOOK_SECRET_FILE", secret.display().to_string()),
        ("NODESCOPE_ALERTS_LABELS", "site=test".to_owned()),
        ("NODESCOPE_ALERTS_RESEND", "1s".to_owned()),
    ];
    scheduled::site(&[("wrong.sql", RULE)], &[], &settings)
}

fn counts(told: &Told) -> BTreeMap<(String, String), usize> {
    let mut counts = BTreeMap::new();
    for one in told.lock().iter() {
        *counts.entry(one.clone()).or_default() += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn each_incident_arrives_once_when_it_fires_and_once_when_it_is_over() {
    let Some(program) = program() else {
        let needed = std::env::var_os("NODESCOPE_TEST_ALERTMANAGER").is_some();
        assert!(!needed, "Alertmanager is not installed: apt-get install prometheus-alertmanager");
        println!("skipped: Alertmanager is not installed");
        return;
    };
    let heard = Heard::default();
    let receiver = receiver(&heard).await;
    let address = free_port();
    let secret = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(secret.path(), "of the test\n").expect("it can be written");
    let (site, store) = site(receiver, address, secret.path());
    let mut alertmanager = Alertmanager::start(&program, site.folder.path(), address, receiver);
    let mut source = Known::new(&store).await;
    source.write(now_us(), &["well"], "right").await;
    let mut process = schedule(&site);
    let (_query, server) = site.query();
    let client = connect(server).await;
    let begun = "select count(*) from schedule_run where rule = 'wrong' and state = 'begun'";
    support::until(&client, begun, |count| count > 0).await;

    let mut random = StdRng::seed_from_u64(seed());
    let began = Instant::now();
    let last = STEP * u32::try_from(HOSTS - 1).expect("few") + WRONG_FOR;
    let (mut kill_at, mut kills) = (Duration::from_secs(2), 0);
    let (mut stop_at, mut stops, mut up_at) = (Duration::from_secs(5), 0, None);
    while began.elapsed() < last {
        let now = began.elapsed();
        let wrong: Vec<String> = (0..HOSTS)
            .filter(|at| {
                (STEP * u32::try_from(*at).expect("few")..STEP * u32::try_from(*at).expect("few") + WRONG_FOR)
                    .contains(&now)
            })
            .map(|at| format!("h{at}"))
            .collect();
        let wrong: Vec<&str> = wrong.iter().map(String::as_str).collect();
        source.write(now_us(), &wrong, "wrong").await;
        source.write(now_us(), &["well"], "right").await;
        if now >= kill_at {
            process.kill();
            process = schedule(&site);
            kills += 1;
            // Random moments are the point here.
            kill_at = began.elapsed() + Duration::from_millis(random.random_range(500..3_000));
        }
        if now >= stop_at && up_at.is_none() {
            alertmanager.stop();
            stops += 1;
            up_at = Some(now + Duration::from_millis(random.random_range(200..1_500)));
        }
        if up_at.is_some_and(|at| now >= at) {
            alertmanager.start_again();
            up_at = None;
            stop_at = began.elapsed() + Duration::from_secs(4);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    if up_at.is_some() {
        alertmanager.start_again();
    }
    let expected: BTreeMap<(String, String), usize> = (0..HOSTS)
        .flat_map(|at| ["firing", "resolved"].map(|state| ((format!("h{at}"), state.to_owned()), 1)))
        .collect();
    let began = Instant::now();
    while counts(&heard.notified).len() < expected.len() {
        assert!(began.elapsed() < PATIENCE, "Alertmanager has told only {:?}", heard.notified.lock());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Whatever would come twice comes now: ours is killed once more, and Alertmanager restarts.
    process.kill();
    alertmanager.stop();
    alertmanager.start_again();
    let mut process = schedule(&site);
    let resends = Duration::from_secs(5);
    tokio::time::sleep(resends).await;
    assert_eq!(counts(&heard.notified), expected, "after {kills} kills and {stops} stops");

    // The store says the same.
    let rows = number(&client, "select count(*) from alert_now where rule = 'wrong' and state = 'resolved'").await;
    assert_eq!(rows, Some(i64::try_from(HOSTS).expect("few")));
    let raised = "select count(*) from (select incident from alert where fired is not null and rule = 'wrong' \
                  group by incident having count(distinct fired) = 1) x";
    assert_eq!(number(&client, raised).await, rows);

    // A webhook is told of each at least once, in order; twice only where a kill fell between its answer and our note.
    let posted = counts(&heard.posted);
    assert_eq!(posted.len(), 2 * HOSTS, "{posted:?}");
    let told = heard.posted.lock().clone();
    for (incident, _) in posted.keys() {
        let first = |state: &str| told.iter().position(|(i, s)| i == incident && s == state).expect("told");
        assert!(first("firing") < first("resolved"));
    }
    let twice = told.len() - posted.len();
    assert!(twice <= kills + 1, "{twice} told twice after {kills} kills: {told:?}");
    assert!(process.interrupt().success(), "Ctrl-C is a clean end");
    println!("{kills} kills, {stops} stops; {HOSTS} incidents, {twice} messages posted twice");
}
