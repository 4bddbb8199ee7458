//! A small D-Bus client: calls a method, waits for its answer. It knows the half of the protocol that asking systemd
//! needs, and nothing of signals, descriptors or services of its own.
//!
//! D-Bus sends typed messages over a Unix socket. After a few lines of text (`AUTH EXTERNAL`: the kernel vouches for
//! the user) every message is a header and a body in one marshalling: values follow each other, each aligned to its
//! size from the message's beginning (structures to 8); a text is a 32-bit length, the bytes and a NUL; an array is its
//! length in bytes, then its elements. The first byte says in which byte order.
//!
//! systemd answers at two sockets. The system bus takes every user, and must first be greeted (`Hello`); systemd's own
//! private socket takes root alone, needs no greeting, and is there before the bus is. A full client with an
//! asynchronous runtime would be larger than everything else this probe does.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A bus that has not answered by then has failed.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Larger messages are not read. A unit takes some 300 bytes.
const MAX_MESSAGE: usize = 8 << 20;

/// Calls under way at a time. The system bus allows 128 to a connection.
pub(crate) const MAX_CALLS: usize = 64;

/// Messages that are no answer to us, between two that are.
const MAX_OTHERS: usize = 10_000;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BusError {
    /// The socket.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What came is no D-Bus.
    #[error("{0}")]
    Protocol(&'static str),
}

/// A method call. Bodies are marshalled with [`Body`].
pub(crate) struct Call<'a> {
    pub(crate) destination: &'a str,
    pub(crate) path: &'a str,
    pub(crate) interface: &'a str,
    pub(crate) member: &'a str,
    pub(crate) body: &'a Body,
}

/// Arguments of a call.
#[derive(Debug, Default)]
pub(crate) struct Body {
    signature: String,
    bytes: Vec<u8>,
}

impl Body {
    /// Appends a text.
    pub(crate) fn text(mut self, text: &str) -> Self {
        self.signature.push('s');
        put_text(&mut self.bytes, text);
        self
    }

    /// Appends an array of texts.
    pub(crate) fn texts<'t>(mut self, texts: impl IntoIterator<Item = &'t str>) -> Self {
        self.signature.push_str("as");
        align(&mut self.bytes, 4);
        let at = self.bytes.len();
        put_u32(&mut self.bytes, 0);
        for text in texts {
            put_text(&mut self.bytes, text);
        }
        let length = u32::try_from(self.bytes.len() - at - 4).unwrap_or(0);
        self.bytes[at..at + 4].copy_from_slice(&length.to_le_bytes());
        self
    }
}

fn align(bytes: &mut Vec<u8>, to: usize) {
    bytes.resize(bytes.len().next_multiple_of(to), 0);
}

fn put_u32(bytes: &mut Vec<u8>, number: u32) {
    align(bytes, 4);
    bytes.extend_from_slice(&number.to_le_bytes());
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    put_u32(bytes, u32::try_from(text.len()).unwrap_or(0));
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(0);
}

/// A call as it goes over the wire.
fn marshal(call: &Call<'_>, serial: u32, out: &mut Vec<u8>) {
    let begin = out.len();
    // Alignment counts from the message's beginning.
    let mut message = vec![b'l', 1, 0, 1];
    put_u32(&mut message, u32::try_from(call.body.bytes.len()).unwrap_or(0));
    put_u32(&mut message, serial);
    put_u32(&mut message, 0);
    let fields = message.len();
    let mut field = |code: u8, kind: u8, text: &str| {
        if text.is_empty() {
            return;
        }
        align(&mut message, 8);
        message.extend_from_slice(&[code, 1, kind, 0]);
        if kind == b'g' {
            message.push(u8::try_from(text.len()).unwrap_or(0));
            message.extend_from_slice(text.as_bytes());
            message.push(0);
        } else {
            put_text(&mut message, text);
        }
    };
    field(1, b'o', call.path);
    field(2, b's', call.interface);
    field(3, b's', call.member);
    field(6, b's', call.destination);
    field(8, b'g', &call.body.signature);
    let length = u32::try_from(message.len() - fields).unwrap_or(0);
    message[fields - 4..fields].copy_from_slice(&length.to_le_bytes());
    align(&mut message, 8);
    out.extend_from_slice(&message);
    out.extend_from_slice(&call.body.bytes);
    debug_assert!(out.len() > begin);
}

/// Takes values off a message, one after the other. Every step may say that there is no such value.
#[derive(Debug, Clone)]
pub(crate) struct Values<'a> {
    bytes: &'a [u8],
    at: usize,
    big_endian: bool,
}

impl<'a> Values<'a> {
    fn new(bytes: &'a [u8], at: usize, big_endian: bool) -> Self {
        Self { bytes, at, big_endian }
    }

    fn align(&mut self, to: usize) -> Option<()> {
        self.at = self.at.checked_next_multiple_of(to)?;
        (self.at <= self.bytes.len()).then_some(())
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.align(4)?;
        let bytes = self.take(4)?.try_into().ok()?;
        Some(if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.align(8)?;
        let bytes = self.take(8)?.try_into().ok()?;
        Some(if self.big_endian { u64::from_be_bytes(bytes) } else { u64::from_le_bytes(bytes) })
    }

    /// A text or an object path.
    pub(crate) fn text(&mut self) -> Option<&'a str> {
        let length = usize::try_from(self.u32()?).ok()?;
        let text = self.take(length)?;
        self.take(1)?;
        std::str::from_utf8(text).ok()
    }

    pub(crate) fn signature(&mut self) -> Option<&'a str> {
        let length = usize::from(self.byte()?);
        let text = self.take(length)?;
        self.take(1)?;
        std::str::from_utf8(text).ok()
    }

    /// An array of structures, to be taken while [`Values::is_at_end`] says no. What follows it is not taken.
    pub(crate) fn structures(&mut self) -> Option<Values<'a>> {
        let length = usize::try_from(self.u32()?).ok()?;
        self.align(8)?;
        let end = self.at.checked_add(length)?;
        let inner = Values { bytes: self.bytes.get(..end)?, at: self.at, big_endian: self.big_endian };
        self.at = end;
        Some(inner)
    }

    /// Begins a structure.
    pub(crate) fn structure(&mut self) -> Option<()> {
        self.align(8)
    }

    pub(crate) fn is_at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// What a variant holds, if it is of a kind that is asked for.
    pub(crate) fn variant(&mut self) -> Option<Variant<'a>> {
        match self.signature()? {
            "s" | "o" => Some(Variant::Text(self.text()?)),
            "u" => Some(Variant::Number(u64::from(self.u32()?))),
            "t" => Some(Variant::Number(self.u64()?)),
            "b" => Some(Variant::Number(u64::from(self.u32()? != 0))),
            _ => None,
        }
    }
}

/// A value with its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant<'a> {
    Text(&'a str),
    Number(u64),
}

/// A message that came.
#[derive(Debug)]
pub(crate) struct Reply {
    bytes: Vec<u8>,
    body: usize,
    big_endian: bool,
    kind: u8,
    reply_to: Option<u32>,
    error: Option<String>,
}

impl Reply {
    /// The values, or the name of the error.
    pub(crate) fn values(&self) -> Result<Values<'_>, &str> {
        match &self.error {
            Some(error) => Err(error),
            None => Ok(Values::new(&self.bytes, self.body, self.big_endian)),
        }
    }
}

/// Fixed part of every message.
const HEAD: usize = 16;

/// How long the whole message is that begins with these bytes.
fn parse_length(head: &[u8; HEAD]) -> Result<usize, BusError> {
    let big_endian = match head[0] {
        b'l' => false,
        b'B' => true,
        _ => return Err(BusError::Protocol("a message begins with l or B")),
    };
    let mut values = Values::new(head, 4, big_endian);
    let (Some(body), Some(_), Some(fields)) = (values.u32(), values.u32(), values.u32()) else {
        return Err(BusError::Protocol("a message has a length"));
    };
    let total = (u64::from(fields) + HEAD as u64).next_multiple_of(8) + u64::from(body);
    match usize::try_from(total) {
        Ok(total) if total <= MAX_MESSAGE => Ok(total),
        _ => Err(BusError::Protocol("a message is longer than 8 MiB")),
    }
}

/// A whole message.
fn parse_message(bytes: Vec<u8>) -> Option<Reply> {
    let big_endian = *bytes.first()? == b'B';
    let kind = *bytes.get(1)?;
    let mut head = Values::new(&bytes, 12, big_endian);
    let mut fields = head.structures()?;
    let body = head.at.checked_next_multiple_of(8)?;
    let (mut reply_to, mut error) = (None, None);
    while !fields.is_at_end() {
        fields.structure()?;
        match (fields.byte()?, fields.signature()?) {
            (4, _) => error = Some(fields.text()?.to_owned()),
            (5, _) => reply_to = Some(fields.u32()?),
            (_, "s" | "o") => {
                fields.text()?;
            }
            (_, "g") => {
                fields.signature()?;
            }
            (_, "u") => {
                fields.u32()?;
            }
            _ => return None,
        }
    }
    if kind == 3 && error.is_none() {
        error = Some("an error without a name".to_owned());
    }
    (body <= bytes.len()).then_some(Reply { bytes, body, big_endian, kind, reply_to, error })
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Bus {
    stream: UnixStream,
    serial: u32,
}

impl Bus {
    /// Connects to the system bus, or to a service's private socket, which wants no greeting.
    pub(crate) fn connect(socket: &Path, is_private: bool) -> Result<Self, BusError> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let mut bus = Self { stream, serial: 0 };
        bus.authenticate()?;
        if !is_private {
            let hello = Call {
                destination: "org.freedesktop.DBus",
                path: "/org/freedesktop/DBus",
                interface: "org.freedesktop.DBus",
                member: "Hello",
                body: &Body::default(),
            };
            bus.call(&hello)?.values().map_err(|_| BusError::Protocol("the bus does not answer Hello"))?;
        }
        Ok(bus)
    }

    fn authenticate(&mut self) -> Result<(), BusError> {
        let uid = rustix::process::getuid().as_raw().to_string();
        let hex: String = uid.bytes().map(|b| format!("{b:02x}")).collect();
        self.stream.write_all(format!("\0AUTH EXTERNAL {hex}\r\n").as_bytes())?;
        let mut line = Vec::new();
        let mut byte = [0u8];
        while line.len() < 512 && !line.ends_with(b"\r\n") {
            self.stream.read_exact(&mut byte)?;
            line.push(byte[0]);
        }
        if !line.starts_with(b"OK ") {
            return Err(BusError::Protocol("the bus does not let this user in"));
        }
        self.stream.write_all(b"BEGIN\r\n")?;
        Ok(())
    }

    /// Calls one method.
    pub(crate) fn call(&mut self, call: &Call<'_>) -> Result<Reply, BusError> {
        let mut replies = self.call_all(std::slice::from_ref(call))?;
        replies.pop().ok_or(BusError::Protocol("there is no answer"))
    }

    /// Calls several methods, [`MAX_CALLS`] at the most, and gives the answers in their order.
    pub(crate) fn call_all(&mut self, calls: &[Call<'_>]) -> Result<Vec<Reply>, BusError> {
        debug_assert!(calls.len() <= MAX_CALLS);
        let mut out = Vec::with_capacity(256 * calls.len());
        let first = self.serial.wrapping_add(1).max(1);
        let mut serial = first;
        for call in calls {
            marshal(call, serial, &mut out);
            self.serial = serial;
            serial = serial.wrapping_add(1).max(1);
        }
        self.stream.write_all(&out)?;
        let mut replies: Vec<Option<Reply>> = calls.iter().map(|_| None).collect();
        let mut waiting = calls.len();
        let mut others = 0;
        while waiting > 0 {
            let reply = self.receive()?;
            let slot = reply
                .reply_to
                .filter(|_| matches!(reply.kind, 2 | 3))
                .and_then(|to| usize::try_from(to.wrapping_sub(first)).ok())
                .and_then(|at| replies.get_mut(at));
            match slot {
                Some(slot @ None) => {
                    *slot = Some(reply);
                    waiting -= 1;
                }
                _ => others += 1,
            }
            if others > MAX_OTHERS {
                return Err(BusError::Protocol("the bus sends what nobody asked for"));
            }
        }
        Ok(replies.into_iter().flatten().collect())
    }

    fn receive(&mut self) -> Result<Reply, BusError> {
        let mut head = [0u8; HEAD];
        self.stream.read_exact(&mut head)?;
        let mut bytes = vec![0; parse_length(&head)?];
        let (start, rest) = bytes.split_at_mut(HEAD);
        start.copy_from_slice(&head);
        self.stream.read_exact(rest)?;
        parse_message(bytes).ok_or(BusError::Protocol("a message is not of the form expected"))
    }
}

/// A bus for tests: marshals what the other side would.
#[cfg(test)]
pub(crate) mod testing {
    use std::io::BufRead;
    use std::os::unix::net::UnixListener;

    use super::*;

    /// What a test's service is asked: path, member, and the texts of the body that come first.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(crate) struct Asked {
        pub(crate) path: String,
        pub(crate) member: String,
        pub(crate) body: Vec<u8>,
    }

    /// Values as the other side marshals them.
    #[derive(Debug, Default)]
    pub(crate) struct Out {
        pub(crate) bytes: Vec<u8>,
    }

    impl Out {
        pub(crate) fn text(&mut self, text: &str) -> &mut Self {
            put_text(&mut self.bytes, text);
            self
        }

        pub(crate) fn u32(&mut self, number: u32) -> &mut Self {
            put_u32(&mut self.bytes, number);
            self
        }

        pub(crate) fn u64(&mut self, number: u64) -> &mut Self {
            align(&mut self.bytes, 8);
            self.bytes.extend_from_slice(&number.to_le_bytes());
            self
        }

        pub(crate) fn signature(&mut self, text: &str) -> &mut Self {
            self.bytes.push(text.len() as u8);
            self.bytes.extend_from_slice(text.as_bytes());
            self.bytes.push(0);
            self
        }

        /// An array of structures, each filled by its function. The array must stand first in the body.
        pub(crate) fn structures(&mut self, count: usize, fill: impl Fn(usize, &mut Self)) -> &mut Self {
            self.u32(0);
            align(&mut self.bytes, 8);
            let begin = self.bytes.len();
            for at in 0..count {
                align(&mut self.bytes, 8);
                fill(at, self);
            }
            let length = (self.bytes.len() - begin) as u32;
            self.bytes[..4].copy_from_slice(&length.to_le_bytes());
            self
        }
    }

    fn answer(serial: u32, reply_to: u32, body: Result<&[u8], &str>) -> Vec<u8> {
        let kind = if body.is_ok() { 2 } else { 3 };
        let mut message = vec![b'l', kind, 1, 1];
        put_u32(&mut message, body.map_or(0, |b| b.len() as u32));
        put_u32(&mut message, serial);
        put_u32(&mut message, 0);
        message.extend_from_slice(&[5, 1, b'u', 0]);
        put_u32(&mut message, reply_to);
        if let Err(name) = body {
            align(&mut message, 8);
            message.extend_from_slice(&[4, 1, b's', 0]);
            put_text(&mut message, name);
        }
        let length = (message.len() - HEAD) as u32;
        message[12..16].copy_from_slice(&length.to_le_bytes());
        align(&mut message, 8);
        message.extend_from_slice(body.unwrap_or_default());
        message
    }

    /// Serves one connection at that socket on a thread: greets it, then answers each call as told.
    pub(crate) fn serve(
        socket: &Path,
        respond: impl Fn(&Asked) -> Result<Vec<u8>, String> + Send + 'static,
    ) -> std::thread::JoinHandle<()> {
        let listener = UnixListener::bind(socket).unwrap();
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = io::BufReader::new(stream.try_clone().unwrap());
            let mut writer = stream;
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            assert!(line.starts_with("\0AUTH EXTERNAL "));
            writer.write_all(b"OK 0123456789abcdef\r\n").unwrap();
            line.clear();
            reader.read_line(&mut line).unwrap();
            assert_eq!(line, "BEGIN\r\n");
            let mut serial = 0;
            loop {
                let mut head = [0u8; HEAD];
                if reader.read_exact(&mut head).is_err() {
                    return;
                }
                let mut bytes = vec![0; parse_length(&head).unwrap()];
                bytes[..HEAD].copy_from_slice(&head);
                reader.read_exact(&mut bytes[HEAD..]).unwrap();
                let (theirs, asked) = parse_call(&bytes).unwrap();
                serial += 1;
                let body = if asked.member == "Hello" {
                    let mut out = Out::default();
                    out.text(":1.7");
                    Ok(out.bytes)
                } else {
                    respond(&asked)
                };
                let body = body.as_ref().map(Vec::as_slice).map_err(String::as_str);
                if writer.write_all(&answer(serial, theirs, body)).is_err() {
                    return;
                }
            }
        })
    }

    fn parse_call(bytes: &[u8]) -> Option<(u32, Asked)> {
        let mut head = Values::new(bytes, 8, false);
        let serial = head.u32()?;
        let mut fields = head.structures()?;
        let body = head.at.next_multiple_of(8);
        let mut asked = Asked { path: String::new(), member: String::new(), body: bytes.get(body..)?.to_vec() };
        while !fields.is_at_end() {
            fields.structure()?;
            match (fields.byte()?, fields.signature()?) {
                (1, _) => asked.path = fields.text()?.to_owned(),
                (3, _) => asked.member = fields.text()?.to_owned(),
                (_, "g") => {
                    fields.signature()?;
                }
                _ => {
                    fields.text()?;
                }
            }
        }
        Some((serial, asked))
    }

    /// The texts a body begins with.
    pub(crate) fn body_texts(asked: &Asked) -> Vec<String> {
        let mut values = Values::new(&asked.body, 0, false);
        std::iter::from_fn(|| values.text().map(str::to_owned)).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::testing::{Out, body_texts, serve};
    use super::*;

    /// Worked out by hand from the specification, byte for byte.
    #[test]
    fn a_call_is_marshalled_as_the_specification_has_it() {
        let mut out = Vec::new();
        let call =
            Call { destination: "a.b", path: "/p", interface: "i.j", member: "M", body: &Body::default().text("x") };
        marshal(&call, 7, &mut out);
        let expected: Vec<u8> = [
            &b"l\x01\x00\x01\x06\0\0\0\x07\0\0\0\x48\0\0\0"[..],
            b"\x01\x01o\0\x02\0\0\0/p\0\0\0\0\0\0",
            b"\x02\x01s\0\x03\0\0\0i.j\0\0\0\0\0",
            b"\x03\x01s\0\x01\0\0\0M\0\0\0\0\0\0\0",
            b"\x06\x01s\0\x03\0\0\0a.b\0\0\0\0\0",
            b"\x08\x01g\0\x01s\0\0",
            b"\x01\0\0\0x\0",
        ]
        .concat();
        // The fields end before their padding.
        assert_eq!(out.len(), expected.len());
        assert_eq!(out[16..], expected[16..]);
        assert_eq!(out[..12], expected[..12]);
        assert_eq!(u32::from_le_bytes(out[12..16].try_into().unwrap()), 71);
    }

    #[test]
    fn arrays_of_texts_are_aligned() {
        let body = Body::default().texts([]).texts(["a", "bc"]);
        assert_eq!(body.signature, "asas");
        assert_eq!(body.bytes, b"\0\0\0\0\x0f\0\0\0\x01\0\0\0a\0\0\0\x02\0\0\0bc\0");
    }

    #[test]
    fn calls_are_answered_in_their_order_and_errors_have_names() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("bus");
        let served = serve(&socket, |asked| match asked.member.as_str() {
            "Echo" => {
                let mut out = Out::default();
                out.text(&body_texts(asked)[0]);
                Ok(out.bytes)
            }
            _ => Err("org.freedesktop.DBus.Error.UnknownMethod".to_owned()),
        });
        let mut bus = Bus::connect(&socket, false).unwrap();
        let bodies = [Body::default().text("one"), Body::default().text("two")];
        let call = |member, body| Call { destination: "d", path: "/o", interface: "i", member, body };
        let replies =
            bus.call_all(&[call("Echo", &bodies[0]), call("None", &bodies[0]), call("Echo", &bodies[1])]).unwrap();
        assert_eq!(replies[0].values().unwrap().text(), Some("one"));
        assert_eq!(replies[1].values().unwrap_err(), "org.freedesktop.DBus.Error.UnknownMethod");
        assert_eq!(replies[2].values().unwrap().text(), Some("two"));
        drop(bus);
        served.join().unwrap();
    }

    /// The reference implementation understands us, and we understand it. Skipped where it is not installed.
    #[test]
    fn a_real_bus_answers() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("bus");
        let config = directory.path().join("bus.conf");
        let text = format!(
            "<busconfig><listen>unix:path={}</listen><policy context=\"default\"><allow user=\"*\"/>\
             <allow send_destination=\"*\" eavesdrop=\"true\"/><allow eavesdrop=\"true\"/><allow own=\"*\"/></policy>\
             </busconfig>",
            socket.display()
        );
        std::fs::write(&config, text).unwrap();
        let daemon = std::process::Command::new("dbus-daemon")
            .arg(format!("--config-file={}", config.display()))
            .args(["--nofork", "--nopidfile"])
            .spawn();
        let Ok(mut daemon) = daemon else { return };
        let there = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            socket.exists()
        });
        let bus = there.then(|| Bus::connect(&socket, false));
        if !matches!(bus, Some(Ok(_))) {
            daemon.kill().unwrap();
        }
        let mut bus = bus.expect("the daemon listens").expect("the bus answers");
        let name = "org.freedesktop.DBus";
        let bodies = [Body::default().text(name), Body::default().text("no.such.name"), Body::default()];
        let call =
            |member, body| Call { destination: name, path: "/org/freedesktop/DBus", interface: name, member, body };
        let calls = [call("GetNameOwner", &bodies[0]), call("GetNameOwner", &bodies[1]), call("GetId", &bodies[2])];
        let replies = bus.call_all(&calls).unwrap();
        assert_eq!(replies[0].values().unwrap().text(), Some(name));
        assert_eq!(replies[1].values().unwrap_err(), "org.freedesktop.DBus.Error.NameHasNoOwner");
        assert_eq!(replies[2].values().unwrap().text().map(str::len), Some(32));
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    #[test]
    fn variants_hold_what_is_asked_for() {
        let mut out = Out::default();
        out.signature("t").u64(5).signature("s").text("x").signature("as");
        let mut values = Values::new(&out.bytes, 0, false);
        assert_eq!(values.variant(), Some(Variant::Number(5)));
        assert_eq!(values.variant(), Some(Variant::Text("x")));
        assert_eq!(values.variant(), None);
    }

    proptest! {
        #[test]
        fn any_bytes_can_come(mut bytes in prop::collection::vec(any::<u8>(), 16..200), little in any::<bool>()) {
            bytes[0] = if little { b'l' } else { b'B' };
            let head: [u8; HEAD] = bytes[..HEAD].try_into().unwrap();
            let _ = parse_length(&head);
            if let Some(reply) = parse_message(bytes)
                && let Ok(mut values) = reply.values()
            {
                values.variant();
                if let Some(mut inner) = values.structures() {
                    while !inner.is_at_end() && inner.structure().is_some() && inner.text().is_some() {}
                }
            }
        }
    }
}
