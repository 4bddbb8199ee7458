//! The way to other hosts: whether packets arrive, and how long they take.
//!
//! Counters of an interface say what left this host; they cannot say that a switch on the way drops one packet in ten
//! thousand. So an agent may send a few small packets to peers it is told (`agent.link_peers`), over UDP to other agents
//! that send each one back (`agent.link_listen`), or by opening TCP connections to anything that listens. Both are off by
//! default: an agent neither sends nor listens unless it is told to.
//!
//! The probing has a thread of its own (see [`prober`]); this probe collects what it has found since the last tick. The
//! times include what it takes both hosts to wake a thread, some tens of microseconds: a change shows, an absolute value
//! below that does not. See `docs/link.md`.

mod packet;
mod prober;
mod responder;
mod window;

use std::net::SocketAddr;
use std::time::Duration;

use nodescope_model::rows::Rows;
use nodescope_service::settings::Settings;

use self::prober::Prober;
use self::responder::Responder;
use crate::host_root::HostRoot;
use crate::probe::{Probe, ProbeError, Tick};

/// The probes of a peer are spread over so long; the interval of the table.
const INTERVAL: Duration = Duration::from_secs(10);

/// Peers at the most.
const MAX_PEERS: usize = 256;

/// Probes sent in a second at the most, to all peers together.
const MAX_PER_SECOND: u32 = 500;

/// Probes of one peer in an interval at the most.
const MAX_PROBES: u32 = 100;

/// The name of the row about this agent's own answering. No peer can have it.
const ANSWERS: &str = "(answers)";

/// How a peer is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// A connection is opened, and closed at once.
    Tcp,
    /// A packet is sent, and comes back.
    Udp,
}

impl Protocol {
    fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// Whom to probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name in every row.
    pub name: String,
    /// Name or address of its host.
    pub host: String,
    /// Port.
    pub port: u16,
    /// How.
    pub protocol: Protocol,
}

/// What the probe needs to know.
#[derive(Debug, Clone)]
pub struct LinkOptions {
    /// Whom to probe.
    pub peers: Vec<Peer>,
    /// How often each in ten seconds.
    pub probes: u32,
    /// Where to answer others.
    pub listen: Option<SocketAddr>,
}

impl Default for LinkOptions {
    fn default() -> Self {
        Self { peers: Vec::new(), probes: 5, listen: None }
    }
}

impl LinkOptions {
    /// Reads the settings.
    pub fn read(settings: &mut Settings) -> Self {
        let mut peers: Vec<Peer> = Vec::new();
        let texts = settings.list(
            "agent.link_peers",
            "",
            "Peers to which the way is measured: `NAME=HOST:PORT/udp` for an agent that answers, `NAME=HOST:PORT/tcp` for \
             anything that listens.",
        );
        for text in texts {
            match parse_peer(&text) {
                Ok(peer) if peers.iter().any(|p| (&p.name, p.protocol) == (&peer.name, peer.protocol)) => {
                    settings.mistake(format!("agent.link_peers: `{}` is there twice", peer.name));
                }
                Ok(peer) => peers.push(peer),
                Err(why) => settings.mistake(format!("agent.link_peers: `{text}`: {why}")),
            }
        }
        if peers.len() > MAX_PEERS {
            settings.mistake(format!("agent.link_peers: {} peers; {MAX_PEERS} is the most", peers.len()));
        }
        let probes: u32 = settings.get("agent.link_probes", "5", "Probes sent to each peer in ten seconds.");
        if !(1..=MAX_PROBES).contains(&probes) {
            settings.mistake(format!("agent.link_probes: from 1 to {MAX_PROBES}"));
        }
        let per_interval = u64::from(probes) * peers.len() as u64;
        if per_interval > u64::from(MAX_PER_SECOND) * INTERVAL.as_secs() {
            settings.mistake(format!(
                "agent.link_peers and agent.link_probes: {per_interval} probes in ten seconds; {} is the most",
                u64::from(MAX_PER_SECOND) * INTERVAL.as_secs()
            ));
        }
        let listen: String = settings.get(
            "agent.link_listen",
            "none",
            "Address at which this agent sends other agents' packets back (UDP), as `0.0.0.0:19101`, or `none`.",
        );
        let listen = match listen.as_str() {
            "none" => None,
            address => match address.parse() {
                Ok(address) => Some(address),
                Err(error) => {
                    settings.mistake(format!("agent.link_listen: {error}, and not `none` either"));
                    None
                }
            },
        };
        Self { peers, probes, listen }
    }
}

/// `NAME=HOST:PORT`, then `/tcp` or `/udp`; TCP without.
fn parse_peer(text: &str) -> Result<Peer, &'static str> {
    const FORM: &str = "NAME=HOST:PORT/udp or NAME=HOST:PORT/tcp is wanted";
    let (name, rest) = text.split_once('=').ok_or(FORM)?;
    let (address, protocol) = match rest.rsplit_once('/') {
        Some((address, "tcp")) => (address, Protocol::Tcp),
        Some((address, "udp")) => (address, Protocol::Udp),
        Some(_) => return Err("the protocol is tcp or udp"),
        None => (rest, Protocol::Tcp),
    };
    let (host, port) = address.rsplit_once(':').ok_or(FORM)?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).trim();
    let name = name.trim();
    let is_named = name.chars().all(|c| c.is_alphanumeric() || "._-:/".contains(c));
    if name.is_empty() || name.len() > 128 || !is_named {
        return Err("the name is letters, digits and . _ - : /");
    }
    if host.is_empty() || host.len() > 253 || host.contains(char::is_whitespace) {
        return Err("there is no host");
    }
    let port = port.parse().ok().filter(|port| *port != 0).ok_or("the port is a number from 1 to 65535")?;
    Ok(Peer { name: name.to_owned(), host: host.to_owned(), port, protocol })
}

/// Fills the table `link`.
pub struct LinkProbe {
    options: LinkOptions,
    prober: Option<Prober>,
    responder: Option<Responder>,
}

impl LinkProbe {
    /// Sends nothing yet.
    pub fn new(_root: &HostRoot, options: LinkOptions) -> Self {
        Self { options, prober: None, responder: None }
    }
}

impl Probe for LinkProbe {
    fn table(&self) -> &'static str {
        "link"
    }

    fn sample(&mut self, tick: &Tick, rows: &mut Rows) -> Result<(), ProbeError> {
        let LinkOptions { peers, probes, listen } = &self.options;
        if peers.is_empty() && listen.is_none() {
            return Err(ProbeError::Absent("no peers: name some with agent.link_peers".to_owned()));
        }
        let failed = |source| ProbeError::Read { path: "a thread for agent.link_peers".to_owned(), source };
        if self.responder.is_none()
            && let Some(address) = listen
        {
            self.responder = Some(Responder::start(*address).map_err(failed)?);
        }
        if self.prober.is_none() && !peers.is_empty() {
            self.prober = Some(Prober::start(peers.clone(), *probes).map_err(failed)?);
        }
        // Nothing has come back yet.
        if tick.first {
            return Ok(());
        }
        if let Some(prober) = &self.prober {
            for (peer, finished) in peers.iter().zip(prober.collect()) {
                let mut row = rows.begin();
                row.text("peer", peer.name.as_str())
                    .text("protocol", peer.protocol.as_str())
                    .text("host_name", peer.host.as_str())
                    .int("port", i64::from(peer.port));
                finished.fill(&mut row);
            }
        }
        if let Some(responder) = &self.responder {
            let facts = responder.facts();
            rows.begin()
                .text("peer", ANSWERS)
                .text("protocol", Protocol::Udp.as_str())
                .text("error", facts.error.as_deref())
                .count("answered", facts.answered)
                .count("refused", facts.refused);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;
    use crate::probes::testing::{FIRST_TICK, fixture_options, floats, garbage, ints, row_of, sample_at, texts};

    fn peer(name: &str, port: u16, protocol: Protocol) -> Peer {
        Peer { name: name.to_owned(), host: "127.0.0.1".to_owned(), port, protocol }
    }

    /// Samples until every peer has finished some probes: the rows of the window in which it was so.
    fn window(probe: &mut LinkProbe, at_least: i64) -> arrow_array::RecordBatch {
        let mut rows = Rows::new(nodescope_model::catalogue::Catalogue::built_in().get("link").unwrap());
        probe.sample(&FIRST_TICK, &mut rows).unwrap();
        assert!(rows.is_empty(), "nothing has come back at the first tick");
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            std::thread::sleep(Duration::from_millis(1_500));
            let batch = sample_at(probe, &Tick { first: false, ..FIRST_TICK });
            let sent = ints(&batch, "sent");
            let are_done = sent.iter().flatten().all(|sent| *sent >= at_least);
            if are_done || Instant::now() > until {
                return batch;
            }
        }
    }

    #[test]
    fn packets_come_back_and_connections_open() {
        let responder = Responder::start("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = responder.port().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        // A peer that takes packets and says nothing.
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let peers = vec![
            peer("echo", port, Protocol::Udp),
            peer("open", listener.local_addr().unwrap().port(), Protocol::Tcp),
            peer("closed", closed, Protocol::Tcp),
            peer("silent", silent.local_addr().unwrap().port(), Protocol::Udp),
        ];
        let options = LinkOptions { peers, probes: 100, listen: None };
        let mut probe = LinkProbe::new(&fixture_options().root, options);
        let batch = window(&mut probe, 3);
        let of = |name: &str| row_of(&batch, "peer", name);
        for name in ["echo", "open"] {
            let row = of(name);
            assert_eq!(ints(&batch, "lost")[row], Some(0), "{name}");
            assert_eq!(ints(&batch, "received")[row], ints(&batch, "sent")[row], "{name}");
            assert_eq!(floats(&batch, "loss_ratio")[row], Some(0.0), "{name}");
            let value = |column: &str| floats(&batch, column)[row].unwrap();
            assert!(value("rtt_min_seconds") > 0.0 && value("rtt_max_seconds") < 1.0, "{name}");
            assert!(value("rtt_min_seconds") <= value("rtt_mean_seconds"), "{name}");
            assert!(value("rtt_p99_seconds") <= value("rtt_max_seconds"), "{name}");
            assert!(value("jitter_seconds") >= 0.0, "{name}");
            assert_eq!(texts(&batch, "error")[row], None, "{name}");
            assert_eq!(texts(&batch, "address")[row], Some("127.0.0.1"), "{name}");
        }
        for name in ["closed", "silent"] {
            let row = of(name);
            assert_eq!(ints(&batch, "received")[row], Some(0), "{name}");
            assert_eq!(floats(&batch, "loss_ratio")[row], Some(1.0), "{name}");
            assert_eq!(floats(&batch, "rtt_mean_seconds")[row], None, "{name}");
        }
        assert!(texts(&batch, "error")[of("closed")].unwrap().contains("refused"));
        assert!(texts(&batch, "error")[of("silent")].unwrap().contains("no answer"));
        assert!(responder.facts().answered >= 3);
    }

    #[test]
    fn one_agent_answers_and_says_so() {
        let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let options = LinkOptions { listen: Some(free), ..LinkOptions::default() };
        let batch = window(&mut LinkProbe::new(&fixture_options().root, options), 0);
        assert_eq!(texts(&batch, "peer"), [Some(ANSWERS)]);
        assert_eq!((ints(&batch, "answered"), ints(&batch, "refused")), (vec![Some(0)], vec![Some(0)]));
        assert_eq!(texts(&batch, "error"), [None]);
        let options = LinkOptions { listen: Some("192.0.2.1:9".parse().unwrap()), ..LinkOptions::default() };
        let batch = window(&mut LinkProbe::new(&fixture_options().root, options), 0);
        assert!(texts(&batch, "error")[0].is_some(), "an address that is not ours");
    }

    #[test]
    fn nothing_is_sent_unless_told() {
        let mut probe = LinkProbe::new(&fixture_options().root, LinkOptions::default());
        let mut rows = Rows::new(nodescope_model::catalogue::Catalogue::built_in().get("link").unwrap());
        assert!(matches!(probe.sample(&FIRST_TICK, &mut rows), Err(ProbeError::Absent(_))));
        assert!(probe.prober.is_none() && probe.responder.is_none());
    }

    #[test]
    fn a_peer_is_a_name_and_a_place() {
        let peer = |host: &str, protocol| Peer { name: "a".to_owned(), host: host.to_owned(), port: 9, protocol };
        assert_eq!(parse_peer("a=host:9/udp"), Ok(peer("host", Protocol::Udp)));
        assert_eq!(parse_peer("a=10.0.0.1:9/tcp"), Ok(peer("10.0.0.1", Protocol::Tcp)));
        assert_eq!(parse_peer("a=[fd00::1]:9"), Ok(peer("fd00::1", Protocol::Tcp)));
        for wrong in ["", "a", "a=", "a=h", "a=h:0", "a=h:x", "=h:9", "a=h:9/sctp", "a b=h:9", "(answers)=h:9", "a=:9"]
        {
            assert!(parse_peer(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn settings_have_bounds() {
        let read = |values: &[(&str, &str)]| {
            let mut settings = Settings::default();
            for (key, value) in values {
                settings.flag(key, Some(value));
            }
            let options = LinkOptions::read(&mut settings);
            (options, settings.finish().map_or_else(|e| e.0.len(), |()| 0))
        };
        let (options, mistakes) = read(&[]);
        assert_eq!((options.peers.len(), options.probes, options.listen, mistakes), (0, 5, None, 0));
        let (options, mistakes) =
            read(&[("agent.link_peers", "a=h:1/udp, a=h:1/tcp, b=h:1"), ("agent.link_listen", "[::]:19101")]);
        assert_eq!((options.peers.len(), mistakes), (3, 0));
        assert!(options.listen.is_some());
        let many: Vec<String> = (0..MAX_PEERS).map(|n| format!("p{n}=h:1/udp")).collect();
        assert_eq!(read(&[("agent.link_peers", &many.join(","))]).1, 0);
        assert_eq!(read(&[("agent.link_peers", &many.join(",")), ("agent.link_probes", "20")]).1, 1);
        let more = format!("{},x=h:1/udp", many.join(","));
        assert_eq!(read(&[("agent.link_peers", &more)]).1, 1);
        assert_eq!(read(&[("agent.link_peers", "a=h:1,a=h:2,b")]).1, 2);
        assert_eq!(read(&[("agent.link_probes", "0"), ("agent.link_listen", "here")]).1, 2);
    }

    proptest! {
        #[test]
        fn garbage_is_survived(text in garbage()) {
            let _ = parse_peer(&text);
            let _ = parse_peer(&format!("a={text}:9/udp"));
        }
    }
}
