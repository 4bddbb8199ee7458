//! `/metrics`, `/healthz` and `/readyz` of every process.
//!
//! Health means the process answers; readiness means it can do its work, and says what is missing when it cannot.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use parking_lot::{Mutex, RwLock};
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Appends more metrics in Prometheus text form, each family complete.
pub type MoreMetrics = Arc<dyn Fn(&mut String) + Send + Sync>;

/// What a process shows of itself.
#[derive(Clone, Default)]
pub struct Health {
    registry: Arc<RwLock<Registry>>,
    more: Arc<Mutex<Vec<MoreMetrics>>>,
    waiting: Arc<Mutex<std::collections::BTreeMap<&'static str, String>>>,
}

impl Health {
    /// Registers metrics.
    pub fn register<T>(&self, register: impl FnOnce(&mut Registry) -> T) -> T {
        register(&mut self.registry.write())
    }

    /// Adds metrics that are made when asked for.
    pub fn add_metrics(&self, more: MoreMetrics) {
        self.more.lock().push(more);
    }

    /// Says that a part of the process is not ready, and why.
    pub fn not_ready(&self, part: &'static str, why: impl Into<String>) {
        self.waiting.lock().insert(part, why.into());
    }

    /// Says that a part of the process is ready.
    pub fn ready(&self, part: &'static str) {
        self.waiting.lock().remove(part);
    }

    /// What is not ready, with reasons.
    pub fn waiting(&self) -> Vec<(&'static str, String)> {
        self.waiting.lock().iter().map(|(part, why)| (*part, why.clone())).collect()
    }

    /// All metrics as Prometheus text.
    pub fn metrics(&self) -> String {
        let mut text = String::new();
        // The encoder writes into a String, which cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry.read());
        // It ends what it writes with OpenMetrics' end mark; ours go before it.
        let end = "# EOF\n";
        if text.ends_with(end) {
            text.truncate(text.len() - end.len());
        }
        for more in self.more.lock().iter() {
            more(&mut text);
        }
        text.push_str(end);
        text
    }

    /// The routes.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .with_state(self.clone())
    }
}

async fn metrics(State(health): State<Health>) -> impl IntoResponse {
    let text = tokio::task::spawn_blocking(move || health.metrics()).await.unwrap_or_default();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

async fn ready(State(health): State<Health>) -> impl IntoResponse {
    let waiting = health.waiting();
    if waiting.is_empty() {
        return (StatusCode::OK, "ready\n".to_owned());
    }
    let text = waiting.iter().map(|(part, why)| format!("{part}: {why}\n")).collect();
    (StatusCode::SERVICE_UNAVAILABLE, text)
}

/// Connections at one time. A scraper has one.
const MOST_CONNECTIONS: usize = 64;

/// A request's head has come within this time.
const HEAD_WITHIN: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 30 });

/// A connection lasts no longer, however slowly answers are read.
const MOST_TIME: Duration = Duration::from_secs(300);

/// At the end, time for answers that are under way.
const FAREWELL: Duration = Duration::from_secs(3);

/// A bound port that does not answer yet.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
}

/// Why a port could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for {purpose}")]
pub struct BindError {
    /// What it is for.
    pub purpose: &'static str,
    /// Which.
    pub address: SocketAddr,
    /// Why.
    #[source]
    pub source: std::io::Error,
}

impl HttpServer {
    /// Binds the port.
    ///
    /// # Errors
    /// When it is taken or not allowed.
    pub async fn bind(address: SocketAddr, purpose: &'static str) -> Result<Self, BindError> {
        let listener = TcpListener::bind(address).await.map_err(|source| BindError { purpose, address, source })?;
        Ok(Self { listener })
    }

    /// The address bound.
    ///
    /// # Panics
    /// When the operating system does not know the address of a socket it bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr().expect("a bound socket has an address")
    }

    /// Answers until told to stop. A connection that does not say what it wants is closed, and there are only so many.
    pub async fn serve(self, router: Router, shutdown: CancellationToken) {
        let (room, connections) = (Arc::new(Semaphore::new(MOST_CONNECTIONS)), TaskTracker::new());
        loop {
            // Without room, others wait in the system's queue.
            let next = async { (room.clone().acquire_owned().await, self.listener.accept().await) };
            let (place, accepted) = tokio::select! {
                () = shutdown.cancelled() => break,
                next = next => next,
            };
            match accepted {
                Ok((stream, _)) => {
                    let answer = answer(stream, router.clone(), shutdown.clone());
                    connections.spawn(async move {
                        answer.await;
                        drop(place);
                    });
                }
                // Of the process there are too many open files, or the client has gone already.
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be taken");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        connections.close();
        let _ = tokio::time::timeout(FAREWELL, connections.wait()).await;
    }
}

/// Answers the requests of one connection.
async fn answer(stream: TcpStream, router: Router, shutdown: CancellationToken) {
    let service = TowerToHyperService::new(router);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // How one connection ends concerns its client alone.
    let ended = tokio::select! {
        _ = connection.as_mut() => true,
        () = shutdown.cancelled() => false,
        () = tokio::time::sleep(MOST_TIME) => false,
    };
    if !ended {
        connection.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(FAREWELL, connection).await;
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    #[test]
    fn metrics_of_both_kinds_are_one_text() {
        let health = Health::default();
        let counter: Counter = Counter::default();
        health.register(|r| r.register("things", "Things", counter.clone()));
        counter.inc();
        health.add_metrics(Arc::new(|text| text.push_str("node_load1 1\n")));
        let text = health.metrics();
        assert!(text.contains("things_total 1\n") && text.contains("node_load1 1\n"), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn what_is_not_ready_says_why() {
        let health = Health::default();
        health.not_ready("kafka", "no broker answers");
        assert_eq!(health.waiting().len(), 1);
        health.ready("kafka");
        assert!(health.waiting().is_empty());
    }

    #[tokio::test]
    async fn whoever_says_nothing_is_shown_the_door_and_keeps_nobody_out() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};

        let server = HttpServer::bind("127.0.0.1:0".parse().unwrap(), "a test").await.unwrap();
        let (address, shutdown) = (server.local_addr(), CancellationToken::new());
        let serving = tokio::spawn(server.serve(Health::default().router(), shutdown.clone()));
        let mut silent = Vec::new();
        for _ in 0..MOST_CONNECTIONS {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let mut asking = TcpStream::connect(address).await.unwrap();
        asking.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        asking.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        shutdown.cancel();
        serving.await.unwrap();
    }
}
