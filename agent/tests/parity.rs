//! Beside node_exporter on the same machine: the same names, the same labels, the same values.
//!
//! Both run, and are asked in turn: node_exporter, the agent, node_exporter again. The agent starts after the first
//! answer, so whatever it says was read between the two. Then
//!
//! - every series that both of node_exporter's answers have is on the agent's page, with the same labels (an empty
//!   label is none), and series that only the agent has have labels of the same names;
//! - a counter lies between node_exporter's two values;
//! - a gauge that is the same in both of node_exporter's answers is the same with the agent; where one is not, it may
//!   have gone and come back in between, and is looked at twice more.
//!
//! The names are those of the Grafana dashboard "Node Exporter Full" (1860), in `parity/node-exporter-full.txt`. Whatever
//! else both have is compared in the same way. `parity/differences.toml` lists the differences, each with its reason, and
//! one that is listed and is none fails the test too.
//!
//! Without node_exporter there is nothing to compare; `NODESCOPE_TEST_NODE_EXPORTER=1` makes that a failure.

#![allow(clippy::print_stdout, reason = "a test tells what it has compared")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;

/// Longest wait for either to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Names of node_exporter's program: Debian's, and its own.
const PROGRAMS: [&str; 2] = ["prometheus-node-exporter", "node_exporter"];

/// Collectors that are off by default and fill panels of the dashboard.
const COLLECTORS: [&str; 3] = ["--collector.tcpstat", "--collector.processes", "--collector.interrupts"];

/// A time that the kernel counts in ticks may be a tick apart, and idle time may go back a little.
const TICKS_SECONDS: f64 = 0.05;

#[derive(Debug, Deserialize)]
struct Differences {
    difference: Vec<Difference>,
}

#[derive(Debug, Deserialize)]
struct Difference {
    name: String,
    what: What,
    reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum What {
    Missing,
    Fewer,
    Labels,
    Value,
}

impl Differences {
    fn allow(&self, name: &str, what: What) -> bool {
        self.difference.iter().any(|d| {
            d.what == what && d.name.strip_suffix('*').map_or(d.name == name, |prefix| name.starts_with(prefix))
        })
    }
}

/// Labels in order of name, without empty ones.
type Labels = BTreeMap<String, String>;

/// A page: type and series of each name.
#[derive(Debug, Default)]
struct Page {
    types: BTreeMap<String, String>,
    series: BTreeMap<String, BTreeMap<Labels, f64>>,
}

impl Page {
    fn read(text: &str) -> Self {
        let mut page = Self::default();
        for line in text.lines() {
            if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
                page.types.insert(name.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') && !line.is_empty() {
                let (name, labels, value) = read_sample(line);
                let before = page.series.entry(name).or_default().insert(labels, value);
                assert!(before.is_none(), "a series is there twice: {line}");
            }
        }
        page
    }

    fn names(&self) -> impl Iterator<Item = &String> {
        self.series.keys()
    }
}

fn read_sample(line: &str) -> (String, Labels, f64) {
    let mut labels = Labels::new();
    let end = line.find(['{', ' ']).unwrap_or(line.len());
    let (name, mut rest) = line.split_at(end);
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while let Some((label, after)) = rest.split_once("=\"") {
            let mut value = String::new();
            let mut chars = after.char_indices();
            let end = loop {
                match chars.next() {
                    Some((_, '\\')) => match chars.next() {
                        Some((_, 'n')) => value.push('\n'),
                        Some((_, other)) => value.push(other),
                        None => panic!("{line}"),
                    },
                    Some((at, '"')) => break at,
                    Some((_, other)) => value.push(other),
                    None => panic!("{line}"),
                }
            };
            if !value.is_empty() {
                labels.insert(label.trim_start_matches(',').to_owned(), value);
            }
            rest = &after[end + 1..];
            if rest.starts_with('}') {
                break;
            }
        }
        rest = rest.trim_start_matches('}');
    }
    let word = rest.split_whitespace().next().unwrap_or_else(|| panic!("{line}"));
    (name.to_owned(), labels, word.trim_start_matches('+').parse().unwrap_or_else(|_| panic!("{line}")))
}

/// A program that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port of this machine that was free a moment ago.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("there is a free port")
}

fn get_metrics(address: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.lines().next()?.contains(" 200 ").then(|| body.to_owned())
}

/// Asks until the answer is what is waited for.
fn page_when(address: SocketAddr, who: &str, is_ready: impl Fn(&Page) -> bool) -> Page {
    let began = Instant::now();
    loop {
        if let Some(page) = get_metrics(address).map(|text| Page::read(&text))
            && is_ready(&page)
        {
            return page;
        }
        assert!(began.elapsed() < PATIENCE, "{who} has not answered with what is waited for");
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn start_node_exporter(address: SocketAddr) -> Option<Running> {
    PROGRAMS.iter().find_map(|program| {
        let mut command = Command::new(program);
        command.arg(format!("--web.listen-address={address}")).args(COLLECTORS);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok().map(Running)
    })
}

fn start_agent(address: SocketAddr, data: &std::path::Path) -> Running {
    // Nobody listens at port 9; the agent keeps its rows and shows them all the same.
    let mut command = Command::new(env!("CARGO_BIN_EXE_nodescope-agent"));
    command.args(["--brokers", "127.0.0.1:9", "--node", "parity", "--metrics", &address.to_string(), "--data"]);
    command.arg(data).env("NODESCOPE_LOG_FILTER", "error");
    Running(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("the agent starts"))
}

/// What has been compared, and what was wrong.
#[derive(Debug, Default)]
struct Verdict {
    mistakes: String,
    /// Gauges that held still and were another with us: which, and how.
    gauges_apart: BTreeMap<String, String>,
    series: usize,
    counters: usize,
    gauges: usize,
}

impl Verdict {
    fn wrong(&mut self, what: std::fmt::Arguments<'_>) {
        let _ = writeln!(self.mistakes, "{what}");
    }

    fn compare(&mut self, name: &str, before: &Page, ours: &Page, after: &Page, differences: &Differences) {
        let nothing = BTreeMap::new();
        let of = |page: &'_ Page| page.series.get(name).cloned().unwrap_or_default();
        let (first, second) = (of(before), of(after));
        let own = ours.series.get(name).unwrap_or(&nothing);
        if differences.allow(name, What::Labels) {
            return;
        }
        let keys = |labels: &Labels| labels.keys().cloned().collect::<BTreeSet<_>>();
        let known_keys: BTreeSet<_> = first.keys().chain(second.keys()).map(keys).collect();
        for labels in own.keys().filter(|labels| !known_keys.contains(&keys(labels))) {
            self.wrong(format_args!("{name}{labels:?}: labels that node_exporter does not use"));
        }
        let is_counter = [before, ours].iter().any(|page| page.types.get(name).is_some_and(|kind| kind == "counter"));
        for (labels, one) in &first {
            let Some(other) = second.get(labels) else { continue };
            let Some(value) = own.get(labels) else {
                if differences.allow(name, What::Fewer) {
                    continue;
                }
                self.wrong(format_args!("{name}{labels:?}: not on our page, which has {:?}", own.keys()));
                continue;
            };
            self.series += 1;
            if differences.allow(name, What::Value) {
                continue;
            }
            let (low, high) = (one.min(*other), one.max(*other));
            let seconds = if name.contains("seconds") { TICKS_SECONDS } else { 0.0 };
            let slack = seconds.max(high.abs() * 1e-9);
            let holds_still = one == other;
            if !is_counter && !holds_still {
                continue;
            }
            if is_counter {
                self.counters += 1;
            } else {
                self.gauges += 1;
            }
            if *value < low - slack || *value > high + slack {
                let what = format!("{name}{labels:?}: {value}, and node_exporter has {one} and then {other}");
                if is_counter {
                    self.wrong(format_args!("{what}"));
                } else {
                    self.gauges_apart.insert(format!("{name}{labels:?}"), what);
                }
            }
        }
    }
}

#[test]
fn the_agent_says_what_node_exporter_says() {
    let (theirs, own) = (free_address(), free_address());
    let Some(_node_exporter) = start_node_exporter(theirs) else {
        assert!(
            std::env::var_os("NODESCOPE_TEST_NODE_EXPORTER").is_none(),
            "NODESCOPE_TEST_NODE_EXPORTER is set, and there is no {}",
            PROGRAMS.join(" and no ")
        );
        println!("SKIPPED: there is no node_exporter to compare with");
        return;
    };
    let data = tempfile::tempdir().expect("a folder");
    let before = page_when(theirs, "node_exporter", |page| !page.series.is_empty());
    let _agent = start_agent(own, data.path());
    // All tables are sampled at the first tick, and the agent's own account, which comes ten seconds later, is the last.
    let all_there = [
        "node_load1",
        "node_cpu_seconds_total",
        "node_filesystem_size_bytes",
        "node_uname_info",
        "node_arp_entries",
        "node_scrape_collector_success",
    ];
    page_when(own, "the agent", |page| {
        all_there.iter().all(|name| page.series.contains_key(*name) || !before.series.contains_key(*name))
    });
    std::thread::sleep(Duration::from_secs(2));
    let ours = page_when(own, "the agent", |_| true);
    let after = page_when(theirs, "node_exporter", |_| true);

    let differences: Differences =
        toml::from_str(include_str!("parity/differences.toml")).expect("differences.toml is as it should be");
    let wanted: BTreeSet<&str> = include_str!("parity/node-exporter-full.txt")
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    let offered: BTreeSet<&str> = before.names().map(String::as_str).filter(|name| name.starts_with("node_")).collect();
    let mut verdict = Verdict::default();
    for difference in &differences.difference {
        if difference.reason.is_empty() {
            verdict.wrong(format_args!("{}: a difference without a reason", difference.name));
        }
        if difference.what == What::Missing && ours.series.contains_key(&difference.name) {
            verdict.wrong(format_args!("{}: listed as missing, and it is not", difference.name));
        }
    }
    let mut further = Vec::new();
    for name in &offered {
        let is_ours = ours.series.contains_key(*name);
        if is_ours {
            verdict.compare(name, &before, &ours, &after, &differences);
        } else if !wanted.contains(name) {
            further.push(*name);
        } else if !differences.allow(name, What::Missing) && !differences.allow(name, What::Fewer) {
            verdict.wrong(format_args!("{name}: not on our page"));
        }
    }
    let mut earlier = after;
    for _ in 0..2 {
        if verdict.gauges_apart.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_secs(2));
        let ours = page_when(own, "the agent", |_| true);
        let later = page_when(theirs, "node_exporter", |_| true);
        let mut again = Verdict::default();
        for name in &offered {
            again.compare(name, &earlier, &ours, &later, &differences);
        }
        verdict.gauges_apart.retain(|gauge, _| again.gauges_apart.contains_key(gauge));
        earlier = later;
    }
    for what in std::mem::take(&mut verdict.gauges_apart).into_values() {
        verdict.wrong(format_args!("{what}"));
    }
    println!(
        "compared {} series of {} names: {} counters, {} gauges that held still; the dashboard asks for {} names, of which \
         node_exporter has {} here",
        verdict.series,
        offered.iter().filter(|name| ours.series.contains_key(**name)).count(),
        verdict.counters,
        verdict.gauges,
        wanted.len(),
        wanted.intersection(&offered).count()
    );
    println!("of node_exporter alone, and not on the dashboard: {}", further.join(", "));
    assert!(verdict.mistakes.is_empty(), "{}", verdict.mistakes);
    assert!(verdict.counters > 50 && verdict.gauges > 50, "too little has been compared: {verdict:?}");
}
