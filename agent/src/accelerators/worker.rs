//! The worker: a process of its own in which one vendor's library runs.
//!
//! It reads ticks from standard input and answers each on standard output (see `frame`). Between ticks it takes looks at
//! what moves quickly. It ends when its input ends, so it never outlives the agent, and it writes nothing else: no files,
//! no sockets. What a library prints goes to standard error, so that it cannot get between the answers. A library that hangs hangs here, one that crashes takes this process with it, and the agent goes on.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use nodescope_model::catalogue::Catalogue;
use nodescope_model::record::encode;
use nodescope_model::rows::Stamp;

use super::frame::{Frame, Outcome, parse_request};
use super::readings::{Event, Readings, TABLES};
use super::vendors::{self, Vendor, VendorId, VendorOptions};
use super::window::Window;
use crate::host_root::HostRoot;
use crate::probe::{ProbeError, Tick};

/// Pause between two looks inside a tick.
const LOOK_EVERY: Duration = Duration::from_millis(240);

/// Command line of the worker.
#[derive(Debug, Clone, clap::Args)]
pub struct WorkerArgs {
    /// Whose accelerators.
    #[arg(long)]
    pub vendor: VendorId,
    /// The library to use instead of looking for one.
    #[arg(long)]
    pub library: Option<PathBuf>,
    /// Where the host's file system is.
    #[arg(long, default_value = "/")]
    pub root: PathBuf,
}

/// Answers ticks until the input ends.
///
/// # Errors
/// When the agent cannot be written to any more.
pub fn main(args: &WorkerArgs) -> io::Result<()> {
    // A vendor's library gets no more than its reader needs. Drawing processes of other users are seen with this one.
    if let Err(error) = crate::abi::capabilities::keep_least(args.vendor == VendorId::Amd) {
        let _ = writeln!(io::stderr(), "the worker keeps the agent's capabilities: {error}");
    }
    let root = HostRoot::new(&args.root);
    let options = VendorOptions { root: root.clone(), library: args.library.clone() };
    let mut serving = Serving {
        vendor: vendors::reader(args.vendor, options),
        readings: Readings::new(&Catalogue::built_in(), args.vendor, root),
        window: Window::default(),
        devices: None,
    };
    // One request is in the hand at a time: the agent asks again only after the answer.
    let (told, ticks) = sync_channel(1);
    std::thread::Builder::new().name("requests".into()).spawn(move || {
        let mut input = BufReader::new(io::stdin());
        let mut line = String::new();
        while input.read_line(&mut line).is_ok_and(|length| length > 0) {
            let Some(tick) = parse_request(&line) else { break };
            if told.send(tick).is_err() {
                break;
            }
            line.clear();
        }
    })?;
    let mut out = take_output()?;
    let mut look = Instant::now() + LOOK_EVERY;
    loop {
        match ticks.recv_timeout(look.saturating_duration_since(Instant::now())) {
            Ok(tick) => {
                serving.answer(&tick, &mut out)?;
                if serving.vendor.is_outdated() {
                    return Ok(());
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                serving.vendor.glance(&mut serving.window);
                look = Instant::now() + LOOK_EVERY;
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

/// Standard output, for us alone: whatever else writes there writes to standard error.
fn take_output() -> io::Result<BufWriter<File>> {
    let ours = io::stdout().as_fd().try_clone_to_owned()?;
    rustix::stdio::dup2_stdout(rustix::stdio::stderr())?;
    Ok(BufWriter::new(File::from(ours)))
}

/// Where a device is, to be told when it has gone.
type Devices = BTreeMap<String, Option<String>>;

struct Serving {
    vendor: Box<dyn Vendor>,
    readings: Readings,
    window: Window,
    /// Those of the tick before; `None` before the first answer.
    devices: Option<Devices>,
}

impl Serving {
    fn answer(&mut self, tick: &Tick, out: &mut dyn Write) -> io::Result<()> {
        let result = self.vendor.sample(tick, &mut self.window, &mut self.readings);
        self.window.end_of_tick();
        let stamp = Stamp { ts_micros: tick.ts_micros, node: "", host: "" };
        let [accelerator, process, _] = self.readings.tables();
        let mut batches = vec![accelerator.finish(&stamp), process.finish(&stamp)];
        // A library that does not answer does not say that its devices are gone.
        if !matches!(result, Err(ProbeError::Driver { .. })) {
            self.compare(tick, devices(&batches[0]));
        }
        let [_, _, event] = self.readings.tables();
        batches.push(event.finish(&stamp));
        for (number, batch) in batches.iter().enumerate().take(TABLES.len()) {
            if batch.num_rows() > 0 {
                let rows = encode(batch).map_err(io::Error::other)?;
                Frame::Rows(u8::try_from(number).map_err(io::Error::other)?, rows).write(out)?;
            }
        }
        Frame::Done(Outcome::of(&result)).write(out)?;
        out.flush()
    }

    /// Devices and partitions that have appeared or gone since the tick before are events.
    fn compare(&mut self, tick: &Tick, now: Devices) {
        let Some(before) = self.devices.replace(now) else { return };
        let now = self.devices.clone().unwrap_or_default();
        let mut tell = |kind, message: &str, device: &str, pci_bdf: &Option<String>| {
            self.readings.event(&Event {
                at_micros: tick.ts_micros,
                device: Some(device.to_owned()),
                pci_bdf: pci_bdf.clone(),
                kind,
                source: "agent",
                code: None,
                message: message.to_owned(),
                pid: None,
            });
        };
        for (device, at) in before.iter().filter(|(device, _)| !now.contains_key(*device)) {
            tell("lost", "the library does not show this device any more", device, at);
        }
        for (device, at) in now.iter().filter(|(device, _)| !before.contains_key(*device)) {
            tell("added", "the library shows this device for the first time", device, at);
        }
    }
}

fn devices(batch: &RecordBatch) -> Devices {
    let text = |name: &str| batch.column_by_name(name).and_then(|column| column.as_string_opt::<i32>());
    let (Some(device), Some(at)) = (text("device"), text("pci_bdf")) else { return Devices::new() };
    device.iter().zip(at).filter_map(|(device, at)| Some((device?.to_owned(), at.map(str::to_owned)))).collect()
}
