//! Getting an exporter's answer: HTTP/1.1 over a socket of our own, or files.
//!
//! An exporter is somebody else's program. It may hang, dribble, answer for ever, or be something else altogether. So
//! the whole exchange has one deadline (each read waits only for what is left of it), head and body are bounded, and the
//! body is understood line by line as it comes, without being kept. What a client for the world would need is not here:
//! no redirects, no proxies, no cookies, no compression, no TLS. By default only loopback and private addresses are
//! asked, as every exporter on the host has one: a name that leads elsewhere is refused after it was resolved.
//!
//! `file:/DIRECTORY` reads the `*.prom` files of a directory, as node_exporter's textfile collector does; `file:/FILE` one
//! file. Their samples were taken when the file was written, and a file that nobody has written for long is left out.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::text::{Exposition, Wrong};

/// Longest status line and header together.
const MAX_HEAD: usize = 16 << 10;

/// A longer line of an answer is wrong.
const MAX_LINE: usize = 64 << 10;

/// Files of one directory.
const MAX_FILES: usize = 256;

/// What is read at once.
const BUFFER: usize = 16 << 10;

/// Where an exporter's text comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `http://HOST[:PORT]/PATH`.
    Http {
        /// Name or address, without brackets.
        host: String,
        /// The port; 80 when the address has none.
        port: u16,
        /// Path and query.
        path: String,
    },
    /// A file, or a directory of `*.prom` files.
    File(PathBuf),
}

impl Source {
    /// Understands an address as it is written in the settings.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("file:") {
            return if path.starts_with('/') {
                Ok(Self::File(PathBuf::from(path)))
            } else {
                Err("name an absolute path: file:/DIRECTORY".to_owned())
            };
        }
        if text.starts_with("https://") {
            return Err(
                "https is not supported: let the exporter listen on a loopback address, and use http".to_owned()
            );
        }
        let rest = text.strip_prefix("http://").ok_or("it begins neither with http:// nor with file:/")?;
        let (authority, path) = match rest.find(['/', '?']).and_then(|at| rest.split_at_checked(at)) {
            Some((authority, path)) if path.starts_with('/') => (authority, path.to_owned()),
            Some((authority, query)) => (authority, format!("/{query}")),
            None => (rest, "/metrics".to_owned()),
        };
        if authority.contains('@') {
            return Err("a user and password in the address are not supported".to_owned());
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest.split_once(']').ok_or("a `]` is missing")?;
                (
                    host,
                    after.strip_prefix(':').or_else(|| after.is_empty().then_some("80")).ok_or("what is after `]`?")?,
                )
            }
            None => authority.rsplit_once(':').unwrap_or((authority, "80")),
        };
        let port = port.parse().map_err(|_| "its port is not a number up to 65535")?;
        let is_clean = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
        if host.is_empty() || !is_clean(host) || !is_clean(&path) || path.contains('#') {
            return Err("it is not of the form http://HOST:PORT/PATH".to_owned());
        }
        Ok(Self::Http { host: host.to_owned(), port, path })
    }
}

/// Bounds of one exchange.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// For everything together.
    pub(crate) timeout: Duration,
    /// Bytes of the body.
    pub(crate) body: u64,
    /// Whether addresses that are neither loopback nor private are asked.
    pub(crate) anywhere: bool,
    /// Files that were written longer ago are left out.
    pub(crate) file_age: Duration,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("{0} is neither a loopback nor a private address (agent.scrape_anywhere allows it)")]
    Refused(IpAddr),
    #[error("there is no address for it")]
    NoAddress,
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    #[error("no whole answer in time")]
    Deadline,
    #[error("the connection broke")]
    Broken(#[source] io::Error),
    #[error("it answers with something that is not HTTP: {0}")]
    NotHttp(&'static str),
    #[error("it answers with status {0}{1}")]
    Status(u16, &'static str),
    #[error("it answers in the encoding {0}, which was not asked for")]
    Encoded(String),
    #[error("the answer is cut short")]
    Short,
    #[error("the answer is longer than {0} bytes; agent.scrape_body is the limit")]
    TooLong(u64),
    #[error("this is not the text of an exporter: {0}")]
    NotMetrics(String),
    #[error("cannot read {0}")]
    File(PathBuf, #[source] io::Error),
    #[error("no file of {0} is recent enough: the newest is {1} s old")]
    OldFiles(PathBuf, u64),
}

/// Asks once. What comes back was understood, but for lines that are counted in it.
pub(crate) fn fetch(source: &Source, limits: &Limits) -> Result<Exposition, FetchError> {
    let exposition = match source {
        Source::Http { host, port, path } => fetch_http(host, *port, path, limits)?,
        Source::File(path) => read_files(path, limits)?,
    };
    match &exposition.first_wrong {
        Some(wrong) if exposition.is_empty() => Err(FetchError::NotMetrics(wrong.clone())),
        _ => Ok(exposition),
    }
}

fn fetch_http(host: &str, port: u16, path: &str, limits: &Limits) -> Result<Exposition, FetchError> {
    let deadline = Instant::now() + limits.timeout;
    let mut stream = connect(host, port, limits.anywhere, deadline)?;
    let shown_host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {shown_host}:{port}\r\nUser-Agent: nodescope-agent/{}\r\nAccept: \
         text/plain;version=0.0.4,application/openmetrics-text;version=1.0.0;q=0.8,*/*;q=0.1\r\nAccept-Encoding: \
         identity\r\nConnection: close\r\n\r\n",
        env!("CARGO_PKG_VERSION")
    );
    stream.set_write_timeout(Some(left(deadline)?)).map_err(FetchError::Broken)?;
    stream.write_all(request.as_bytes()).map_err(broken)?;
    let mut reader = BufReader::with_capacity(BUFFER, Timed { stream, deadline });
    let head = read_head(&mut reader)?;
    if head.status != 200 {
        let why = match head.status {
            300..=399 => ": redirects are not followed, name the address it leads to",
            401 | 403 => ": it wants somebody to log in, which is not supported",
            404 => ": is the path right?",
            _ => "",
        };
        return Err(FetchError::Status(head.status, why));
    }
    if let Some(encoding) = head.encoding {
        return Err(FetchError::Encoded(encoding));
    }
    let mut exposition = Exposition::new(head.is_open_metrics);
    let mut body = Body { from: reader, left: head.length };
    let (length, cut) = read_lines(&mut body, limits.body, |line| match line {
        Ok(line) => exposition.add_line(line, None),
        Err(wrong) => exposition.add_wrong("", wrong),
    })
    .map_err(broken)?;
    if cut {
        return Err(FetchError::TooLong(length));
    }
    if !body.is_complete() || (head.is_open_metrics && !exposition.has_eof) {
        return Err(FetchError::Short);
    }
    Ok(exposition)
}

fn connect(host: &str, port: u16, anywhere: bool, deadline: Instant) -> Result<TcpStream, FetchError> {
    // The resolver has no deadline. Whoever is kept waiting by it is this target's thread alone.
    let addresses = (host, port).to_socket_addrs().map_err(FetchError::Connect)?;
    let mut last = FetchError::NoAddress;
    for address in addresses {
        if !anywhere && !is_near(address.ip()) {
            last = FetchError::Refused(address.ip());
            continue;
        }
        match connect_to(address, deadline) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn connect_to(address: SocketAddr, deadline: Instant) -> Result<TcpStream, FetchError> {
    TcpStream::connect_timeout(&address, left(deadline)?).map_err(|error| match error.kind() {
        ErrorKind::TimedOut => FetchError::Deadline,
        _ => FetchError::Connect(error),
    })
}

/// Loopback, link-local, private (RFC 1918, RFC 6598, RFC 4193).
fn is_near(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [first, second, ..] = v4.octets();
            v4.is_loopback() || v4.is_private() || v4.is_link_local() || (first == 100 && second & 0xc0 == 64)
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

/// What is left of the time; an error when nothing is.
fn left(deadline: Instant) -> Result<Duration, FetchError> {
    Some(deadline.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero()).ok_or(FetchError::Deadline)
}

fn broken(error: io::Error) -> FetchError {
    match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => FetchError::Deadline,
        ErrorKind::UnexpectedEof => FetchError::Short,
        ErrorKind::InvalidData => FetchError::NotHttp("a body in pieces with a wrong length"),
        _ => FetchError::Broken(error),
    }
}

/// A socket of which each read waits only for what is left.
struct Timed {
    stream: TcpStream,
    deadline: Instant,
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = left(self.deadline).map_err(|_| io::Error::from(ErrorKind::TimedOut))?;
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(buffer)
    }
}

/// How the body's end is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    /// After so many bytes.
    Bytes(u64),
    /// It comes in pieces, with so much left of this one; `None` before the first.
    Pieces(Option<u64>),
    /// The last piece has come.
    Complete,
    /// When the connection ends.
    UntilClose,
}

#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    length: Length,
    is_open_metrics: bool,
    encoding: Option<String>,
}

/// Reads status line and header.
fn read_head(from: &mut impl BufRead) -> Result<Head, FetchError> {
    let mut budget = MAX_HEAD;
    let mut line = Vec::new();
    let mut next = |from: &mut dyn BufRead| -> Result<String, FetchError> {
        line.clear();
        let taken = from.take(budget as u64).read_until(b'\n', &mut line).map_err(broken)?;
        budget -= taken.min(budget);
        if line.last() != Some(&b'\n') {
            return Err(if budget == 0 { FetchError::NotHttp("its header is too long") } else { FetchError::Short });
        }
        Ok(String::from_utf8_lossy(&line).trim().to_owned())
    };
    let status = parse_status(&next(from)?).ok_or(FetchError::NotHttp("there is no status line"))?;
    let mut head = Head { status, length: Length::UntilClose, is_open_metrics: false, encoding: None };
    loop {
        let field = next(from)?;
        if field.is_empty() {
            return Ok(head);
        }
        parse_field(&field, &mut head).map_err(FetchError::NotHttp)?;
    }
}

/// `HTTP/1.1 200 OK`.
fn parse_status(line: &str) -> Option<u16> {
    let mut words = line.strip_prefix("HTTP/1.")?.split(' ');
    let (_, status) = (words.next()?, words.next()?);
    status.parse().ok().filter(|status| (100..600).contains(status))
}

fn parse_field(field: &str, head: &mut Head) -> Result<(), &'static str> {
    let (name, value) = field.split_once(':').ok_or("a line of its header has no colon")?;
    let value = value.trim();
    if name.eq_ignore_ascii_case("content-length") {
        let length = value.parse().map_err(|_| "its length is no number")?;
        // Pieces go before a length, should both be given.
        if head.length == Length::UntilClose {
            head.length = Length::Bytes(length);
        }
    } else if name.eq_ignore_ascii_case("transfer-encoding") {
        if !value.eq_ignore_ascii_case("chunked") {
            return Err("an unknown transfer encoding");
        }
        head.length = Length::Pieces(None);
    } else if name.eq_ignore_ascii_case("content-encoding") {
        head.encoding = (!value.is_empty() && !value.eq_ignore_ascii_case("identity")).then(|| value.to_owned());
    } else if name.eq_ignore_ascii_case("content-type") {
        head.is_open_metrics = value.to_ascii_lowercase().contains("openmetrics");
    }
    Ok(())
}

/// The body, without the marks between its pieces.
struct Body<R> {
    from: R,
    left: Length,
}

impl<R: BufRead> Body<R> {
    /// Whether all of it has come, as far as can be known.
    fn is_complete(&self) -> bool {
        matches!(self.left, Length::Bytes(0) | Length::Complete | Length::UntilClose)
    }

    /// The length of the next piece; after the last one what follows it is read too.
    fn next_piece(&mut self, is_first: bool) -> io::Result<u64> {
        if !is_first {
            let end = read_short_line(&mut self.from)?;
            if !end.is_empty() {
                return Err(ErrorKind::InvalidData.into());
            }
        }
        let line = read_short_line(&mut self.from)?;
        let digits = line.split([';', ' ']).next().unwrap_or_default();
        let length = u64::from_str_radix(digits, 16).map_err(|_| io::Error::from(ErrorKind::InvalidData))?;
        Ok(length)
    }
}

/// A line of at most 256 bytes, without its end.
fn read_short_line(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    from.take(256).read_until(b'\n', &mut line)?;
    match line.last() {
        Some(b'\n') => Ok(String::from_utf8_lossy(&line).trim_end().to_owned()),
        Some(_) if line.len() == 256 => Err(ErrorKind::InvalidData.into()),
        _ => Err(ErrorKind::UnexpectedEof.into()),
    }
}

impl<R: BufRead> Read for Body<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let most = match self.left {
            Length::Complete | Length::Bytes(0) => return Ok(0),
            Length::UntilClose => u64::MAX,
            Length::Bytes(left) => left,
            Length::Pieces(Some(left)) if left > 0 => left,
            Length::Pieces(piece) => match self.next_piece(piece.is_none())? {
                0 => {
                    self.left = Length::Complete;
                    return Ok(0);
                }
                left => {
                    self.left = Length::Pieces(Some(left));
                    left
                }
            },
        };
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.from.read(buffer.get_mut(..most).unwrap_or_default())?;
        if read == 0 && self.left != Length::UntilClose {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        match &mut self.left {
            Length::Bytes(left) | Length::Pieces(Some(left)) => *left = left.saturating_sub(read as u64),
            Length::Pieces(None) | Length::Complete | Length::UntilClose => {}
        }
        Ok(read)
    }
}

/// Gives every line of what is read, without its end, in place where it lies whole in the buffer. Returns how many bytes
/// there were, and whether there were more than `most`; a line cut by that is not given.
fn read_lines(from: &mut impl Read, most: u64, mut line: impl FnMut(Result<&[u8], Wrong>)) -> io::Result<(u64, bool)> {
    let mut reader = BufReader::with_capacity(BUFFER, from);
    let mut part: Vec<u8> = Vec::new();
    // The rest of a line that is too long.
    let mut skipping = false;
    let mut taken = 0u64;
    loop {
        let buffer = match reader.fill_buf() {
            Ok(buffer) => buffer,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if buffer.is_empty() {
            if !part.is_empty() && !skipping {
                line(Ok(&part));
            }
            return Ok((taken, false));
        }
        let length = buffer.len();
        if taken + length as u64 > most {
            return Ok((most, true));
        }
        let mut rest = buffer;
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            let (this, after) = rest.split_at(end);
            rest = after.get(1..).unwrap_or_default();
            if skipping {
                skipping = false;
            } else if part.is_empty() {
                line(Ok(this));
            } else {
                part.extend_from_slice(this);
                line(Ok(&part));
            }
            part.clear();
        }
        if !skipping {
            part.extend_from_slice(rest);
            if part.len() > MAX_LINE {
                line(Err(Wrong::NoText));
                part.clear();
                skipping = true;
            }
        }
        taken += length as u64;
        reader.consume(length);
    }
}

/// Reads a file, or the `*.prom` files of a directory in the order of their names.
fn read_files(path: &Path, limits: &Limits) -> Result<Exposition, FetchError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error| FetchError::File(path, error)
    };
    let mut files = Vec::new();
    if std::fs::metadata(path).map_err(at(path))?.is_dir() {
        for entry in std::fs::read_dir(path).map_err(at(path))? {
            let file = entry.map_err(at(path))?.path();
            if file.extension().is_some_and(|extension| extension == "prom") {
                files.push(file);
            }
        }
        files.sort();
    } else {
        files.push(path.to_owned());
    }
    let mut exposition = Exposition::new(false);
    exposition.beyond += files.len().saturating_sub(MAX_FILES) as u64;
    let (mut left, mut newest, mut recent) = (limits.body, None::<Duration>, 0);
    for file in files.iter().take(MAX_FILES) {
        // A pipe that nobody writes to would keep us waiting, were it only to be opened.
        let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
        let opened = File::options().read(true).custom_flags(nonblocking).open(file).map_err(at(file))?;
        let metadata = opened.metadata().map_err(at(file))?;
        if !metadata.is_file() {
            exposition.add_wrong(&file.display().to_string(), Wrong::NoText);
            continue;
        }
        let written = metadata.modified().unwrap_or(UNIX_EPOCH);
        let age = SystemTime::now().duration_since(written).unwrap_or_default();
        newest = Some(newest.map_or(age, |newest| newest.min(age)));
        if age > limits.file_age {
            continue;
        }
        recent += 1;
        let micros = written.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let written = i64::try_from(micros).ok();
        let mut opened = opened;
        let (length, cut) = read_lines(&mut opened, left, |line| match line {
            Ok(line) => exposition.add_line(line, written),
            Err(wrong) => exposition.add_wrong("", wrong),
        })
        .map_err(at(file))?;
        if cut {
            return Err(FetchError::TooLong(limits.body));
        }
        left = left.saturating_sub(length);
    }
    match newest {
        Some(age) if recent == 0 => Err(FetchError::OldFiles(path.to_owned(), age.as_secs())),
        _ => Ok(exposition),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits {
        timeout: Duration::from_secs(20),
        body: 1 << 20,
        anywhere: false,
        file_age: Duration::from_secs(3600),
    };

    #[test]
    fn addresses_are_understood_or_refused() {
        let http = |host: &str, port, path: &str| Source::Http { host: host.into(), port, path: path.into() };
        let good = [
            ("http://127.0.0.1:9400/metrics", http("127.0.0.1", 9400, "/metrics")),
            ("http://localhost:9400", http("localhost", 9400, "/metrics")),
            ("http://[::1]:1/a?b=c", http("::1", 1, "/a?b=c")),
            ("http://[::1]", http("::1", 80, "/metrics")),
            ("http://h?x=1", http("h", 80, "/?x=1")),
            ("file:/var/lib/x", Source::File("/var/lib/x".into())),
        ];
        for (text, wanted) in good {
            assert_eq!(Source::parse(text), Ok(wanted), "{text}");
        }
        for text in [
            "",
            "https://h/",
            "ftp://h",
            "file:x",
            "http://",
            "http://:1/",
            "http://h:x/",
            "http://u:p@h/",
            "http://[::1/",
            "http://[::1]x",
            "http://h:99999/",
            "http://h/a b",
            "http://h/\r\nX: y",
            "http://h/#a",
        ] {
            assert!(Source::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn near_addresses_are_near() {
        for near in
            ["127.0.0.1", "10.1.2.3", "192.168.0.1", "172.31.0.1", "169.254.1.1", "100.64.0.1", "::1", "fd00::1"]
        {
            assert!(is_near(near.parse().unwrap()), "{near}");
        }
        for far in ["8.8.8.8", "172.32.0.1", "100.128.0.1", "2001:db8::1", "::ffff:8.8.8.8", "0.0.0.0"] {
            assert!(!is_near(far.parse().unwrap()), "{far}");
        }
    }

    /// Answers one request with these bytes, then keeps the connection for that long.
    fn answer(bytes: &[u8], hold: Duration) -> Source {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let bytes = bytes.to_vec();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(&bytes);
            std::thread::sleep(hold);
        });
        Source::Http { host: "127.0.0.1".to_owned(), port, path: "/metrics".to_owned() }
    }

    fn ask(bytes: &[u8]) -> Result<Exposition, FetchError> {
        fetch(&answer(bytes, Duration::ZERO), &LIMITS)
    }

    #[test]
    fn bodies_end_in_three_ways() {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\na 1\nb 2\n",
            "HTTP/1.0 200 OK\r\n\r\na 1\nb 2",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na 1\r\n5;x=y\r\n\nb 2\n\r\n0\r\n\r\n",
        ] {
            assert_eq!(ask(answer.as_bytes()).unwrap().len(), 2, "{answer}");
        }
    }

    #[test]
    fn what_is_no_answer_is_said() {
        let cases = [
            ("SSH-2.0-OpenSSH_9\r\n", "not HTTP"),
            ("HTTP/1.1 200 OK\r\n", "cut short"),
            ("HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n", "redirects"),
            ("HTTP/1.1 500 No\r\n\r\n", "status 500"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\na 1\n", "cut short"),
            ("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n\u{1}", "gzip"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "wrong length"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\na 1\n", "cut short"),
            ("HTTP/1.1 200 OK\r\n\r\n<html>\n<body>", "`<html>`"),
            ("HTTP/1.1 200 OK\r\nContent-Type: application/openmetrics-text\r\n\r\na 1\n", "cut short"),
        ];
        for (answer, wanted) in cases {
            let said = nodescope_service::errors::chain(&ask(answer.as_bytes()).unwrap_err());
            assert!(said.contains(wanted), "{answer}: {said}");
        }
        let head = format!("HTTP/1.1 200 OK\r\n{}", "X: y\r\n".repeat(5_000));
        assert!(matches!(ask(head.as_bytes()), Err(FetchError::NotHttp(_))));
        let long = format!("HTTP/1.1 200 OK\r\n\r\n{}", "a 1\n".repeat(300_000));
        assert!(matches!(ask(long.as_bytes()), Err(FetchError::TooLong(_))));
    }

    #[test]
    fn whoever_is_slow_is_left() {
        let source = answer(b"HTTP/1.1 200 OK\r\n\r\na 1\n", Duration::from_secs(60));
        let began = Instant::now();
        let limits = Limits { timeout: Duration::from_millis(400), ..LIMITS };
        assert!(matches!(fetch(&source, &limits), Err(FetchError::Deadline)));
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    }

    #[test]
    fn nobody_far_is_asked() {
        let source = Source::Http { host: "8.8.8.8".to_owned(), port: 1, path: "/".to_owned() };
        assert!(matches!(fetch(&source, &LIMITS), Err(FetchError::Refused(_))));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let source = Source::Http { host: "127.0.0.1".to_owned(), port, path: "/".to_owned() };
        assert!(matches!(fetch(&source, &LIMITS), Err(FetchError::Connect(_))));
    }

    #[test]
    fn files_tell_when_they_were_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("b.prom"), "b 2\n").unwrap();
        std::fs::write(path("a.prom"), "a 1").unwrap();
        std::fs::write(path("other.txt"), "c 3\n").unwrap();
        let source = Source::File(directory.path().to_owned());
        let exposition = fetch(&source, &LIMITS).unwrap();
        let names: Vec<_> = exposition.samples().map(|s| s.name.to_owned()).collect();
        assert_eq!(names, ["a", "b"]);
        assert!(exposition.samples().all(|s| s.at_micros.is_some()));
        assert_eq!(fetch(&Source::File(path("b.prom")), &LIMITS).unwrap().len(), 1);
        // A pipe without a writer.
        let pipe = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, path("c.prom"), pipe, 0o600.into(), 0).unwrap();
        let exposition = fetch(&source, &LIMITS).unwrap();
        assert_eq!((exposition.len(), exposition.wrong), (2, 1));
        std::fs::remove_file(path("c.prom")).unwrap();
        assert!(matches!(fetch(&Source::File(path("none")), &LIMITS), Err(FetchError::File(..))));
        for file in ["a.prom", "b.prom"] {
            let old = SystemTime::now() - Duration::from_secs(7200);
            File::options().write(true).open(path(file)).unwrap().set_modified(old).unwrap();
        }
        assert!(matches!(fetch(&source, &LIMITS), Err(FetchError::OldFiles(..))));
    }

    #[test]
    fn long_lines_are_wrong_and_the_next_is_right() {
        let text = format!("a 1\n{}\nb 2", "x".repeat(3 * MAX_LINE));
        let mut lines = Vec::new();
        let mut wrong = 0;
        read_lines(&mut text.as_bytes(), 1 << 20, |line| match line {
            Ok(line) => lines.push(line.to_vec()),
            Err(_) => wrong += 1,
        })
        .unwrap();
        assert_eq!((lines, wrong), (vec![b"a 1".to_vec(), b"b 2".to_vec()], 1));
    }

    proptest! {
        #[test]
        fn any_answer_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut reader = &bytes[..];
            let _ = read_head(&mut reader);
            for left in [Length::Bytes(50), Length::Pieces(None), Length::UntilClose] {
                let mut body = Body { from: &bytes[..], left };
                let _ = read_lines(&mut body, 200, |_| {});
            }
        }

        #[test]
        fn pieces_are_put_together(text in "[a-z \n]{0,200}", cuts in prop::collection::vec(1usize..40, 1..20)) {
            let mut pieces = String::new();
            let mut rest = text.as_str();
            for cut in cuts.iter().cycle() {
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                pieces.push_str(&format!("{:x}\r\n{piece}\r\n", piece.len()));
                rest = after;
                if piece.is_empty() {
                    break;
                }
            }
            let mut body = Body { from: pieces.as_bytes(), left: Length::Pieces(None) };
            let mut read = String::new();
            body.read_to_string(&mut read).unwrap();
            prop_assert_eq!(read, text);
            prop_assert!(body.is_complete());
        }

        #[test]
        fn any_address_is_survived(text in any::<String>(), rest in "[a-z:/@\\[\\]0-9?#]{0,20}") {
            let _ = Source::parse(&text);
            let _ = Source::parse(&format!("http://{rest}"));
        }
    }
}
