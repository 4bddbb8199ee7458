//! Real processes, for tests from end to end: started on free ports, killed when the test is over.
#![allow(dead_code, unreachable_pub, clippy::print_stdout, reason = "every test takes what it needs")]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};

pub mod embedded;
pub mod killing;
pub mod scheduled;

/// Longest wait for anything.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A table of a site's own, with rows that tests know beforehand.
pub const KNOWN: &str = r#"
table = "known"
version = 1
comment = "Rows that a test knows beforehand."
entity = ["source"]

[[column]]
name = "source"
type = "text"
kind = "label"
help = "Who sent it."

[[column]]
name = "number"
type = "int"
kind = "gauge"
unit = "1"
help = "Its number."

[[column]]
name = "content"
type = "text"
kind = "state"
help = "What follows from the number."
"#;

/// The text that belongs to a number: the source's own rule, written again.
pub fn content(number: u64) -> String {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    format!("{:016x}", z ^ (z >> 31))
}

/// A process of ours.
pub struct Process {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
    name: String,
}

impl Process {
    /// Starts `nodescope` with these arguments and variables; its log goes to a file in `folder`.
    pub fn start(folder: &Path, arguments: &[&str], variables: &[(String, String)]) -> Self {
        let name = arguments.iter().take(2).copied().collect::<Vec<_>>().join("-").replace(['/', '.'], "_");
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(folder.join(format!("{name}.log")))
            .expect("a log can be written");
        let mut child = Command::new(env!("CARGO_BIN_EXE_nodescope"))
            .args(arguments)
            .envs(variables.iter().map(|(name, value)| (name.as_str(), value.as_str())))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the program starts");
        let (sent, lines) = channel();
        let stdout = child.stdout.take().expect("it is piped");
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sent.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines, said: Vec::new(), name }
    }

    /// Waits for a line with this in it.
    pub fn says(&mut self, what: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(what) => return line,
                Ok(line) => self.said.push(line),
                Err(_) => panic!("{} never said `{what}`, but:\n{}", self.name, self.said.join("\n")),
            }
        }
    }

    /// Waits for a line with this in it, and reads the address that follows.
    pub fn address_after(&mut self, what: &str) -> SocketAddr {
        let line = self.says(what);
        let rest = &line[line.find(what).expect("it is there") + what.len()..];
        rest.split_whitespace()
            .next()
            .and_then(|word| word.parse().ok())
            .unwrap_or_else(|| panic!("no address: {line}"))
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it is gone");
    }

    /// SIGINT, as Ctrl-C sends it.
    pub fn interrupt(&mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().expect("kill is there").success());
        self.ended()
    }

    /// Waits until it has ended by itself.
    pub fn ended(&mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("it is ours") {
                return status;
            }
            assert!(Instant::now() < until, "{} does not end", self.name);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether it runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().expect("it is ours").is_none()
    }

    /// Its standard input; dropping it closes it.
    pub fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Main memory it holds, in bytes.
    pub fn resident(&self) -> u64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id())).unwrap_or_default();
        statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `nodescope up` on free ports.
pub struct Up {
    process: Process,
    postgres: SocketAddr,
    kafka: SocketAddr,
    folder: tempfile::TempDir,
}

impl Up {
    /// Starts it on an empty folder, and waits until it serves.
    pub async fn start() -> Self {
        Self::start_on(tempfile::tempdir().expect("a folder"), &[])
    }

    /// Starts it on a folder.
    pub fn start_on(folder: tempfile::TempDir, variables: &[(&str, &str)]) -> Self {
        Self::start_with(folder, &[], variables)
    }

    /// Starts it on a folder, with more arguments.
    pub fn start_with(folder: tempfile::TempDir, more: &[&str], variables: &[(&str, &str)]) -> Self {
        let data = folder.path().join("data").display().to_string();
        let any = "127.0.0.1:0";
        let mut arguments =
            vec!["up", "--data", &data, "--broker", any, "--postgres", any, "--http", any, "--metrics", any];
        arguments.extend(more);
        let variables: Vec<_> = variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let mut process = Process::start(folder.path(), &arguments, &variables);
        let line = process.says("SQL ");
        let words: Vec<&str> = line.split_whitespace().collect();
        let postgres = format!("{}:{}", words[3], words[5]).parse().unwrap_or_else(|_| panic!("no address: {line}"));
        let kafka = process.address_after("Kafka ");
        Self { process, postgres, kafka, folder }
    }

    /// Port of the PostgreSQL protocol.
    pub fn postgres_port(&self) -> u16 {
        self.postgres.port()
    }

    /// Address of the embedded broker.
    pub fn kafka(&self) -> SocketAddr {
        self.kafka
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Everything it keeps, once it is stopped or killed.
    pub fn into_folder(self) -> tempfile::TempDir {
        let Self { process, folder, .. } = self;
        drop(process);
        folder
    }
}

/// A client of the query server.
pub async fn connect(address: SocketAddr) -> Client {
    let config = format!("host={} port={} user=test dbname=nodescope", address.ip(), address.port());
    let (client, connection) = tokio_postgres::connect(&config, NoTls).await.expect("the query server lets us in");
    tokio::spawn(connection);
    client
}

/// One number that a query answers, `None` for NULL.
pub async fn number(client: &Client, sql: &str) -> Option<i64> {
    client.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
}

/// Asks until the number is as wanted.
pub async fn until(client: &Client, sql: &str, wanted: impl Fn(i64) -> bool) -> i64 {
    let end = Instant::now() + PATIENCE;
    loop {
        let found = number(client, sql).await.unwrap_or(-1);
        if wanted(found) {
            return found;
        }
        assert!(Instant::now() < end, "{sql}: still {found}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Broker, collector, query server and a source of known rows, each a process of its own.
pub struct Site {
    pub folder: tempfile::TempDir,
    pub brokers: String,
    pub variables: Vec<(String, String)>,
}

impl Site {
    /// A site whose broker is at `brokers`, with these settings beside the test's own.
    pub fn new(folder: tempfile::TempDir, brokers: String, settings: &[(&str, &str)]) -> Self {
        let catalogue = folder.path().join("catalogue.d");
        std::fs::create_dir(&catalogue).expect("a folder");
        std::fs::write(catalogue.join("known.toml"), KNOWN).expect("a file");
        let mut variables: Vec<(String, String)> = [
            ("NODESCOPE_NODE_CATALOGUE_FOLDER", catalogue.display().to_string()),
            ("NODESCOPE_STORE_URL", folder.path().join("store").display().to_string()),
            ("NODESCOPE_KAFKA_BROKERS", brokers.clone()),
            ("NODESCOPE_KAFKA_PARTITIONS", "1".to_owned()),
            ("NODESCOPE_COLLECTOR_METRICS_ADDRESS", "127.0.0.1:0".to_owned()),
            ("NODESCOPE_QUERY_HTTP_ADDRESS", "127.0.0.1:0".to_owned()),
            ("NODESCOPE_QUERY_POSTGRES_ADDRESS", "127.0.0.1:0".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec();
        variables.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        Self { folder, brokers, variables }
    }

    pub fn start(&self, arguments: &[&str]) -> Process {
        Process::start(self.folder.path(), arguments, &self.variables)
    }

    pub fn collector(&self) -> Process {
        self.start(&["collector"])
    }

    pub fn query(&self) -> (Process, SocketAddr) {
        let mut process = self.start(&["query"]);
        let address = process.address_after("the query server listens on");
        (process, address)
    }

    pub fn source(&self) -> Process {
        let data = self.source_folder().display().to_string();
        self.start(&["bench", "source", "--data", &data, "--brokers", &self.brokers])
    }

    fn source_folder(&self) -> PathBuf {
        self.folder.path().join("source")
    }

    /// What the source was promised: numbers taken, and numbers that may be there or not.
    pub fn journal(&self) -> (Vec<u64>, Vec<u64>) {
        let bytes = std::fs::read(self.source_folder().join("journal")).unwrap_or_default();
        let (mut taken, mut uncertain) = (Vec::new(), Vec::new());
        for entry in bytes.chunks_exact(24) {
            let number = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().expect("eight bytes"));
            let numbers = number(8)..=number(16);
            if number(0) == 0 { taken.extend(numbers) } else { uncertain.extend(numbers) }
        }
        (taken, uncertain)
    }
}
