//! Watching a worker: one vendor's library must not stop the agent.
//!
//! At each tick the worker is asked, and waited for until a deadline. A worker that has not answered by then is
//! *stalled*: that is an event at this very tick, and nobody waits for it again until its answer comes, when it has
//! *resumed*. It is not killed: a process that is killed inside a driver's call can take the card with it. Only where
//! `agent.accelerator_kill_after` says so is a worker killed that has been stalled for so long.
//!
//! A worker that ends has *crashed*; another is started after a pause that doubles, from one second to a minute.
//! The first answer may take long (a driver that wakes eight cards), so its deadline is another.

use std::ffi::OsString;
use std::io::{self, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use nodescope_model::record::Decoder;

use super::frame::{self, Frame, Outcome};
use super::readings::{Event, TABLES};
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

/// Answers that fit between the worker and us. It is asked for one at a time.
const FRAMES: usize = 64;

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
    starts: u64,
    next_start: Instant,
    pause: Duration,
    decoder: Decoder,
}

struct Running {
    child: Child,
    input: Option<ChildStdin>,
    frames: Receiver<io::Result<Frame>>,
    /// When it was asked what it has not answered yet.
    asked: Option<Instant>,
    told_stall: bool,
    has_answered: bool,
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
            starts: 0,
            next_start: Instant::now(),
            pause: PAUSES.0,
            decoder: Decoder::default(),
        }
    }

    /// Whose.
    pub(crate) fn vendor(&self) -> VendorId {
        self.vendor
    }

    /// Asks for a tick, unless the one before is still unanswered. Starts a worker if there is none.
    pub(crate) fn ask(&mut self, tick: &Tick, heard: &mut Heard) {
        if self.running.is_none() && Instant::now() >= self.next_start {
            self.start(tick, heard);
        }
        let Some(running) = &mut self.running else { return };
        if running.asked.is_some() {
            return;
        }
        let tick = Tick { first: !running.has_answered, ..*tick };
        running.asked = Some(Instant::now());
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
                Ok(Ok(Frame::Rows(table, bytes))) => match rows(&mut self.decoder, table, bytes) {
                    Some(decoded) => heard.rows.push(decoded),
                    None => return self.ended(tick, "its worker sent rows that are none", heard),
                },
                Ok(Ok(Frame::Done(outcome))) => {
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
        std::thread::Builder::new().name(format!("hear-{}", self.vendor.as_str())).spawn(move || {
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
        })?;
        Ok(Running { child, input, frames, asked: None, told_stall: false, has_answered: false })
    }

    /// The worker has ended, or talks nonsense and must.
    fn ended(&mut self, tick: &Tick, how: &str, heard: &mut Heard) {
        let Some(mut running) = self.running.take() else { return };
        let status = match running.child.try_wait() {
            Ok(Some(status)) => status.to_string(),
            _ => {
                let _ = running.child.kill();
                running.child.wait().map_or_else(|e| e.to_string(), |status| status.to_string())
            }
        };
        let mut event = self.event(tick, "crashed", format!("{how}: {status}"));
        event.pid = Some(i64::from(running.child.id()));
        heard.outcome = Some(Outcome::Failed(event.message.clone()));
        heard.events.push(event);
        self.pause_before_next();
    }

    fn pause_before_next(&mut self) {
        self.next_start = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(PAUSES.1);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(mut running) = self.running.take() {
            // Its input ends, and so does it, unless its library hangs.
            drop(running.input.take());
            let until = Instant::now() + Duration::from_millis(500);
            while matches!(running.child.try_wait(), Ok(None)) && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

fn rows(decoder: &mut Decoder, table: u8, bytes: Vec<u8>) -> Option<(usize, RecordBatch)> {
    let table = usize::from(table);
    if table >= TABLES.len() {
        return None;
    }
    let [batch]: [RecordBatch; 1] = decoder.decode(&bytes.into()).ok()?.try_into().ok()?;
    Some((table, batch))
}
