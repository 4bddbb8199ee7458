//! `listener`: where this host can be reached, and who answers there.
//!
//! An open port that was not there yesterday is the plainest trace of a service that somebody added, so the set of
//! listening sockets is read every ten seconds and a row is written when it changes; once an hour all are written. Reading
//! it is cheap: the kernel keeps listening sockets in a table of their own.
//!
//! Each is followed to its process, the program's file and what that holds (see [`crate::sockets::owners`] and
//! [`crate::executables`]), because a port says little and a port with a hash says much: the same service on a thousand
//! hosts is one line of a query, and the one host where it differs another. This is asked once for each socket. It may
//! come later than the socket is seen: then the row is written again as `changed`.
//!
//! UDP has no listening. What is taken for it, a socket with a port and without a peer, is also what a program uses to
//! send one question; such a socket is listed from the second time it is seen. The ports of containers with a network
//! namespace of their own are not seen here, unless they are published by a process of the host.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use nodescope_model::rows::Rows;
use nodescope_service::settings::Settings;

use crate::attribution::ProcessFacts;
use crate::executables::hasher::{HashThread, NoHash, Waiting};
use crate::executables::{parse_target, way_to};
use crate::host_root::{HostRoot, first_word, read_text};
use crate::probe::{Probe, ProbeError, Tick};
use crate::sockets::owners::Owners;
use crate::sockets::{Protocol, Socket, Sockets, Wanted};

/// Listening sockets listed.
const MAX_LISTENERS: usize = 2_000;

/// All of them are written once in an hour of the wall clock.
const HOUR_MICROS: i64 = 3_600_000_000;

/// How often it is looked whether their processes are still there.
const PROCESSES_EVERY: Duration = Duration::from_secs(60);

/// How long one tick waits for hashes.
const PATIENCE: Duration = Duration::from_millis(1500);

/// What the probe needs to know.
#[derive(Debug, Clone, Default)]
pub struct ListenerOptions {}

impl ListenerOptions {
    /// Reads the settings.
    pub fn read(_settings: &mut Settings) -> Self {
        Self {}
    }
}

/// Fills the table `listener`.
pub struct ListenerProbe {
    root: HostRoot,
    sockets: Sockets,
    owners: Owners,
    hasher: HashThread,
    is_live: Option<bool>,
    listeners: BTreeMap<Place, Listener>,
    /// Sockets of UDP seen once.
    fleeting: HashSet<Place>,
    /// Names of interfaces that sockets are bound to.
    interfaces: HashMap<u32, String>,
    hour: i64,
    left_out: usize,
}

/// Where something listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Place {
    protocol: Protocol,
    port: u16,
    address: IpAddr,
    interface: u32,
}

/// What listens there.
#[derive(Debug)]
struct Listener {
    is_ipv6: bool,
    uid: Option<u32>,
    /// Of the first socket, if there are several.
    inode: u64,
    sockets: u64,
    waiting: u32,
    backlog: u32,
    since: Option<i64>,
    process: Option<Process>,
    /// What was written last.
    written: Option<Signature>,
    is_here: bool,
}

/// The process behind it.
#[derive(Debug)]
struct Process {
    pid: u32,
    facts: Option<ProcessFacts>,
    /// `/proc/PID/exe`, where it may be read.
    link: Option<String>,
    hash: Waiting,
}

/// What makes a row worth writing again.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Signature {
    uid: Option<u32>,
    pid: Option<u32>,
    link: Option<String>,
    sha256: Option<String>,
}

impl Listener {
    fn signature(&self) -> Signature {
        let process = self.process.as_ref();
        Signature {
            uid: self.uid,
            pid: process.map(|process| process.pid),
            link: process.and_then(|process| process.link.clone()),
            sha256: process.and_then(|process| process.hash.hashed()).map(|hashed| hashed.sha256.to_string()),
        }
    }
}

impl ListenerProbe {
    /// A probe of the sockets below `root`.
    pub fn new(root: &HostRoot, _options: ListenerOptions) -> Self {
        Self {
            root: root.clone(),
            sockets: Sockets::new(root),
            owners: Owners::new(root),
            hasher: HashThread::shared(),
            is_live: None,
            listeners: BTreeMap::new(),
            fleeting: HashSet::new(),
            interfaces: HashMap::new(),
            hour: i64::MIN,
            left_out: 0,
        }
    }

    /// Takes in the sockets as they are now.
    fn look(&mut self, tick: &Tick) -> Result<(), ProbeError> {
        for listener in self.listeners.values_mut() {
            listener.is_here = false;
            listener.sockets = 0;
        }
        let (listeners, before) = (&mut self.listeners, std::mem::take(&mut self.fleeting));
        let (mut fleeting, mut left_out) = (HashSet::new(), HashSet::new());
        let reading = self.sockets.each(Wanted::Listeners, |socket| {
            let place = Place::of(socket);
            if let Some(listener) = listeners.get_mut(&place) {
                listener.see(socket);
            } else if listeners.len() + fleeting.len() >= MAX_LISTENERS {
                left_out.insert(place);
            } else if socket.protocol == Protocol::Udp && !tick.first && !before.contains(&place) {
                fleeting.insert(place);
            } else {
                listeners.insert(place, Listener::of(socket, (!tick.first).then_some(tick.ts_micros)));
            }
        });
        self.fleeting = fleeting;
        self.left_out = left_out.len();
        reading.map(|_| ())
    }

    /// Follows sockets to their processes.
    fn follow(&mut self, tick: &Tick) {
        let root = &self.root;
        let is_live = *self.is_live.get_or_insert_with(|| root.is_this_machine());
        let check = tick.is_due(PROCESSES_EVERY);
        for listener in self.listeners.values_mut().filter(|listener| listener.is_here) {
            if check
                && let Some(process) = &listener.process
                && !root.proc(process.pid.to_string()).exists()
            {
                // Another process has it now.
                self.owners.forget(listener.inode);
                listener.process = None;
            }
        }
        let here = self.listeners.values().filter(|listener| listener.is_here);
        self.owners.look_for(tick.ts_micros, &here.map(|listener| listener.inode).collect());
        for listener in self.listeners.values_mut().filter(|listener| listener.is_here) {
            let pid = self.owners.pid(listener.inode);
            if listener.process.as_ref().map(|process| process.pid) != pid {
                listener.process = pid.map(|pid| Process::read(root, pid));
            }
            if let Some(Process { pid, link: Some(link), hash, .. }) = &mut listener.process {
                hash.ask(&self.hasher, true, || way_to(root, is_live, *pid, link));
            }
        }
        let deadline = Instant::now() + PATIENCE;
        for listener in self.listeners.values_mut() {
            // A row that is written anyhow may wait for its hash; for any other the hash is what it is written for.
            let until = if listener.written.is_none() { deadline } else { Instant::now() };
            if let Some(process) = &mut listener.process {
                process.hash.wait_until(until);
            }
        }
    }

    fn append(&self, place: &Place, listener: &Listener, state: &str, rows: &mut Rows) {
        let process = listener.process.as_ref();
        let facts = process.and_then(|process| process.facts.as_ref());
        let owner = facts.map(|facts| &facts.owner);
        let target = process.and_then(|process| process.link.as_deref()).map(parse_target);
        let hash = process.map(|process| &process.hash).filter(|_| target.is_some());
        // Of UDP both are bytes and say something else.
        let has_queue = place.protocol == Protocol::Tcp && listener.is_here;
        let interface = self.interfaces.get(&place.interface).map_or("any", String::as_str);
        rows.begin()
            .text("protocol", place.protocol.as_str())
            .text("address", place.address.to_string().as_str())
            .int("port", i64::from(place.port))
            .text("interface", interface)
            .text("state", state)
            .text("family", if listener.is_ipv6 { "ipv6" } else { "ipv4" })
            .bool("wildcard", place.address.is_unspecified())
            .bool("loopback", place.address.is_loopback())
            .count("sockets", listener.sockets)
            .int("uid", listener.uid.map(i64::from))
            .int("pid", process.map(|process| i64::from(process.pid)))
            .text("process", facts.map(|facts| facts.name.as_str()))
            .text("executable", target.map(|target| target.path))
            .bool("executable_deleted", target.map(|target| target.is_deleted))
            .text("sha256", hash.and_then(Waiting::hashed).map(|hashed| &*hashed.sha256))
            .text("no_sha256", hash.and_then(Waiting::missing).map(NoHash::as_str))
            .text("unit", owner.and_then(|owner| owner.unit.as_deref()))
            .text("container", owner.and_then(|owner| owner.container.as_deref()))
            .text("pod", owner.and_then(|owner| owner.pod.as_deref()))
            .text("job", owner.and_then(|owner| owner.job.as_deref()))
            .timestamp("since", listener.since)
            .int("waiting", has_queue.then(|| i64::from(listener.waiting)))
            .int("backlog", has_queue.then(|| i64::from(listener.backlog)));
    }

    /// Names the interfaces that sockets are bound to.
    fn name_interfaces(&mut self) {
        let unknown = |place: &Place| place.interface != 0 && !self.interfaces.contains_key(&place.interface);
        if !self.listeners.keys().any(unknown) {
            return;
        }
        self.interfaces.clear();
        for entry in fs::read_dir(self.root.sys("class/net")).into_iter().flatten().flatten() {
            if let Some(number) = read_text(&entry.path().join("ifindex")).and_then(|text| first_word(&text)) {
                self.interfaces.insert(number, entry.file_name().to_string_lossy().into_owned());
            }
        }
        for place in self.listeners.keys().filter(|place| place.interface != 0) {
            self.interfaces.entry(place.interface).or_insert_with(|| place.interface.to_string());
        }
    }
}

impl Place {
    fn of(socket: &Socket) -> Self {
        Self { protocol: socket.protocol, port: socket.local_port, address: socket.local, interface: socket.interface }
    }
}

impl Listener {
    fn of(socket: &Socket, since: Option<i64>) -> Self {
        let mut listener = Self {
            is_ipv6: socket.is_ipv6,
            uid: socket.uid,
            inode: socket.inode,
            sockets: 0,
            waiting: 0,
            backlog: 0,
            since,
            process: None,
            written: None,
            is_here: false,
        };
        listener.see(socket);
        listener
    }

    /// Another socket of this place, or the same one again.
    fn see(&mut self, socket: &Socket) {
        if !self.is_here {
            (self.waiting, self.backlog) = (0, 0);
            if self.inode != socket.inode {
                (self.inode, self.process) = (socket.inode, None);
            }
            (self.is_ipv6, self.uid) = (socket.is_ipv6, socket.uid);
        }
        self.is_here = true;
        self.sockets += 1;
        self.waiting = self.waiting.saturating_add(socket.receive_queue);
        self.backlog = self.backlog.saturating_add(socket.send_queue);
    }
}

impl Process {
    fn read(root: &HostRoot, pid: u32) -> Self {
        let link = fs::read_link(root.proc(format!("{pid}/exe"))).ok();
        Self {
            pid,
            facts: ProcessFacts::read(root, pid),
            link: link.map(|link| link.to_string_lossy().into_owned()),
            hash: Waiting::default(),
        }
    }
}

impl Probe for ListenerProbe {
    fn table(&self) -> &'static str {
        "listener"
    }

    fn sample(&mut self, tick: &Tick, rows: &mut Rows) -> Result<(), ProbeError> {
        let before = self.left_out;
        self.look(tick)?;
        self.follow(tick);
        self.name_interfaces();
        let hour = tick.ts_micros.div_euclid(HOUR_MICROS);
        let is_hourly = std::mem::replace(&mut self.hour, hour) != hour;
        let mut listeners = std::mem::take(&mut self.listeners);
        listeners.retain(|place, listener| {
            let signature = listener.signature();
            let state = match &listener.written {
                _ if !listener.is_here => Some("removed"),
                None if tick.first => Some("present"),
                None => Some("added"),
                Some(written) if *written != signature => Some("changed"),
                Some(_) => is_hourly.then_some("present"),
            };
            if let Some(state) = state {
                self.append(place, listener, state, rows);
                listener.written = Some(signature);
            }
            listener.is_here
        });
        self.listeners = listeners;
        if self.left_out > 0 && (is_hourly || before == 0) {
            rows.begin()
                .text("protocol", "all")
                .text("address", "others")
                .int("port", 0)
                .text("interface", "any")
                .text("state", "present")
                .count("sockets", self.left_out as u64);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;
    use crate::probes::testing::{FIRST_TICK, bools, ints, sample_at, texts};

    const HEADING: &str = "  sl  local_address rem_address   st\n";
    const SHA256_OF_ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn line(address: [u8; 4], port: u16, state: u8, uid: u32, inode: u64) -> String {
        let address = u32::from_ne_bytes(address);
        format!("0: {address:08X}:{port:04X} 00000000:0000 {state:02X} 00000080:00000001 0:0 0 {uid} 0 {inode} 1\n")
    }

    fn write(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A host on which sshd listens, and something on loopback whose process is not known.
    fn host() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        set(root, &[(0, 22, 700), (127, 8080, 701)], &[]);
        write(root, "proc/900/stat", "900 (sshd) S 1 1 1 0 -1 0 0 0 0 0 1 1 0 0 20 0 1 0 50 100 10");
        write(root, "proc/900/status", "Uid:\t0\t0\t0\t0\n");
        write(root, "proc/900/cgroup", "0::/system.slice/ssh.service\n");
        write(root, "usr/sbin/sshd", "abc");
        fs::create_dir_all(root.join("proc/900/fd")).unwrap();
        symlink("/usr/sbin/sshd", root.join("proc/900/exe")).unwrap();
        symlink("socket:[700]", root.join("proc/900/fd/3")).unwrap();
        directory
    }

    /// Listening sockets of TCP and UDP: first byte of the address, port, inode.
    fn set(root: &Path, tcp: &[(u8, u16, u64)], udp: &[(u8, u16, u64)]) {
        let lines = |sockets: &[(u8, u16, u64)], state| {
            let of = |(first, port, inode): &(u8, u16, u64)| {
                let last = u8::from(*first != 0);
                line([*first, 0, 0, last], *port, state, 0, *inode)
            };
            format!("{HEADING}{}", sockets.iter().map(of).collect::<String>())
        };
        write(root, "proc/net/tcp", &lines(tcp, 10));
        write(root, "proc/net/udp", &lines(udp, 7));
    }

    /// With a hasher of its own, that does not wait for those of other tests.
    fn probe(root: &Path) -> ListenerProbe {
        ListenerProbe { hasher: HashThread::start(), ..ListenerProbe::new(&HostRoot::new(root), ListenerOptions {}) }
    }

    fn at(seconds: i64) -> Tick {
        Tick { ts_micros: FIRST_TICK.ts_micros + seconds * 1_000_000, first: seconds == 0 }
    }

    /// States and ports of the rows.
    fn told(batch: &arrow_array::RecordBatch) -> Vec<(String, i64)> {
        let states = texts(batch, "state").into_iter().map(|state| state.unwrap().to_owned());
        states.zip(ints(batch, "port").into_iter().map(Option::unwrap)).collect()
    }

    #[test]
    fn a_listener_is_followed_to_its_program() {
        let directory = host();
        let mut probe = probe(directory.path());
        let batch = sample_at(&mut probe, &at(0));
        assert_eq!(told(&batch), [("present".to_owned(), 22), ("present".to_owned(), 8080)]);
        assert_eq!(texts(&batch, "address"), [Some("0.0.0.0"), Some("127.0.0.1")]);
        assert_eq!(bools(&batch, "wildcard"), [Some(true), Some(false)]);
        assert_eq!(bools(&batch, "loopback"), [Some(false), Some(true)]);
        assert_eq!(ints(&batch, "pid"), [Some(900), None]);
        assert_eq!(texts(&batch, "process"), [Some("sshd"), None]);
        assert_eq!(texts(&batch, "executable"), [Some("/usr/sbin/sshd"), None]);
        assert_eq!(bools(&batch, "executable_deleted"), [Some(false), None]);
        assert_eq!(texts(&batch, "sha256"), [Some(SHA256_OF_ABC), None]);
        assert_eq!(texts(&batch, "no_sha256"), [None, None]);
        assert_eq!(texts(&batch, "unit"), [Some("ssh.service"), None]);
        assert_eq!(ints(&batch, "waiting"), [Some(1), Some(1)]);
        assert_eq!(ints(&batch, "backlog"), [Some(128), Some(128)]);
        assert!(batch.column_by_name("since").unwrap().null_count() == 2);
    }

    #[test]
    fn changes_are_told_at_once_and_all_once_an_hour() {
        let directory = host();
        let root = directory.path();
        let mut probe = probe(root);
        sample_at(&mut probe, &at(0));
        assert!(told(&sample_at(&mut probe, &at(10))).is_empty());
        set(root, &[(0, 22, 700), (0, 4444, 702)], &[(0, 53, 703)]);
        let batch = sample_at(&mut probe, &at(20));
        assert_eq!(told(&batch), [("added".to_owned(), 4444), ("removed".to_owned(), 8080)]);
        assert_eq!(batch.column_by_name("since").unwrap().null_count(), 1);
        // UDP when it is seen again.
        assert_eq!(told(&sample_at(&mut probe, &at(30))), [("added".to_owned(), 53)]);
        // The process of the new one turns up at the next search.
        symlink("socket:[702]", root.join("proc/900/fd/4")).unwrap();
        assert_eq!(told(&sample_at(&mut probe, &at(70))), [("changed".to_owned(), 4444)]);
        // A hash may come late, and is a change of its own: then it is the next hour that has nothing new.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
        for hour in 1.. {
            let all = told(&sample_at(&mut probe, &at(hour * 3600)));
            assert_eq!(all.len(), 3);
            if all.iter().all(|(state, _)| state == "present") {
                break;
            }
            assert!(std::time::Instant::now() < until, "they do not settle: {all:?}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn several_sockets_of_one_place_are_one_row_and_a_restart_a_change() {
        let directory = host();
        let root = directory.path();
        set(root, &[(0, 22, 700), (0, 22, 710)], &[]);
        let mut probe = probe(root);
        let batch = sample_at(&mut probe, &at(0));
        assert_eq!(ints(&batch, "sockets"), [Some(2)]);
        assert_eq!(ints(&batch, "waiting"), [Some(2)]);
        fs::rename(root.join("proc/900"), root.join("proc/901")).unwrap();
        assert_eq!(told(&sample_at(&mut probe, &at(100))), [("changed".to_owned(), 22)]);
        assert_eq!(ints(&sample_at(&mut probe, &at(3600)), "pid"), [Some(901)]);
    }

    #[test]
    fn beyond_the_bound_they_are_counted() {
        let directory = host();
        let many: Vec<(u8, u16, u64)> = (1..=2_003).map(|port| (0, port, u64::from(port))).collect();
        set(directory.path(), &many, &[]);
        let mut probe = probe(directory.path());
        let batch = sample_at(&mut probe, &at(0));
        assert_eq!(batch.num_rows(), MAX_LISTENERS + 1);
        assert_eq!(texts(&batch, "address").last(), Some(&Some("others")));
        assert_eq!(ints(&batch, "sockets").last(), Some(&Some(3)));
    }

    #[test]
    fn our_own_listener_is_ours() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = i64::from(socket.local_addr().unwrap().port());
        let mut probe = probe(Path::new("/"));
        let batch = sample_at(&mut probe, &at(0));
        let row = ints(&batch, "port").iter().position(|p| *p == Some(port)).unwrap();
        assert_eq!(texts(&batch, "protocol")[row], Some("tcp"));
        if let Some(pid) = ints(&batch, "pid")[row] {
            assert_eq!(pid, i64::from(std::process::id()));
        }
    }
}
