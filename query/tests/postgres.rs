//! The PostgreSQL door from the outside, through a client of the trade and through raw bytes.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use nodescope_query::engine::Engine;
use nodescope_query::limits::Limits;
use nodescope_query::metrics::Outcome;
use nodescope_query::server::postgres::{
    PostgresOptions, PostgresServer, PostgresServerError, TlsFiles, Users, scram_verifier,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Config, Error, NoTls, SimpleQueryMessage};
use tokio_util::sync::CancellationToken;

/// Endless for every practical purpose, and it uses no memory.
const ENDLESS: &str = "select max(value % 7) from generate_series(1, 1000000000000)";

struct Server {
    engine: Arc<Engine>,
    address: SocketAddr,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
}

fn options() -> PostgresOptions {
    PostgresOptions {
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        users: None,
        tls: None,
        require_tls: false,
        insecure_no_auth: false,
    }
}

async fn serve_with(limits: Limits, options: PostgresOptions) -> Server {
    let engine = support::engine(limits).await;
    let server = PostgresServer::bind(Arc::clone(&engine), options).await.expect("bound");
    let address = server.local_addr();
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(server.serve(shutdown.clone()));
    Server { engine, address, shutdown, serving }
}

async fn serve() -> Server {
    serve_with(Limits::default(), options()).await
}

impl Server {
    fn config(&self) -> Config {
        let mut config = Config::new();
        config.host("127.0.0.1").port(self.address.port()).user("ada").connect_timeout(Duration::from_secs(5));
        config
    }

    async fn connect(&self) -> Client {
        connect(&self.config()).await.expect("connected")
    }

    /// Waits until nothing runs any more; a query that goes on in secret fails the test.
    async fn settles(&self) {
        let begun = Instant::now();
        while self.engine.metrics().running() > 0 {
            assert!(begun.elapsed() < Duration::from_secs(5), "a query still runs");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn connect(config: &Config) -> Result<Client, Error> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

fn code(error: &Error) -> &str {
    error.code().map_or("no code", |state| state.code())
}

/// The rows of the last statement of a text.
async fn rows(client: &Client, sql: &str) -> Result<Vec<Vec<Option<String>>>, Error> {
    let messages = client.simple_query(sql).await?;
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|index| row.get(index).map(str::to_owned)).collect()),
        _ => None,
    });
    Ok(rows.collect())
}

async fn one(client: &Client, sql: &str) -> String {
    let rows = rows(client, sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    rows[0][0].clone().unwrap_or_else(|| panic!("{sql}: NULL"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_simple_protocol_answers_one_statement_several_and_none() {
    let server = serve().await;
    let client = server.connect().await;
    assert_eq!(one(&client, "select 1 + 1").await, "2");
    let messages = client.simple_query("select 1; select 2;; show timezone").await.expect("three");
    let complete = messages.iter().filter(|message| matches!(message, SimpleQueryMessage::CommandComplete(_)));
    assert_eq!(complete.count(), 3);
    assert!(client.simple_query("").await.is_ok());
    assert!(client.simple_query(" ; -- nothing").await.is_ok());
    assert_eq!(code(&client.simple_query("select 1; selec 2").await.expect_err("syntax")), "42601");
    assert_eq!(code(&client.simple_query("select * from nowhere").await.expect_err("table")), "42P01");
    assert_eq!(code(&client.simple_query("select nothing from cpu").await.expect_err("column")), "42703");
    assert!(client.simple_query("select count(*) from cpu").await.is_ok(), "the session goes on");
    assert!(!one(&client, "explain select 1").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_extended_protocol_describes_binds_and_answers_in_binary() {
    let server = serve().await;
    let client = server.connect().await;
    let sql = "select value, value * 1.5 as f, cast(value as text) as t, null::text as n \
               from generate_series(1, 10) where value >= $1 order by value";
    let statement = client.prepare(sql).await.expect("prepared");
    assert_eq!(statement.params(), [Type::INT8]);
    let types: Vec<&Type> = statement.columns().iter().map(tokio_postgres::Column::type_).collect();
    assert_eq!(types, [&Type::INT8, &Type::FLOAT8, &Type::TEXT, &Type::TEXT]);
    for least in [9_i64, 10] {
        let found = client.query(&statement, &[&least]).await.expect("rows");
        assert_eq!(found.len(), usize::try_from(11 - least).expect("small"));
        assert_eq!(found[0].get::<_, i64>(0), least);
        assert_eq!(found[0].get::<_, String>(2), least.to_string());
        assert_eq!(found[0].get::<_, Option<String>>(3), None);
    }
    let row = client
        .query_typed("select $1, $2", &[(&"text", Type::TEXT), (&true, Type::BOOL)])
        .await
        .expect("typed by the client");
    assert_eq!(row.len(), 1);
    let empty = client.query("", &[]).await.expect("nothing");
    assert!(empty.is_empty());
    let refused = client.prepare("select 1; select 2").await.expect_err("one at a time");
    assert_eq!(code(&refused), "42601");
    assert_eq!(client.query_one("select 7", &[]).await.expect("the session goes on").get::<_, i64>(0), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_portal_stops_after_some_rows_and_goes_on() {
    let server = serve().await;
    let mut client = server.connect().await;
    let transaction = client.transaction().await.expect("begun");
    let sql = "select value from generate_series(1, 25000) order by value";
    let portal = transaction.bind(sql, &[]).await.expect("bound");
    let mut seen = 0_i64;
    loop {
        let rows = transaction.query_portal(&portal, 10_000).await.expect("rows");
        for row in &rows {
            seen += 1;
            assert_eq!(row.get::<_, i64>(0), seen);
        }
        if rows.len() < 10_000 {
            break;
        }
    }
    assert_eq!(seen, 25_000);
    // The largest number a client can name is only a number.
    let portal = transaction.bind("select 1", &[]).await.expect("bound");
    assert_eq!(transaction.query_portal(&portal, i32::MAX).await.expect("rows").len(), 1);
    let endless = transaction.bind("select value from generate_series(1, 1000000000000)", &[]).await.expect("bound");
    assert_eq!(transaction.query_portal(&endless, 10).await.expect("rows").len(), 10);
    transaction.commit().await.expect("committed");
    server.settles().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_session_has_its_own_time_zone() {
    let server = serve().await;
    let (client, other) = (server.connect().await, server.connect().await);
    let instant = "select cast('1970-01-01T00:00:00Z' as timestamp with time zone)";
    assert_eq!(one(&client, "show timezone").await, "UTC");
    client.simple_query("set time zone 'Asia/Tokyo'").await.expect("set");
    assert_eq!(one(&client, "show time zone").await, "Asia/Tokyo");
    assert_eq!(one(&client, instant).await, "1970-01-01 09:00:00+09");
    assert_eq!(one(&other, instant).await, "1970-01-01 00:00:00+00");
    // A time without a zone is read in the session's.
    let local = "select cast(cast('1970-01-01 09:00:00' as timestamp with time zone) as bigint)";
    assert_eq!(one(&client, local).await, "0");
    client.simple_query("reset timezone").await.expect("reset");
    assert_eq!(one(&client, instant).await, "1970-01-01 00:00:00+00");
    assert_eq!(code(&client.simple_query("set timezone to 'Mars'").await.expect_err("no zone")), "22023");

    let mut config = server.config();
    config.options("-c timezone=Europe/Berlin -c statement_timeout=1234");
    let third = connect(&config).await.expect("connected");
    assert_eq!(one(&third, instant).await, "1970-01-01 01:00:00+01");
    assert_eq!(one(&third, "show statement_timeout").await, "1234ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_are_followed_though_they_write_nothing() {
    let server = serve().await;
    let client = server.connect().await;
    client.batch_execute("begin; select 1; commit; start transaction; rollback").await.expect("accepted");
    client.batch_execute("begin").await.expect("begun");
    client.batch_execute("select nothing").await.expect_err("failed");
    assert_eq!(code(&client.batch_execute("select 1").await.expect_err("aborted")), "25P02");
    assert_eq!(code(&client.query("select 1", &[]).await.expect_err("aborted")), "25P02");
    client.batch_execute("rollback").await.expect("ended");
    assert_eq!(one(&client, "select 1").await, "1");
    client.batch_execute("begin; set local timezone = 'Asia/Tokyo'; commit").await.expect("accepted");
    assert_eq!(one(&client, "show timezone").await, "UTC");
    client.batch_execute("savepoint a; release savepoint a; discard all; deallocate all").await.expect("accepted");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_not_a_question_is_refused() {
    let server = serve().await;
    let client = server.connect().await;
    let target = std::env::temp_dir().join(format!("nodescope-must-not-exist-{}", std::process::id()));
    let copy = format!("copy cpu to '{}'", target.display());
    for (sql, expected) in [
        ("drop table cpu", "25006"),
        (copy.as_str(), "25006"),
        ("copy (select 1) to stdout", ""),
        ("create external table x stored as parquet location '/etc/passwd'", "25006"),
        ("create table x as select 1", "25006"),
        ("create view x as select 1", "25006"),
        ("insert into cpu select * from cpu", "25006"),
        ("delete from cpu", "25006"),
        ("explain analyze insert into cpu select * from cpu", ""),
        ("set datafusion.execution.batch_size = 1", "42501"),
        ("set datafusion.runtime.memory_limit = '1000G'", "42501"),
        ("reset datafusion.execution.batch_size", "42501"),
        ("set default_transaction_read_only = off", "55P02"),
        ("prepare a as select 1", "0A000"),
        ("listen a", "0A000"),
    ] {
        let simple = client.simple_query(sql).await.expect_err(sql);
        let extended = client.query(sql, &[]).await.expect_err(sql);
        for error in [&simple, &extended] {
            assert!(error.as_db_error().is_some(), "{sql}: {error:?}");
            assert!(expected.is_empty() || code(error) == expected, "{sql}: {error:?}");
        }
    }
    assert!(!target.exists());
    assert!(client.simple_query("select count(*) from cpu").await.is_ok(), "it is still there");
    assert!(server.engine.metrics().ended(Outcome::Refused) > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn time_runs_out_before_the_first_row_and_among_the_rows() {
    let server = serve().await;
    let client = server.connect().await;
    client.batch_execute("set statement_timeout = '300ms'").await.expect("lowered");
    let refused = client.batch_execute("set statement_timeout = '10h'").await.expect_err("raised");
    assert_eq!(code(&refused), "22023");
    for sql in [ENDLESS, "select * from generate_series(1, 1000000000000)"] {
        let begun = Instant::now();
        // Row by row, so that this test does not collect what the server does not.
        let stream = client.simple_query_raw(sql).await.expect("sent");
        let mut stream = std::pin::pin!(stream);
        let error = loop {
            match stream.next().await.expect("not the end") {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(code(&error), "57014", "{sql}: {error:?}");
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(3), "{sql}: {took:?}");
    }
    assert_eq!(one(&client, "select 1").await, "1");
    server.settles().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_stops_what_runs_within_moments() {
    let server = serve().await;
    let client = Arc::new(server.connect().await);
    for _ in 0..3 {
        let asking = tokio::spawn({
            let client = Arc::clone(&client);
            async move { client.simple_query(ENDLESS).await.map(|_| ()) }
        });
        while server.engine.metrics().running() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let begun = Instant::now();
        client.cancel_token().cancel_query(NoTls).await.expect("sent");
        let error = asking.await.expect("no panic").expect_err("cancelled");
        assert_eq!(code(&error), "57014");
        assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
        server.settles().await;
    }
    assert_eq!(one(&client, "select 1").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_takes_its_query_with_it() {
    let server = serve().await;
    let (client, connection) = server.config().connect(NoTls).await.expect("connected");
    let driving = tokio::spawn(connection);
    let asking = tokio::spawn(async move { client.simple_query(ENDLESS).await.map(|_| ()) });
    while server.engine.metrics().running() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    driving.abort();
    assert!(asking.await.expect("no panic").is_err());
    server.settles().await;
    assert_eq!(server.engine.metrics().ended(Outcome::Cancelled), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_and_rows_are_bounded() {
    let limits = Limits { memory_bytes: 64 << 20, max_rows: 10_000, ..Limits::default() };
    let server = serve_with(limits, options()).await;
    let client = server.connect().await;
    let error = client
        .simple_query("select array_agg(value) from generate_series(1, 100000000000)")
        .await
        .expect_err("a terabyte");
    assert_eq!(code(&error), "53200", "{error:?}");
    // Values that a function makes out of nothing are not in the pool's books, so they have a bound of their own.
    let error = client.simple_query("select array_repeat(1, 100000000000)").await.expect_err("a terabyte at once");
    assert!(error.as_db_error().is_some(), "{error:?}");
    assert_eq!(rows(&client, "select value from generate_series(1, 10000)").await.expect("just enough").len(), 10_000);
    let error = client.simple_query("select value from generate_series(1, 10001)").await.expect_err("one too many");
    assert_eq!(code(&error), "54000");
    assert_eq!(one(&client, "select 1").await, "1");
    server.settles().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_and_connections_beyond_their_number_are_refused_with_the_reason() {
    let limits = Limits { concurrent_queries: 1, queue_length: 0, max_connections: 2, ..Limits::default() };
    let server = serve_with(limits, options()).await;
    let (busy, client) = (server.connect().await, server.connect().await);
    let third = connect(&server.config()).await.expect_err("one too many");
    assert_eq!(code(&third), "53300");
    let cancel = busy.cancel_token();
    let asking = tokio::spawn(async move { busy.simple_query(ENDLESS).await.map(|_| ()) });
    while server.engine.metrics().running() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let refused = loop {
        match client.simple_query("select 1").await {
            Ok(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            Err(error) => break error,
        }
    };
    assert_eq!(code(&refused), "53300");
    assert!(refused.as_db_error().expect("an answer").hint().is_some());
    // All places are taken and a cancel still gets through.
    cancel.cancel_query(NoTls).await.expect("sent");
    assert_eq!(code(&asking.await.expect("no panic").expect_err("cancelled")), "57014");
    // The answer may be there a moment before the place is free.
    let begun = Instant::now();
    while let Err(error) = client.simple_query("select 1").await {
        assert_eq!(code(&error), "53300");
        assert!(begun.elapsed() < Duration::from_secs(5), "the place is never free");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_keeps_only_so_many_statements() {
    let server = serve_with(Limits { max_prepared: 5, ..Limits::default() }, options()).await;
    let client = server.connect().await;
    let mut kept = Vec::new();
    let error = loop {
        match client.prepare("select 1").await {
            Ok(statement) => kept.push(statement),
            Err(error) => break error,
        }
        assert!(kept.len() <= 5, "no bound");
    };
    assert_eq!(code(&error), "53400");
    kept.clear();
    assert_eq!(one(&client, "select 1").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_right_password_lets_in() {
    let users = Users::from_toml(&format!("ada = \"{}\"", scram_verifier("pencil"))).expect("users");
    let server = serve_with(Limits::default(), PostgresOptions { users: Some(users), ..options() }).await;
    let client = connect(server.config().password("pencil")).await.expect("let in");
    assert_eq!(one(&client, "select 1").await, "1");
    for (user, password) in [("ada", "pen"), ("ada", ""), ("bob", "pencil"), ("bob", "")] {
        let refused = connect(server.config().user(user).password(password)).await.expect_err("refused");
        assert_eq!(code(&refused), "28P01", "{user} {password:?}: {refused:?}");
    }
    assert!(connect(&server.config()).await.is_err(), "without a password");
    // The last ones may not have been counted yet when their answers are here.
    assert!(server.engine.metrics().refused("authentication") >= 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_would_not_be_safe_does_not_start() {
    let anywhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let engine = support::engine(Limits::default()).await;
    let bind = |options| PostgresServer::bind(Arc::clone(&engine), options);
    let refused = bind(PostgresOptions { address: anywhere, ..options() }).await.err();
    assert!(matches!(refused, Some(PostgresServerError::NoUsers(_))), "{refused:?}");
    let allowed = bind(PostgresOptions { address: anywhere, insecure_no_auth: true, ..options() }).await;
    assert!(allowed.is_ok());
    let refused = bind(PostgresOptions { require_tls: true, ..options() }).await.err();
    assert!(matches!(refused, Some(PostgresServerError::NoCertificate)), "{refused:?}");
    let files = TlsFiles { cert: "/nowhere/server.crt".into(), key: "/nowhere/server.key".into() };
    let refused = bind(PostgresOptions { tls: Some(files), ..options() }).await.err();
    assert!(matches!(refused, Some(PostgresServerError::Tls(_))), "{refused:?}");
    let first = bind(options()).await.expect("bound");
    let refused = bind(PostgresOptions { address: first.local_addr(), ..options() }).await.err();
    assert!(matches!(refused, Some(PostgresServerError::Listen { .. })), "{refused:?}");
}

/// Sends bytes and reads until the server closes or says nothing more.
async fn knock(address: SocketAddr, bytes: &[u8]) {
    let Ok(mut stream) = TcpStream::connect(address).await else { return };
    // The server may hang up in the middle, and then it does.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "the server holds on to {bytes:?}");
}

fn startup(parameters: &[u8]) -> Vec<u8> {
    let length = u32::try_from(8 + parameters.len() + 1).expect("short");
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend([0, 3, 0, 0]);
    bytes.extend(parameters);
    bytes.push(0);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn random_bytes_and_broken_handshakes_do_no_harm() {
    let server = serve().await;
    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let hello = startup(b"user\0ada\0");
    let conversation = [
        hello.clone(),
        b"P\0\0\0\x15\0select $1 + 1\0\0\0".to_vec(),
        b"B\0\0\0\x11\0\0\0\0\0\x01\0\0\0\x011\0\0".to_vec(),
        b"D\0\0\0\x06P\0".to_vec(),
        b"E\0\0\0\x09\0\0\0\0\0".to_vec(),
        b"S\0\0\0\x04".to_vec(),
        b"Q\0\0\0\x0dselect 1\0".to_vec(),
    ]
    .concat();
    let mut knocks = Vec::new();
    for round in 0..3_000 {
        let bytes = match round % 4 {
            // Anything at all.
            0 => (0..random.random_range(0..300)).map(|_| random.random()).collect(),
            // A beginning, then anything.
            1 => {
                let noise: Vec<u8> = (0..random.random_range(0..300)).map(|_| random.random()).collect();
                [&hello[..], &noise].concat()
            }
            // A conversation with some bytes changed.
            2 => {
                let mut bytes = conversation.clone();
                for _ in 0..random.random_range(1..6) {
                    let index = random.random_range(0..bytes.len());
                    bytes[index] = random.random();
                }
                bytes
            }
            // A conversation that ends too early.
            _ => conversation[..random.random_range(0..conversation.len())].to_vec(),
        };
        knocks.push(bytes);
    }
    for length in [0, 3, 7, 8, 10_001, 0x3fff_ffff, u32::MAX] {
        knocks.push([&length.to_be_bytes()[..], &[0, 3, 0, 0]].concat());
        knocks.push([&hello[..], b"Q", &length.to_be_bytes(), b"select 1\0"].concat());
    }
    let address = server.address;
    futures::stream::iter(knocks)
        .map(|bytes| async move { knock(address, &bytes).await })
        .buffer_unordered(16)
        .collect::<Vec<()>>()
        .await;
    server.settles().await;
    let begun = Instant::now();
    while server.engine.metrics().connections() > 0 {
        assert!(begun.elapsed() < Duration::from_secs(5), "connections are left over");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(one(&server.connect().await, "select 1").await, "1");
    assert!(server.engine.metrics().refused("handshake") > 0);
    assert!(!server.serving.is_finished());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_slows_the_query_and_not_the_server() {
    let server = serve().await;
    let client = server.connect().await;
    let slow = server.connect().await;
    let stream = slow.simple_query_raw("select * from generate_series(1, 10000000)").await.expect("sent");
    let mut stream = std::pin::pin!(stream);
    for _ in 0..10 {
        stream.try_next().await.expect("a row").expect("not the end");
    }
    assert_eq!(one(&client, "select 1").await, "1");
    assert_eq!(server.engine.metrics().running(), 1, "it waits for its reader");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_idle_sessions_at_once_and_the_port_is_free() {
    let server = serve().await;
    let client = server.connect().await;
    assert_eq!(one(&client, "select 1").await, "1");
    server.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(2), server.serving).await.expect("in time").expect("no panic");
    assert!(client.simple_query("select 1").await.is_err());
    assert!(TcpStream::connect(server.address).await.is_err());
}
