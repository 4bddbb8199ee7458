//! Every panel of every dashboard gets an answer about a simulated region, asked as Grafana asks.
//!
//! A fleet of a dozen hosts with a month behind it, and rows that go on coming. Each panel is asked with everything
//! chosen, where it must have something to show in every column unless nothing to see is good news, and with each
//! choice at the top changed in turn, where it must not fail. What a panel `needs` the fleet has, all of it. The SQL of
//! both languages is the same, as a test of the dashboards says.
//!
//! `NODESCOPE_TEST_VALUES=100` tries a hundred values of each choice in place of two. `NODESCOPE_TEST_REGION=HOST:PORT`
//! asks a query server of your own in place of one started here. How long answers took is printed.

mod support;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use nodescope_dashboards::{Dashboard, Panel, Window, all};
use support::{Up, connect, number, until};
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

/// A region, whoever serves it.
struct Region {
    client: Client,
    /// Its time when it was first asked, and ours: one from a store may live in the past, by a clock that was set.
    began: (SystemTime, Instant),
    took: Mutex<Vec<(Duration, String)>>,
    /// Started here.
    _up: Option<Up>,
}

impl Region {
    async fn given_or_simulated() -> Self {
        let (client, up) = match std::env::var("NODESCOPE_TEST_REGION") {
            Ok(address) => (connect(address.parse().expect("HOST:PORT")).await, None),
            Err(_) => {
                let up = Up::start_with(tempfile::tempdir().expect("a folder"), &["--simulate=tiny"], &[]);
                let client = connect(([127, 0, 0, 1], up.postgres_port()).into()).await;
                until(&client, "SELECT count(*) FROM accelerator WHERE ts > now() - interval '5 seconds'", |n| n > 0)
                    .await;
                (client, Some(up))
            }
        };
        let now = number(&client, "SELECT CAST(now() AS BIGINT) / 1000").await.expect("the time");
        let now = SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(now).expect("after 1970"));
        Self { client, began: (now, Instant::now()), took: Mutex::default(), _up: up }
    }

    /// The time on the screen when a dashboard is opened.
    fn opened(&self, dashboard: &Dashboard, panel: Option<&Panel>, choice: &Choice) -> Window {
        let back = dashboard.from.strip_prefix("now-").expect("dashboards begin so long ago");
        let back = nodescope_service::settings::parse_duration(back).expect("a length of time");
        let to = self.began.0 + self.began.1.elapsed();
        let interval = Duration::from_secs((back / BUCKETS).as_secs().max(1));
        let interval = panel.map_or(interval, |panel| panel.interval(interval));
        Window { from: to - back, to, interval, variables: choice.clone() }
    }

    async fn ask(&self, title: &str, sql: &str) -> Result<Vec<SimpleQueryRow>, String> {
        let begun = Instant::now();
        let answer = self.client.simple_query(sql).await.map_err(|error| match error.as_db_error() {
            Some(refusal) => format!("{refusal}\n{sql}"),
            None => format!("{error}\n{sql}"),
        })?;
        self.took.lock().expect("nobody panics with it").push((begun.elapsed(), title.to_owned()));
        let row = |message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        };
        Ok(answer.into_iter().filter_map(row).collect())
    }

    async fn ask_panel(
        &self,
        dashboard: &Dashboard,
        panel: &Panel,
        choice: &Choice,
    ) -> (String, Result<Vec<SimpleQueryRow>, String>) {
        let sql = self.opened(dashboard, Some(panel), choice).expand(&panel.sql).expect("a panel's query expands");
        let answer = self.ask(&title(dashboard, panel), &sql).await;
        (sql, answer)
    }

    /// Values that a choice offers while the others stand.
    async fn values(&self, dashboard: &Dashboard, at: usize, choice: &Choice) -> Vec<String> {
        let variable = &dashboard.variables[at];
        let title = format!("{}: ${}", dashboard.name, variable.name);
        let sql = self.opened(dashboard, None, choice).expand(&variable.sql).expect("a variable's query expands");
        let rows = self.ask(&title, &sql).await.unwrap_or_else(|error| panic!("{title}: {error}"));
        rows.iter().filter_map(|row| row.get(0).map(str::to_owned)).collect()
    }

    /// The first of everything, and all where several may be chosen. What comes later depends on what comes before.
    async fn first_choice(&self, dashboard: &Dashboard, given: &Choice) -> Choice {
        let mut choice = given.clone();
        for (at, variable) in dashboard.variables.iter().enumerate() {
            if given.contains_key(&variable.name) {
                continue;
            }
            let mut all = self.values(dashboard, at, &choice).await;
            assert!(!all.is_empty(), "{}: ${} offers nothing", dashboard.name, variable.name);
            if !variable.several {
                all.truncate(1);
            }
            choice.insert(variable.name.clone(), all);
        }
        choice
    }

    /// A simulated accelerator that somebody holds, and where it is: of the vendor whose driver tells most. Others may
    /// idle for hours, which their dashboard shows as it is: nobody held them. The machine that the test runs on is there
    /// too, without any accelerator.
    async fn at_work(&self) -> Choice {
        let held = "FROM accelerator_now WHERE state = 'allocated' AND vendor = 'nvidia'";
        until(&self.client, &format!("SELECT count(*) {held}"), |n| n > 0).await;
        let sql = format!("SELECT node, host, device {held} ORDER BY host, device LIMIT 1");
        let rows = self.ask("what is held", &sql).await.expect("what is held");
        let cell = |column: &str| (column.to_owned(), vec![rows[0].get(column).expect("a name").to_owned()]);
        Choice::from([cell("node"), cell("host"), cell("device")])
    }

    /// The slowest questions, and how long most took.
    #[allow(clippy::print_stdout, reason = "figures are for whoever runs it")]
    fn tell(&self) {
        let mut took = self.took.lock().expect("nobody panics with it");
        took.sort_by_key(|(took, _)| std::cmp::Reverse(*took));
        let of = |share: f64| took[((took.len() - 1) as f64 * (1.0 - share)) as usize].0;
        println!("{} questions: p50 {:?}, p95 {:?}, p99 {:?}", took.len(), of(0.5), of(0.95), of(0.99));
        let mut seen = std::collections::HashSet::new();
        for (took, title) in took.iter().filter(|(_, title)| seen.insert(title)).take(40) {
            println!("{took:>12.3?}  {title}");
        }
    }
}

fn title(dashboard: &Dashboard, panel: &Panel) -> String {
    format!("{}: {}", dashboard.name, panel.title.en)
}

/// So many of them, spread over all.
fn spread(all: &[String], wanted: usize) -> Vec<String> {
    let (last, wanted) = (all.len().saturating_sub(1), wanted.min(all.len()));
    (0..wanted).map(|at| all[at * last / (wanted - 1).max(1)].clone()).collect()
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
    let wanted = std::env::var("NODESCOPE_TEST_VALUES").map_or(2, |text| text.parse().expect("a number"));
    let region = Region::given_or_simulated().await;
    let at_work = region.at_work().await;
    let deadline = Instant::now() + PATIENCE;
    let (mut faults, mut asked) = (Vec::new(), 0_u32);
    for dashboard in all() {
        let panels = || dashboard.rows.iter().flat_map(|row| &row.panels);
        let given = match dashboard.name.as_str() {
            "host" | "accelerator" => at_work.clone(),
            _ => Choice::new(),
        };
        let choice = region.first_choice(&dashboard, &given).await;
        for panel in panels() {
            let title = title(&dashboard, panel);
            // With everything chosen there is something to see, at the latest when the next minute is rolled up.
            loop {
                asked += 1;
                let (sql, answer) = region.ask_panel(&dashboard, panel, &choice).await;
                match answer {
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
            let earlier = dashboard.variables[..at].iter();
            let before: Choice = earlier.map(|v| (v.name.clone(), choice[&v.name].clone())).collect();
            for value in spread(&region.values(&dashboard, at, &before).await, wanted) {
                let mut given = before.clone();
                given.insert(variable.name.clone(), vec![value.clone()]);
                let choice = region.first_choice(&dashboard, &given).await;
                for panel in panels() {
                    asked += 1;
                    if let (_, Err(error)) = region.ask_panel(&dashboard, panel, &choice).await {
                        faults.push(format!("{} with ${} = {value}: {error}", title(&dashboard, panel), variable.name));
                    }
                }
            }
        }
    }
    region.tell();
    assert!(asked > 200, "only {asked} questions");
    assert!(faults.is_empty(), "{} of {asked} without an answer:\n\n{}", faults.len(), faults.join("\n\n"));
}
