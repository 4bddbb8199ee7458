//! Every panel of the dashboard *Host* gets an answer from a running system, asked as Grafana asks: macros expanded, over
//! the simple protocol.
//!
//! A rate needs two samples and some tables are sampled every ten seconds, so a system just started has nothing to show
//! yet. Queries are therefore asked again until they have an answer, for as long as a table's second sample can take.

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use nodescope_dashboards::{Panel, Window, all};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage, SimpleQueryRow};

/// Longest time after the start until every panel has something to show.
const PATIENCE: Duration = Duration::from_secs(60);

/// What Grafana would ask for, with the last five minutes on the screen.
fn window(interval: Duration, variables: &BTreeMap<String, Vec<String>>) -> Window {
    let to = SystemTime::now();
    Window { from: to - Duration::from_secs(300), to, interval, variables: variables.clone() }
}

async fn connect(port: u16) -> Client {
    let address = format!("host=127.0.0.1 port={port} user=grafana dbname=nodescope application_name=dashboards");
    let (client, connection) = tokio_postgres::connect(&address, NoTls).await.expect("the query server lets us in");
    // It ends with an error when the server stops before us, which is no business of this test.
    tokio::spawn(async move { drop(connection.await) });
    client
}

async fn ask(client: &Client, sql: &str) -> Result<Vec<SimpleQueryRow>, String> {
    let answer = client.simple_query(sql).await.map_err(|error| match error.as_db_error() {
        Some(refusal) => refusal.to_string(),
        None => error.to_string(),
    })?;
    Ok(answer
        .into_iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        })
        .collect())
}

/// Whether there is something to see: a value beside the time.
fn shows_something(rows: &[SimpleQueryRow]) -> bool {
    rows.iter().any(|row| {
        row.columns().iter().enumerate().any(|(at, column)| {
            column.name() != "time" && row.get(at).is_some_and(|cell| cell.parse::<f64>().is_ok_and(f64::is_finite))
        })
    })
}

/// Whether this machine has what the panel is about.
async fn is_due(client: &Client, panel: &Panel) -> bool {
    let Some(needs) = &panel.needs else { return true };
    let (table, column) = needs.split_once('.').unwrap_or((needs.as_str(), "ts"));
    let rows = ask(client, &format!("SELECT count({column}) FROM {table}")).await.expect("a count is always answered");
    rows[0].get(0) != Some("0")
}

/// Asks until the panel has something to show, or patience is at an end. `Err` says what is wrong with it.
async fn answer(
    client: &Client,
    panel: &Panel,
    variables: &BTreeMap<String, Vec<String>>,
    deadline: Instant,
) -> Result<(), String> {
    let interval = panel.interval(Duration::from_secs(1));
    let mut turns = tokio::time::interval(Duration::from_millis(500));
    loop {
        turns.tick().await;
        let sql = window(interval, variables).expand(&panel.sql).map_err(|error| error.to_string())?;
        let rows = ask(client, &sql).await.map_err(|error| format!("{error}\n{sql}"))?;
        if shows_something(&rows) || !is_due(client, panel).await {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("{} rows, nothing to see in them\n{sql}", rows.len()));
        }
    }
}

#[tokio::test]
async fn every_panel_has_an_answer() {
    let up = support::Up::start().await;
    let client = connect(up.postgres_port()).await;
    let dashboard = all().into_iter().find(|dashboard| dashboard.name == "host").expect("the dashboard");

    let mut variables = BTreeMap::new();
    for variable in &dashboard.variables {
        let began = Instant::now();
        let value = loop {
            // Anew each time: the window ends now.
            let sql =
                window(Duration::from_secs(1), &variables).expand(&variable.sql).expect("a variable's query expands");
            let rows = ask(&client, &sql).await.unwrap_or_else(|error| panic!("${}: {error}", variable.name));
            match rows.first().and_then(|row| row.get(0)) {
                Some(value) => break value.to_owned(),
                None if began.elapsed() < PATIENCE => tokio::time::sleep(Duration::from_millis(200)).await,
                None => panic!("${} has no value", variable.name),
            }
        };
        variables.insert(variable.name.clone(), vec![value]);
    }

    // The panels wait for the same second samples, so one deadline serves them all.
    let deadline = Instant::now() + PATIENCE;
    let mut faults = Vec::new();
    for panel in dashboard.rows.iter().flat_map(|row| &row.panels) {
        if let Err(fault) = answer(&client, panel, &variables, deadline).await {
            faults.push(format!("{}: {fault}", panel.title.en));
        }
    }
    assert!(faults.is_empty(), "{} panels without an answer:\n\n{}", faults.len(), faults.join("\n\n"));
}
