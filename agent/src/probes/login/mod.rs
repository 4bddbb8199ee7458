//! Who came in, who tried to, and who became somebody else.
//!
//! Linux has no one place that says so. Three kinds of source tell, and most of what happens is in two of them:
//!
//! - what programs log: sshd, sudo, su, login and the others say who was let in or refused, from where, by which
//!   method, with which key. The lines end up in systemd's journal, in `auth.log` (Debian), in `secure` (Red Hat), or
//!   in two of these;
//! - `wtmp`: a record for each terminal that is taken or given back. It does not know of `ssh host command`, which has
//!   none. `btmp` is the same for failures;
//! - systemd-logind, which knows the sessions there are.
//!
//! So that nothing is told twice, each kind of event is taken from one source: successes, failures and privileges from
//! the journal if a file of it can be read, else from `auth.log` or `secure`, and only where there is neither, failures
//! from `btmp`. Sessions are taken from `wtmp`; where there is none (distributions are leaving it for SQLite), from
//! systemd-logind's lines, or where that does not run, from those of `pam_unix`. The journal goes before the text because
//! its times are exact, and because it has from the kernel who logged a line: any user can write `sshd: Accepted …` to
//! the system's log, and in the text nothing tells it from a true one.
//!
//! sshd tells of one failure in several lines. `Invalid user` comes first and is held for half a minute: the line of
//! the failure itself usually follows, and takes its place. Lines of a connection's end count only when no failure of
//! that connection was told.
//!
//! Places are kept in the agent's folder, so that a restart neither repeats nor misses; without one, reading begins a
//! minute back.

mod lines;
mod sources;
mod syslog;
mod tail;
mod utmp;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

use nodescope_model::rows::Rows;
use nodescope_service::settings::Settings;
use serde::{Deserialize, Serialize};

use self::lines::{Event, IDENTIFIERS, Kind, Weight};
use self::sources::{Journals, Session};
use self::tail::{Place, Tail, whole_lines};
use self::utmp::{DEAD_PROCESS, Layout, Record, USER_PROCESS};
use crate::host_root::HostRoot;
use crate::probe::{Probe, ProbeError, Tick};
use crate::state_file::StateFile;

/// Rows of one tick.
const MAX_EVENTS: usize = 1_000;

/// What happened before the agent first started is not told, but for this.
const BACK: Duration = Duration::from_secs(60);

/// An announcement that nothing followed counts after this.
const HOLD: u64 = 30_000_000;

/// A connection is remembered for so long: sshd closes one that nobody authenticates after two minutes.
const REMEMBER: u64 = 600_000_000;

/// Connections, terminals and sessions remembered.
const MAX_REMEMBERED: usize = 4_096;

/// Text logs, the first that is there.
const LOGS: &[&str] = &["/var/log/auth.log", "/var/log/secure"];

const WTMP: &str = "/var/log/wtmp";
const BTMP: &str = "/var/log/btmp";

/// What the probe needs to know.
#[derive(Debug, Clone, Default)]
pub struct LoginOptions {
    /// Where places are kept, if anywhere.
    pub state: Option<PathBuf>,
}

impl LoginOptions {
    /// Reads the settings.
    pub fn read(_settings: &mut Settings) -> Self {
        Self::default()
    }
}

/// How far was read.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Remembered {
    /// When, microseconds since 1970.
    at: i64,
    journals: BTreeMap<String, u64>,
    files: BTreeMap<String, Place>,
}

/// Which of the programs' lines are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Journal,
    Log,
    Btmp,
}

impl Source {
    fn as_str(self) -> &'static str {
        match self {
            Self::Journal => "journal",
            Self::Log => "authlog",
            Self::Btmp => "btmp",
        }
    }
}

/// Where sessions come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SessionSource {
    Wtmp,
    Logind,
    Pam,
}

/// An event with its time and source.
#[derive(Debug, Clone)]
struct Told {
    at: i64,
    source: &'static str,
    event: Event,
}

/// Connections to sshd, so that one failure is told once.
#[derive(Debug, Default)]
struct Connections {
    /// Address and port → when a failure or success was last told.
    told: HashMap<(String, u16), i64>,
    held: VecDeque<Told>,
}

impl Connections {
    fn take(&mut self, told: Told, weight: Weight, out: &mut Vec<Told>) {
        let Some(key) = key_of(&told.event) else {
            // Without a connection there is nothing to compare: `User U from A not allowed` has no port, and is
            // followed by a line that has.
            if weight != Weight::Announcement {
                out.push(told);
            }
            return;
        };
        match weight {
            Weight::Full => {
                let held = self.release(&key);
                let mut told = told;
                if told.event.kind == Kind::Failure
                    && let Some(held) = held
                {
                    told.event.reason = held.event.reason;
                }
                self.note(key, told.at);
                out.push(told);
            }
            Weight::Announcement => {
                if self.held.len() >= MAX_REMEMBERED
                    && let Some(oldest) = self.held.pop_front()
                {
                    out.push(oldest);
                }
                self.held.push_back(told);
            }
            Weight::End => {
                let held = self.release(&key);
                if self.told.contains_key(&key) {
                    return;
                }
                let mut told = told;
                if let Some(held) = held {
                    told.event.reason = held.event.reason;
                }
                self.note(key, told.at);
                out.push(told);
            }
        }
    }

    fn note(&mut self, key: (String, u16), at: i64) {
        if self.told.len() >= MAX_REMEMBERED {
            self.told.clear();
        }
        self.told.insert(key, at);
    }

    fn release(&mut self, key: &(String, u16)) -> Option<Told> {
        // Compared in place: while passwords are being guessed, thousands wait here.
        let is_it =
            |event: &Event| event.source_port == Some(key.1) && event.source_address.as_deref() == Some(key.0.as_str());
        let at = self.held.iter().position(|held| is_it(&held.event))?;
        self.held.remove(at)
    }

    /// What nothing followed.
    fn expire(&mut self, now: i64, out: &mut Vec<Told>) {
        // What is far ahead is from before the clock was set back.
        self.told.retain(|_, at| now.abs_diff(*at) < REMEMBER);
        while self.held.front().is_some_and(|held| now.abs_diff(held.at) >= HOLD) {
            let Some(held) = self.held.pop_front() else { break };
            if let Some(key) = key_of(&held.event) {
                self.note(key, held.at);
            }
            out.push(held);
        }
    }
}

fn key_of(event: &Event) -> Option<(String, u16)> {
    Some((event.source_address.clone()?, event.source_port?))
}

/// Fills the table `login`.
pub struct LoginProbe {
    root: HostRoot,
    state: StateFile,
    last: Remembered,
    journals: Option<Journals>,
    log: Option<Tail>,
    wtmp: Option<Tail>,
    btmp: Option<Tail>,
    /// Nothing from before is told.
    since: i64,
    connections: Connections,
    /// Terminals that are taken.
    terminals: HashMap<String, Event>,
    /// Users of systemd-logind's sessions.
    session_users: HashMap<String, Event>,
    events: i64,
}

impl LoginProbe {
    /// Reads how far the agent had come when it last ran.
    pub fn new(root: &HostRoot, options: LoginOptions) -> Self {
        let state = StateFile::new(options.state, "login");
        Self {
            root: root.clone(),
            last: state.read().unwrap_or_default(),
            state,
            journals: None,
            log: None,
            wtmp: None,
            btmp: None,
            since: 0,
            connections: Connections::default(),
            terminals: HashMap::new(),
            session_users: HashMap::new(),
            events: 0,
        }
    }

    fn tail(&self, path: &str, unit: usize) -> Tail {
        Tail::new(self.root.path(path), unit, self.last.files.get(path).copied())
    }

    fn begin(&mut self, tick: &Tick) {
        let back = i64::try_from(BACK.as_micros()).unwrap_or(0);
        self.since = if self.last.at > 0 { self.last.at.min(tick.ts_micros) } else { tick.ts_micros - back };
        self.journals = Some(Journals::new(&self.root, self.last.journals.clone(), self.since));
        self.wtmp = Some(self.tail(WTMP, Layout::HERE.size()));
        // Who is logged in already: their records of leaving name nobody.
        if let Ok(bytes) = std::fs::read(self.root.path("/run/utmp")) {
            for record in utmp::parse_all(&bytes, Layout::HERE).take(MAX_REMEMBERED) {
                if record.kind == USER_PROCESS {
                    self.terminals.insert(record.line.clone(), of_record(&record, Kind::SessionOpened));
                }
            }
        }
        for session in sources::sessions(&self.root).into_iter().filter(Session::is_of_people) {
            let event = of_session(&session);
            remember(&mut self.session_users, session.id, event);
        }
    }

    /// Lines of programs, from the first source that can be read. Passed over comes back.
    fn read_lines(&mut self, now: i64, sessions: SessionSource, out: &mut Vec<Told>) -> Result<u64, ProbeError> {
        let mut lines: Vec<(Told, Weight)> = Vec::new();
        let mut skipped = 0;
        let journals = self.journals.as_mut().and_then(|journals| {
            journals.scan();
            journals.are_there().then_some(journals)
        });
        let mut take = |source: Source, at: i64, identifier: &str, pid: Option<i64>, text: &str| {
            if let Some((mut event, weight)) = lines::parse(identifier, text) {
                event.pid = pid;
                lines.push((Told { at, source: source.as_str(), event }, weight));
            }
        };
        if let Some(journals) = journals {
            skipped += journals.read(MAX_EVENTS, |identifier, message| {
                if !is_genuine(identifier, message.uid, message.program.as_deref()) {
                    return;
                }
                take(Source::Journal, i64::try_from(message.at).unwrap_or(0), identifier, message.pid, &message.text);
            });
        } else if let Some(log) = LOGS.iter().find(|log| self.root.path(log).exists()) {
            if self.log.is_none() {
                self.log = Some(self.tail(log, 1));
            }
            let since = self.since;
            if let Some(tail) = &mut self.log {
                skipped += tail
                    .read(whole_lines, |bytes| {
                        for line in bytes.split(|b| *b == b'\n') {
                            let line = String::from_utf8_lossy(line);
                            let Some(line) = syslog::parse(&line, now, syslog::local) else { continue };
                            if let Some(at) = line.at.filter(|at| *at >= since)
                                && IDENTIFIERS.contains(&line.identifier)
                            {
                                take(Source::Log, at, line.identifier, line.pid, line.text);
                            }
                        }
                    })
                    .map_err(|source| ProbeError::Read { path: (*log).to_owned(), source })?
                    // In lines of usual length.
                    .div_ceil(100);
            }
        } else {
            return self.read_btmp(out);
        }
        lines.sort_by_key(|(told, _)| told.at);
        for (told, weight) in lines {
            match told.event.kind {
                Kind::SessionOpened | Kind::SessionClosed => self.session_line(told, sessions, out),
                _ => self.connections.take(told, weight, out),
            }
        }
        self.connections.expire(now, out);
        Ok(skipped)
    }

    fn session_line(&mut self, mut told: Told, sessions: SessionSource, out: &mut Vec<Told>) {
        match (sessions, told.event.service.is_none()) {
            (SessionSource::Logind, true) => {
                let Some(id) = told.event.session.clone() else { return };
                if told.event.kind == Kind::SessionOpened {
                    let known = sources::sessions(&self.root).into_iter().find(|session| session.id == id);
                    if let Some(session) = known {
                        if !session.is_of_people() {
                            return;
                        }
                        let user = told.event.user.take();
                        told.event = of_session(&session);
                        told.event.user = user.or(told.event.user);
                    }
                    remember(&mut self.session_users, id, told.event.clone());
                } else {
                    // A session that was not told to begin is none of people.
                    let Some(opened) = self.session_users.remove(&id) else { return };
                    told.event = Event { kind: Kind::SessionClosed, ..opened };
                }
                out.push(told);
            }
            // Of sudo and su, the change of user is told already.
            (SessionSource::Pam, false)
                if !matches!(told.event.service.as_deref(), Some("sudo" | "su" | "su-l" | "sudo-i")) =>
            {
                out.push(told);
            }
            _ => {}
        }
    }

    fn read_btmp(&mut self, out: &mut Vec<Told>) -> Result<u64, ProbeError> {
        if self.btmp.is_none() {
            self.btmp = Some(self.tail(BTMP, Layout::HERE.size()));
        }
        let since = self.since;
        let Some(tail) = &mut self.btmp else { return Ok(0) };
        let size = Layout::HERE.size();
        tail.read(
            |bytes| bytes.len() / size * size,
            |bytes| {
                for record in utmp::parse_all(bytes, Layout::HERE).filter(|record| record.at >= since) {
                    let mut event = of_record(&record, Kind::Failure);
                    // Whether there is such a user is not in the record.
                    event.user = None;
                    event.set_unknown_user(&record.user);
                    if record.line.starts_with("ssh:") {
                        event.service = Some("sshd".to_owned());
                        event.tty = None;
                    }
                    out.push(Told { at: record.at, source: Source::Btmp.as_str(), event });
                }
            },
        )
        .map(|bytes| bytes / size as u64)
        .map_err(|source| ProbeError::Read { path: BTMP.to_owned(), source })
    }

    /// Terminals taken and given back. Says whether there is such a file.
    fn read_wtmp(&mut self, out: &mut Vec<Told>) -> bool {
        let since = self.since;
        let size = Layout::HERE.size();
        let mut records = Vec::new();
        let Some(tail) = &mut self.wtmp else { return false };
        let whole = |bytes: &[u8]| bytes.len() / size * size;
        if tail.read(whole, |bytes| records.extend(utmp::parse_all(bytes, Layout::HERE))).is_err() {
            return false;
        }
        records.retain(|record| record.at >= since && matches!(record.kind, USER_PROCESS | DEAD_PROCESS));
        let sessions = if records.is_empty() { Vec::new() } else { sources::sessions(&self.root) };
        for record in records {
            let event = if record.kind == USER_PROCESS {
                let mut event = of_record(&record, Kind::SessionOpened);
                if let Some(session) = sessions.iter().find(|session| session.leader == event.pid) {
                    event.session = Some(session.id.clone());
                    event.service.clone_from(&session.service);
                }
                remember(&mut self.terminals, record.line, event.clone());
                event
            } else {
                // getty and boot leave records of terminals that nobody had.
                let Some(opened) = self.terminals.remove(&record.line) else { continue };
                Event { kind: Kind::SessionClosed, ..opened }
            };
            out.push(Told { at: record.at, source: "wtmp", event });
        }
        true
    }

    fn put(&mut self, rows: &mut Rows, told: &Told) {
        self.events += 1;
        let event = &told.event;
        rows.begin()
            .int("event", self.events)
            .timestamp("at", told.at)
            .text("kind", event.kind.as_str())
            .text("service", event.service.as_deref())
            .text("user", event.user.as_deref())
            .bool("user_withheld", event.user_withheld)
            .text("target_user", event.target_user.as_deref())
            .text("method", event.method.as_deref())
            .text("key_type", event.key_type.as_deref())
            .text("key_fingerprint", event.key_fingerprint.as_deref())
            .text("source_address", event.source_address.as_deref())
            .int("source_port", event.source_port.map(i64::from))
            .text("tty", event.tty.as_deref())
            .text("session", event.session.as_deref())
            .int("pid", event.pid)
            .text("reason", event.reason)
            .text("source", told.source);
    }

    fn remember(&mut self, tick: &Tick) {
        let mut files = BTreeMap::new();
        let log = LOGS.iter().copied().find(|log| self.root.path(log).exists());
        for (path, tail) in [(log, &self.log), (Some(WTMP), &self.wtmp), (Some(BTMP), &self.btmp)] {
            if let (Some(path), Some(place)) = (path, tail.as_ref().and_then(Tail::place)) {
                files.insert(path.to_owned(), place);
            }
        }
        let journals = self.journals.as_ref().map(Journals::places).unwrap_or_default();
        let now = Remembered { at: tick.ts_micros, journals, files };
        // The time alone is worth a write once a minute.
        let moved = now.journals != self.last.journals || now.files != self.last.files;
        if moved || now.at - self.last.at >= 60_000_000 {
            self.state.write(&now);
            self.last = now;
        }
    }
}

/// Whether a line comes from the program that its identifier names. They run as root, but for sudo and su, which the
/// user starts: of these, it is where their program lies that only root can choose.
fn is_genuine(identifier: &str, uid: Option<i64>, program: Option<&str>) -> bool {
    match identifier {
        _ if uid == Some(0) => true,
        "sudo" | "su" | "su-l" => program.is_none_or(|program| {
            ["/usr/", "/bin/", "/sbin/", "/run/wrappers/", "/nix/store/"]
                .iter()
                .any(|folder| program.starts_with(folder))
        }),
        _ => uid.is_none(),
    }
}

fn remember(map: &mut HashMap<String, Event>, key: String, event: Event) {
    if map.len() >= MAX_REMEMBERED {
        map.clear();
    }
    map.insert(key, event);
}

fn of_record(record: &Record, kind: Kind) -> Event {
    let mut event = Event::new(kind, None);
    event.user = (!record.user.is_empty()).then(|| record.user.clone());
    event.tty = (!record.line.is_empty()).then(|| record.line.clone());
    event.pid = (record.pid > 0).then_some(record.pid);
    let host = record.host.parse().ok().or(record.address);
    event.source_address = host.map(|ip: std::net::IpAddr| ip.to_string());
    event
}

fn of_session(session: &Session) -> Event {
    let mut event = Event::new(Kind::SessionOpened, session.service.as_deref());
    event.user.clone_from(&session.user);
    event.tty.clone_from(&session.tty);
    event.pid = session.leader;
    event.session = Some(session.id.clone());
    event.source_address =
        session.host.as_deref().and_then(|host| host.parse::<std::net::IpAddr>().ok()).map(|ip| ip.to_string());
    event
}

impl Probe for LoginProbe {
    fn table(&self) -> &'static str {
        "login"
    }

    fn sample(&mut self, tick: &Tick, rows: &mut Rows) -> Result<(), ProbeError> {
        if self.journals.is_none() {
            self.begin(tick);
        }
        // A clock that was ahead when the agent started, as that of a host whose hardware keeps local time, and was set
        // right since: what happens now is not from before the agent.
        if tick.ts_micros < self.since {
            self.since = tick.ts_micros.saturating_sub(i64::try_from(BACK.as_micros()).unwrap_or(0));
            if let Some(journals) = &mut self.journals {
                journals.begin_since(self.since);
            }
        }
        let mut told = Vec::new();
        let has_wtmp = self.read_wtmp(&mut told);
        let sessions = if has_wtmp {
            SessionSource::Wtmp
        } else if self.root.path("/run/systemd/sessions").is_dir() {
            SessionSource::Logind
        } else {
            SessionSource::Pam
        };
        let lines = self.read_lines(tick.ts_micros, sessions, &mut told);
        told.sort_by_key(|told| told.at);
        let mut left_out = *lines.as_ref().unwrap_or(&0);
        left_out += told.len().saturating_sub(MAX_EVENTS) as u64;
        for told in told.iter().take(MAX_EVENTS) {
            self.put(rows, told);
        }
        if left_out > 0 {
            self.events += 1;
            rows.begin()
                .int("event", self.events)
                .timestamp("at", tick.ts_micros)
                .text("kind", "overflow")
                .count("count", left_out);
        }
        self.remember(tick);
        match lines {
            Ok(_) => Ok(()),
            Err(_) if has_wtmp => {
                // Sessions alone are worth the tick, but that there is no more must be said.
                Err(ProbeError::Absent(
                    "sessions only: neither a journal file, /var/log/auth.log, /var/log/secure nor /var/log/btmp can be \
                     read; let the agent be of the groups systemd-journal and adm, or root"
                        .to_owned(),
                ))
            }
            Err(_) => Err(ProbeError::Absent(
                "neither a journal file, /var/log/auth.log, /var/log/secure, wtmp nor btmp can be read; let the agent \
                 be of the groups systemd-journal and adm, or root"
                    .to_owned(),
            )),
        }
    }
}

#[cfg(test)]
mod tests;
