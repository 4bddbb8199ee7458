//! The thread that sends probes, and the one that looks names up.
//!
//! Each peer has so many slots in ten seconds, and each slot one probe at a random moment in it: probes are spread, and
//! many agents that were started together do not send together. No more than [`MAX_PER_SECOND`] leave in a second,
//! whatever happens; slots that went by while the host slept are not made up for.
//!
//! UDP goes over two sockets, one for each version of IP; TCP opens a connection for each probe, waits until it stands or
//! fails, and closes it. Nothing blocks: one `poll` waits for all. A probe without an answer after a second is lost.
//!
//! Looking up a name can take half a minute when the name server is gone, so it has a thread of its own, once a minute;
//! until then the last address stays. Names that are addresses need none of it.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::Rng;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::socket_error;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

use super::packet::{self, LENGTH};
use super::window::Window;
use super::{INTERVAL, MAX_PEERS, MAX_PER_SECOND, Peer, Protocol};

/// A probe without an answer for so long is lost.
const TIMEOUT: Duration = Duration::from_secs(1);

/// How often names are looked up.
const RESOLVE_EVERY: Duration = Duration::from_secs(60);

/// How long the threads sleep at the most, so that the end is noticed.
const WAIT: Duration = Duration::from_millis(500);

/// Connections being opened at one time.
const MAX_CONNECTING: usize = MAX_PEERS;

/// What the threads and the probe share.
#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    windows: Mutex<Vec<Window>>,
    addresses: Mutex<Vec<Result<SocketAddr, String>>>,
}

/// The threads. They end when this is dropped.
#[derive(Debug)]
pub(super) struct Prober {
    shared: Arc<Shared>,
}

impl Prober {
    /// Starts to probe these peers, each so often in ten seconds.
    pub(super) fn start(peers: Vec<Peer>, probes: u32) -> io::Result<Self> {
        let addresses: Vec<_> = peers.iter().map(literal).collect();
        let names = addresses.iter().any(Result::is_err);
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            windows: Mutex::new(vec![Window::default(); peers.len()]),
            addresses: Mutex::new(addresses),
        });
        let prober = Self { shared: Arc::clone(&shared) };
        if names {
            let (peers, shared) = (peers.clone(), Arc::clone(&shared));
            std::thread::Builder::new().name("link-names".to_owned()).spawn(move || resolve(&peers, &shared))?;
        }
        std::thread::Builder::new()
            .name("link-probes".to_owned())
            .spawn(move || Sender::new(&peers, probes, &shared).run())?;
        Ok(prober)
    }

    /// What each peer's probes have shown since the last time, in the peers' order.
    pub(super) fn collect(&self) -> Vec<Window> {
        self.shared.windows.lock().iter_mut().map(Window::take).collect()
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// The address, if the host's name is one.
fn literal(peer: &Peer) -> Result<SocketAddr, String> {
    match peer.host.parse::<IpAddr>() {
        Ok(address) => Ok(SocketAddr::new(address, peer.port)),
        Err(_) => Err(format!("{} is being looked up", peer.host)),
    }
}

/// Looks names up until told to stop.
fn resolve(peers: &[Peer], shared: &Shared) {
    while !shared.stop.load(Ordering::Relaxed) {
        let mut found: BTreeMap<&str, Result<IpAddr, String>> = BTreeMap::new();
        for (at, peer) in peers.iter().enumerate().filter(|(_, peer)| literal(peer).is_err()) {
            let address = found.entry(&peer.host).or_insert_with(|| {
                let answer = (peer.host.as_str(), peer.port).to_socket_addrs();
                let first = answer.map(|mut addresses| addresses.next().map(|address| address.ip()));
                match first {
                    Ok(Some(address)) => Ok(address),
                    Ok(None) => Err(format!("{} has no address", peer.host)),
                    Err(error) => Err(format!("{} cannot be looked up: {error}", peer.host)),
                }
            });
            if shared.stop.load(Ordering::Relaxed) {
                return;
            }
            if let Some(known) = shared.addresses.lock().get_mut(at) {
                match address {
                    Ok(address) => *known = Ok(SocketAddr::new(*address, peer.port)),
                    // A name server that is gone does not make the peer go.
                    Err(_) if known.is_ok() => {}
                    Err(error) => *known = Err(error.clone()),
                }
            }
        }
        let again = Instant::now() + RESOLVE_EVERY;
        while Instant::now() < again && !shared.stop.load(Ordering::Relaxed) {
            std::thread::sleep(WAIT);
        }
    }
}

/// When a peer is probed next.
#[derive(Debug)]
struct Slot {
    begin: Instant,
    due: Instant,
}

/// A UDP probe that was sent.
#[derive(Debug)]
struct Sent {
    peer: usize,
    at: Instant,
}

/// A TCP probe that was begun.
#[derive(Debug)]
struct Connecting {
    peer: usize,
    at: Instant,
    socket: OwnedFd,
}

/// The thread that sends.
struct Sender<'a> {
    protocols: Vec<Protocol>,
    spacing: Duration,
    shared: &'a Shared,
    slots: Vec<Slot>,
    udp: Vec<(bool, UdpSocket)>,
    agent: [u8; 16],
    sequence: u64,
    began: Instant,
    sent: BTreeMap<u64, Sent>,
    connecting: Vec<Connecting>,
    second: Instant,
    in_second: u32,
}

impl<'a> Sender<'a> {
    fn new(peers: &[Peer], probes: u32, shared: &'a Shared) -> Self {
        let now = Instant::now();
        let spacing = INTERVAL / probes.max(1);
        let slot = |_: &Peer| {
            let mut slot = Slot { begin: now, due: now };
            slot.begin_at(now, spacing);
            slot
        };
        Self {
            protocols: peers.iter().map(|peer| peer.protocol).collect(),
            spacing,
            shared,
            slots: peers.iter().map(slot).collect(),
            udp: Vec::new(),
            agent: rand::rng().random(),
            sequence: 0,
            began: now,
            sent: BTreeMap::new(),
            connecting: Vec::new(),
            second: now,
            in_second: 0,
        }
    }

    fn run(&mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            self.send_due(now);
            self.give_up(now);
            self.wait(now);
            self.receive();
        }
    }

    /// Sends what is due.
    fn send_due(&mut self, now: Instant) {
        for peer in 0..self.slots.len() {
            let Some(slot) = self.slots.get_mut(peer) else { continue };
            if slot.due > now {
                continue;
            }
            // The next slot, or the present one if some went by.
            let next = slot.begin + self.spacing;
            slot.begin_at(if next + self.spacing < now { now } else { next }, self.spacing);
            if now.saturating_duration_since(self.second) >= Duration::from_secs(1) {
                (self.second, self.in_second) = (now, 0);
            }
            if self.in_second >= MAX_PER_SECOND {
                continue;
            }
            self.in_second += 1;
            self.send_to(peer);
        }
    }

    fn send_to(&mut self, peer: usize) {
        let address = self.shared.addresses.lock().get(peer).cloned();
        let (Some(address), Some(protocol)) = (address, self.protocols.get(peer)) else { return };
        let address = match address {
            Ok(address) => address,
            Err(error) => return self.note(peer, |window| window.failed(&error)),
        };
        self.note(peer, |window| window.address = Some(address.ip()));
        let begun = match protocol {
            Protocol::Udp => self.ask(peer, address),
            Protocol::Tcp => self.connect_to(peer, address),
        };
        if let Err(error) = begun {
            self.note(peer, |window| window.lost(&error.to_string()));
        }
    }

    fn ask(&mut self, peer: usize, address: SocketAddr) -> io::Result<()> {
        self.sequence += 1;
        let sequence = self.sequence;
        let nanoseconds = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let packet = packet::question(self.agent, sequence, nanoseconds);
        let socket = self.udp_socket(address.is_ipv4())?;
        let at = Instant::now();
        socket.send_to(&packet, address)?;
        self.sent.insert(sequence, Sent { peer, at });
        Ok(())
    }

    /// The socket for one version of IP, made when first needed.
    fn udp_socket(&mut self, is_v4: bool) -> io::Result<&UdpSocket> {
        if !self.udp.iter().any(|(of_v4, _)| *of_v4 == is_v4) {
            let any = if is_v4 { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
            let socket = UdpSocket::bind((any, 0))?;
            socket.set_nonblocking(true)?;
            self.udp.push((is_v4, socket));
        }
        let found = self.udp.iter().find(|(of_v4, _)| *of_v4 == is_v4);
        found.map(|(_, socket)| socket).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn connect_to(&mut self, peer: usize, address: SocketAddr) -> io::Result<()> {
        if self.connecting.len() >= MAX_CONNECTING {
            return Err(io::Error::other("too many connections are being opened"));
        }
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(family, SocketType::STREAM, flags, None)?;
        let at = Instant::now();
        match connect(&socket, &address) {
            // On this host it stands at once.
            Ok(()) => self.note(peer, |window| window.received(at.elapsed())),
            Err(Errno::INPROGRESS) => self.connecting.push(Connecting { peer, at, socket }),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Gives up what has no answer.
    fn give_up(&mut self, now: Instant) {
        let is_over = |at: Instant| now.saturating_duration_since(at) >= TIMEOUT;
        let mut lost = Vec::new();
        while let Some(first) = self.sent.first_entry().filter(|first| is_over(first.get().at)) {
            lost.push(first.remove().peer);
        }
        self.connecting.retain(|connecting| {
            let is_over = is_over(connecting.at);
            if is_over {
                lost.push(connecting.peer);
            }
            !is_over
        });
        for peer in lost {
            self.note(peer, |window| window.lost("no answer within a second"));
        }
    }

    /// Waits for an answer, the next probe, or the next that must be given up; and takes in connections.
    fn wait(&mut self, now: Instant) {
        let due = self.slots.iter().map(|slot| slot.due).min();
        let over = self.sent.values().map(|sent| sent.at).next().into_iter();
        let over = over.chain(self.connecting.iter().map(|connecting| connecting.at)).map(|at| at + TIMEOUT).min();
        let next = [due, over].into_iter().flatten().min().unwrap_or(now + WAIT);
        let wait = next.saturating_duration_since(now).min(WAIT);
        let timeout = Timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos().into() };
        let mut polled: Vec<PollFd<'_>> =
            self.udp.iter().map(|(_, socket)| PollFd::new(socket, PollFlags::IN)).collect();
        let first = polled.len();
        polled.extend(self.connecting.iter().map(|connecting| PollFd::new(&connecting.socket, PollFlags::OUT)));
        // Interrupted by a signal, or nothing to wait for: the next round sees.
        if poll(&mut polled, Some(&timeout)).is_err() {
            return;
        }
        let at = Instant::now();
        let ready: Vec<bool> = polled.iter().skip(first).map(|fd| !fd.revents().is_empty()).collect();
        let mut ready = ready.into_iter();
        let mut done = Vec::new();
        self.connecting.retain(|connecting| {
            if !ready.next().unwrap_or(false) {
                return true;
            }
            done.push((connecting.peer, at.saturating_duration_since(connecting.at), socket_error(&connecting.socket)));
            false
        });
        for (peer, time, outcome) in done {
            self.note(peer, |window| match outcome {
                Ok(Ok(())) => window.received(time),
                Ok(Err(error)) | Err(error) => window.lost(&io::Error::from(error).to_string()),
            });
        }
    }

    /// Takes in the answers that are there.
    fn receive(&mut self) {
        // One byte more than a packet, so that a longer one is seen to be longer.
        let mut buffer = [0; LENGTH + 1];
        let mut answers = Vec::new();
        for (_, socket) in &self.udp {
            // Bounded: somebody may send faster than this reads.
            for _ in 0..1_000 {
                match socket.recv_from(&mut buffer) {
                    Ok((length, _)) => {
                        let at = Instant::now();
                        let sequence = buffer.get(..length).and_then(|bytes| packet::answered(bytes, self.agent));
                        answers.extend(sequence.map(|sequence| (sequence, at)));
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
        }
        for (sequence, at) in answers {
            // One that comes twice, or after it was given up, is not waited for any more.
            if let Some(sent) = self.sent.remove(&sequence) {
                self.note(sent.peer, |window| window.received(at.saturating_duration_since(sent.at)));
            }
        }
    }

    fn note(&self, peer: usize, what: impl FnOnce(&mut Window)) {
        if let Some(window) = self.shared.windows.lock().get_mut(peer) {
            what(window);
        }
    }
}

impl Slot {
    /// Draws the moment of a slot that begins then.
    fn begin_at(&mut self, begin: Instant, spacing: Duration) {
        self.begin = begin;
        self.due = begin + spacing.mul_f64(rand::rng().random());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(peers: &[Peer]) -> Shared {
        Shared {
            stop: AtomicBool::new(false),
            windows: Mutex::new(vec![Window::default(); peers.len()]),
            addresses: Mutex::new(peers.iter().map(literal).collect()),
        }
    }

    fn peers(count: usize, port: u16) -> Vec<Peer> {
        let peer = |n| Peer { name: format!("p{n}"), host: "127.0.0.1".to_owned(), port, protocol: Protocol::Udp };
        (0..count).map(peer).collect()
    }

    #[test]
    fn probes_are_spread_and_their_number_is_what_was_asked_for() {
        let quiet = UdpSocket::bind("127.0.0.1:0").unwrap();
        let peers = peers(10, quiet.local_addr().unwrap().port());
        let shared = shared(&peers);
        let mut sender = Sender::new(&peers, 5, &shared);
        let begin = sender.began;
        let mut per_second = Vec::new();
        for tenths in 1..=200u32 {
            let before = sender.sequence;
            sender.send_due(begin + Duration::from_millis(100) * tenths);
            if tenths % 10 == 1 {
                per_second.push(0);
            }
            *per_second.last_mut().unwrap() += sender.sequence - before;
        }
        let total: u64 = per_second.iter().sum();
        assert!((90..=100).contains(&total), "10 peers, 5 in 10 s, for 20 s: {total}");
        assert!(per_second.iter().all(|sent| *sent < 12), "{per_second:?}");
    }

    #[test]
    fn what_went_by_is_not_made_up_for_and_a_second_has_its_bound() {
        let quiet = UdpSocket::bind("127.0.0.1:0").unwrap();
        let peers = peers(MAX_PEERS, quiet.local_addr().unwrap().port());
        let shared = shared(&peers);
        let mut sender = Sender::new(&peers, 100, &shared);
        let later = sender.began + Duration::from_secs(3_600);
        sender.send_due(later);
        assert_eq!(sender.sequence, MAX_PEERS as u64, "one each after an hour's sleep");
        for milliseconds in 1..=900 {
            sender.send_due(later + Duration::from_millis(milliseconds));
        }
        assert_eq!(sender.sequence, u64::from(MAX_PER_SECOND), "500 in a second though more were due");
    }

    #[test]
    fn a_peer_that_drops_is_seen_to_drop() {
        let dropping = UdpSocket::bind("127.0.0.1:0").unwrap();
        dropping.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let peers = peers(1, dropping.local_addr().unwrap().port());
        let shared = shared(&peers);
        let mut sender = Sender::new(&peers, 5, &shared);
        let mut buffer = [0; LENGTH];
        for sequence in 0..10 {
            sender.send_to(0);
            let (length, source) = dropping.recv_from(&mut buffer).unwrap();
            // Three of ten are lost; one comes twice, and one is of somebody else.
            if sequence % 4 != 0 {
                let answer = packet::answer(&buffer[..length]).unwrap();
                for _ in 0..=u64::from(sequence == 1) {
                    dropping.send_to(&answer, source).unwrap();
                }
            }
            dropping.send_to(&packet::answer(&packet::question([0; 16], sequence, 0)).unwrap(), source).unwrap();
            std::thread::sleep(Duration::from_millis(5));
            sender.receive();
        }
        sender.give_up(Instant::now());
        assert_eq!(sender.sent.len(), 3, "these are waited for");
        sender.give_up(Instant::now() + TIMEOUT);
        let window = shared.windows.lock()[0].take();
        let batch = {
            let catalogue = nodescope_model::catalogue::Catalogue::built_in();
            let mut rows = nodescope_model::rows::Rows::new(catalogue.get("link").unwrap());
            let mut row = rows.begin();
            row.text("peer", "p").text("protocol", "udp");
            window.fill(&mut row);
            rows.finish(&nodescope_model::rows::Stamp { ts_micros: 0, node: "", host: "" })
        };
        use crate::probes::testing::{floats, ints};
        assert_eq!((ints(&batch, "sent"), ints(&batch, "lost")), (vec![Some(10)], vec![Some(3)]));
        assert_eq!(floats(&batch, "loss_ratio"), [Some(0.3)]);
    }

    #[test]
    fn names_are_looked_up_on_a_thread_of_their_own() {
        let name = |host: &str| Peer { name: host.to_owned(), host: host.to_owned(), port: 9, protocol: Protocol::Tcp };
        let peers = vec![name("localhost"), name("name.invalid"), name("127.0.0.1")];
        let shared = Arc::new(shared(&peers));
        assert!(shared.addresses.lock()[0].is_err());
        let of_thread = Arc::clone(&shared);
        let of_peers = peers.clone();
        let thread = std::thread::spawn(move || resolve(&of_peers, &of_thread));
        let until = Instant::now() + Duration::from_secs(30);
        let is_told =
            |shared: &Shared| shared.addresses.lock()[1].as_ref().is_err_and(|error| !error.contains("is being"));
        while !is_told(&shared) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
        shared.stop.store(true, Ordering::Relaxed);
        thread.join().unwrap();
        let addresses = shared.addresses.lock();
        assert!(addresses[0].as_ref().is_ok_and(|address| address.ip().is_loopback()));
        assert!(addresses[1].is_err());
        assert_eq!(addresses[2], Ok("127.0.0.1:9".parse().unwrap()));
    }
}
