//! Watching a worker: one vendor's library must not stop the agent.
//!
//! At each tick the worker is asked, and waited for until a deadline. A worker that has not answered by then is
//! *stalled*: that is an event at this very tick, and nobody waits for it again until its answer comes, when it has
//! *resumed*. It is not killed: a process that is killed inside a driver's call can take the card with it. Only where
//! `agent.accelerator_kill_after` says so is a worker killed that has been stalled for so long.
//!
//! A worker that ends has *crashed*, unless it ended well because its library had been replaced; another is started
//! after a pause that doubles, from one second to a minute, and not before the last one has really gone: one that is
//! caught in a driver cannot be waited for, and another would be caught beside it.
//! The first answer may take long (a driver that wakes eight cards), so its deadline is another.
//!
//! An answer that comes very late is of another time. Its events are told, its rows are not.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use nodescope_model::catalogue::{Catalogue, Table};
use nodescope_model::record::Decoder;
use parking_lot::Mutex;

use super::frame::{self, Frame, Outcome};
use super::readings::{EVENTS, Event, TABLES};
use super::vendors::VendorId;
use crate::host_root::HostRoot;
use crate::probe::Tick;

/// How a worker is started: program and first arguments; the vendor follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerCommand {
    /// The program: this one.
    pub program: PathBuf,
    /// What makes it a worker.
    pub arguments: Vec<OsString>,
}

impl WorkerCommand {
    /// The program that runs now, as a worker. `before` are the words its own command line needs first.
    ///
    /// # Errors
    /// When the system does not tell which program runs.
    pub fn of_this_program(before: &[&str]) -> io::Result<Self> {
        let arguments = before.iter().chain(&["accelerator-worker"]).map(OsString::from).collect();
        Ok(Self { program: std::env::current_exe()?, arguments })
    }
}

/// Times that a watch keeps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// For an answer.
    pub(crate) answer: Duration,
    /// For the first answer.
    pub(crate) first: Duration,
    /// A worker stalled for longer is killed; never without it.
    pub(crate) kill_after: Option<Duration>,
}

/// The first pause before a worker is started again, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Frames that fit between the worker and us: one answer.
const FRAMES: usize = TABLES.len() + 1;

/// Rows of an answer that took longer are of another time.
const STALE: Duration = Duration::from_secs(10);

/// A worker whose output has ended gets so long to end itself, to say how: its library may have something to put away.
const END: Duration = Duration::from_millis(500);

/// What a watch has to say after a tick.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// Rows, with the number of their table.
    pub(crate) rows: Vec<(usize, RecordBatch)>,
    /// What has happened to the worker.
    pub(crate) events: Vec<Event>,
    /// How the newest tick went; `None` while there is no answer.
    pub(crate) outcome: Option<Outcome>,
    /// How long the worker has been stalled.
    pub(crate) stalled: Option<Duration>,
}

/// One vendor's worker.
pub(crate) struct Watch {
    vendor: VendorId,
    command: WorkerCommand,
    root: HostRoot,
    library: Option<PathBuf>,
    patience: Patience,
    running: Option<Running>,
    /// One that should end, and has not yet.
    leaving: Option<Child>,
    starts: u64,
    next_start: Instant,
    pause: Duration,
    decoder: Decoder,
    tables: Vec<Arc<Table>>,
}

struct Running {
    child: Child,
    _listed: Listed,
    input: Option<ChildStdin>,
    frames: Receiver<io::Result<Frame>>,
    /// When it was asked what it has not answered yet.
    asked: Option<Instant>,
    /// The beginning of an answer that is not complete.
    early: Vec<(usize, RecordBatch)>,
    told_stall: bool,
    has_answered: bool,
}

/// Process numbers of the workers there are now: what they cost is the agent's cost.
static WORKERS: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// Process numbers of the workers there are now.
pub(crate) fn workers() -> Vec<u32> {
    WORKERS.lock().iter().copied().collect()
}

/// Workers that nobody watches over any more and that had not ended then: they are waited for, so that they do not stay
/// as zombies, and no other is started beside them.
static LEFT: Mutex<Vec<(Key, Child)>> = Mutex::new(Vec::new());

/// What a worker is for.
type Key = (VendorId, WorkerCommand, Option<PathBuf>);

/// A worker's place in that list.
struct Listed(u32);

impl Listed {
    fn new(pid: u32) -> Self {
        WORKERS.lock().insert(pid);
        Self(pid)
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        WORKERS.lock().remove(&self.0);
    }
}

impl Watch {
    pub(crate) fn new(
        vendor: VendorId,
        command: WorkerCommand,
        root: HostRoot,
        library: Option<PathBuf>,
        patience: Patience,
    ) -> Self {
        Self {
            vendor,
            command,
            root,
            library,
            patience,
            running: None,
            leaving: None,
            starts: 0,
            next_start: Instant::now(),
            pause: PAUSES.0,
            decoder: Decoder::default(),
            tables: tables(),
        }
    }

    /// Whose.
    pub(crate) fn vendor(&self) -> VendorId {
        self.vendor
    }

    fn key(&self) -> Key {
        (self.vendor, self.command.clone(), self.library.clone())
    }

    /// A worker like ours that is left from before. Those that have ended are none any more.
    fn left(&self) -> Option<u32> {
        let mut left = LEFT.lock();
        left.retain_mut(|(_, child)| matches!(child.try_wait(), Ok(None)));
        let is_ours = |(vendor, command, library): &Key| {
            (*vendor, command, library) == (self.vendor, &self.command, &self.library)
        };
        left.iter().find(|(key, _)| is_ours(key)).map(|(_, child)| child.id())
    }

    /// Asks for a tick, unless the one before is still unanswered. Starts a worker if there is none.
    pub(crate) fn ask(&mut self, tick: &Tick, now: Instant, heard: &mut Heard) {
        if self.leaving.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None))) {
            self.leaving = None;
        }
        let left = self.left();
        if self.running.is_none() && now >= self.next_start {
            match self.leaving.as_ref().map(Child::id).or(left) {
                None => self.start(tick, heard),
                Some(pid) => {
                    let message = format!("the worker before, process {pid}, does not end");
                    heard.outcome = Some(Outcome::Failed(message));
                }
            }
        }
        let Some(running) = &mut self.running else { return };
        if running.asked.is_some() {
            return;
        }
        let tick = Tick { first: !running.has_answered, ..*tick };
        running.asked = Some(now);
        // One that has ended is noticed when its output ends, which says more.
        if let Some(input) = &mut running.input
            && input.write_all(frame::request(&tick).as_bytes()).is_err()
        {
            running.input = None;
        }
    }

    /// Takes the answer, waiting until `deadline` at the most.
    pub(crate) fn hear(&mut self, tick: &Tick, deadline: Instant, heard: &mut Heard) {
        let Some(running) = &mut self.running else { return };
        let Some(asked) = running.asked else { return };
        let patience = if running.has_answered { self.patience.answer } else { self.patience.first };
        // A stalled worker is looked at, not waited for.
        let until = if running.told_stall { Instant::now() } else { deadline };
        loop {
            match running.frames.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Ok(Frame::Rows(..))) if heard.rows.len() >= TABLES.len() => {
                    return self.ended(tick, "its worker sent more than an answer", heard);
                }
                Ok(Ok(Frame::Rows(table, bytes))) => match rows(&self.tables, &mut self.decoder, table, bytes) {
                    Some(decoded) => heard.rows.push(decoded),
                    None => return self.ended(tick, "its worker sent rows that are none", heard),
                },
                Ok(Ok(Frame::Done(outcome))) => {
                    heard.rows.append(&mut running.early);
                    if asked.elapsed() > STALE {
                        heard.rows.retain(|(table, _)| *table == EVENTS);
                    }
                    heard.outcome = Some(outcome);
                    running.asked = None;
                    running.has_answered = true;
                    self.pause = PAUSES.0;
                    if std::mem::take(&mut running.told_stall) {
                        let message = format!("the library answers again, after {} s", asked.elapsed().as_secs());
                        heard.events.push(self.event(tick, "resumed", message));
                    }
                    return;
                }
                Ok(Err(error)) => {
                    return self.ended(tick, &format!("its worker sent what is no answer: {error}"), heard);
                }
                Err(RecvTimeoutError::Disconnected) => return self.ended(tick, "its worker has ended", heard),
                Err(RecvTimeoutError::Timeout) => break,
            }
        }
        // What has come of an answer waits for its end.
        running.early.append(&mut heard.rows);
        if running.early.len() > TABLES.len() {
            return self.ended(tick, "its worker sent more than an answer", heard);
        }
        let waited = asked.elapsed();
        if waited >= patience {
            heard.stalled = Some(waited);
            if !std::mem::replace(&mut running.told_stall, true) {
                heard.events.push(self.event(tick, "stalled", "the library does not answer".to_owned()));
            }
            if self.patience.kill_after.is_some_and(|after| waited >= after)
                && let Some(running) = &mut self.running
            {
                // What it says of its end comes when it has ended, which inside a driver may be never.
                let _ = running.child.kill();
            }
        }
    }

    fn event(&self, tick: &Tick, kind: &'static str, message: String) -> Event {
        Event {
            at_micros: tick.ts_micros,
            device: None,
            pci_bdf: None,
            kind,
            source: "agent",
            code: None,
            message,
            pid: self.running.as_ref().map(|running| i64::from(running.child.id())),
        }
    }

    fn start(&mut self, tick: &Tick, heard: &mut Heard) {
        match self.spawn() {
            Ok(running) => {
                self.starts += 1;
                self.running = Some(running);
                if self.starts > 1 {
                    heard.events.push(self.event(tick, "started", "another worker was started".to_owned()));
                }
            }
            Err(error) => {
                heard.outcome = Some(Outcome::Failed(format!("the worker cannot be started: {error}")));
                self.pause_before_next();
            }
        }
    }

    fn spawn(&self) -> io::Result<Running> {
        let mut command = Command::new(&self.command.program);
        command.args(&self.command.arguments).arg("--vendor").arg(self.vendor.as_str());
        command.arg("--root").arg(self.root.path("/"));
        if let Some(library) = &self.library {
            command.arg("--library").arg(library);
        }
        // Settings may hold passwords, and a library is no place for them.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("NODESCOPE_") {
                command.env_remove(name);
            }
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (sent, frames) = sync_channel(FRAMES);
        let Some(output) = output else { return Err(io::Error::other("it has no output")) };
        let hearing = std::thread::Builder::new().name(format!("hear-{}", self.vendor.as_str())).spawn(move || {
            let mut output = BufReader::new(output);
            loop {
                let frame = match Frame::read(&mut output) {
                    Ok(Some(frame)) => Ok(frame),
                    Ok(None) => return,
                    Err(error) => Err(error),
                };
                let over = frame.is_err();
                if sent.send(frame).is_err() || over {
                    return;
                }
            }
        });
        if let Err(error) = hearing {
            // It has been told nothing, so it is in no driver.
            let _ = child.kill();
            LEFT.lock().push((self.key(), child));
            return Err(error);
        }
        let listed = Listed::new(child.id());
        Ok(Running {
            child,
            _listed: listed,
            input,
            frames,
            asked: None,
            early: Vec::new(),
            told_stall: false,
            has_answered: false,
        })
    }

    /// The worker has ended, or talks nonsense and must.
    fn ended(&mut self, tick: &Tick, how: &str, heard: &mut Heard) {
        let Some(mut running) = self.running.take() else { return };
        heard.rows.clear();
        drop(running.input.take());
        let pid = running.child.id();
        let until = Instant::now() + END;
        let status = loop {
            match running.child.try_wait() {
                Ok(Some(status)) => break Some(status),
                Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(1)),
                _ => break None,
            }
        };
        self.pause_before_next();
        if status.is_some_and(|status| status.success()) {
            // It ended itself, to have its library opened anew.
            heard.outcome = Some(Outcome::Failed("the library was replaced and is opened anew".to_owned()));
            return;
        }
        let how = match status {
            Some(status) => format!("{how}: {status}"),
            None => {
                let _ = running.child.kill();
                self.leaving = Some(running.child);
                how.to_owned()
            }
        };
        let mut event = self.event(tick, "crashed", how);
        event.pid = Some(i64::from(pid));
        heard.outcome = Some(Outcome::Failed(event.message.clone()));
        heard.events.push(event);
    }

    fn pause_before_next(&mut self) {
        self.next_start = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(PAUSES.1);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut left = self.leaving.take();
        if let Some(mut running) = self.running.take() {
            // Its input ends, and so does it, unless its library hangs.
            drop(running.input.take());
            let until = Instant::now() + Duration::from_millis(500);
            while matches!(running.child.try_wait(), Ok(None)) {
                if Instant::now() >= until {
                    left = Some(running.child);
                    break;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        if let Some(child) = left {
            LEFT.lock().push((self.key(), child));
        }
    }
}

/// Our tables, in their order.
fn tables() -> Vec<Arc<Table>> {
    let catalogue = Catalogue::built_in();
    TABLES.iter().filter_map(|name| catalogue.get(name)).cloned().collect()
}

/// A batch of one of our tables, with that table's columns and no others.
fn rows(tables: &[Arc<Table>], decoder: &mut Decoder, table: u8, bytes: Vec<u8>) -> Option<(usize, RecordBatch)> {
    let table = usize::from(table);
    let schema = tables.get(table)?.schema();
    let [batch]: [RecordBatch; 1] = decoder.decode(&bytes.into()).ok()?.try_into().ok()?;
    (batch.schema_ref() == schema).then_some((table, batch))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A worker that is a script of the shell, and has so long to answer.
    fn patient(script: &str, answer: Duration) -> Watch {
        let command = WorkerCommand { program: "/bin/sh".into(), arguments: vec!["-c".into(), script.into()] };
        let patience = Patience { answer, first: answer, kill_after: Some(answer * 3) };
        Watch::new(VendorId::Metax, command, HostRoot::new("/"), None, patience)
    }

    /// One whose end comes sooner than any machine is slow.
    fn watch(script: &str) -> Watch {
        patient(script, Duration::from_secs(20))
    }

    fn tick(watch: &mut Watch) -> Heard {
        let (tick, now) = (Tick { ts_micros: 1_000_000, first: false }, Instant::now());
        let mut heard = Heard::default();
        watch.ask(&tick, now, &mut heard);
        watch.hear(&tick, now + watch.patience.answer, &mut heard);
        heard
    }

    #[test]
    fn a_worker_that_was_left_is_waited_for_and_none_is_started_beside_it() {
        // It reads nothing, so it does not see that its input ends.
        let script = "exec sleep 60 # left";
        let mut first = patient(script, Duration::from_millis(50));
        assert_eq!(kinds(&tick(&mut first)), ["stalled"]);
        let pid = first.running.as_ref().unwrap().child.id();
        drop(first);
        let mut second = patient(script, Duration::from_millis(50));
        let heard = tick(&mut second);
        assert!(matches!(&heard.outcome, Some(Outcome::Failed(why)) if why.contains(&format!("process {pid},"))));
        assert!(second.running.is_none());
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        while second.running.is_none() {
            assert!(Instant::now() < until, "the one before is never seen to have ended");
            tick(&mut second);
        }
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "no zombie is left");
        let _ = second.running.as_mut().unwrap().child.kill();
    }

    fn kinds(heard: &Heard) -> Vec<&'static str> {
        heard.events.iter().map(|event| event.kind).collect()
    }

    #[test]
    fn a_worker_that_ends_has_crashed_and_another_comes_after_a_pause() {
        let mut watch = watch("read line; exit 3");
        let heard = tick(&mut watch);
        assert_eq!(kinds(&heard), ["crashed"]);
        assert!(heard.events[0].message.contains("exit status: 3"), "{}", heard.events[0].message);
        assert!(kinds(&tick(&mut watch)).is_empty(), "not at once");
        watch.next_start = Instant::now();
        assert_eq!(kinds(&tick(&mut watch)), ["started", "crashed"]);
        assert!(watch.pause > PAUSES.0);
    }

    #[test]
    fn a_worker_that_ends_well_was_asked_to() {
        let mut watch = watch("read line; exit 0");
        let heard = tick(&mut watch);
        assert!(kinds(&heard).is_empty());
        assert!(matches!(heard.outcome, Some(Outcome::Failed(_))));
    }

    #[test]
    fn what_is_no_answer_ends_the_worker() {
        // A frame of no kind; rows that are none; rows without end.
        for script in [
            r"printf '\011\000\000\000\000'; sleep 5",
            r"printf '\000\003\000\000\000\001xy'; sleep 5",
            r"while :; do printf '\000\001\000\000\000\007' || exit; done",
        ] {
            let mut watch = watch(script);
            assert_eq!(kinds(&tick(&mut watch)), ["crashed"], "{script}");
        }
    }

    #[test]
    fn a_worker_that_does_not_answer_is_killed_only_after_that_time() {
        let mut watch = patient("exec sleep 30", Duration::from_millis(100));
        let heard = tick(&mut watch);
        assert_eq!(kinds(&heard), ["stalled"]);
        assert!(heard.stalled.is_some());
        assert!(kinds(&tick(&mut watch)).is_empty(), "told once");
        std::thread::sleep(Duration::from_millis(250));
        let mut events = kinds(&tick(&mut watch));
        for _ in 0..50 {
            std::thread::sleep(Duration::from_millis(20));
            events.extend(kinds(&tick(&mut watch)));
        }
        assert_eq!(events.first(), Some(&"crashed"), "{events:?}");
    }
}
