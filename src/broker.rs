//! The embedded broker: a Kafka-compatible log on one disk, so that `nodescope up` needs nothing installed.
//!
//! It is tansu's protocol code over SQLite. Only tansu's services and its storage are used; the accept loop is ours,
//! because tansu's own binds the port itself (so nobody can ask for "any free port" and learn which), offers no way to
//! be stopped, and does not notice when its storage has died. Agents and collector speak to it as they speak to Apache
//! Kafka. It suits one machine or a small site; beyond that, run Apache Kafka.
//!
//! **What an acknowledgement means.** A produce request is answered after its SQLite transaction has committed, so an
//! acknowledged record survives `kill -9` of this process. It may **not** survive a power cut or a kernel crash: tansu
//! sets `synchronous = normal` on every connection, with which the write-ahead log is synced at checkpoints (some 4 MB
//! apart) and not at each commit. A single Apache Kafka broker with its default flush settings promises the same. The
//! log is never corrupted by it, but it can come back shorter than the collector has read. Offsets that were handed out
//! twice would be records nobody reads, so [`BrokerTopic::next_offsets`] tells the broker where the store stands and it
//! continues from there. The same covers a data directory whose `broker/` was deleted and whose store was kept.
//!
//! **What is kept.** tansu deletes by age only where a topic says `cleanup.policy=delete`, and knows no limit by size,
//! so both settings are written at every start from [`BrokerTopic::retention`]. Deleting runs once a minute. The file
//! does not shrink: freed pages are used again, so it stays at the size of its fullest hour. Records are kept
//! uncompressed whatever the producer chose.
//!
//! **What it does differently from Apache Kafka**, as read in tansu 0.6:
//! - One request at a time reaches storage, so more partitions bring no speed; one to four are sensible.
//! - Every fetch sleeps, even with data in hand: half of `fetch.wait.max.ms` from 250 ms on, all of it below. Use 50.
//! - A fetch never answers `OffsetOutOfRange`. Below the oldest record it starts at the oldest, above the end it is
//!   empty. Across a gap in the offsets it can repeat records: a reader must pass over offsets it has already seen.
//! - `ListOffsets` knows earliest, latest and by timestamp, but answers 0 for all of them once a partition is empty,
//!   and 0 as the latest when the newest record was deleted. Neither is a position to resume from.
//! - A record of 5 MiB or more can be written and never fetched: keep `message.max.bytes` below that.
//! - Headers, timestamps, consumer groups and topic settings work. An idempotent producer works until its first error:
//!   the new epoch it then asks for or takes is not written in tansu. Agents need none: the store knows their `seq`.
//! - What is not written (that epoch, `DeleteRecords`, appending to a setting) panics in the storage task and leaves
//!   every client unanswered, which is why storage is watched and opened again here. It takes `panic = "unwind"`.
//! - There is no authentication, and a request may claim any size: keep it on loopback.

use std::fmt::Write;
use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use nodescope_service::http::MoreMetrics;
use rama::{Context, Service};
use tansu_broker::coordinator::group::administrator::Controller;
use tansu_broker::service::services;
use tansu_sans_io::create_topics_request::CreatableTopic;
use tansu_storage::{BrokerRegistrationRequest, Storage, StorageContainer};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::{CancellationToken, DropGuard};
use url::Url;
use uuid::Uuid;

/// The name of the database file inside the data directory; SQLite puts `-wal` and `-shm` files beside it.
const DATABASE: &str = "broker.db";

/// The only broker of its cluster needs a number, and any will do.
const NODE_ID: i32 = 1;

/// SQLite blocks the thread it runs on, so the broker has threads of its own: one to block, one to answer meanwhile.
const WORKERS: usize = 2;

/// How often records past their retention are deleted.
const MAINTENANCE: Duration = Duration::from_mins(1);

/// Connections served at once; what comes beyond is closed and counted.
const MAX_CONNECTIONS: usize = 512;

/// How long to wait before opening a dead storage again, or before accepting again after the system refused.
const PAUSE: Duration = Duration::from_millis(500);

/// How long the broker's threads may take to come to an end before they are left behind.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(5);

/// tansu's header table has no index, so each record fetched, and each deleted, reads every header there is: 9 ms a
/// record at 20,000 records with six headers, 0.01 ms with this.
const INDEX_HEADERS: &str = "create index if not exists nodescope_header on header (topition, offset_id)";

const FIND_TOPIC: &str = "select 1 from topic t join cluster c on c.id = t.cluster where c.name = ?1 and t.name = ?2";

const SET_CONFIG: &str = "insert into topic_configuration (topic, name, value) \
    select t.id, ?3, ?4 from cluster c join topic t on t.cluster = c.id where c.name = ?1 and t.name = ?2 \
    on conflict (topic, name) do update set value = excluded.value";

const RAISE_OFFSET: &str = "update watermark set high = ?4 where coalesce(high, 0) < ?4 and topition = (\
    select tp.id from topition tp join topic t on t.id = tp.topic join cluster c on c.id = t.cluster \
    where c.name = ?1 and t.name = ?2 and tp.partition = ?3)";

/// Where the broker listens, where it keeps its log, and the topics that exist once it has started.
#[derive(Clone, Debug)]
pub(crate) struct BrokerOptions {
    /// The address to listen on; port 0 takes any free one.
    pub address: SocketAddr,
    /// The host name clients are told to connect to; without it, the address itself.
    pub advertised_host: Option<String>,
    /// The directory that holds the database; created where it is missing, and used by one broker at a time.
    pub data_dir: PathBuf,
    /// The cluster's name. Another name in the same directory is another, empty cluster.
    pub cluster_id: String,
    /// Topics to create where they are missing, and to bring up to date where they are not.
    pub topics: Vec<BrokerTopic>,
}

/// One topic of the embedded broker.
#[derive(Clone, Debug)]
pub(crate) struct BrokerTopic {
    /// The topic's name.
    pub name: String,
    /// Partitions of a topic that does not exist yet; an existing one keeps what it has.
    pub partitions: i32,
    /// The age, by the record's own timestamp, from which a record may be deleted.
    pub retention: Duration,
    /// Partition and offset: no record written from now on gets an offset below this one. Give the positions that the
    /// store resumes from, so that a log which came back shorter is not read as already taken.
    pub next_offsets: Vec<(i32, i64)>,
}

/// Why the broker did not start, or ended.
#[derive(Debug, Error)]
pub(crate) enum BrokerError {
    /// The data directory cannot be created or opened.
    #[error("the broker's directory {} cannot be used", .directory.display())]
    DirectoryUnusable {
        /// The directory asked for.
        directory: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Another broker, in this process or another, holds the data directory.
    #[error("another broker is using {}", .directory.display())]
    DirectoryInUse {
        /// The directory asked for.
        directory: PathBuf,
    },
    /// The address cannot be listened on.
    #[error("the broker cannot listen on {address}")]
    AddressUnusable {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The address means "every interface", which no client can connect to, and no host name was given instead.
    #[error("the broker listens on every interface ({address}) and needs the host name that clients connect to")]
    NothingToAdvertise {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The advertised host is no host name.
    #[error("{host:?} is no host name that clients can be given")]
    HostUnusable {
        /// The host asked for.
        host: String,
        /// Why it is none.
        #[source]
        source: url::ParseError,
    },
    /// tansu's storage failed while it was set up.
    #[error("the broker's storage failed to {step}")]
    StorageFailed {
        /// What was being done.
        step: &'static str,
        /// What tansu said.
        #[source]
        source: Box<tansu_storage::Error>,
    },
    /// The database itself failed while it was prepared.
    #[error("the broker's database cannot be prepared")]
    DatabaseFailed(#[from] libsql::Error),
    /// tansu's protocol services could not be put together.
    #[error("the broker's services cannot be built")]
    ServicesFailed(#[source] Box<tansu_broker::Error>),
    /// The broker's threads could not be started.
    #[error("the broker's threads cannot be started")]
    ThreadsNotStarted(#[source] std::io::Error),
    /// The shutdown was asked for before the broker answered.
    #[error("the broker was stopped while it was starting")]
    StoppedWhileStarting,
    /// The broker's thread ended without a word.
    #[error("the broker's thread panicked")]
    Panicked,
}

/// What the broker refused and survived, since it started.
#[derive(Debug, Default)]
pub(crate) struct BrokerCounters {
    storage_restarts: AtomicU64,
    connections_refused: AtomicU64,
}

impl BrokerCounters {
    /// How often tansu's storage task died and was opened again.
    fn storage_restarts(&self) -> u64 {
        self.storage_restarts.load(Ordering::Relaxed)
    }

    /// Connections closed at once: too many were open, or the system had no descriptor left.
    fn connections_refused(&self) -> u64 {
        self.connections_refused.load(Ordering::Relaxed)
    }

    /// Both, as Prometheus reads them.
    fn render(&self, out: &mut String) {
        for (name, help, value) in [
            (
                "storage_restarts",
                "Times the embedded broker's storage died and was opened again",
                self.storage_restarts(),
            ),
            ("refused_connections", "Connections closed at once: too many were open", self.connections_refused()),
        ] {
            let name = format!("nodescope_broker_{name}");
            // Writing to a String cannot fail.
            let _ = writeln!(out, "# HELP {name} {help}.\n# TYPE {name} counter\n{name}_total {value}");
        }
    }
}

/// A running broker. It stops when the token it was started with is cancelled, or when this is dropped.
#[derive(Debug)]
pub(crate) struct EmbeddedBroker {
    address: SocketAddr,
    counters: Arc<BrokerCounters>,
    finished: oneshot::Receiver<Result<(), BrokerError>>,
    stop: DropGuard,
}

impl EmbeddedBroker {
    /// Starts the broker on threads of its own and returns once it answers on its port.
    ///
    /// # Errors
    /// When the directory, the address or the database cannot be used; see [`BrokerError`].
    pub(crate) async fn start(options: BrokerOptions, shutdown: CancellationToken) -> Result<Self, BrokerError> {
        let token = shutdown.child_token();
        let counters = Arc::new(BrokerCounters::default());
        let (ready_sender, ready) = oneshot::channel();
        let (finished_sender, finished) = oneshot::channel();
        let thread_token = token.clone();
        let thread_counters = Arc::clone(&counters);
        let stop = token.drop_guard();
        thread::Builder::new()
            .name("embedded-broker".to_owned())
            .spawn(move || {
                let result = run(&options, ready_sender, &thread_token, &thread_counters);
                // Nobody may be waiting for the end any more, which is nobody's mistake.
                let _ = finished_sender.send(result);
            })
            .map_err(BrokerError::ThreadsNotStarted)?;
        if let Ok(address) = ready.await {
            return Ok(Self { address, counters, finished, stop });
        }
        // The thread ended before it was ready, so its result says why.
        match finished.await {
            Ok(Ok(())) => Err(BrokerError::StoppedWhileStarting),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(BrokerError::Panicked),
        }
    }

    /// The address the broker listens on, with the real port.
    #[must_use]
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the broker refused and survived so far, for `/metrics`.
    pub(crate) fn metrics(&self) -> MoreMetrics {
        let counters = Arc::clone(&self.counters);
        Arc::new(move |out| counters.render(out))
    }

    /// Waits until the broker has stopped, its threads ended and its database closed.
    ///
    /// # Errors
    /// When it did not stop because it was asked to; see [`BrokerError`].
    pub(crate) async fn stopped(self) -> Result<(), BrokerError> {
        let Self { finished, stop, .. } = self;
        let result = finished.await.unwrap_or(Err(BrokerError::Panicked));
        drop(stop);
        result
    }
}

/// The broker's thread: a runtime that lives exactly as long as the broker.
fn run(
    options: &BrokerOptions,
    ready: oneshot::Sender<SocketAddr>,
    shutdown: &CancellationToken,
    counters: &BrokerCounters,
) -> Result<(), BrokerError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_name("broker-worker")
        .enable_all()
        .build()
        .map_err(BrokerError::ThreadsNotStarted)?;
    let result = runtime.block_on(supervise(options, ready, shutdown, counters));
    // Ends the connections and the storage task; the last SQLite connection to close writes the log into the database.
    runtime.shutdown_timeout(SHUTDOWN_PATIENCE);
    result
}

/// Holds the directory and the port, and opens storage again whenever it has died.
async fn supervise(
    options: &BrokerOptions,
    ready: oneshot::Sender<SocketAddr>,
    shutdown: &CancellationToken,
    counters: &BrokerCounters,
) -> Result<(), BrokerError> {
    let directory = hold_directory(options)?;
    let unusable = |source| BrokerError::AddressUnusable { address: options.address, source };
    let listener = TcpListener::bind(options.address).await.map_err(unusable)?;
    let address = listener.local_addr().map_err(unusable)?;
    let advertised = advertised_url(options, address)?;
    let mut ready = Some(ready);
    loop {
        let storage = open_storage(options, &directory, &advertised).await?;
        if let Some(ready) = ready.take()
            && ready.send(address).is_err()
        {
            return Ok(());
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            served = serve(&listener, &storage, &options.cluster_id, counters) => served?,
        }
        counters.storage_restarts.fetch_add(1, Ordering::Relaxed);
        tracing::error!("the broker's storage died; opening it again");
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// Opens the data directory, creating it where needed, and locks it for as long as the handle lives.
fn hold_directory(options: &BrokerOptions) -> Result<File, BrokerError> {
    let unusable = |source| BrokerError::DirectoryUnusable { directory: options.data_dir.clone(), source };
    std::fs::create_dir_all(&options.data_dir).map_err(unusable)?;
    let directory = File::open(&options.data_dir).map_err(unusable)?;
    match directory.try_lock() {
        Ok(()) => Ok(directory),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(BrokerError::DirectoryInUse { directory: options.data_dir.clone() })
        }
        Err(std::fs::TryLockError::Error(source)) => Err(unusable(source)),
    }
}

/// The database's path, by way of the open directory.
///
/// tansu takes a URL, appends its host and its percent-encoded path to the working directory, and so can neither be
/// given an absolute path in the usual form nor one with a space or a letter beyond ASCII. A path through `/proc` has
/// none of these, and with a second slash in front it replaces the working directory instead of extending it.
fn database_path(directory: &File) -> String {
    format!("/proc/self/fd/{}/{DATABASE}", directory.as_raw_fd())
}

/// What clients are told to connect to.
fn advertised_url(options: &BrokerOptions, address: SocketAddr) -> Result<Url, BrokerError> {
    let host = match (&options.advertised_host, address) {
        (Some(host), _) => host.clone(),
        (None, _) if address.ip().is_unspecified() => return Err(BrokerError::NothingToAdvertise { address }),
        (None, SocketAddr::V4(address)) => address.ip().to_string(),
        (None, SocketAddr::V6(address)) => format!("[{}]", address.ip()),
    };
    Url::parse(&format!("tcp://{host}:{}", address.port())).map_err(|source| BrokerError::HostUnusable { host, source })
}

/// Opens the database, with the index tansu lacks and every topic as asked for.
async fn open_storage(
    options: &BrokerOptions,
    directory: &File,
    advertised: &Url,
) -> Result<StorageContainer, BrokerError> {
    let failed = |step| move |source| BrokerError::StorageFailed { step, source: Box::new(source) };
    let path = database_path(directory);
    let url = Url::parse(&format!("sqlite:///{path}")).expect("a number and a plain file name make a URL");
    let cluster = options.cluster_id.as_str();
    let storage = StorageContainer::builder()
        .cluster_id(cluster)
        .node_id(NODE_ID)
        .advertised_listener(advertised.clone())
        .storage(url)
        .silent(true)
        .build()
        .await
        .map_err(failed("open"))?;
    let registration = BrokerRegistrationRequest {
        broker_id: NODE_ID,
        cluster_id: cluster.to_owned(),
        incarnation_id: Uuid::new_v4(),
        rack: None,
    };
    storage.register_broker(registration).await.map_err(failed("register the broker"))?;

    // A connection of our own, closed before the first client is served: two writers would meet SQLITE_BUSY.
    let database = libsql::Builder::new_local(&path).build().await?;
    let connection = database.connect()?;
    connection.execute(INDEX_HEADERS, ()).await?;
    for topic in &options.topics {
        let name = topic.name.as_str();
        let exists = connection.query(FIND_TOPIC, libsql::params![cluster, name]).await?.next().await?.is_some();
        if !exists {
            let wanted = CreatableTopic::default()
                .name(topic.name.clone())
                .num_partitions(topic.partitions)
                .replication_factor(1)
                .assignments(Some([].into()))
                .configs(Some([].into()));
            storage.create_topic(wanted, false).await.map_err(failed("create a topic"))?;
        }
        let retention = topic.retention.as_millis().to_string();
        for (setting, value) in [("cleanup.policy", "delete"), ("retention.ms", retention.as_str())] {
            connection.execute(SET_CONFIG, libsql::params![cluster, name, setting, value]).await?;
        }
        for &(partition, offset) in &topic.next_offsets {
            connection.execute(RAISE_OFFSET, libsql::params![cluster, name, partition, offset]).await?;
        }
    }
    Ok(storage)
}

/// Serves connections until storage has died, which is the only way this returns `Ok`.
async fn serve(
    listener: &TcpListener,
    storage: &StorageContainer,
    cluster_id: &str,
    counters: &BrokerCounters,
) -> Result<(), BrokerError> {
    let failed = |source| BrokerError::ServicesFailed(Box::new(source));
    let groups = Controller::with_storage(storage.clone()).map_err(failed)?;
    let mut maintenance = tokio::time::interval(MAINTENANCE);
    maintenance.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) if connections.len() < MAX_CONNECTIONS => {
                    // A failure costs some milliseconds per answer, no more.
                    let _ = stream.set_nodelay(true);
                    let service = services(cluster_id, groups.clone(), storage.clone(), None).map_err(failed)?;
                    connections.spawn(async move {
                        if let Err(error) = service.serve(Context::<()>::default(), stream).await {
                            tracing::debug!(%peer, %error, "a connection to the broker ended");
                        }
                    });
                }
                Ok((_, peer)) => {
                    counters.connections_refused.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(%peer, limit = MAX_CONNECTIONS, "the broker has too many connections");
                }
                Err(error) => {
                    counters.connections_refused.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(%error, "the broker cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            // A dead storage task ends the connection that asked it, so this is where it shows first.
            Some(_) = connections.join_next() => {
                if storage.ping().await.is_err() {
                    return Ok(());
                }
            }
            _ = maintenance.tick() => {
                if let Err(error) = storage.maintain(SystemTime::now()).await {
                    tracing::warn!(%error, "the broker could not delete old records");
                    if storage.ping().await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
