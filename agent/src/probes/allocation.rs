//! `allocation`: who holds which accelerator, from when to when.
//!
//! Three sources fill it, told apart by the column `source` (see `crate::allocations`): `cgroup` for processes that
//! are seen to have an accelerator open, attributed by their control group to a job, pod, container or unit;
//! `endpoint` and `file` for what a scheduler's prolog and epilog say. The same job may be told by two of them; then
//! there are rows of both.
//!
//! A row is one accelerator of one allocation. Rows come when something changes: `held` with the time it began, and
//! `ended` with both times. Once an hour, and when the agent starts, all that is held is stated anew, so that who
//! reads only the newest hours misses nothing that is older.
//!
//! What is held is kept in the folder `allocations` of the agent's data, so that an end that fell into a restart is
//! told after it. What was already there when the agent first looked, and is not in that file, began at a time nobody
//! knows: NULL.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use nodescope_model::rows::Rows;
use nodescope_service::settings::Settings;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::allocations::endpoint::{Endpoint, EndpointOptions, Told};
use crate::allocations::folder::Folder;
use crate::allocations::holders::{Found, Holder, Looker};
use crate::allocations::write_whole;
use crate::attribution::Owner;
use crate::host_root::{HostRoot, read_text};
use crate::probe::{Probe, ProbeError, Tick};

/// All that is held is stated anew once in an hour of the wall clock.
const HOUR_MICROS: i64 = 3_600_000_000;

/// Accelerators of allocations that are followed at the most.
const MAX_LINES: usize = 8192;

/// `device` of an allocation without accelerators.
const NO_DEVICE: &str = "none";

/// What the probe needs to know.
#[derive(Debug, Clone, Default)]
pub struct AllocationOptions {
    /// Where prologs and epilogs may tell; always a loopback address.
    pub address: Option<SocketAddr>,
    /// File with the token they must send.
    pub token: Option<PathBuf>,
    /// Folder of files that they write and remove, as the host knows it.
    pub folder: Option<PathBuf>,
    /// Folder in which what is held outlives the agent; `None` for nowhere.
    pub state: Option<PathBuf>,
}

impl AllocationOptions {
    /// Reads the settings.
    pub fn read(settings: &mut Settings) -> Self {
        let address = settings
            .optional::<SocketAddr>(
                "agent.allocations_address",
                "Loopback address at which a scheduler's prolog and epilog may tell allocations (docs/allocations.md), \
                 as 127.0.0.1:19101; none without it.",
            )
            .filter(|address| {
                let is_loopback = address.ip().is_loopback();
                if !is_loopback {
                    settings.mistake("agent.allocations_address: only a loopback address, such as 127.0.0.1:19101");
                }
                is_loopback
            });
        let token = settings.optional::<PathBuf>(
            "agent.allocations_token_file",
            "File whose first line every request to agent.allocations_address must carry; without it everybody on the \
             host may tell allocations.",
        );
        if token.is_some() && address.is_none() {
            settings.mistake("agent.allocations_token_file: there is no agent.allocations_address to use it");
        }
        let folder = settings.optional::<PathBuf>(
            "agent.allocations_dir",
            "Folder in which a scheduler's prolog writes ID.json for an allocation and its epilog removes it; none \
             without it.",
        );
        if folder.as_ref().is_some_and(|folder| !folder.is_absolute()) {
            settings.mistake("agent.allocations_dir: an absolute path");
        }
        // The key is the agent's own, read in its settings with the same default.
        let data: PathBuf =
            settings.get("agent.data_dir", "/var/lib/nodescope/agent", "Folder of the agent's identity and spool.");
        Self { address, token, folder, state: Some(data.join("allocations")) }
    }
}

/// Who says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Source {
    Cgroup,
    Endpoint,
    File,
}

impl Source {
    fn as_str(self) -> &'static str {
        match self {
            Self::Cgroup => "cgroup",
            Self::Endpoint => "endpoint",
            Self::File => "file",
        }
    }
}

/// What tells lines apart: source, allocation, device.
type Key = (Source, String, String);

/// One accelerator of one allocation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Line {
    scheduler: Option<String>,
    job: Option<String>,
    step: Option<String>,
    user: Option<String>,
    uid: Option<i64>,
    project: Option<String>,
    pod: Option<String>,
    container: Option<String>,
    unit: Option<String>,
    pci_bdf: Option<String>,
    device_file: Option<String>,
    index: Option<i64>,
    accelerators: i64,
    cpus: Option<f64>,
    memory_bytes: Option<u64>,
    began: Option<i64>,
}

/// What outlives the agent. The endpoint keeps its own.
#[derive(Debug, Default, Serialize, Deserialize)]
struct State {
    boot: String,
    lines: Vec<(Key, Line)>,
}

/// Fills the table `allocation`.
pub struct AllocationProbe {
    options: AllocationOptions,
    boot: String,
    looker: Arc<Mutex<Looker>>,
    /// The newest look that was taken account of.
    look: u64,
    /// Whether there was one that came to all processes.
    is_seen: bool,
    endpoint: Option<Endpoint>,
    version: u64,
    folder: Option<Folder>,
    held: BTreeMap<Key, Line>,
    /// Lines beyond the most that are followed, by source.
    left: BTreeMap<Source, u64>,
    /// Files refused and lines left out, as they were last told.
    told: BTreeSet<(Source, String, String)>,
    is_unsaved: bool,
    is_save_trouble_said: bool,
    hour: i64,
}

impl AllocationProbe {
    /// Opens nothing yet.
    pub fn new(root: &HostRoot, options: AllocationOptions) -> Self {
        Self {
            boot: read_text(&root.proc("sys/kernel/random/boot_id")).unwrap_or_default(),
            looker: Looker::of(root),
            look: 0,
            is_seen: false,
            endpoint: None,
            version: 0,
            folder: options.folder.as_ref().map(|folder| Folder::new(root.path(folder))),
            held: BTreeMap::new(),
            left: BTreeMap::new(),
            told: BTreeSet::new(),
            is_unsaved: false,
            is_save_trouble_said: false,
            hour: i64::MIN,
            options,
        }
    }

    fn state_file(&self) -> Option<PathBuf> {
        self.options.state.as_ref().map(|folder| folder.join("seen.json"))
    }

    /// What was held when the agent last ran.
    fn load(&mut self, changes: &mut Changes) {
        let Some(path) = self.state_file() else { return };
        let Ok(bytes) = std::fs::read(&path) else { return };
        match serde_json::from_slice::<State>(&bytes) {
            Ok(state) => {
                let is_rebooted = state.boot != self.boot;
                for (key, line) in state.lines.into_iter().take(MAX_LINES) {
                    if is_rebooted && key.0 == Source::Cgroup {
                        changes.ended.push((key, line, None));
                    } else {
                        self.held.insert(key, line);
                    }
                }
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "allocations of before are damaged, and left out");
            }
        }
    }

    fn save(&mut self) {
        let Some(path) = self.state_file() else { return };
        let lines = self.held.iter().filter(|((source, ..), _)| *source != Source::Endpoint);
        let lines = lines.map(|(key, line)| (key.clone(), line.clone())).collect();
        let state = State { boot: self.boot.clone(), lines };
        let saved =
            serde_json::to_vec(&state).map_err(std::io::Error::other).and_then(|bytes| write_whole(&path, &bytes));
        if let Err(error) = saved
            && !std::mem::replace(&mut self.is_save_trouble_said, true)
        {
            let path = path.display();
            tracing::warn!(%path, %error, "allocations cannot be saved; ends during a restart will not be told");
        }
        self.is_unsaved = false;
    }

    /// Binds the endpoint. Not at the first tick, because a look with `--once` must not take the address from, or
    /// end the allocations of, the agent that runs.
    fn listen(&mut self, tick: &Tick) -> Result<(), ProbeError> {
        let Some(address) = self.options.address.filter(|_| self.endpoint.is_none() && !tick.first) else {
            return Ok(());
        };
        let endpoint = Endpoint::start(EndpointOptions {
            address,
            token: self.options.token.clone(),
            state: self.options.state.as_ref().map(|folder| folder.join("endpoint.json")),
            boot: self.boot.clone(),
        });
        match endpoint {
            Ok(endpoint) => {
                self.endpoint = Some(endpoint);
                Ok(())
            }
            Err(source) => Err(ProbeError::Read { path: format!("agent.allocations_address {address}"), source }),
        }
    }

    /// Makes one source's lines what they are now.
    fn settle(&mut self, source: Source, mut present: BTreeMap<Key, Line>, changes: &mut Changes) {
        let first = (source, String::new(), String::new());
        let gone: Vec<Key> = self
            .held
            .range(first..)
            .map(|(key, _)| key)
            .take_while(|key| key.0 == source)
            .filter(|key| !present.contains_key(*key))
            .cloned()
            .collect();
        for key in gone {
            if let Some(line) = self.held.remove(&key) {
                changes.ended.push((key, line, None));
            }
        }
        let mut left = 0;
        while let Some((key, mut line)) = present.pop_first() {
            let is_full = self.held.len() >= MAX_LINES;
            match self.held.get_mut(&key) {
                Some(before) => {
                    if source == Source::Cgroup {
                        line.began = before.began;
                    }
                    if *before != line {
                        *before = line;
                        changes.held.insert(key);
                    }
                }
                None if is_full => left += 1,
                None => {
                    self.held.insert(key.clone(), line);
                    changes.held.insert(key);
                }
            }
        }
        self.left.insert(source, left);
    }

    /// Looks at processes, if there is a new look; what was found.
    fn see(&mut self, tick: &Tick, changes: &mut Changes) -> Arc<Found> {
        let found = self.looker.lock().found();
        if found.look != self.look {
            // What is there at the first look began before it.
            let now = self.is_seen.then_some(tick.ts_micros);
            self.look = found.look;
            // Those that were not come to may hold what was held before; later looks always come to holders.
            if found.left == 0 || self.is_seen {
                self.is_seen = true;
                self.settle(Source::Cgroup, seen(&found.holders, now), changes);
            }
        }
        found
    }

    fn hear(&mut self, changes: &mut Changes) {
        let Some(endpoint) = &self.endpoint else { return };
        let (present, ended) = {
            let mut board = endpoint.board().lock();
            if board.version() == self.version {
                return;
            }
            self.version = board.version();
            (lines_of(Source::Endpoint, board.held()), board.take_ended())
        };
        let ends: BTreeMap<Key, Line> = lines_of(Source::Endpoint, ended.iter());
        let times: BTreeMap<&str, Option<i64>> =
            ended.iter().map(|told| (told.allocation.id.as_str(), told.ended)).collect();
        let before = changes.ended.len();
        self.settle(Source::Endpoint, present, changes);
        // The endpoint knows when they ended, and knows those that were gone before they were seen.
        let mut known = BTreeSet::new();
        for (key, _, at) in changes.ended.iter_mut().skip(before) {
            *at = times.get(key.1.as_str()).copied().flatten();
            known.insert(key.clone());
        }
        for (key, line) in ends {
            if !known.contains(&key) && !self.held.contains_key(&key) {
                let at = times.get(key.1.as_str()).copied().flatten();
                changes.ended.push((key, line, at));
            }
        }
    }

    fn read_folder(&mut self, tick: &Tick, changes: &mut Changes) -> Result<(), ProbeError> {
        let Some(folder) = &mut self.folder else { return Ok(()) };
        match folder.look(tick.ts_micros) {
            Ok(false) => Ok(()),
            Ok(true) => {
                let present = lines_of(Source::File, folder.held());
                self.settle(Source::File, present, changes);
                Ok(())
            }
            Err(source) => {
                let path = self.options.folder.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
                Err(ProbeError::Read { path, source })
            }
        }
    }

    /// Files refused, and what is beyond the bounds: told when it is new, and once an hour.
    fn tell_left_out(&mut self, restates: bool, rows: &mut Rows) {
        let mut now = BTreeSet::new();
        let mut files_left = 0;
        if let Some(folder) = &self.folder {
            now.extend(folder.refused().map(|(name, why)| (Source::File, name.to_owned(), why.to_owned())));
            files_left = folder.left();
        }
        for (source, left) in &self.left {
            let left = left + if *source == Source::File { files_left } else { 0 };
            if left > 0 {
                now.insert((*source, "others".to_owned(), format!("{left} more are not followed")));
            }
        }
        for (source, name, why) in &now {
            if restates || !self.told.contains(&(*source, name.clone(), why.clone())) {
                rows.begin()
                    .text("source", source.as_str())
                    .text("allocation", name.as_str())
                    .text("device", NO_DEVICE)
                    .text("state", "refused")
                    .text("message", why.as_str());
            }
        }
        self.told = now;
    }
}

/// What is different at a tick.
#[derive(Default)]
struct Changes {
    held: BTreeSet<Key>,
    /// With the time, where it is known better than by the tick.
    ended: Vec<(Key, Line, Option<i64>)>,
}

impl Probe for AllocationProbe {
    fn table(&self) -> &'static str {
        "allocation"
    }

    fn sample(&mut self, tick: &Tick, rows: &mut Rows) -> Result<(), ProbeError> {
        let mut changes = Changes::default();
        if tick.first {
            self.load(&mut changes);
        }
        let listening = self.listen(tick);
        let found = self.see(tick, &mut changes);
        self.hear(&mut changes);
        let folder = self.read_folder(tick, &mut changes);

        self.is_unsaved |= !changes.held.is_empty() || !changes.ended.is_empty();
        for (key, line, at) in &changes.ended {
            append(key, line, "ended", Some(at.unwrap_or(tick.ts_micros)), rows);
        }
        // Not at the full hour alone: that tick may be skipped.
        let hour = tick.ts_micros.div_euclid(HOUR_MICROS);
        let restates = std::mem::replace(&mut self.hour, hour) != hour;
        // One that ended and began anew within the tick is told at the next: an entity has one row a tick.
        let ended: BTreeSet<&Key> = changes.ended.iter().map(|(key, ..)| key).collect();
        for (key, line) in &self.held {
            if (restates || changes.held.contains(key)) && !ended.contains(key) {
                append(key, line, "held", None, rows);
            }
        }
        self.tell_left_out(restates, rows);
        if self.is_unsaved && !tick.first {
            self.save();
        }
        listening?;
        folder?;
        let is_told = self.options.address.is_some() || self.options.folder.is_some();
        if is_told {
            return Ok(());
        }
        if !found.is_looked {
            return Err(ProbeError::Absent(
                "the PCI bus shows no accelerator, and neither agent.allocations_address nor agent.allocations_dir is \
                 set"
                .to_owned(),
            ));
        }
        if found.denied > 0 && found.holders.is_empty() {
            return Err(ProbeError::Absent(format!(
                "{} processes may not be looked into: who has accelerators open is shown with CAP_SYS_PTRACE",
                found.denied
            )));
        }
        Ok(())
    }
}

fn append(key: &Key, line: &Line, state: &str, ended: Option<i64>, rows: &mut Rows) {
    let (source, allocation, device) = key;
    rows.begin()
        .text("source", source.as_str())
        .text("allocation", allocation.as_str())
        .text("device", device.as_str())
        .text("state", state)
        .text("scheduler", line.scheduler.as_deref())
        .text("job", line.job.as_deref())
        .text("step", line.step.as_deref())
        .text("user", line.user.as_deref())
        .int("uid", line.uid)
        .text("project", line.project.as_deref())
        .text("pod", line.pod.as_deref())
        .text("container", line.container.as_deref())
        .text("unit", line.unit.as_deref())
        .text("pci_bdf", line.pci_bdf.as_deref())
        .text("device_file", line.device_file.as_deref())
        .int("index", line.index)
        .timestamp("began", line.began)
        .timestamp("ended", ended)
        .int("accelerators", line.accelerators)
        .float("cpus", line.cpus)
        .count("memory_bytes", line.memory_bytes);
}

/// The allocation that a process belongs to: its job, or else its pod, container, unit, or itself.
fn name_of(owner: &Owner, holder: &Holder) -> String {
    match owner {
        Owner { job: Some(job), scheduler, .. } => format!("{}:{job}", scheduler.unwrap_or("job")),
        Owner { pod: Some(pod), .. } => format!("pod:{pod}"),
        Owner { container: Some(container), .. } => format!("container:{container}"),
        Owner { unit: Some(unit), .. } => format!("unit:{unit}"),
        _ => match holder.facts.cgroup.as_deref() {
            Some(cgroup) if cgroup.len() > 1 => format!("cgroup:{cgroup}"),
            _ => format!("process:{}:{}", holder.pid, holder.facts.start_ticks),
        },
    }
}

/// What is seen, as lines. Steps of a job and containers of a pod are one allocation; which of them is told only where
/// there is one.
fn seen(holders: &[Holder], now: Option<i64>) -> BTreeMap<Key, Line> {
    let mut lines: BTreeMap<Key, Line> = BTreeMap::new();
    for holder in holders {
        let owner = &holder.facts.owner;
        let name = name_of(owner, holder);
        for card in &holder.cards {
            let line = Line {
                scheduler: owner.scheduler.map(str::to_owned),
                job: owner.job.clone(),
                step: owner.step.clone(),
                uid: holder.facts.uid,
                pod: owner.pod.clone(),
                container: owner.container.clone(),
                unit: owner.unit.clone(),
                pci_bdf: card.pci_bdf.clone(),
                device_file: Some(card.file.clone()),
                began: now,
                ..Line::default()
            };
            lines
                .entry((Source::Cgroup, name.clone(), card.device().to_owned()))
                .and_modify(|known| {
                    let agree = |known: &mut Option<String>, other: &Option<String>| {
                        if known != other {
                            *known = None;
                        }
                    };
                    agree(&mut known.step, &line.step);
                    agree(&mut known.container, &line.container);
                    agree(&mut known.unit, &line.unit);
                    if known.uid != line.uid {
                        known.uid = None;
                    }
                })
                .or_insert_with(|| line.clone());
        }
    }
    let mut counts: BTreeMap<String, i64> = BTreeMap::new();
    for (_, name, _) in lines.keys() {
        *counts.entry(name.clone()).or_default() += 1;
    }
    for ((_, name, _), line) in &mut lines {
        line.accelerators = counts.get(name).copied().unwrap_or(0);
    }
    lines
}

/// What is told, as lines.
fn lines_of<'t>(source: Source, told: impl Iterator<Item = &'t Told>) -> BTreeMap<Key, Line> {
    let mut lines = BTreeMap::new();
    for Told { allocation, began, .. } in told {
        let whole = Line {
            scheduler: allocation.scheduler.clone(),
            job: allocation.job.clone(),
            step: allocation.step.clone(),
            user: allocation.user.clone(),
            project: allocation.project.clone(),
            pod: allocation.pod.clone(),
            container: allocation.container.clone(),
            accelerators: i64::try_from(allocation.accelerators.len()).unwrap_or(i64::MAX),
            cpus: allocation.cpus,
            memory_bytes: allocation.memory_bytes,
            began: Some(*began),
            ..Line::default()
        };
        if allocation.accelerators.is_empty() {
            lines.insert((source, allocation.id.clone(), NO_DEVICE.to_owned()), whole.clone());
        }
        for accelerator in &allocation.accelerators {
            let index = accelerator.index().map(i64::from);
            let line = Line { index, pci_bdf: accelerator.pci_bdf(), ..whole.clone() };
            lines.insert((source, allocation.id.clone(), accelerator.device()), line);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use arrow_array::RecordBatch;
    use arrow_array::cast::AsArray;
    use arrow_array::types::TimestampMicrosecondType;
    use nodescope_model::catalogue::Catalogue;
    use nodescope_model::rows::Stamp;

    use super::*;
    use crate::allocations::holders::tests::{host, process};
    use crate::probes::testing::texts;
    use crate::ticker::now_us;

    fn sample(probe: &mut AllocationProbe, ts_micros: i64, first: bool) -> (RecordBatch, Result<(), ProbeError>) {
        let mut rows = Rows::new(Catalogue::built_in().get("allocation").unwrap());
        let result = probe.sample(&Tick { ts_micros, first }, &mut rows);
        (rows.finish(&Stamp { ts_micros, node: "n", host: "h" }), result)
    }

    /// `source allocation device state` of each row.
    fn summary(batch: &RecordBatch) -> Vec<String> {
        let columns = ["source", "allocation", "device", "state"].map(|name| texts(batch, name));
        (0..batch.num_rows()).map(|at| columns.each_ref().map(|c| c[at].unwrap_or("-")).join(" ")).collect()
    }

    fn times(batch: &RecordBatch, name: &str) -> Vec<Option<i64>> {
        batch.column_by_name(name).unwrap().as_primitive::<TimestampMicrosecondType>().iter().collect()
    }

    /// A tick that is on no hour and no minute.
    const TICK: i64 = 1_700_000_001_000_000;

    #[test]
    fn a_job_that_is_seen_is_told_when_it_comes_and_when_it_goes() {
        let directory = tempfile::tempdir().unwrap();
        let root = host(directory.path());
        let options = AllocationOptions { state: Some(directory.path().join("state")), ..Default::default() };
        let files = ["/dev/nvidia-uvm", "/dev/nvidia0"];
        process(&root, 10, "/slurm/uid_1/job_42/step_0", &files);
        process(&root, 11, "/slurm/uid_1/job_42/step_1", &files);
        let mut probe = AllocationProbe::new(&root, options.clone());
        let (batch, result) = sample(&mut probe, TICK, true);
        result.unwrap();
        assert_eq!(summary(&batch), ["cgroup slurm:42 GPU-6b1f held"]);
        assert_eq!(texts(&batch, "pci_bdf"), [Some("0000:17:00.0")]);
        assert_eq!(texts(&batch, "step"), [None], "two steps have it");
        assert_eq!(times(&batch, "began"), [None], "it was there before");
        assert!(summary(&sample(&mut probe, TICK + 1_000_000, false).0).is_empty(), "nothing has changed");
        // The full hour was skipped.
        let hour = 1_700_002_801_000_000;
        assert_eq!(summary(&sample(&mut probe, hour, false).0), ["cgroup slurm:42 GPU-6b1f held"]);
        assert!(summary(&sample(&mut probe, hour + 1_000_000, false).0).is_empty(), "once an hour");
        // The agent is started anew, and the job has ended meanwhile.
        drop(probe);
        std::fs::remove_dir_all(root.proc("10")).unwrap();
        std::fs::remove_dir_all(root.proc("11")).unwrap();
        let mut probe = AllocationProbe::new(&root, options);
        let (batch, _) = sample(&mut probe, TICK + 2_000_000, true);
        assert_eq!(summary(&batch), ["cgroup slurm:42 GPU-6b1f ended"]);
        assert_eq!(times(&batch, "ended"), [Some(TICK + 2_000_000)]);
    }

    #[test]
    fn owners_name_allocations() {
        let directory = tempfile::tempdir().unwrap();
        let root = host(directory.path());
        let files = ["/dev/nvidia-uvm", "/dev/nvidia0"];
        let id = "9ec39b91f3d70e1beff50a308f77067065ea6be0d91a3378375056cd4422cf3d";
        let uid = "74c13223-5a00-11e9-b385-42010a80018d";
        process(&root, 10, &format!("/kubepods/pod{uid}/{id}"), &files);
        process(&root, 11, &format!("/docker/{id}"), &files);
        process(&root, 12, "/system.slice/ollama.service", &files);
        process(&root, 13, "/", &files);
        process(&root, 14, "/mine", &files);
        let mut probe = AllocationProbe::new(&root, AllocationOptions::default());
        let (batch, _) = sample(&mut probe, TICK, true);
        let names: Vec<&str> = texts(&batch, "allocation").into_iter().flatten().collect();
        let container = format!("container:{id}");
        let pod = format!("pod:{uid}");
        assert_eq!(names, ["cgroup:/mine", &container, &pod, "process:13:130", "unit:ollama.service"]);
    }

    #[test]
    fn a_boot_ends_what_was_seen_before_it() {
        let directory = tempfile::tempdir().unwrap();
        let root = host(directory.path());
        let random = directory.path().join("proc/sys/kernel/random");
        std::fs::create_dir_all(&random).unwrap();
        let options = AllocationOptions { state: Some(directory.path().join("state")), ..Default::default() };
        process(&root, 12, "/system.slice/ollama.service", &["/dev/nvidia-uvm", "/dev/nvidia0"]);
        for boot in ["one", "two"] {
            std::fs::write(random.join("boot_id"), boot).unwrap();
            let mut probe = AllocationProbe::new(&root, options.clone());
            let (batch, _) = sample(&mut probe, TICK, true);
            let wanted = if boot == "one" { "held" } else { "ended" };
            assert_eq!(summary(&batch), [format!("cgroup unit:ollama.service GPU-6b1f {wanted}")], "{boot}");
            let _ = sample(&mut probe, TICK + 1_000_000, false);
        }
    }

    #[test]
    fn prologs_and_epilogs_are_heard() {
        let directory = tempfile::tempdir().unwrap();
        let root = HostRoot::new(directory.path());
        // A port that was free a moment ago.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let options = AllocationOptions { address: Some(port), ..Default::default() };
        let mut probe = AllocationProbe::new(&root, options);
        sample(&mut probe, TICK, true).1.unwrap();
        assert!(TcpStream::connect(port).is_err(), "a first tick listens nowhere");
        sample(&mut probe, TICK + 1_000_000, false).1.unwrap();
        let ask = |request: &str| {
            let mut stream = TcpStream::connect(port).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        };
        let body = r#"{"id":"a","job":"7","user":"bob","accelerators":["GPU-1",3],"began":1700000000,"cpus":4}"#;
        let post = format!("POST /v1/allocations HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        assert!(ask(&post).starts_with("HTTP/1.1 201"));
        let (batch, _) = sample(&mut probe, TICK + 2_000_000, false);
        assert_eq!(summary(&batch), ["endpoint a 3 held", "endpoint a GPU-1 held"]);
        assert_eq!(times(&batch, "began")[0], Some(1_700_000_000_000_000));
        ask("DELETE /v1/allocations/a HTTP/1.1\r\n\r\n");
        let (batch, _) = sample(&mut probe, TICK + 3_000_000, false);
        assert_eq!(summary(&batch), ["endpoint a 3 ended", "endpoint a GPU-1 ended"]);
        assert!(times(&batch, "ended")[0].unwrap() > TICK, "when it was told, and not when it was noticed");
        // One that came and went between two ticks.
        ask(&post);
        ask("DELETE /v1/allocations/a HTTP/1.1\r\n\r\n");
        let (batch, _) = sample(&mut probe, TICK + 4_000_000, false);
        assert_eq!(summary(&batch), ["endpoint a 3 ended", "endpoint a GPU-1 ended"]);
    }

    #[test]
    fn files_are_read_and_bad_ones_told_once() {
        let directory = tempfile::tempdir().unwrap();
        let root = HostRoot::new(directory.path());
        let files = directory.path().join("run/allocations");
        std::fs::create_dir_all(&files).unwrap();
        std::fs::write(files.join("a.json"), r#"{"job":"1"}"#).unwrap();
        std::fs::write(files.join("b.json"), "{").unwrap();
        let options = AllocationOptions { folder: Some("/run/allocations".into()), ..Default::default() };
        let mut probe = AllocationProbe::new(&root, options);
        let now = now_us() / 60_000_000 * 60_000_000 + 1_000_000;
        let (batch, result) = sample(&mut probe, now, true);
        result.unwrap();
        assert_eq!(summary(&batch), ["file a none held", "file b none refused"]);
        assert!(texts(&batch, "message")[1].unwrap().contains("EOF"));
        assert!(summary(&sample(&mut probe, now + 1_000_000, false).0).is_empty());
        std::fs::remove_file(files.join("a.json")).unwrap();
        assert_eq!(summary(&sample(&mut probe, now + 2_000_000, false).0), ["file a none ended"]);
        std::fs::remove_dir_all(&files).unwrap();
        assert!(matches!(sample(&mut probe, now + 3_000_000, false).1, Err(ProbeError::Read { .. })));
    }

    #[test]
    fn nothing_to_see_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let mut probe = AllocationProbe::new(&HostRoot::new(directory.path()), AllocationOptions::default());
        assert!(matches!(sample(&mut probe, TICK, true).1, Err(ProbeError::Absent(_))));
    }

    #[test]
    fn only_a_loopback_address_will_do() {
        let read = |values: &[(&str, &str)]| {
            let mut settings = Settings::default();
            for (key, value) in values {
                settings.flag(key, Some(value));
            }
            let options = AllocationOptions::read(&mut settings);
            (options, settings.finish().map_or_else(|errors| errors.0.len(), |()| 0))
        };
        let (options, mistakes) = read(&[("agent.data_dir", "/d")]);
        assert_eq!((options.address, mistakes), (None, 0));
        assert_eq!(options.state, Some(PathBuf::from("/d/allocations")));
        assert!(read(&[("agent.allocations_address", "[::1]:5")]).0.address.is_some());
        let (options, mistakes) = read(&[("agent.allocations_address", "0.0.0.0:5")]);
        assert_eq!((options.address, mistakes), (None, 1));
        assert_eq!(read(&[("agent.allocations_dir", "relative"), ("agent.allocations_token_file", "/t")]).1, 2);
    }
}
