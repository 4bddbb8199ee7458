//! The test that kills: a source of known rows, and SIGKILL at random moments for everything on their way.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use tokio_postgres::Client;

use super::{PATIENCE, Process, Site, connect, content, number};

/// How often something is killed.
pub const KILLS: usize = 100;

/// Settings that make everything happen often: segments, sealing, merging, deleting.
pub const RESTLESS: [(&str, &str); 7] = [
    ("NODESCOPE_COLLECTOR_SEGMENT_EVERY", "50ms"),
    ("NODESCOPE_COLLECTOR_SEAL_EVERY", "200ms"),
    ("NODESCOPE_COLLECTOR_GRACE", "6s"),
    ("NODESCOPE_QUERY_STATEMENT_TIMEOUT", "5s"),
    ("NODESCOPE_AGENT_BACKLOG_RATE", "20000"),
    ("NODESCOPE_AGENT_BACKLOG_JITTER", "100ms"),
    ("NODESCOPE_KAFKA_PROPERTIES", "message.timeout.ms=5000,reconnect.backoff.max.ms=500"),
];

/// Something that can be killed and started again.
pub trait Victim {
    fn kill(&mut self);
    fn start(&mut self);
}

/// The seed: from the environment, to see a failure again, or any.
pub fn seed() -> u64 {
    let seed =
        std::env::var("NODESCOPE_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(rand::random);
    println!("NODESCOPE_TEST_SEED={seed}");
    seed
}

/// Kills source, collector and broker at random, `kills` times, one kill in `broker_share` being the broker's; then
/// every row must be there once, in hot and in sealed data, and no reader may ever have seen one twice or vanish.
pub async fn run(site: &Site, broker: &mut dyn Victim, kills: usize, broker_share: u32) {
    let mut random = StdRng::seed_from_u64(seed());
    let mut source = site.source();
    let mut collector = site.collector();
    let (_query, address) = site.query();
    let reader = Reader::start(address);
    for _ in 0..kills {
        // Random moments are the point here.
        tokio::time::sleep(Duration::from_millis(random.random_range(10..500))).await;
        if random.random_range(0..broker_share) == 0 {
            broker.kill();
            broker.start();
        } else if random.random() {
            source.kill();
            source = site.source();
        } else {
            // One that ended by itself has lost the race against its predecessor's last segment, and says so.
            collector.kill();
            collector = site.collector();
        }
        reader.check();
    }
    drop(source.stdin());
    assert!(source.ended().success(), "the source did not end well");
    let client = connect(address).await;
    let began = Instant::now();
    let (taken, uncertain) = loop {
        // What a run could not get rid of in time is in its spool: another one sends it.
        let mut source = site.source();
        let (promised, _) = site.journal();
        while !all_there(&client, &promised).await {
            if !collector.runs() {
                collector = site.collector();
            }
            assert!(began.elapsed() < PATIENCE, "rows are missing that were promised");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        drop(source.stdin());
        assert!(source.ended().success(), "the source did not end well");
        let (taken, uncertain) = site.journal();
        let ended = Instant::now();
        while !all_there(&client, &taken).await && ended.elapsed() < Duration::from_secs(5) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        if all_there(&client, &taken).await {
            break (taken, uncertain);
        }
    };
    let (taken, uncertain): (BTreeSet<u64>, BTreeSet<u64>) =
        (taken.into_iter().collect(), uncertain.into_iter().collect());
    reader.check();
    verify(address, &taken, &uncertain).await;
    assert!(sealed_files(site) > 0, "nothing was sealed");
    // Once more when all of it is sealed and the segments are gone, and from a collector and a reader that are new.
    collector.kill();
    let mut collector = site.collector();
    let began = Instant::now();
    while hot_segments(site) > 0 {
        if !collector.runs() {
            collector = site.collector();
        }
        assert!(began.elapsed() < PATIENCE, "{} segments are left", hot_segments(site));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    verify(address, &taken, &uncertain).await;
    let (_fresh, fresh_address) = site.query();
    verify(fresh_address, &taken, &uncertain).await;
    let looks = reader.stop();
    println!(
        "{kills} kills; {} rows promised, {} uncertain; a reader looked {looks} times",
        taken.len(),
        uncertain.len()
    );
    assert!(looks as usize > kills / 2, "the reader looked only {looks} times");
    assert_eq!(number(&client, "select count(*) from loss").await, Some(0), "something was declared lost");
    assert_eq!(number(&client, "select count(*) from quarantine").await, Some(0), "something was set aside");
}

/// Whether every row that was promised can be read. A count would not do: rows that are uncertain are counted too.
async fn all_there(client: &Client, taken: &[u64]) -> bool {
    let rows = client.query("select number from known", &[]).await.expect("an answer");
    let there: BTreeSet<u64> = rows.iter().map(|row| row.get::<_, i64>(0).unsigned_abs()).collect();
    taken.iter().all(|number| there.contains(number))
}

async fn verify(address: SocketAddr, taken: &BTreeSet<u64>, uncertain: &BTreeSet<u64>) {
    let client = connect(address).await;
    let rows = client.query("select number, content from known", &[]).await.expect("an answer");
    let mut seen: BTreeMap<u64, u32> = BTreeMap::new();
    for row in &rows {
        let number: i64 = row.get(0);
        let number = u64::try_from(number).expect("a number");
        assert_eq!(row.get::<_, &str>(1), content(number), "the content of {number} is another's");
        *seen.entry(number).or_default() += 1;
    }
    let twice: Vec<_> = seen.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "{} rows are there more than once: {:?}", twice.len(), &twice[..twice.len().min(10)]);
    let missing: Vec<_> = taken.iter().filter(|number| !seen.contains_key(number)).collect();
    assert!(missing.is_empty(), "{} rows are missing: {:?}", missing.len(), &missing[..missing.len().min(10)]);
    let strange: Vec<_> = seen.keys().filter(|n| !taken.contains(n) && !uncertain.contains(n)).collect();
    assert!(strange.is_empty(), "{} rows are nobody's: {:?}", strange.len(), &strange[..strange.len().min(10)]);
}

fn files_with(folder: &std::path::Path, suffix: &str) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => files_with(&entry.path(), suffix),
            _ => usize::from(entry.file_name().to_string_lossy().ends_with(suffix)),
        })
        .sum()
}

fn sealed_files(site: &Site) -> usize {
    files_with(&site.folder.path().join("store/sealed/known"), ".parquet")
}

fn hot_segments(site: &Site) -> usize {
    files_with(&site.folder.path().join("store/hot"), ".seg")
}

/// Looks again and again: no row twice, none gone.
struct Reader {
    thread: std::thread::JoinHandle<Result<(), String>>,
    stop: Arc<AtomicBool>,
    looks: Arc<AtomicU64>,
}

impl Reader {
    fn start(address: SocketAddr) -> Self {
        let (stop, looks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = std::thread::spawn({
            let (stop, looks) = (stop.clone(), looks.clone());
            move || {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
                runtime.block_on(look(address, &stop, &looks))
            }
        });
        Self { thread, stop, looks }
    }

    fn check(&self) {
        assert!(!self.thread.is_finished(), "the reader has found something: see its message when it is joined");
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the reader did not panic").expect("what a reader saw");
        self.looks.load(Ordering::Relaxed)
    }
}

async fn look(address: SocketAddr, stop: &AtomicBool, looks: &AtomicU64) -> Result<(), String> {
    let client = connect(address).await;
    let mut before = 0;
    while !stop.load(Ordering::Relaxed) {
        let row = client
            .query_one("select count(*), count(distinct number) from known", &[])
            .await
            .map_err(|e| format!("{e:?}"))?;
        let (rows, numbers): (i64, i64) = (row.get(0), row.get(1));
        if rows != numbers {
            let message = format!("{} of {rows} rows were seen twice", rows - numbers);
            println!("{message}");
            return Err(message);
        }
        if rows < before {
            let message = format!("{} of {before} rows have vanished", before - rows);
            println!("{message}");
            return Err(message);
        }
        before = rows;
        looks.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// A process of ours as a victim.
pub struct Ours<F: Fn() -> Process>(pub Process, pub F);

impl<F: Fn() -> Process> Victim for Ours<F> {
    fn kill(&mut self) {
        self.0.kill();
    }

    fn start(&mut self) {
        self.0 = (self.1)();
    }
}
