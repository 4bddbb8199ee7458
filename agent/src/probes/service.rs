//! Units of systemd: what runs, what failed, and how often it was started again.
//!
//! A service that died is restarted by systemd before anyone looks: the machine seems well, and the count of restarts
//! says otherwise. A monitoring agent, an audit daemon or a firewall that is stopped is one of the first things an
//! intruder does. Both are here.
//!
//! One call (`ListUnitsByPatterns`, since systemd 230) gives the states of all units; the rest are properties, each a
//! call of its own. They are asked for only when a unit's state has changed, but for the count of restarts and the time
//! it became active, which change while the state stays (who restarts a unit by hand is done before the next tick): these
//! are asked for once a minute, a few units at each tick, so that process 1 is not asked for hundreds of values at once. A unit whose state has changed comes at that tick, all units come every 30 s.
//!
//! "Loaded" means that systemd has the unit in memory. A service that has stopped, that nothing wants and that did not
//! fail, is forgotten: its last row says `unloaded`.

use std::collections::HashMap;
use std::time::Duration;

use nodescope_model::rows::Rows;
use nodescope_service::settings::Settings;

use crate::dbus::{Body, Bus, BusError, Call, MAX_CALLS, Reply, Values, Variant};
use crate::glob;
use crate::host_root::HostRoot;
use crate::probe::{Probe, ProbeError, Tick};

/// The system bus, and systemd's own socket, which takes root alone.
const SOCKETS: &[(&str, bool)] = &[("/run/dbus/system_bus_socket", false), ("/run/systemd/private", true)];

const DESTINATION: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const SERVICE: &str = "org.freedesktop.systemd1.Service";

/// Units listed at the most.
const MAX_UNITS: usize = 500;

/// How often all units are told.
const ALL_EVERY: Duration = Duration::from_secs(30);

/// The count of restarts of every unit, and since when it is active, are asked for within so many ticks.
const REFRESH_TICKS: usize = 6;

/// What the probe needs to know.
#[derive(Debug, Clone)]
pub struct ServiceOptions {
    /// Patterns of units' names.
    pub services: Vec<String>,
}

const DEFAULT_SERVICES: &str = "*.service";

impl Default for ServiceOptions {
    fn default() -> Self {
        Self { services: vec![DEFAULT_SERVICES.to_owned()] }
    }
}

impl ServiceOptions {
    /// Reads the settings.
    pub fn read(settings: &mut Settings) -> Self {
        Self {
            services: settings.list(
                "agent.services",
                DEFAULT_SERVICES,
                "Units of systemd that are listed, with * and ?: sshd.service, slurm*.service, *.mount.",
            ),
        }
    }
}

/// A unit as `ListUnitsByPatterns` gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Listed<'a> {
    name: &'a str,
    load: &'a str,
    active: &'a str,
    sub: &'a str,
    path: &'a str,
}

/// `a(ssssssouso)`: name, description, load state, active state, sub-state, the unit it follows, object, job's number,
/// job's type, job's object. What is damaged ends the list.
fn parse_units<'a>(values: &mut Values<'a>) -> Option<Vec<Listed<'a>>> {
    let mut array = values.structures()?;
    let mut units = Vec::new();
    while !array.is_at_end() {
        array.structure()?;
        let name = array.text()?;
        array.text()?;
        let (load, active, sub) = (array.text()?, array.text()?, array.text()?);
        array.text()?;
        let path = array.text()?;
        array.u32()?;
        array.text()?;
        array.text()?;
        units.push(Listed { name, load, active, sub, path });
    }
    Some(units)
}

/// A unit that is known.
#[derive(Debug, Default)]
struct Known {
    load: String,
    active: String,
    sub: String,
    path: String,
    /// Number of the tick at which it was last in the list.
    seen: u64,
    restarts: Option<u64>,
    active_since: Option<u64>,
    main_pid: Option<u64>,
    result: Option<String>,
    service_type: Option<String>,
}

/// What is asked of a unit: interface and property.
const PROPERTIES: &[(&str, &str)] = &[
    (UNIT, "ActiveEnterTimestamp"),
    (SERVICE, "NRestarts"),
    (SERVICE, "MainPID"),
    (SERVICE, "Result"),
    (SERVICE, "Type"),
];

/// Place among them of the time a unit became active.
const ACTIVE_SINCE: usize = 0;

/// Place of the count of restarts among them.
const RESTARTS: usize = 1;

impl Known {
    fn set(&mut self, property: usize, value: Option<Variant<'_>>) {
        let number = match value {
            Some(Variant::Number(number)) => Some(number),
            _ => None,
        };
        let text = match value {
            Some(Variant::Text(text)) if !text.is_empty() => Some(text.to_owned()),
            _ => None,
        };
        match property {
            ACTIVE_SINCE => self.active_since = number.filter(|micros| *micros > 0),
            RESTARTS => self.restarts = number,
            2 => self.main_pid = number.filter(|pid| *pid > 0),
            3 => self.result = text,
            _ => self.service_type = text,
        }
    }
}

/// What the manager says of the whole.
#[derive(Debug, Default)]
struct Manager {
    state: Option<String>,
    failed_units: Option<u64>,
    jobs: Option<u64>,
    left_out: usize,
}

/// Fills the table `service`.
pub struct ServiceProbe {
    root: HostRoot,
    patterns: Vec<String>,
    bus: Option<Bus>,
    /// Systems older than systemd 230 have no `ListUnitsByPatterns`.
    by_patterns: bool,
    units: HashMap<String, Known>,
    ticks: u64,
    /// Units in the order their restarts are asked for, and whose turn it is.
    turn: Vec<String>,
    /// What is asked for at this tick: unit and property.
    asked: Vec<(String, usize)>,
}

impl ServiceProbe {
    /// Connects to nothing yet.
    pub fn new(root: &HostRoot, options: ServiceOptions) -> Self {
        Self {
            root: root.clone(),
            patterns: options.services,
            bus: None,
            by_patterns: true,
            units: HashMap::new(),
            ticks: 0,
            turn: Vec::new(),
            asked: Vec::new(),
        }
    }

    fn connect(&self) -> Result<Bus, ProbeError> {
        let mut failed = None;
        for (socket, is_private) in SOCKETS {
            let path = self.root.path(socket);
            if std::fs::symlink_metadata(&path).is_err() {
                continue;
            }
            match Bus::connect(&path, *is_private) {
                Ok(bus) => return Ok(bus),
                Err(error) => failed = Some(in_words(socket, error)),
            }
        }
        Err(failed.unwrap_or_else(|| {
            ProbeError::Absent(
                "no systemd here: neither /run/dbus/system_bus_socket nor /run/systemd/private is there".to_owned(),
            )
        }))
    }

    fn list(&mut self, bus: &mut Bus) -> Result<Reply, BusError> {
        if self.by_patterns {
            let body = Body::default().texts([]).texts(self.patterns.iter().map(String::as_str));
            let reply = bus.call(&manager_call("ListUnitsByPatterns", &body))?;
            match reply.values() {
                Err(error) if error.ends_with(".UnknownMethod") => self.by_patterns = false,
                _ => return Ok(reply),
            }
        }
        bus.call(&manager_call("ListUnits", &Body::default()))
    }

    /// Takes in the list: which units changed, with their states before.
    fn take(&mut self, listed: &[Listed<'_>]) -> Vec<(String, Option<String>)> {
        let mut changed = Vec::new();
        for unit in listed {
            if let Some(known) = self.units.get_mut(unit.name) {
                known.seen = self.ticks;
                if known.active == unit.active && known.sub == unit.sub && known.load == unit.load {
                    continue;
                }
                let before = std::mem::replace(&mut known.active, unit.active.to_owned());
                known.load = unit.load.to_owned();
                known.sub = unit.sub.to_owned();
                changed.push((unit.name.to_owned(), Some(before)));
            } else {
                let known = Known {
                    load: unit.load.to_owned(),
                    active: unit.active.to_owned(),
                    sub: unit.sub.to_owned(),
                    path: unit.path.to_owned(),
                    seen: self.ticks,
                    ..Known::default()
                };
                self.units.insert(unit.name.to_owned(), known);
                changed.push((unit.name.to_owned(), None));
            }
        }
        changed
    }

    /// Makes changes that could not be asked about changes of the next tick, so that they are told then.
    fn take_back(&mut self, changed: Vec<(String, Option<String>)>) {
        for (name, before) in changed {
            match (before, self.units.get_mut(&name)) {
                (Some(before), Some(known)) => {
                    known.active = before;
                    // No state is called so.
                    known.sub.clear();
                }
                _ => {
                    self.units.remove(&name);
                }
            }
        }
    }

    /// What to ask for: everything of those that changed, and of those whose turn it is what tells a restart.
    fn plan(&mut self, changed: &[(String, Option<String>)]) {
        self.asked.clear();
        for (name, _) in changed {
            let properties = if is_service(name) { PROPERTIES.len() } else { 1 };
            self.asked.extend((0..properties).map(|property| (name.clone(), property)));
        }
        if self.turn.is_empty() {
            self.turn.extend(self.units.keys().filter(|name| is_service(name)).cloned());
        }
        // As many as bring everyone's turn within a minute; at the first tick all were asked.
        if changed.len() < self.units.len() {
            let count = self.units.len().div_ceil(REFRESH_TICKS);
            for _ in 0..count {
                let Some(name) = self.turn.pop() else { break };
                if self.units.contains_key(&name) && !changed.iter().any(|(other, _)| *other == name) {
                    self.asked.push((name.clone(), ACTIVE_SINCE));
                    self.asked.push((name, RESTARTS));
                }
            }
        }
    }

    fn ask(&mut self, bus: &mut Bus) -> Result<(), BusError> {
        let mut asked = std::mem::take(&mut self.asked);
        let mut again = Vec::new();
        for chunk in asked.chunks(MAX_CALLS) {
            self.ask_chunk(bus, chunk, &mut again)?;
        }
        // A unit that was started again has another process and another beginning.
        for chunk in again.chunks(MAX_CALLS) {
            self.ask_chunk(bus, chunk, &mut Vec::new())?;
        }
        asked.clear();
        self.asked = asked;
        Ok(())
    }

    fn ask_chunk(
        &mut self,
        bus: &mut Bus,
        chunk: &[(String, usize)],
        again: &mut Vec<(String, usize)>,
    ) -> Result<(), BusError> {
        let bodies: Vec<Body> = chunk.iter().map(|(_, property)| property_body(PROPERTIES[*property])).collect();
        let calls: Vec<Call<'_>> = chunk
            .iter()
            .zip(&bodies)
            .map(|((name, _), body)| get_call(self.units.get(name).map_or(MANAGER_PATH, |unit| &unit.path), body))
            .collect();
        let replies = bus.call_all(&calls)?;
        for ((name, property), reply) in chunk.iter().zip(&replies) {
            let value = reply.values().ok().and_then(|mut values| values.variant());
            let Some(unit) = self.units.get_mut(name) else { continue };
            let before = (unit.restarts, unit.active_since);
            unit.set(*property, value);
            let is_restarted =
                before.0.is_some() && before.0 != unit.restarts || before.1.is_some() && before.1 != unit.active_since;
            if is_restarted && !again.iter().any(|(known, _)| known == name) {
                again.extend((0..PROPERTIES.len()).map(|property| (name.clone(), property)));
            }
        }
        Ok(())
    }

    fn put(&self, rows: &mut Rows, name: &str, before: Option<&str>) {
        let Some(unit) = self.units.get(name) else { return };
        rows.begin()
            .text("unit", name)
            .text("load_state", unit.load.as_str())
            .text("active_state", unit.active.as_str())
            .text("sub_state", unit.sub.as_str())
            .text("previous_active_state", before)
            .text("type", unit.service_type.as_deref())
            .count("restarts", unit.restarts)
            .timestamp("active_since", unit.active_since.and_then(|micros| i64::try_from(micros).ok()))
            .count("main_pid", unit.main_pid)
            .text("result", unit.result.as_deref())
            .bool("active", unit.active == "active")
            .bool("failed", unit.active == "failed");
    }

    fn sample_with(&mut self, bus: &mut Bus, tick: &Tick, rows: &mut Rows) -> Result<(), BusError> {
        self.ticks += 1;
        let reply = self.list(bus)?;
        let mut values = reply.values().map_err(|_| BusError::Protocol("systemd refuses to list its units"))?;
        let mut listed =
            parse_units(&mut values).ok_or(BusError::Protocol("the list of units is not of the form expected"))?;
        // systemd has matched the patterns already, or is too old to.
        listed.retain(|unit| unit.load != "not-found" && self.patterns.iter().any(|p| glob::matches(p, unit.name)));
        listed.sort_unstable_by_key(|unit| unit.name);
        let mut manager = Manager { left_out: listed.len().saturating_sub(MAX_UNITS), ..Manager::default() };
        listed.truncate(MAX_UNITS);
        let changed = self.take(&listed);
        self.plan(&changed);
        if let Err(error) = self.ask(bus) {
            self.take_back(changed);
            return Err(error);
        }

        for (name, before) in &changed {
            self.put(rows, name, before.as_deref());
        }
        if tick.is_due(ALL_EVERY) {
            let mut names: Vec<&String> = self.units.keys().collect();
            names.sort_unstable();
            for name in names {
                if self.units.get(name).is_some_and(|unit| unit.seen == self.ticks)
                    && !changed.iter().any(|(other, _)| other == name)
                {
                    self.put(rows, name, None);
                }
            }
            self.ask_manager(bus, &mut manager)?;
            let state = manager.state.as_deref();
            rows.begin()
                .text("unit", "systemd")
                .text("manager_state", state)
                .bool("system_running", state.map(|state| state == "running"))
                .count("failed_units", manager.failed_units)
                .count("queued_jobs", manager.jobs)
                .count("units_left_out", manager.left_out as u64);
        }
        self.forget(rows);
        Ok(())
    }

    /// Units that are not in the list any more.
    fn forget(&mut self, rows: &mut Rows) {
        let now = self.ticks;
        self.units.retain(|name, unit| {
            let stays = unit.seen == now;
            if !stays {
                rows.begin()
                    .text("unit", name.as_str())
                    .text("load_state", "unloaded")
                    .text("active_state", "inactive")
                    .text("previous_active_state", unit.active.as_str())
                    .bool("active", false)
                    .bool("failed", false);
            }
            stays
        });
    }

    fn ask_manager(&self, bus: &mut Bus, manager: &mut Manager) -> Result<(), BusError> {
        let bodies = ["SystemState", "NFailedUnits", "NJobs"].map(|name| property_body((MANAGER, name)));
        let calls: Vec<Call<'_>> = bodies.iter().map(|body| get_call(MANAGER_PATH, body)).collect();
        for (at, reply) in bus.call_all(&calls)?.iter().enumerate() {
            match (at, reply.values().ok().and_then(|mut values| values.variant())) {
                (0, Some(Variant::Text(text))) => manager.state = Some(text.to_owned()),
                (1, Some(Variant::Number(number))) => manager.failed_units = Some(number),
                (2, Some(Variant::Number(number))) => manager.jobs = Some(number),
                _ => {}
            }
        }
        Ok(())
    }
}

fn is_service(name: &str) -> bool {
    name.ends_with(".service")
}

fn manager_call<'a>(member: &'a str, body: &'a Body) -> Call<'a> {
    Call { destination: DESTINATION, path: MANAGER_PATH, interface: MANAGER, member, body }
}

fn get_call<'a>(path: &'a str, body: &'a Body) -> Call<'a> {
    Call { destination: DESTINATION, path, interface: "org.freedesktop.DBus.Properties", member: "Get", body }
}

fn property_body((interface, property): (&str, &str)) -> Body {
    Body::default().text(interface).text(property)
}

fn in_words(socket: &str, error: BusError) -> ProbeError {
    match error {
        BusError::Io(source) => ProbeError::Read { path: socket.to_owned(), source },
        BusError::Protocol(what) => ProbeError::Malformed { path: socket.to_owned(), what },
    }
}

impl Probe for ServiceProbe {
    fn table(&self) -> &'static str {
        "service"
    }

    fn sample(&mut self, tick: &Tick, rows: &mut Rows) -> Result<(), ProbeError> {
        // A connection that failed is not used again: what it still has under way would be taken for answers.
        let mut bus = match self.bus.take() {
            Some(bus) => bus,
            None => self.connect()?,
        };
        match self.sample_with(&mut bus, tick, rows) {
            Ok(()) => {
                self.bus = Some(bus);
                Ok(())
            }
            Err(error) => Err(in_words("the bus of systemd", error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nodescope_model::catalogue::Catalogue;
    use parking_lot::Mutex;
    use proptest::prelude::*;

    use super::*;
    use crate::dbus::testing::{Asked, Out, body_texts, serve};
    use crate::probes::testing::{FIRST_TICK, bools, ints, row_of, sample_at, texts};

    const NEXT: Tick = Tick { ts_micros: 1_700_000_020_000_000, first: false };
    const AT_HALF_A_MINUTE: Tick = Tick { ts_micros: 1_700_000_010_000_000, first: false };

    #[derive(Clone)]
    struct Unit {
        name: &'static str,
        load: &'static str,
        active: &'static str,
        sub: &'static str,
        restarts: u32,
        since: u64,
        pid: u32,
    }

    fn unit(name: &'static str, active: &'static str, sub: &'static str) -> Unit {
        Unit { name, load: "loaded", active, sub, restarts: 0, since: 1_699_000_000_000_000, pid: 812 }
    }

    fn respond(units: &[Unit], asked: &Asked, old: bool) -> Result<Vec<u8>, String> {
        let mut out = Out::default();
        match asked.member.as_str() {
            "ListUnitsByPatterns" if old => return Err("org.freedesktop.DBus.Error.UnknownMethod".to_owned()),
            "ListUnitsByPatterns" | "ListUnits" => {
                out.structures(units.len(), |at, out| {
                    let unit = &units[at];
                    let path = format!("/unit/{}", unit.name);
                    out.text(unit.name).text("A description").text(unit.load).text(unit.active).text(unit.sub);
                    out.text("").text(&path).u32(0).text("").text("/");
                });
            }
            _ => {
                let unit = units.iter().find(|unit| asked.path.ends_with(unit.name));
                match body_texts(asked)[1].as_str() {
                    "SystemState" => out.signature("s").text("degraded"),
                    "NFailedUnits" => out.signature("u").u32(1),
                    "NRestarts" => out.signature("u").u32(unit.map_or(0, |unit| unit.restarts)),
                    "MainPID" => out.signature("u").u32(unit.map_or(0, |unit| unit.pid)),
                    "Result" => out.signature("s").text("success"),
                    "ActiveEnterTimestamp" => out.signature("t").u64(unit.map_or(0, |unit| unit.since)),
                    _ => return Err("org.freedesktop.DBus.Error.UnknownProperty".to_owned()),
                };
            }
        }
        Ok(out.bytes)
    }

    struct Host {
        directory: tempfile::TempDir,
        units: Arc<Mutex<Vec<Unit>>>,
    }

    impl Host {
        fn new(units: Vec<Unit>, old: bool) -> Self {
            let directory = tempfile::tempdir().unwrap();
            std::fs::create_dir_all(directory.path().join("run/dbus")).unwrap();
            let units = Arc::new(Mutex::new(units));
            serve(&directory.path().join("run/dbus/system_bus_socket"), {
                let units = units.clone();
                move |asked| respond(&units.lock(), asked, old)
            });
            Self { directory, units }
        }

        fn probe(&self, services: &[&str]) -> ServiceProbe {
            let services = services.iter().map(|s| (*s).to_owned()).collect();
            ServiceProbe::new(&HostRoot::new(self.directory.path()), ServiceOptions { services })
        }
    }

    #[test]
    fn units_are_listed_with_their_properties_and_changes_come_at_once() {
        let mut crashing = unit("slurmd.service", "active", "running");
        crashing.restarts = 3;
        let mut missing = unit("gone.service", "inactive", "dead");
        missing.load = "not-found";
        let host = Host::new(vec![unit("sshd.service", "active", "running"), crashing, missing], false);
        let mut probe = host.probe(&["*.service"]);
        let batch = sample_at(&mut probe, &FIRST_TICK);
        assert_eq!(texts(&batch, "unit"), [Some("slurmd.service"), Some("sshd.service"), Some("systemd")]);
        assert_eq!(ints(&batch, "restarts"), [Some(3), Some(0), None]);
        assert_eq!(ints(&batch, "main_pid"), [Some(812), Some(812), None]);
        assert_eq!(texts(&batch, "result")[0], Some("success"));
        assert_eq!(texts(&batch, "type"), [None; 3]);
        assert_eq!(bools(&batch, "system_running"), [None, None, Some(false)]);
        assert_eq!(ints(&batch, "failed_units"), [None, None, Some(1)]);
        assert_eq!(ints(&batch, "queued_jobs"), [None; 3]);

        assert_eq!(sample_at(&mut probe, &NEXT).num_rows(), 0);
        host.units.lock()[0].active = "failed";
        let batch = sample_at(&mut probe, &NEXT);
        assert_eq!(texts(&batch, "unit"), [Some("sshd.service")]);
        assert_eq!(texts(&batch, "previous_active_state"), [Some("active")]);
        assert_eq!(bools(&batch, "failed"), [Some(true)]);

        host.units.lock().remove(0);
        let batch = sample_at(&mut probe, &NEXT);
        assert_eq!(texts(&batch, "load_state"), [Some("unloaded")]);
        assert_eq!(texts(&batch, "previous_active_state"), [Some("failed")]);
        assert_eq!(sample_at(&mut probe, &NEXT).num_rows(), 0);
    }

    #[test]
    fn restarts_between_two_ticks_are_seen_within_a_minute() {
        let host =
            Host::new(vec![unit("a.service", "active", "running"), unit("b.service", "active", "running")], false);
        let mut probe = host.probe(&["*.service"]);
        sample_at(&mut probe, &FIRST_TICK);
        host.units.lock()[1].restarts = 9;
        for _ in 0..REFRESH_TICKS {
            sample_at(&mut probe, &NEXT);
        }
        let batch = sample_at(&mut probe, &AT_HALF_A_MINUTE);
        assert_eq!(ints(&batch, "restarts")[row_of(&batch, "unit", "b.service")], Some(9));
    }

    #[test]
    fn a_unit_restarted_by_hand_has_another_process_within_a_minute() {
        let host = Host::new(vec![unit("a.service", "active", "running"), unit("b.mount", "active", "mounted")], false);
        let mut probe = host.probe(&["*"]);
        sample_at(&mut probe, &FIRST_TICK);
        {
            // systemd counts none, and the unit is active before and after.
            let restarted = &mut host.units.lock()[0];
            (restarted.since, restarted.pid) = (1_700_000_000_000_000, 4242);
        }
        for _ in 0..REFRESH_TICKS {
            sample_at(&mut probe, &NEXT);
        }
        let batch = sample_at(&mut probe, &AT_HALF_A_MINUTE);
        assert_eq!(ints(&batch, "main_pid")[row_of(&batch, "unit", "a.service")], Some(4242));
    }

    #[test]
    fn a_change_that_could_not_be_asked_about_is_one_of_the_next_tick() {
        let mut probe = ServiceProbe::new(&HostRoot::new("/nowhere"), ServiceOptions::default());
        let listed = |name, active| Listed { name, load: "loaded", active, sub: "x", path: "/" };
        let both = [listed("a.service", "active"), listed("b.service", "active")];
        let first = probe.take(&both[..1]);
        assert_eq!(first, [("a.service".to_owned(), None)]);
        let second = [listed("a.service", "failed"), both[1]];
        let changed = probe.take(&second);
        assert_eq!(changed.len(), 2);
        probe.take_back(changed.clone());
        assert_eq!(probe.take(&second), changed);
        assert!(probe.take(&second).is_empty());
    }

    #[test]
    fn an_old_systemd_lists_everything_and_the_patterns_choose() {
        let host = Host::new(vec![unit("a.service", "active", "running"), unit("b.mount", "active", "mounted")], true);
        let batch = sample_at(&mut host.probe(&["*.mount"]), &FIRST_TICK);
        assert_eq!(texts(&batch, "unit"), [Some("b.mount"), Some("systemd")]);
        assert_eq!(ints(&batch, "restarts"), [None, None]);
    }

    #[test]
    fn more_units_than_the_limit_are_counted() {
        let names: Vec<&'static str> =
            (0..MAX_UNITS + 7).map(|n| &*Box::leak(format!("u{n:04}.service").into_boxed_str())).collect();
        let host = Host::new(names.iter().map(|name| unit(name, "active", "running")).collect(), false);
        let batch = sample_at(&mut host.probe(&["*.service"]), &FIRST_TICK);
        assert_eq!(batch.num_rows(), MAX_UNITS + 1);
        assert_eq!(ints(&batch, "units_left_out")[row_of(&batch, "unit", "systemd")], Some(7));
    }

    #[test]
    fn without_systemd_the_table_is_absent_and_a_dead_socket_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let root = HostRoot::new(directory.path());
        let catalogue = Catalogue::built_in();
        let mut rows = Rows::new(catalogue.get("service").unwrap());
        let mut probe = ServiceProbe::new(&root, ServiceOptions::default());
        assert!(matches!(probe.sample(&FIRST_TICK, &mut rows), Err(ProbeError::Absent(_))));
        std::fs::create_dir_all(directory.path().join("run/systemd")).unwrap();
        std::fs::write(directory.path().join("run/systemd/private"), "").unwrap();
        assert!(matches!(probe.sample(&FIRST_TICK, &mut rows), Err(ProbeError::Read { .. })));
    }

    proptest! {
        #[test]
        fn any_list_can_come(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut message = b"l\x02\x01\x01\0\0\0\0\x01\0\0\0\0\0\0\0".to_vec();
            message.extend(bytes);
            let directory = tempfile::tempdir().unwrap();
            let socket = directory.path().join("bus");
            let body = message.split_off(16);
            serve(&socket, move |_| Ok(body.clone()));
            let mut bus = Bus::connect(&socket, true).unwrap();
            let reply = bus.call(&manager_call("ListUnits", &Body::default())).unwrap();
            parse_units(&mut reply.values().unwrap());
        }
    }
}
