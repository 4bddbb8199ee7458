//! The PostgreSQL front door: Grafana, psql, BI tools and every language come in here.
//!
//! The way of a question through these files: `startup` (TLS, who it is) → `connection` (one session) → `simple`
//! or `extended` (what is asked) → `parameters` → `run` (plan, execute, within its time) → `rows` (values on the
//! wire).
//! `wire` and `channel` read and write messages, `auth`, `tls` and `cancel` are what their names say, and `errors`
//! turns whatever fails into something a client can act on.
//!
//! The messages we send, their types and the encoding of values come from `pgwire` and `arrow-pg`. Reading what
//! clients send and the order of things are our own, because a port must stand up to strangers: nothing is believed,
//! nothing is collected without a bound, rows are streamed and never gathered, and every refusal that can be made
//! before serving is made before serving.

mod auth;
mod cancel;
mod channel;
mod connection;
mod errors;
mod extended;
mod maps;
mod parameters;
mod rows;
mod run;
mod simple;
mod startup;
mod tls;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

pub use self::auth::{Users, UsersError, scram_verifier};
pub use self::tls::{TlsError, TlsFiles};

use self::cancel::CancelRegistry;
use self::connection::Connection;
use self::startup::NoSession;
use crate::engine::Engine;

/// How long a client has to become a session.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// How long statements that run may go on after the server was told to stop.
const GRACE: Duration = Duration::from_secs(5);
/// How many clients may be on their way to a session, at least; with many sessions allowed, as many as these.
const LEAST_HANDSHAKES: usize = 64;
/// How long to wait after the system could not accept a connection, which is when it has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where and how to serve.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    /// The address to listen on; port 0 takes any free one.
    pub address: SocketAddr,
    /// Who may log in. `None` lets everybody in under any name, which only loopback allows by itself.
    pub users: Option<Users>,
    /// The certificate, if TLS is offered.
    pub tls: Option<TlsFiles>,
    /// Whether clients that do not use TLS are turned away.
    pub require_tls: bool,
    /// Lets everybody in under any name on an address that others can reach, too.
    pub insecure_no_auth: bool,
}

/// Why the server does not start.
#[derive(Debug, Error)]
pub enum PostgresServerError {
    /// Others could reach it and nobody would have to log in.
    #[error(
        "{0} can be reached by others and no users are configured: name a users file, \
         or allow it explicitly with insecure_no_auth"
    )]
    NoUsers(SocketAddr),
    /// TLS is required and there is no certificate.
    #[error("TLS is required and no certificate is configured")]
    NoCertificate,
    /// TLS is configured and does not work.
    #[error("TLS cannot be offered")]
    Tls(#[source] TlsError),
    /// The address cannot be had.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What all connections share.
struct Shared {
    engine: Arc<Engine>,
    users: Option<Users>,
    tls: Option<TlsAcceptor>,
    require_tls: bool,
    cancels: Arc<CancelRegistry>,
    places: Arc<Semaphore>,
    shutdown: CancellationToken,
}

/// A server that listens and is ready to serve.
pub struct PostgresServer {
    listener: TcpListener,
    address: SocketAddr,
    shared: Shared,
}

impl PostgresServer {
    /// Checks the options, loads the certificate and binds the port.
    ///
    /// # Errors
    /// When the server would let anybody in from anywhere, when TLS is wanted and cannot be had, or when the
    /// address is taken.
    pub async fn bind(engine: Arc<Engine>, options: PostgresOptions) -> Result<PostgresServer, PostgresServerError> {
        let PostgresOptions { address, users, tls, require_tls, insecure_no_auth } = options;
        if users.is_none() && !insecure_no_auth && !address.ip().to_canonical().is_loopback() {
            return Err(PostgresServerError::NoUsers(address));
        }
        if require_tls && tls.is_none() {
            return Err(PostgresServerError::NoCertificate);
        }
        let tls = tls.as_ref().map(tls::acceptor).transpose().map_err(PostgresServerError::Tls)?;
        let refused = |source| PostgresServerError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let places = engine.limits().max_connections.min(Semaphore::MAX_PERMITS);
        let shared = Shared {
            engine,
            users,
            tls,
            require_tls,
            cancels: Arc::new(CancelRegistry::default()),
            places: Arc::new(Semaphore::new(places)),
            shutdown: CancellationToken::new(),
        };
        Ok(PostgresServer { listener, address, shared })
    }

    /// The address it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` is cancelled; then idle sessions end at once and statements that run may go on for
    /// a short while.
    pub async fn serve(self, shutdown: CancellationToken) {
        let PostgresServer { listener, address, shared } = self;
        let shared = Arc::new(Shared { shutdown: shutdown.clone(), ..shared });
        let handshakes = Arc::new(Semaphore::new(shared.places.available_permits().max(LEAST_HANDSHAKES)));
        let mut connections = JoinSet::new();
        let (tls, users) = (shared.tls.is_some(), shared.users.is_some());
        tracing::info!(%address, tls, users, "PostgreSQL server listens");
        loop {
            // Whatever has ended is taken out, so that the set does not grow.
            while connections.try_join_next().is_some() {}
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                accepted = listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
            };
            let (socket, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    shared.engine.metrics().refuse("accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(handshake) = Arc::clone(&handshakes).try_acquire_owned() else {
                shared.engine.metrics().refuse("too_many_handshakes");
                continue;
            };
            let shared = Arc::clone(&shared);
            connections.spawn(async move {
                let received = receive(socket, &shared).await;
                drop(handshake);
                if let Some(admitted) = received {
                    let _counted = shared.engine.metrics().connected();
                    let startup::Admitted { channel, session, registration, place } = admitted;
                    Connection::new(shared, channel, session, registration, peer).serve().await;
                    drop(place);
                }
            });
        }
        drop(listener);
        let ended = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, ended).await.is_err() {
            connections.shutdown().await;
        }
    }
}

/// Leads a connection to a session within its time, and counts why it did not become one.
async fn receive(socket: TcpStream, shared: &Arc<Shared>) -> Option<startup::Admitted> {
    // Small answers must not wait for one another, and a client that vanished must be noticed one day.
    let keep_alive = rustix::net::sockopt::set_socket_keepalive(&socket, true);
    if socket.set_nodelay(true).is_err() || keep_alive.is_err() {
        shared.engine.metrics().refuse("handshake");
        return None;
    }
    let received = tokio::select! {
        biased;
        () = shared.shutdown.cancelled() => return None,
        received = tokio::time::timeout(HANDSHAKE_TIME, startup::receive(socket, shared)) => received,
    };
    let reason = match received {
        Ok(Ok(admitted)) => return Some(admitted),
        Ok(Err(NoSession::Over)) => return None,
        Ok(Err(NoSession::Broken)) => "handshake",
        Ok(Err(NoSession::Refused(reason))) => reason,
        Err(_) => "handshake_time",
    };
    shared.engine.metrics().refuse(reason);
    None
}
