//! The first messages of a connection, up to the moment at which it may ask.
//!
//! A client may first ask for TLS, then it names its user and its parameters, proves who it is if users are kept, and
//! is told the server's parameters and the key with which it can cancel. All of it has ten seconds, in messages of
//! ten kilobytes at most, so that somebody who knocks and says nothing costs little. The request for TLS is read
//! without reading ahead: what somebody in the middle may have sent in clear after it is taken for the beginning of
//! TLS, which it is not, and the connection fails.

use std::sync::Arc;

use bytes::Bytes;
use pgwire::messages::PgWireBackendMessage as Backend;
use pgwire::messages::response::{ReadyForQuery, TransactionStatus};
use pgwire::messages::startup::{Authentication, BackendKeyData, NegotiateProtocolVersion, ParameterStatus};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::TlsAcceptor;

use super::Shared;
use super::auth::{Exchange, MECHANISM, Users};
use super::cancel::Registration;
use super::channel::{Channel, ChannelError, Duplex};
use super::errors::Failure;
use super::tls::PROTOCOL;
use super::wire::{self, Frontend, LONGEST_OPENING, Opening};
use crate::session::{Session, SessionSettings};

/// The first byte of a TLS connection.
const TLS_HANDSHAKE: u8 = 0x16;
/// How often a client may ask for encryption before it must come to the point.
const MOST_REQUESTS: usize = 4;
/// The SQLSTATE of a user or a password that is wrong.
const WRONG_PASSWORD: &str = "28P01";
/// The newest minor version of protocol 3 that is spoken, beside 3.0.
const NEWEST_MINOR: u16 = 2;

/// A session that has been let in.
pub(super) struct Admitted {
    pub channel: Channel,
    pub session: Session,
    pub registration: Registration,
    /// Its place among the sessions.
    pub place: OwnedSemaphorePermit,
}

/// Why there is no session.
pub(super) enum NoSession {
    /// It was a request to cancel, or the client left. Nothing is wrong.
    Over,
    /// The client does not speak the protocol.
    Broken,
    /// It was turned away for this reason, and told so.
    Refused(&'static str),
}

impl From<ChannelError> for NoSession {
    fn from(_: ChannelError) -> Self {
        NoSession::Broken
    }
}

/// What a client has said of itself.
struct Hello {
    minor: u16,
    parameters: Vec<(String, String)>,
}

/// Leads a new connection to a session.
pub(super) async fn receive(socket: TcpStream, shared: &Arc<Shared>) -> Result<Admitted, NoSession> {
    let (mut channel, hello, encrypted) = greet(socket, shared).await?;
    match admit(&mut channel, &hello, encrypted, shared).await {
        Ok((session, registration, place)) => Ok(Admitted { channel, session, registration, place }),
        Err((failure, reason)) => {
            // What cannot be said to a client that has gone already is not missed.
            if channel.put(&Backend::ErrorResponse(failure.fatal().response())).is_ok() {
                let _ = channel.flush().await;
            }
            channel.close().await;
            Err(NoSession::Refused(reason))
        }
    }
}

/// Reads openings until the client has said who it is.
async fn greet(socket: TcpStream, shared: &Arc<Shared>) -> Result<(Channel, Hello, bool), NoSession> {
    let mut first = [0];
    let direct = socket.peek(&mut first).await.map_err(ChannelError::Io)? == 1 && first[0] == TLS_HANDSHAKE;
    let mut encrypted = false;
    let mut channel = if direct {
        let acceptor = shared.tls.as_ref().ok_or(NoSession::Broken)?;
        encrypted = true;
        encrypt(acceptor, Box::new(socket), true).await?
    } else {
        Channel::new(Box::new(socket))
    };
    for _ in 0..MOST_REQUESTS {
        match channel.opening().await? {
            None => return Err(NoSession::Over),
            Some(Opening::Ssl) => match &shared.tls {
                Some(acceptor) if !encrypted => {
                    channel.answer(b'S').await?;
                    encrypted = true;
                    channel = encrypt(acceptor, channel.into_stream(), false).await?;
                }
                _ => channel.answer(b'N').await?,
            },
            Some(Opening::GssEncryption) => channel.answer(b'N').await?,
            Some(Opening::Cancel { pid, secret }) => {
                // The answer is to close, whether there was anything to cancel or not.
                shared.cancels.cancel(pid, &secret);
                return Err(NoSession::Over);
            }
            Some(Opening::Startup { minor, parameters }) => {
                return Ok((channel, Hello { minor, parameters }, encrypted));
            }
        }
    }
    Err(NoSession::Broken)
}

/// Begins TLS. A client that begins with it at once must name the protocol, so that it cannot be led to another.
async fn encrypt(acceptor: &TlsAcceptor, stream: Box<dyn Duplex>, direct: bool) -> Result<Channel, NoSession> {
    let stream = acceptor.accept(stream).await.map_err(ChannelError::Io)?;
    if direct && stream.get_ref().1.alpn_protocol() != Some(PROTOCOL) {
        return Err(NoSession::Broken);
    }
    Ok(Channel::new(Box::new(stream)))
}

type Refusal = (Failure, &'static str);

/// Decides whether a client may have a session, and prepares it.
async fn admit(
    channel: &mut Channel,
    hello: &Hello,
    encrypted: bool,
    shared: &Arc<Shared>,
) -> Result<(Session, Registration, OwnedSemaphorePermit), Refusal> {
    if shared.require_tls && !encrypted {
        let failure = Failure::new("28000", "this server takes encrypted connections only")
            .hint("Connect with sslmode=require or better.");
        return Err((failure, "not_encrypted"));
    }
    negotiate(channel, hello).map_err(|failure| (failure, "protocol"))?;
    let user = hello.parameters.iter().find(|(name, _)| name == "user").map_or("", |(_, user)| user.as_str());
    if user.is_empty() {
        return Err((Failure::new("28000", "no user name was given"), "no_user"));
    }
    let wants_replication = hello
        .parameters
        .iter()
        .any(|(name, value)| name == "replication" && !matches!(value.as_str(), "false" | "off" | "no" | "0"));
    if wants_replication {
        return Err((Failure::new("0A000", "replication is not supported"), "replication"));
    }
    let Ok(place) = Arc::clone(&shared.places).try_acquire_owned() else {
        let most = shared.engine.limits().max_connections;
        let failure = Failure::new("53300", format!("there are {most} connections already, which is the limit"))
            .hint("Close some, use a connection pool, or raise `max_connections` on the server.");
        return Err((failure, "too_many_connections"));
    };
    if let Some(users) = &shared.users {
        authenticate(channel, users, user).await.map_err(|failure| {
            // psql leaves when it is asked for a password it does not have yet; nobody has tried anything then.
            if failure.code == WRONG_PASSWORD {
                shared.engine.metrics().auth_failed();
            }
            (failure, "authentication")
        })?;
    }
    let settings = settings(user, hello, shared).map_err(|failure| (failure, "parameters"))?;
    let registration = shared.cancels.register(hello.minor >= NEWEST_MINOR);
    welcome(channel, &settings, &registration).await.map_err(|failure| (failure, "gone"))?;
    Ok((Session::new(settings), registration, place))
}

/// Tells the client which version of the protocol is spoken, if it is not the one it asked for.
fn negotiate(channel: &mut Channel, hello: &Hello) -> Result<(), Failure> {
    let unknown: Vec<String> =
        hello.parameters.iter().map(|(name, _)| name.clone()).filter(|name| name.starts_with("_pq_.")).collect();
    if unknown.is_empty() && (hello.minor == 0 || hello.minor == NEWEST_MINOR) {
        return Ok(());
    }
    let minor = if hello.minor >= NEWEST_MINOR { NEWEST_MINOR } else { 0 };
    let version = (3 << 16) | i32::from(minor);
    let message = Backend::NegotiateProtocolVersion(NegotiateProtocolVersion::new(version, unknown));
    channel.put(&message).map_err(|error| Failure::new("08P01", error.to_string()))
}

/// Lets the client prove that it knows the user's password.
async fn authenticate(channel: &mut Channel, users: &Users, user: &str) -> Result<(), Failure> {
    let refuse = |why: &dyn std::fmt::Display| {
        tracing::debug!(user, %why, "not let in");
        Failure::new(WRONG_PASSWORD, format!("password authentication failed for user \"{user}\""))
    };
    ask(channel, Authentication::SASL(vec![MECHANISM.to_owned()])).await?;
    let (mechanism, first) = wire::sasl_initial(password(channel).await?).map_err(|error| refuse(&error))?;
    if mechanism != MECHANISM {
        return Err(refuse(&"unknown mechanism"));
    }
    let (exchange, answer) = Exchange::begin(users, user, &first).map_err(|error| refuse(&error))?;
    ask(channel, Authentication::SASLContinue(answer.into())).await?;
    let last = password(channel).await?;
    let answer = exchange.finish(&last).map_err(|error| refuse(&error))?;
    ask(channel, Authentication::SASLFinal(answer.into())).await
}

async fn ask(channel: &mut Channel, message: Authentication) -> Result<(), Failure> {
    let unsent = |error: pgwire::error::PgWireError| Failure::internal(error.to_string());
    channel.put(&Backend::Authentication(message)).map_err(unsent)?;
    Ok(channel.flush().await?)
}

async fn password(channel: &mut Channel) -> Result<Bytes, Failure> {
    match channel.next(LONGEST_OPENING).await? {
        Some(Frontend::Password(answer)) => Ok(answer),
        Some(Frontend::Terminate) | None => Err(Failure::gone()),
        Some(_) => Err(Failure::new("08P01", "a password was expected")),
    }
}

/// The settings of the session from the parameters of the client. Those that PostgreSQL knows and we do not are left
/// out: a driver may set what it likes for a server of another kind.
fn settings(user: &str, hello: &Hello, shared: &Shared) -> Result<SessionSettings, Failure> {
    let mut settings = SessionSettings::new(user, shared.engine.limits().statement_timeout);
    for (name, value) in &hello.parameters {
        match name.as_str() {
            "user" | "database" | "replication" => {}
            "options" => {
                for (name, value) in command_line(value) {
                    apply(&mut settings, &name, &value)?;
                }
            }
            name => apply(&mut settings, name, value)?,
        }
    }
    Ok(settings)
}

fn apply(settings: &mut SessionSettings, name: &str, value: &str) -> Result<(), Failure> {
    if SessionSettings::canonical_name(name).is_none() {
        tracing::debug!(name, "a client sets a parameter that is not known here");
        return Ok(());
    }
    Ok(settings.set(name, &[value.to_owned()])?)
}

/// The settings in a command line such as `-c timezone=UTC --search_path=public`. A backslash keeps the next
/// character, so that a value may hold spaces.
fn command_line(text: &str) -> Vec<(String, String)> {
    let mut words = vec![String::new()];
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => words.last_mut().expect("there is always one").extend(characters.next()),
            character if character.is_whitespace() => words.push(String::new()),
            character => words.last_mut().expect("there is always one").push(character),
        }
    }
    words
        .iter()
        .filter_map(|word| {
            let word = word.strip_prefix("-c").or_else(|| word.strip_prefix("--")).unwrap_or(word);
            let (name, value) = word.split_once('=')?;
            Some((name.replace('-', "_"), value.to_owned()))
        })
        .collect()
}

/// Tells the client everything it needs before it asks.
async fn welcome(
    channel: &mut Channel,
    settings: &SessionSettings,
    registration: &Registration,
) -> Result<(), Failure> {
    let mut messages = vec![Backend::Authentication(Authentication::Ok)];
    for (name, value) in settings.reported() {
        messages.push(Backend::ParameterStatus(ParameterStatus::new(name.to_owned(), value.to_owned())));
    }
    messages.push(Backend::BackendKeyData(BackendKeyData::new(registration.pid(), registration.secret())));
    messages.push(Backend::ReadyForQuery(ReadyForQuery::new(TransactionStatus::Idle)));
    for message in &messages {
        channel.put(message).map_err(|error| Failure::internal(error.to_string()))?;
    }
    Ok(channel.flush().await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_as_a_command_line() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        for (text, expected) in [
            ("-c timezone=UTC", vec![pair("timezone", "UTC")]),
            ("-ctimezone=UTC  --search-path=a,b", vec![pair("timezone", "UTC"), pair("search_path", "a,b")]),
            (r"-c datestyle=ISO,\ DMY", vec![pair("datestyle", "ISO, DMY")]),
            ("-c", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(command_line(text), expected, "{text}");
        }
    }
}
