//! Sends other agents' packets back.
//!
//! It must be of no use to anybody else. An answer is as long as its question and goes where the question came from, so
//! nothing is amplified; each source, and all together, are answered only so often; what is not exactly our packet is not
//! answered at all. It listens only where `agent.link_listen` says.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::packet::{self, LENGTH};

/// Answers to one source in a second: five times what one agent sends to one peer at the most.
const PER_SOURCE: f64 = 50.0;

/// Answers in a second to all together.
const IN_TOTAL: f64 = 5_000.0;

/// Sources that are told apart. More are refused until others have been quiet.
const MAX_SOURCES: usize = 4_096;

/// How long a read waits, so that the end is noticed.
const WAIT: Duration = Duration::from_millis(500);

/// A port that is taken is tried again after this: by our own predecessor it is for half a second.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// What the responder has done.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    /// Packets sent back.
    pub(super) answered: u64,
    /// Packets of ours that were not answered, because there were too many.
    pub(super) refused: u64,
    /// Why it does not listen.
    pub(super) error: Option<String>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    answered: AtomicU64,
    refused: AtomicU64,
    error: Mutex<Option<String>>,
    bound: Mutex<Option<SocketAddr>>,
}

/// The thread that answers. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Responder {
    shared: Arc<Shared>,
}

impl Responder {
    /// Listens there; if the port is taken, as soon as it is free.
    pub(super) fn start(address: SocketAddr) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        std::thread::Builder::new().name("link-answers".to_owned()).spawn(move || run(address, &of_thread))?;
        Ok(Self { shared })
    }

    /// What it has done so far.
    pub(super) fn facts(&self) -> Facts {
        Facts {
            answered: self.shared.answered.load(Ordering::Relaxed),
            refused: self.shared.refused.load(Ordering::Relaxed),
            error: self.shared.error.lock().clone(),
        }
    }

    /// The port it listens at, once it does.
    #[cfg(test)]
    pub(super) fn port(&self) -> Option<u16> {
        for _ in 0..100 {
            if let Some(bound) = *self.shared.bound.lock() {
                return Some(bound.port());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

fn run(address: SocketAddr, shared: &Shared) {
    while !shared.stop.load(Ordering::Relaxed) {
        let error = match listen(address, shared) {
            Ok(()) => return,
            Err(error) => error,
        };
        let text = format!("{address}: {error}");
        if shared.error.lock().replace(text.clone()).is_none_or(|before| before != text) {
            tracing::warn!(%address, %error, "agent.link_listen: no packets are sent back");
        }
        let again = Instant::now() + TRY_AGAIN;
        while Instant::now() < again && !shared.stop.load(Ordering::Relaxed) {
            std::thread::sleep(WAIT);
        }
    }
}

/// Answers until told to stop.
fn listen(address: SocketAddr, shared: &Shared) -> io::Result<()> {
    let socket = UdpSocket::bind(address)?;
    socket.set_read_timeout(Some(WAIT))?;
    *shared.bound.lock() = Some(socket.local_addr()?);
    *shared.error.lock() = None;
    let mut limiter = Limiter::new(Instant::now());
    // One byte more than a packet, so that a longer one is seen to be longer.
    let mut buffer = [0; LENGTH + 1];
    while !shared.stop.load(Ordering::Relaxed) {
        let (length, source) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            // The wait is over, a signal came, or a port was told to be closed to which an answer had gone.
            Err(error) if is_passing(error.kind()) => continue,
            Err(error) => return Err(error),
        };
        let Some(answer) = buffer.get(..length).and_then(packet::answer) else { continue };
        if !limiter.allows(source.ip(), Instant::now()) {
            shared.refused.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        // One that cannot be sent now is lost, which is what the other side measures.
        if socket.send_to(&answer, source).is_ok() {
            shared.answered.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

fn is_passing(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, Interrupted, TimedOut, WouldBlock};
    matches!(kind, WouldBlock | TimedOut | Interrupted | ConnectionRefused | ConnectionReset)
}

/// A bucket that fills with so many tokens a second, up to two seconds' worth.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn full(rate: f64, now: Instant) -> Self {
        Self { tokens: rate * 2.0, at: now }
    }

    fn refill(&mut self, rate: f64, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * rate).min(rate * 2.0);
        self.at = now;
    }

    fn take(&mut self) -> bool {
        let has = self.tokens >= 1.0;
        if has {
            self.tokens -= 1.0;
        }
        has
    }
}

/// How often is answered.
#[derive(Debug)]
struct Limiter {
    total: Bucket,
    sources: HashMap<IpAddr, Bucket>,
    swept: Instant,
}

impl Limiter {
    fn new(now: Instant) -> Self {
        Self { total: Bucket::full(IN_TOTAL, now), sources: HashMap::new(), swept: now }
    }

    fn allows(&mut self, source: IpAddr, now: Instant) -> bool {
        let source = network(source);
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&source) {
            // A bucket that is full again remembers nothing. Looked for once a second: it goes through all of them.
            if now.saturating_duration_since(self.swept) >= Duration::from_secs(1) {
                self.swept = now;
                self.sources.retain(|_, bucket| now.saturating_duration_since(bucket.at) < Duration::from_secs(2));
            }
            if self.sources.len() >= MAX_SOURCES {
                return false;
            }
        }
        let bucket = self.sources.entry(source).or_insert_with(|| Bucket::full(PER_SOURCE, now));
        bucket.refill(PER_SOURCE, now);
        self.total.refill(IN_TOTAL, now);
        // The total is asked first and only given by who may: a loud source does not use up the others' share.
        self.total.tokens >= 1.0 && bucket.take() && self.total.take()
    }
}

/// One host of IPv6 has a whole /64 of addresses.
fn network(source: IpAddr) -> IpAddr {
    match source {
        IpAddr::V4(_) => source,
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(address) => IpAddr::V4(address),
            None => IpAddr::V6((u128::from(address) & !u128::from(u64::MAX)).into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(socket: &UdpSocket, packet: &[u8]) -> Option<Vec<u8>> {
        socket.send(packet).unwrap();
        let mut buffer = [0; 2048];
        socket.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec())
    }

    #[test]
    fn an_answer_is_no_longer_than_its_question_and_nothing_else_is_answered() {
        let responder = Responder::start("127.0.0.1:0".parse().unwrap()).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(("127.0.0.1", responder.port().unwrap())).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let question = packet::question([1; 16], 9, 9);
        let answer = ask(&socket, &question).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        assert_eq!((answer.len(), packet::answered(&answer, [1; 16])), (LENGTH, Some(9)));
        for wrong in
            [&b"x"[..], &[0; LENGTH], &[0; 1400], &question[..40], &answer, &[question.as_slice(), b"x"].concat()]
        {
            assert_eq!(ask(&socket, wrong), None, "{} bytes", wrong.len());
        }
        assert_eq!(responder.facts().answered, 1);
    }

    #[test]
    fn one_source_is_answered_only_so_often() {
        let responder = Responder::start("127.0.0.1:0".parse().unwrap()).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(("127.0.0.1", responder.port().unwrap())).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        for sequence in 0..400 {
            socket.send(&packet::question([1; 16], sequence, 0)).unwrap();
        }
        let mut answers = 0;
        while socket.recv(&mut [0; LENGTH]).is_ok() {
            answers += 1;
            socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        }
        assert!((1..200).contains(&answers), "{answers} answers to 400 questions at once");
        assert!(responder.facts().refused > 100);
    }

    #[test]
    fn sources_and_their_number_are_bounded() {
        let now = Instant::now();
        let mut limiter = Limiter::new(now);
        let ip = |number: u32| IpAddr::V4(number.into());
        let count = |limiter: &mut Limiter, source, times: usize, now| {
            (0..times).filter(|_| limiter.allows(source, now)).count()
        };
        assert_eq!(count(&mut limiter, ip(1), 1_000, now), 100);
        assert_eq!(count(&mut limiter, ip(2), 10, now), 10, "another is not hurt");
        assert_eq!(count(&mut limiter, ip(1), 1_000, now + Duration::from_secs(1)), 50);
        let mut limiter = Limiter::new(now);
        let allowed = (0..20_000).filter(|number| limiter.allows(ip(*number), now)).count();
        assert_eq!((allowed, limiter.sources.len()), (MAX_SOURCES, MAX_SOURCES));
        assert!(limiter.allows(ip(99_999), now + Duration::from_secs(5)), "those that are quiet make room");
        let one: IpAddr = "fd00::1".parse().unwrap();
        let other: IpAddr = "fd00::ffff:2".parse().unwrap();
        assert_eq!(network(one), network(other));
        assert_eq!(network("::ffff:10.0.0.1".parse().unwrap()), ip(0x0a00_0001));
    }
}
