//! Every panel of every dashboard gets an answer about a simulated region, asked as Grafana asks.
//!
//! A fleet of a dozen hosts with a month behind it, and rows that go on coming. Each panel is asked with everything
//! chosen, where it must have something to show in every column unless nothing to see is good news, and with each
//! choice at the top changed in turn, where it must not fail. What a panel `needs` the fleet has, all of it.
//! `NODESCOPE_TEST_ALL_VALUES=1` tries every value of every choice. The SQL of both languages is the same, as a test of
//! the dashboards says.

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use nodescope_dashboards::{Dashboard, Panel, Window, all};
use support::{Up, connect, until};
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

type Choice = BTreeMap<String, Vec<String>>;

/// Buckets on a screen: Grafana asks for as many as there is room for.
const BUCKETS: u32 = 300;

/// Columns of which it is good news, or chance, that nothing is in them.
const MAY_BE_NULL: [(&str, &str); 11] = [
    ("accelerator: State", "trouble"),
    ("accelerator: Who held it", "ended"),
    ("capacity: When pools are full", "weeks"),
    ("capacity: When pools are full", "weeks_low"),
    ("capacity: When pools are full", "weeks_high"),
    ("host: File systems now", "error"),
    ("host: Lines", "master"),
    ("host: Probes now", "last error"),
    ("node: Accelerators", "trouble"),
    ("node: Hosts", "maintenance"),
    ("pipeline: The schedule", "error"),
];

/// Longest time until rollups and rates of what has just begun are there.
const PATIENCE: Duration = Duration::from_secs(150);

/// The time on the screen when a dashboard is opened.
fn opened(dashboard: &Dashboard, panel: Option<&Panel>, choice: &Choice) -> Window {
    let back = dashboard.from.strip_prefix("now-").expect("dashboards begin so long ago");
    let back = nodescope_service::settings::parse_duration(back).expect("a length of time");
    let to = SystemTime::now();
    let interval = Duration::from_secs((back / BUCKETS).as_secs().max(1));
    let interval = panel.map_or(interval, |panel| panel.interval(interval));
    Window { from: to - back, to, interval, variables: choice.clone() }
}

async fn ask(client: &Client, sql: &str) -> Result<Vec<SimpleQueryRow>, String> {
    let answer = client.simple_query(sql).await.map_err(|error| match error.as_db_error() {
        Some(refusal) => format!("{refusal}\n{sql}"),
        None => format!("{error}\n{sql}"),
    })?;
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    };
    Ok(answer.into_iter().filter_map(row).collect())
}

/// Values that a choice offers while the others stand.
async fn values(client: &Client, dashboard: &Dashboard, at: usize, choice: &Choice) -> Vec<String> {
    let variable = &dashboard.variables[at];
    let sql = opened(dashboard, None, choice).expand(&variable.sql).expect("a variable's query expands");
    let rows =
        ask(client, &sql).await.unwrap_or_else(|error| panic!("{}: ${}: {error}", dashboard.name, variable.name));
    rows.iter().filter_map(|row| row.get(0).map(str::to_owned)).collect()
}

/// The first of everything, and all where several may be chosen. What comes later depends on what comes before.
async fn first_choice(client: &Client, dashboard: &Dashboard, given: &Choice) -> Choice {
    let mut choice = given.clone();
    for (at, variable) in dashboard.variables.iter().enumerate() {
        if given.contains_key(&variable.name) {
            continue;
        }
        let mut all = values(client, dashboard, at, &choice).await;
        assert!(!all.is_empty(), "{}: ${} offers nothing", dashboard.name, variable.name);
        if !variable.several {
            all.truncate(1);
        }
        choice.insert(variable.name.clone(), all);
    }
    choice
}

/// A simulated accelerator that somebody holds, and where it is: of the vendor whose driver tells most. Others may idle for
/// hours, which their dashboard shows as it is: nobody held them. The machine that the test runs on is in the store too,
/// with no accelerator at all.
async fn at_work(client: &Client) -> Choice {
    let held = "FROM accelerator_now WHERE state = 'allocated' AND vendor = 'nvidia'";
    until(client, &format!("SELECT count(*) {held}"), |n| n > 0).await;
    let sql = format!("SELECT node, host, device {held} ORDER BY host, device LIMIT 1");
    let rows = ask(client, &sql).await.expect("what is held");
    let cell = |column: &str| (column.to_owned(), vec![rows[0].get(column).expect("a name").to_owned()]);
    Choice::from([cell("node"), cell("host"), cell("device")])
}

/// Whether there is something to see: for a line a value beside the time, for a table a row.
fn shows_something(panel: &Panel, rows: &[SimpleQueryRow]) -> bool {
    let is_value = |row: &SimpleQueryRow| {
        let mut cells = row.columns().iter().enumerate().filter(|(_, column)| column.name() != "time");
        cells.any(|(at, _)| row.get(at).is_some_and(|cell| cell.parse::<f64>().is_ok_and(f64::is_finite)))
    };
    match panel.format() {
        nodescope_dashboards::Format::Table => !rows.is_empty(),
        nodescope_dashboards::Format::TimeSeries => rows.iter().any(is_value),
    }
}

/// Columns in which there is nothing, and should be something.
fn unsaid<'a>(title: &str, rows: &'a [SimpleQueryRow]) -> Vec<&'a str> {
    let columns = rows.first().map_or(&[][..], SimpleQueryRow::columns);
    let is_unsaid = |at: usize| rows.iter().all(|row| row.get(at).is_none());
    let may_be = |column: &str| MAY_BE_NULL.contains(&(title, column));
    let names = columns.iter().enumerate().map(|(at, column)| (at, column.name()));
    names.filter(|(at, name)| is_unsaid(*at) && !may_be(name)).map(|(_, name)| name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_panel_answers_for_a_region() {
    let up = Up::start_with(tempfile::tempdir().expect("a folder"), &["--simulate=tiny"], &[]);
    let client = connect(([127, 0, 0, 1], up.postgres_port()).into()).await;
    until(&client, "select count(*) from accelerator where ts > now() - interval '5 seconds'", |n| n > 0).await;
    let at_work = at_work(&client).await;
    let deadline = Instant::now() + PATIENCE;
    let each = std::env::var_os("NODESCOPE_TEST_ALL_VALUES").is_some();
    let (mut faults, mut asked) = (Vec::new(), 0_u32);
    for dashboard in all() {
        let given = match dashboard.name.as_str() {
            "host" | "accelerator" => at_work.clone(),
            _ => Choice::new(),
        };
        let choice = first_choice(&client, &dashboard, &given).await;
        for panel in dashboard.rows.iter().flat_map(|row| &row.panels) {
            let title = format!("{}: {}", dashboard.name, panel.title.en);
            // With everything chosen there is something to see, at the latest when the next minute is rolled up.
            loop {
                let sql = opened(&dashboard, Some(panel), &choice).expand(&panel.sql).expect("a panel's query expands");
                asked += 1;
                match ask(&client, &sql).await {
                    Err(error) => faults.push(format!("{title}: {error}")),
                    Ok(rows)
                        if panel.empty_is_well
                            || (shows_something(panel, &rows) && unsaid(&title, &rows).is_empty()) => {}
                    Ok(_) if Instant::now() < deadline => {
                        tokio::time::sleep(Duration::from_secs(2)).await;
                        continue;
                    }
                    Ok(rows) => {
                        let unsaid = unsaid(&title, &rows);
                        faults.push(format!("{title}: {} rows, nothing to see in {unsaid:?}\n{sql}", rows.len()));
                    }
                }
                break;
            }
        }
        // Each choice in turn.
        for (at, variable) in dashboard.variables.iter().enumerate() {
            if dashboard.name == "host" {
                continue; // asked of a real machine by another test
            }
            let before: Choice =
                dashboard.variables[..at].iter().map(|v| (v.name.clone(), choice[&v.name].clone())).collect();
            let mut offered = values(&client, &dashboard, at, &before).await;
            if !each && offered.len() > 2 {
                offered.drain(1..offered.len() - 1);
            }
            for value in offered {
                let mut given = before.clone();
                given.insert(variable.name.clone(), vec![value.clone()]);
                let choice = first_choice(&client, &dashboard, &given).await;
                for panel in dashboard.rows.iter().flat_map(|row| &row.panels) {
                    let sql = opened(&dashboard, Some(panel), &choice).expand(&panel.sql).expect("it expands");
                    asked += 1;
                    if let Err(error) = ask(&client, &sql).await {
                        faults.push(format!(
                            "{}: {} with ${} = {value}: {error}",
                            dashboard.name, panel.title.en, variable.name
                        ));
                    }
                }
            }
        }
    }
    assert!(asked > 200, "only {asked} questions");
    assert!(faults.is_empty(), "{} of {asked} without an answer:\n\n{}", faults.len(), faults.join("\n\n"));
}
