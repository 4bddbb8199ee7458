//! What the agent costs, beside others that do part of its work, in one run.
//!
//! ```console
//! $ cargo bench -p nodescope-agent --bench cost -- --brokers 127.0.0.1:9092 --seconds 120
//! ```
//!
//! Every program samples this machine at the same time: the agent, `prometheus-node-exporter` scraped once a second,
//! and `netdata`, each where it is installed. A second agent samples a large host: 192 CPUs, 8 accelerators, 10
//! interfaces, 8 RDMA ports, 1,200 processes, made of files, with a library that stands in for NVML. CPU is what the
//! kernel has accounted to all threads of a program and its children; memory is what is resident at the end, children
//! included. Without `--brokers` the agents keep their records in the spool, which costs something else: name a broker.

#![allow(clippy::print_stdout, reason = "it is what a benchmark is for")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const CPUS: usize = 192;
const CARDS: usize = 8;
const INTERFACES: usize = 10;
const PORTS: usize = 8;
const PROCESSES: u32 = 1_200;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (mut seconds, mut warm, mut brokers, mut only) = (60, 60, "127.0.0.1:1".to_owned(), String::new());
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().unwrap_or_default();
        match argument.as_str() {
            "--seconds" => seconds = value().parse().expect("--seconds: a number"),
            "--warm" => warm = value().parse().expect("--warm: a number"),
            "--brokers" => brokers = value(),
            "--only" => only = value(),
            // Cargo's own.
            _ => {}
        }
    }
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder");
    let mut measured = Vec::new();
    let wanted = |name: &str| only.is_empty() || only.split(',').any(|one| one == name);
    if wanted("agent") {
        let data = folder.path().join("data");
        measured.push(Measured::start("nodescope-agent", agent(&data, &brokers)));
    }
    if wanted("large") {
        let root = folder.path().join("root");
        make_large_host(&root);
        let library = compile_cards(folder.path());
        let mut command = agent(&folder.path().join("data-large"), &brokers);
        command.arg("--root").arg(&root);
        command.env("NODESCOPE_AGENT_ACCELERATOR_LIBRARIES", format!("nvidia={}", library.display()));
        measured.push(Measured::start("nodescope-agent, large host", command));
    }
    let port = free_port();
    if wanted("node_exporter") && there("prometheus-node-exporter") {
        let mut command = Command::new("prometheus-node-exporter");
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        measured.push(Measured::start("node_exporter, scraped at 1 s", command));
        std::thread::spawn(move || {
            loop {
                let began = Instant::now();
                let _ = scrape(port);
                std::thread::sleep(Duration::from_secs(1).saturating_sub(began.elapsed()));
            }
        });
    }
    if wanted("netdata") && there("netdata") {
        let mut command = Command::new("netdata");
        command.args(["-D", "-i", "127.0.0.1", "-p"]).arg(free_port().to_string());
        measured.push(Measured::start("netdata", command));
    }
    println!("{} programs; {warm} s to settle, {seconds} s measured", measured.len());
    std::thread::sleep(Duration::from_secs(warm));
    measured.iter_mut().for_each(Measured::begin);
    std::thread::sleep(Duration::from_secs(seconds));
    println!("{:<32} {:>12} {:>14} {:>9}", "", "CPU, % of one", "resident, MiB", "processes");
    for one in &mut measured {
        one.end();
    }
}

/// The agent with its data in a folder of its own.
fn agent(data: &Path, brokers: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nodescope-agent"));
    command.args(["--brokers", brokers, "--metrics", "127.0.0.1:0", "--host", "bench", "--data"]).arg(data);
    command
}

/// A program that runs, with what it had used when the measurement began.
struct Measured {
    name: &'static str,
    child: Child,
    before: BTreeMap<u32, u64>,
    began: Instant,
}

impl Measured {
    fn start(name: &'static str, mut command: Command) -> Self {
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        Self { name, child, before: BTreeMap::new(), began: Instant::now() }
    }

    fn begin(&mut self) {
        self.before = used(self.child.id());
        self.began = Instant::now();
    }

    #[allow(clippy::cast_precision_loss, reason = "nanoseconds of minutes")]
    fn end(&mut self) {
        let elapsed = self.began.elapsed();
        let now = used(self.child.id());
        // Threads and children that came meanwhile count whole; those that went are not seen any more.
        let nanos: u64 =
            now.iter().map(|(task, used)| used - self.before.get(task).copied().unwrap_or(0).min(*used)).sum();
        let processes = tree(self.child.id());
        let resident: u64 = processes.iter().filter_map(|pid| resident(*pid)).sum();
        println!(
            "{:<32} {:>12.3} {:>14.1} {:>9}",
            self.name,
            100.0 * nanos as f64 / elapsed.as_nanos() as f64,
            resident as f64 / 1024.0,
            processes.len()
        );
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process and its descendants.
fn tree(root: u32) -> Vec<u32> {
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        parents.insert(pid, parent.unwrap_or(0));
    }
    let mut found = vec![root];
    let mut at = 0;
    while let Some(&one) = found.get(at) {
        found.extend(parents.iter().filter(|(_, parent)| **parent == one).map(|(pid, _)| *pid));
        at += 1;
    }
    found
}

/// Nanoseconds of CPU by thread, of a process and its descendants.
fn used(root: u32) -> BTreeMap<u32, u64> {
    let mut all = BTreeMap::new();
    for pid in tree(root) {
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            let used = text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0);
            if let Some(task) = task.file_name().to_str().and_then(|name| name.parse().ok()) {
                all.insert(task, used);
            }
        }
    }
    all
}

/// KiB resident.
fn resident(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.split_whitespace().next()?.parse().ok()
}

fn there(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).exists()))
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

fn scrape(port: u16) -> std::io::Result<usize> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
    stream.read_to_end(&mut Vec::new())
}

/// The library that stands in for the driver's.
fn compile_cards(folder: &Path) -> PathBuf {
    let fakes = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fakes");
    let library = folder.join("libnvidia-ml.so.1");
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-DFAKE_STILL", &format!("-DCARD_COUNT={CARDS}"), "-o"])
        .arg(&library)
        .arg("-I")
        .arg(&fakes)
        .arg(fakes.join("nvml.c"))
        .args(["-ldl", "-lpthread"])
        .status()
        .expect("a C compiler, `cc`");
    assert!(compiled.success(), "nvml.c does not compile");
    library
}

fn write(path: &Path, text: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("it can be made");
    fs::write(path, text).expect("it can be written");
}

/// Copies a folder as it is, links included.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("it can be made");
    for entry in fs::read_dir(from).expect("it can be listed").flatten() {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().expect("its type");
        if kind.is_dir() {
            copy(&source, &target);
        } else if kind.is_symlink() {
            symlink(fs::read_link(&source).expect("a link"), &target).expect("a link");
        } else {
            fs::copy(&source, &target).expect("it can be copied");
        }
    }
}

/// The recorded machine of the tests, and much more of everything.
fn make_large_host(root: &Path) {
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/busy-host");
    copy(&recorded, root);
    let (proc, sys) = (root.join("proc"), root.join("sys"));

    let stat = fs::read_to_string(proc.join("stat")).expect("stat");
    let mut lines: Vec<String> = stat.lines().filter(|line| !is_of_cpu(line, "cpu")).map(str::to_owned).collect();
    let of_cpu = |cpu: usize| format!("cpu{cpu} {} 120 33000 9000000 800 0 1200 0 0 0", 500_000 + cpu * 17);
    lines.splice(1..1, (0..CPUS).map(of_cpu));
    write(&proc.join("stat"), lines.join("\n") + "\n");
    let schedstat: String =
        (0..CPUS).map(|cpu| format!("cpu{cpu} 0 0 0 0 0 0 {} 88123456 33221\n", 10_u64.pow(12) + cpu as u64)).collect();
    write(&proc.join("schedstat"), format!("version 15\ntimestamp 4294967295\n{schedstat}"));
    let softnet: String = (0..CPUS).map(|cpu| format!("{:08x} 00000000 00000001 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 {cpu:08x} 00000000 00000000\n", 7_000_000 + cpu)).collect();
    write(&proc.join("net/softnet_stat"), softnet);
    let cpu = sys.join("devices/system/cpu");
    for number in 4..CPUS {
        copy(&cpu.join("cpu3"), &cpu.join(format!("cpu{number}")));
    }

    let dev = fs::read_to_string(proc.join("net/dev")).expect("dev");
    let eth0 = dev.lines().find(|line| line.trim_start().starts_with("eth0:")).expect("eth0").to_owned();
    let mut dev = dev.trim_end().to_owned();
    for number in 4..=INTERFACES {
        dev.push_str(&format!("\n{}", eth0.replace("eth0:", &format!("ens{number}:"))));
        copy(&sys.join("class/net/eth0"), &sys.join(format!("class/net/ens{number}")));
    }
    write(&proc.join("net/dev"), dev + "\n");
    for number in 2..PORTS {
        copy(&sys.join("class/infiniband/mlx5_0"), &sys.join(format!("class/infiniband/mlx5_{number}")));
    }
    for card in 0..CARDS {
        let at = sys.join(format!("bus/pci/devices/0000:a{card}:00.0"));
        for (name, value) in
            [("vendor", "0x10de\n"), ("device", "0x2330\n"), ("class", "0x030200\n"), ("numa_node", "0\n")]
        {
            write(&at.join(name), value);
        }
    }
    for pid in 10_000..10_000 + PROCESSES {
        let from = proc.join("977");
        let to = proc.join(pid.to_string());
        copy(&from, &to);
        let stat = fs::read_to_string(from.join("stat")).expect("stat");
        let after = stat.find(' ').expect("a number and a name");
        write(&to.join("stat"), format!("{pid}{}", &stat[after..]));
    }
}

/// `cpu17 …`, and not `cpu …`.
fn is_of_cpu(line: &str, word: &str) -> bool {
    line.strip_prefix(word).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}
