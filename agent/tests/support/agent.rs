//! The real agent as a process, for tests: on a free port, with a broker that is not there, killed at the end.
#![allow(dead_code, reason = "every test takes what it needs")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Longest wait for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Agent {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
    pub(crate) address: SocketAddr,
}

impl Agent {
    /// Starts it with its data in `folder`, and settings as `agent.key` = value.
    pub(crate) fn start(folder: &Path, settings: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nodescope-agent"));
        // Nothing listens on port 1: the broker is away.
        command
            .args(["--brokers", "127.0.0.1:1", "--metrics", "127.0.0.1:0", "--host", "tested", "--data"])
            .arg(folder);
        for (key, value) in settings {
            command.env(format!("NODESCOPE_{}", key.replace('.', "_").to_uppercase()), value);
        }
        Self::run(&mut command)
    }

    /// Starts it as this command says, and waits until it listens.
    pub(crate) fn run(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the agent starts");
        let stderr = child.stderr.take().expect("it is piped");
        let (sent, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sent.send(line).is_err() {
                    return;
                }
            }
        });
        let mut agent = Self { child, lines, said: Vec::new(), address: ([127, 0, 0, 1], 1).into() };
        let line = agent.says("the Prometheus endpoint answers");
        // Colours are off where standard error is no terminal.
        let address = line.rsplit("address=").next().and_then(|rest| rest.split_whitespace().next());
        agent.address = address.and_then(|a| a.parse().ok()).unwrap_or_else(|| panic!("no address in: {line}"));
        agent
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line with this in it.
    pub(crate) fn says(&mut self, what: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(what) => return line,
                Ok(line) => self.said.push(line),
                Err(_) => panic!("the agent never said `{what}`, but:\n{}", self.said.join("\n")),
            }
        }
    }

    /// What it exposes now.
    pub(crate) fn scrape(&self) -> String {
        scrape(self.address).unwrap_or_else(|error| panic!("{}: {error}", self.address))
    }

    /// The series exposed now, by name and labels.
    pub(crate) fn series(&self) -> BTreeMap<String, f64> {
        let text = self.scrape();
        let series = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        series.collect()
    }

    /// One series; `None` where it is not exposed.
    pub(crate) fn value(&self, series: &str) -> Option<f64> {
        self.series().get(series).copied()
    }

    /// Asks again until it is so.
    pub(crate) fn until(&self, what: &str, mut is_so: impl FnMut(&BTreeMap<String, f64>) -> bool) {
        let until = Instant::now() + PATIENCE;
        loop {
            let series = self.series();
            if is_so(&series) {
                return;
            }
            assert!(Instant::now() < until, "it never came to pass: {what}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Sends a signal, by its number.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().expect("kill is there").success());
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What is exposed at an address.
pub(crate) fn scrape(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    if !head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return Ok(body.to_owned());
    }
    let (mut whole, mut rest) = (String::new(), body);
    while let Some((size, more)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        let (Some(chunk), Some(after)) = (more.get(..size), more.get(size + 2..)) else { break };
        if size == 0 {
            break;
        }
        whole.push_str(chunk);
        rest = after;
    }
    Ok(whole)
}
