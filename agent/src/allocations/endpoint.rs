//! The endpoint for prologs and epilogs: HTTP on a loopback address.
//!
//! ```text
//! POST   /v1/allocations       the JSON of an allocation: 201, or 200 where it replaced one of the same id
//! DELETE /v1/allocations/ID    it is over: 204, or 404
//! GET    /v1/allocations       those held, as a list
//! ```
//!
//! A few threads answer one request after another, each within [`PATIENCE`], and close: a prolog sends one a job, and
//! what is bounded by its making needs no counting. Several, so that one who connects and says nothing holds up nobody. Whoever may log in to the host may connect, so a token can be
//! asked for, which a prolog run by root reads from a file that only root may read. Pages that a browser on the host
//! shows can send requests too; they carry `Origin`, and are refused.
//!
//! An answer of 2xx means that it is on the disk: held allocations are read again when the agent starts. A reboot
//! ends them, since no epilog ran.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{Allocation, MAX_ALLOCATIONS, MAX_BYTES, is_id, micros, parse_allocation, write_whole};
use crate::ticker::now_us;

/// A request takes no longer than this, from the first byte to the last of the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Requests that are read and answered at one time.
const THREADS: usize = 4;

/// What a thread needs to read a request and write an answer.
const STACK: usize = 256 * 1024;

/// So long a sender may take to notice that it is refused.
const LINGER: Duration = Duration::from_millis(200);

/// The longest head of a request.
const MAX_HEAD: usize = 8 << 10;

/// Ended allocations that wait for the next tick at the most.
const MAX_ENDED: usize = MAX_ALLOCATIONS;

/// Text of all that are held, and of all that have ended, at the most: a thousand jobs on eight cards are a tenth of it.
const MAX_TEXT: usize = 4 << 20;

/// Where it is and who may use it.
#[derive(Debug, Clone)]
pub(crate) struct EndpointOptions {
    /// A loopback address.
    pub(crate) address: SocketAddr,
    /// File whose first line every request must carry.
    pub(crate) token: Option<PathBuf>,
    /// File in which held allocations outlive the agent.
    pub(crate) state: Option<PathBuf>,
    /// Number of this start of the kernel.
    pub(crate) boot: String,
}

/// An allocation that is held, or was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) allocation: Allocation,
    /// Microseconds since 1970.
    pub(crate) began: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ended: Option<i64>,
}

impl Told {
    fn size(&self) -> usize {
        self.allocation.size()
    }
}

/// What the file holds.
#[derive(Debug, Default, Serialize, Deserialize)]
struct State {
    boot: String,
    held: Vec<Told>,
    /// Those of which nobody has been told yet when this was written. They may be told twice, which harms nobody.
    #[serde(default)]
    ended: Vec<Told>,
}

/// What was told so far.
#[derive(Debug, Default)]
pub(crate) struct Board {
    held: BTreeMap<String, Told>,
    ended: Vec<Told>,
    /// Rises with every change.
    version: u64,
}

impl Board {
    /// Rises with every change.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Those that are held.
    pub(crate) fn held(&self) -> impl Iterator<Item = &Told> {
        self.held.values()
    }

    /// Those that have ended since this was last asked.
    pub(crate) fn take_ended(&mut self) -> Vec<Told> {
        std::mem::take(&mut self.ended)
    }

    /// Takes an allocation; whether it is a new one, or `None` where there are too many.
    fn put(&mut self, allocation: Allocation, now: i64) -> Option<bool> {
        let before = self.held.get(&allocation.id);
        let others: usize = self.held.values().map(Told::size).sum::<usize>() - before.map_or(0, Told::size);
        if (before.is_none() && self.held.len() >= MAX_ALLOCATIONS) || others + allocation.size() > MAX_TEXT {
            return None;
        }
        let began = allocation.began.map(micros).or(before.map(|told| told.began)).unwrap_or(now);
        let is_new = before.is_none();
        self.held.insert(allocation.id.clone(), Told { allocation, began, ended: None });
        self.version += 1;
        Some(is_new)
    }

    /// Ends one; whether it was there.
    fn end(&mut self, id: &str, now: i64) -> bool {
        let Some(told) = self.held.remove(id) else { return false };
        let waiting: usize = self.ended.iter().map(Told::size).sum();
        if self.ended.len() < MAX_ENDED && waiting + told.size() <= MAX_TEXT {
            self.ended.push(Told { ended: Some(now.max(told.began)), ..told });
        }
        self.version += 1;
        true
    }
}

/// The endpoint, which answers until it is dropped.
#[derive(Debug)]
pub(crate) struct Endpoint {
    board: Arc<Mutex<Board>>,
    address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl Endpoint {
    /// Binds the address, reads what was held before, and answers on a thread of its own.
    ///
    /// # Errors
    /// When the address is taken, or there is no thread to be had.
    pub(crate) fn start(options: EndpointOptions) -> io::Result<Self> {
        let listener = TcpListener::bind(options.address)?;
        let address = listener.local_addr()?;
        let board = Arc::new(Mutex::new(load(&options)));
        let stop = Arc::new(AtomicBool::new(false));
        let mut server = Server { options, board: board.clone(), is_unsaved: false };
        // What a reboot has ended is ended once.
        server.save();
        let server = Arc::new(Mutex::new(server));
        for _ in 0..THREADS {
            let (server, listener, stop) = (server.clone(), listener.try_clone()?, stop.clone());
            let thread = std::thread::Builder::new().name("allocations".to_owned()).stack_size(STACK);
            thread.spawn(move || run(&server, &listener, &stop))?;
        }
        Ok(Self { board, address, stop })
    }

    /// What was told so far.
    pub(crate) fn board(&self) -> &Mutex<Board> {
        &self.board
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // They wait for connections; these are some.
        for _ in 0..THREADS {
            let _ = TcpStream::connect_timeout(&self.address, Duration::from_millis(100));
        }
    }
}

fn load(options: &EndpointOptions) -> Board {
    let mut board = Board::default();
    let Some(path) = &options.state else { return board };
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return board,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "allocations of before cannot be read");
            return board;
        }
    };
    match serde_json::from_slice::<State>(&bytes) {
        Ok(state) => {
            let is_rebooted = state.boot != options.boot;
            board.ended = state.ended;
            board.ended.truncate(MAX_ENDED);
            for told in state.held.into_iter().take(MAX_ALLOCATIONS) {
                board.held.insert(told.allocation.id.clone(), told);
            }
            if is_rebooted {
                let now = now_us();
                for id in board.held.keys().cloned().collect::<Vec<_>>() {
                    board.end(&id, now);
                }
            }
            board.version += 1;
        }
        Err(error) => tracing::warn!(path = %path.display(), %error, "allocations of before are damaged, and left out"),
    }
    board
}

struct Server {
    options: EndpointOptions,
    board: Arc<Mutex<Board>>,
    /// Whether it was said that the state cannot be written.
    is_unsaved: bool,
}

/// An answer: status and body.
type Answer = (u16, String);

/// Answers until told to stop.
fn run(server: &Mutex<Server>, listener: &TcpListener, stop: &AtomicBool) {
    loop {
        let connection = listener.accept();
        if stop.load(Ordering::Relaxed) {
            return;
        }
        match connection {
            // One that goes away in the middle is its own loss.
            Ok((stream, _)) => drop(serve(server, stream)),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

fn serve(server: &Mutex<Server>, mut stream: TcpStream) -> io::Result<()> {
    let until = Instant::now() + PATIENCE;
    let (status, body) = match read_request(&mut stream, until) {
        Ok(request) => server.lock().answer(&request),
        Err(Refusal::Answer(status, why)) => (status, said(why)),
        Err(Refusal::Gone) => return Ok(()),
    };
    write_until(&mut stream, response(status, &body).as_bytes(), until)?;
    if status >= 400 {
        // Closing on bytes that nobody read resets the connection, and the answer with it.
        stream.shutdown(Shutdown::Write)?;
        // However slowly they come: others wait.
        let until = Instant::now() + LINGER;
        let (mut piece, mut most) = ([0; 4096], MAX_BYTES);
        while most > 0 && Instant::now() < until {
            stream.set_read_timeout(Some(left(until)))?;
            match stream.read(&mut piece)? {
                0 => break,
                more => most = most.saturating_sub(more),
            }
        }
    }
    Ok(())
}

impl Server {
    fn answer(&mut self, request: &Request) -> Answer {
        if request.is_of_browser {
            return (403, said("not for pages"));
        }
        if let Some(path) = &self.options.token {
            let Ok(token) = fs::read_to_string(path) else {
                return (500, said("the agent cannot read agent.allocations_token_file"));
            };
            let token = token.lines().next().unwrap_or_default().trim();
            if token.is_empty() || !request.token.as_deref().is_some_and(|given| is_same(given, token)) {
                return (401, said("Authorization: Bearer and the token of agent.allocations_token_file"));
            }
        }
        let now = now_us();
        let answer = match (request.method.as_str(), request.path.as_str()) {
            ("GET", "/v1/allocations") => {
                let board = self.board.lock();
                let list: Vec<&Told> = board.held.values().collect();
                return (200, serde_json::to_string(&list).unwrap_or_default());
            }
            ("POST", "/v1/allocations") => match parse_allocation(&request.body, None) {
                Ok(allocation) => match self.board.lock().put(allocation, now) {
                    Some(is_new) => (if is_new { 201 } else { 200 }, "{}\n".to_owned()),
                    None => return (507, said("as many as there is room for are held already")),
                },
                Err(why) => return (400, said(&why)),
            },
            ("DELETE", path) => match path.strip_prefix("/v1/allocations/") {
                Some(id) if is_id(id) => {
                    if !self.board.lock().end(id, now) {
                        return (404, said("no such allocation is held"));
                    }
                    (204, String::new())
                }
                _ => return (404, said("DELETE /v1/allocations/ID")),
            },
            (_, "/v1/allocations") => return (405, said("GET, POST, or DELETE of one")),
            _ => return (404, said("/v1/allocations")),
        };
        self.save();
        answer
    }

    fn save(&mut self) {
        let Some(path) = &self.options.state else { return };
        let state = {
            let board = self.board.lock();
            let held = board.held.values().cloned().collect();
            State { boot: self.options.boot.clone(), held, ended: board.ended.clone() }
        };
        let saved = serde_json::to_vec(&state).map_err(io::Error::other).and_then(|bytes| write_whole(path, &bytes));
        match saved {
            Ok(()) => self.is_unsaved = false,
            Err(error) => {
                if !std::mem::replace(&mut self.is_unsaved, true) {
                    let path = path.display();
                    tracing::warn!(%path, %error, "allocations cannot be saved; they are lost when the agent ends");
                }
            }
        }
    }
}

/// A message as JSON.
fn said(message: &str) -> String {
    format!("{}\n", serde_json::json!({ "message": message }))
}

/// Compares without telling by the time it takes how much of it was right.
fn is_same(given: &str, wanted: &str) -> bool {
    let differences = given.bytes().zip(wanted.bytes()).fold(0, |found, (a, b)| found | (a ^ b));
    given.len() == wanted.len() && differences == 0
}

fn response(status: u16, body: &str) -> String {
    let reason = match status {
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        411 => "Length Required",
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        507 => "Insufficient Storage",
        _ => "Internal Server Error",
    };
    // An answer without content has no length either.
    let length = if status == 204 { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    format!("HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\n{length}Connection: close\r\n\r\n{body}")
}

/// What was asked.
#[derive(Debug, Default, PartialEq, Eq)]
struct Request {
    method: String,
    path: String,
    token: Option<String>,
    is_of_browser: bool,
    body: Vec<u8>,
}

/// What the head of a request says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Head {
    request: Request,
    /// Bytes of the head itself.
    length: usize,
    /// Bytes that follow.
    body: usize,
    /// Whether the sender waits to be told to go on, as curl does with more than a little.
    waits: bool,
}

/// Why there is no request.
#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    Answer(u16, &'static str),
    /// Nobody is there to be told.
    Gone,
}

/// Reads the head; `None` while it is not whole.
fn parse_head(bytes: &[u8]) -> Result<Option<Head>, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut parsed = httparse::Request::new(&mut headers);
    let length = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() >= MAX_HEAD => return Err(Refusal::Answer(431, "too long")),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::Answer(431, "too many headers")),
        Err(_) => return Err(Refusal::Answer(400, "this is not HTTP")),
    };
    let header = |name: &str| parsed.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
    let text = |name: &str| header(name).and_then(|header| str::from_utf8(header.value).ok()).map(str::trim);
    let method = parsed.method.unwrap_or_default();
    if header("Transfer-Encoding").is_some() {
        return Err(Refusal::Answer(411, "send Content-Length"));
    }
    let body = match text("Content-Length") {
        Some(length) => length.parse().map_err(|_| Refusal::Answer(400, "Content-Length is no number"))?,
        None if method == "POST" => return Err(Refusal::Answer(411, "send Content-Length")),
        None => 0,
    };
    if body > MAX_BYTES {
        return Err(Refusal::Answer(413, "64 KiB is the most"));
    }
    let path = parsed.path.unwrap_or_default();
    let request = Request {
        method: method.to_owned(),
        path: path.split('?').next().unwrap_or_default().to_owned(),
        token: text("Authorization").and_then(|value| value.strip_prefix("Bearer ")).map(|t| t.trim().to_owned()),
        is_of_browser: header("Origin").is_some(),
        body: Vec::new(),
    };
    let waits = text("Expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue"));
    Ok(Some(Head { request, length, body, waits }))
}

fn read_request(stream: &mut TcpStream, until: Instant) -> Result<Request, Refusal> {
    let mut bytes = Vec::with_capacity(2048);
    let mut head = loop {
        if let Some(head) = parse_head(&bytes)? {
            break head;
        }
        read_more(stream, &mut bytes, until)?;
    };
    if head.waits {
        write_until(stream, b"HTTP/1.1 100 Continue\r\n\r\n", until).map_err(|_| Refusal::Gone)?;
    }
    let end = head.length.saturating_add(head.body);
    while bytes.len() < end {
        read_more(stream, &mut bytes, until)?;
    }
    head.request.body = bytes.get(head.length..end).unwrap_or_default().to_vec();
    Ok(head.request)
}

fn read_more(stream: &mut TcpStream, bytes: &mut Vec<u8>, until: Instant) -> Result<(), Refusal> {
    let slow = Refusal::Answer(408, "too slow");
    if Instant::now() >= until {
        return Err(slow);
    }
    stream.set_read_timeout(Some(left(until))).map_err(|_| Refusal::Gone)?;
    let mut piece = [0; 4096];
    match stream.read(&mut piece) {
        Ok(0) => Err(Refusal::Gone),
        Ok(more) => {
            bytes.extend_from_slice(piece.get(..more).unwrap_or_default());
            Ok(())
        }
        Err(error) => match error.kind() {
            ErrorKind::Interrupted => Ok(()),
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Err(slow),
            _ => Err(Refusal::Gone),
        },
    }
}

/// Writes all, in time.
fn write_until(stream: &mut TcpStream, mut bytes: &[u8], until: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        if Instant::now() >= until {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.set_write_timeout(Some(left(until)))?;
        match stream.write(bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The time that is left; never none, which would mean for ever.
fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn options(directory: &std::path::Path) -> EndpointOptions {
        EndpointOptions {
            address: "127.0.0.1:0".parse().unwrap(),
            token: None,
            state: Some(directory.join("endpoint.json")),
            boot: "one".to_owned(),
        }
    }

    fn ask(endpoint: &Endpoint, request: &str) -> String {
        let mut stream = TcpStream::connect(endpoint.address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn post(endpoint: &Endpoint, body: &str) -> String {
        let length = body.len();
        ask(endpoint, &format!("POST /v1/allocations HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}"))
    }

    fn delete(endpoint: &Endpoint, id: &str) -> String {
        ask(endpoint, &format!("DELETE /v1/allocations/{id} HTTP/1.1\r\nHost: x\r\n\r\n"))
    }

    #[test]
    fn allocations_begin_are_listed_and_end() {
        let directory = tempfile::tempdir().unwrap();
        let endpoint = Endpoint::start(options(directory.path())).unwrap();
        let told = r#"{"id":"slurm-42","scheduler":"slurm","job":"42","accelerators":[0,1],"began":1700000000}"#;
        assert!(post(&endpoint, told).starts_with("HTTP/1.1 201 "));
        assert!(post(&endpoint, r#"{"id":"slurm-42","job":"42"}"#).starts_with("HTTP/1.1 200 "));
        let list = ask(&endpoint, "GET /v1/allocations HTTP/1.1\r\n\r\n");
        assert!(list.contains(r#""id":"slurm-42""#) && list.contains("1700000000000000"), "{list}");
        assert!(delete(&endpoint, "slurm-42").starts_with("HTTP/1.1 204 "));
        assert!(delete(&endpoint, "slurm-42").starts_with("HTTP/1.1 404 "));
        let ended = endpoint.board().lock().take_ended();
        assert_eq!(ended.len(), 1);
        assert!(ended[0].ended.unwrap() > ended[0].began);
        assert_eq!(endpoint.board().lock().version(), 3);
    }

    #[test]
    fn they_outlive_the_agent_and_not_the_boot() {
        let directory = tempfile::tempdir().unwrap();
        let first = Endpoint::start(options(directory.path())).unwrap();
        post(&first, r#"{"id":"a","began":1700000000}"#);
        drop(first);
        let second = Endpoint::start(options(directory.path())).unwrap();
        assert_eq!(second.board().lock().held().map(|told| told.began).collect::<Vec<_>>(), [1_700_000_000_000_000]);
        drop(second);
        let rebooted = EndpointOptions { boot: "two".to_owned(), ..options(directory.path()) };
        let third = Endpoint::start(rebooted).unwrap();
        assert_eq!(third.board().lock().held().count(), 0);
        assert_eq!(third.board().lock().take_ended().len(), 1);
        post(&third, r#"{"id":"b"}"#);
        assert!(delete(&third, "b").starts_with("HTTP/1.1 204 "));
        drop(third);
        // An end that nobody was told of outlives the agent as well.
        let rebooted = EndpointOptions { boot: "two".to_owned(), ..options(directory.path()) };
        let fourth = Endpoint::start(rebooted).unwrap();
        let ended = fourth.board().lock().take_ended();
        assert_eq!(ended.iter().map(|told| told.allocation.id.as_str()).collect::<Vec<_>>(), ["b"]);
        drop(fourth);
        fs::write(directory.path().join("endpoint.json"), "damaged").unwrap();
        assert_eq!(Endpoint::start(options(directory.path())).unwrap().board().lock().held().count(), 0);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let endpoint = Endpoint::start(options(directory.path())).unwrap();
        let large = format!("POST /v1/allocations HTTP/1.1\r\nContent-Length: {}\r\n\r\n", MAX_BYTES + 1);
        let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(MAX_HEAD));
        let cases = [
            ("nonsense\r\n\r\n", 400),
            ("POST /v1/allocations HTTP/1.1\r\n\r\n", 411),
            ("POST /v1/allocations HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
            ("POST /v1/allocations HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
            ("POST /v1/allocations HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", 400),
            ("POST /v1/allocations HTTP/1.1\r\nOrigin: http://a\r\nContent-Length: 10\r\n\r\n{\"id\":\"a\"}", 403),
            ("PUT /v1/allocations HTTP/1.1\r\n\r\n", 405),
            ("GET / HTTP/1.1\r\n\r\n", 404),
            ("DELETE /v1/allocations/..%2fx HTTP/1.1\r\n\r\n", 404),
            (&large, 413),
            (&long, 431),
        ];
        for (request, status) in cases {
            let answer = ask(&endpoint, request);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
        }
        let waiting =
            "POST /v1/allocations HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n{\"id\":\"a\"}";
        let answer = ask(&endpoint, waiting);
        assert!(answer.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 "), "{answer}");
    }

    #[test]
    fn whoever_dribbles_holds_up_others_for_a_moment() {
        let directory = tempfile::tempdir().unwrap();
        let endpoint = Endpoint::start(options(directory.path())).unwrap();
        let mut refused = TcpStream::connect(endpoint.address).unwrap();
        refused.write_all(b"nonsense\r\n\r\n").unwrap();
        let dribbling = std::thread::spawn(move || {
            // It never stops by itself.
            while refused.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let began = Instant::now();
        assert!(ask(&endpoint, "GET /v1/allocations HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200 "));
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        dribbling.join().unwrap();
    }

    #[test]
    fn whoever_says_nothing_holds_up_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let endpoint = Endpoint::start(options(directory.path())).unwrap();
        let silent: Vec<_> = (1..THREADS).map(|_| TcpStream::connect(endpoint.address).unwrap()).collect();
        let began = Instant::now();
        assert!(ask(&endpoint, "GET /v1/allocations HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200 "));
        assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
        drop(silent);
    }

    #[test]
    fn a_token_is_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let token = directory.path().join("token");
        let options = EndpointOptions { token: Some(token.clone()), ..options(directory.path()) };
        let endpoint = Endpoint::start(options).unwrap();
        let with = |token: &str| {
            ask(&endpoint, &format!("GET /v1/allocations HTTP/1.1\r\nauthorization: Bearer {token}\r\n\r\n"))
        };
        assert!(with("secret").starts_with("HTTP/1.1 500 "), "no file");
        fs::write(&token, "\n").unwrap();
        assert!(with("").starts_with("HTTP/1.1 401 "), "an empty one is none");
        fs::write(&token, "secret\n").unwrap();
        assert!(with("secret").starts_with("HTTP/1.1 200 "));
        assert!(with("secre").starts_with("HTTP/1.1 401 "));
        assert!(ask(&endpoint, "GET /v1/allocations HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 401 "));
    }

    #[test]
    fn there_is_an_end_to_what_is_held() {
        let mut board = Board::default();
        for number in 0..MAX_ALLOCATIONS {
            assert_eq!(board.put(Allocation { id: number.to_string(), ..Allocation::default() }, 5), Some(true));
        }
        assert_eq!(board.put(Allocation { id: "more".to_owned(), ..Allocation::default() }, 5), None);
        assert_eq!(board.put(Allocation { id: "7".to_owned(), ..Allocation::default() }, 6), Some(false));
        assert_eq!(board.held["7"].began, 5, "it began when it was first told");
        let large = |id: usize| Allocation {
            id: id.to_string(),
            accelerators: vec![super::super::Accelerator::Name("x".repeat(256)); 256],
            ..Allocation::default()
        };
        let mut board = Board::default();
        let taken = (0..MAX_ALLOCATIONS).filter(|id| board.put(large(*id), 5).is_some()).count();
        assert!((10..MAX_TEXT >> 16).contains(&taken), "{taken}");
        assert_eq!(board.put(large(0), 6), Some(false), "one that is held may be told again");
    }

    proptest! {
        #[test]
        fn no_bytes_bring_it_down(bytes in prop::collection::vec(any::<u8>(), 0..300), text in "[A-Z]{3,6} /[ -~]{0,20} HTTP/1.1\r\n([A-Za-z-]{1,20}: [ -~]{0,20}\r\n){0,3}\r\n") {
            let _ = parse_head(&bytes);
            let _ = parse_head(text.as_bytes());
        }
    }
}
