//! A fleet that does not exist, seen through the whole way of a row: its past is there at the start, its present comes
//! through the embedded broker, each row once, and its rollups are what SQL makes of its rows.

mod support;

use nodescope_model::catalogue::{Catalogue, Grain};
use nodescope_simulate::failures::Standing;
use nodescope_simulate::world::{DAY, HOUR, MINUTE, Options};
use nodescope_simulate::{Fleet, PASSING, SERIES};
use support::{Up, connect, number, until};

/// The fleet of a folder, made anew from what names it.
fn fleet(folder: &std::path::Path) -> std::sync::Arc<Fleet> {
    let text = std::fs::read_to_string(folder.join("store/simulate.json")).expect("the fleet is remembered");
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let whole = |name: &str| value[name].as_i64().expect("a number");
    Fleet::new(Options {
        seed: value["seed"].as_u64().expect("a number"),
        hosts: whole("hosts") as usize,
        accelerators: whole("accelerators") as usize,
        start: whole("start"),
        horizon: whole("horizon"),
        failures: value["failures"].as_f64().expect("a number"),
        interval: whole("interval"),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_sees_a_past_and_a_present() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let up = Up::start_with(folder, &["--simulate=tiny"], &[]);
    let client = connect(([127, 0, 0, 1], up.postgres_port()).into()).await;
    let fleet = fleet(&data);
    // Those whose agents lag are left out where the newest rows are counted.
    let now = nodescope_simulate::live::now();
    let is_late = |host: usize, at: i64| nodescope_simulate::agents::lag(&fleet, &fleet.world.hosts[host], at) > 0;
    let prompt: Vec<usize> =
        (0..fleet.world.hosts.len()).filter(|h| !is_late(*h, now - 60) && !is_late(*h, now + 300)).collect();
    let names: Vec<String> = prompt.iter().map(|h| format!("'{}'", fleet.world.hosts[*h].name)).collect();
    let hosts = format!("host in ({})", names.join(", "));

    // The past: hours of a month, minutes of a day, as the oracle has them.
    let hours = number(&client, "select count(distinct ts) from accelerator_1h").await;
    assert!(hours > Some(29 * 24), "{hours:?} hours");
    let minutes = number(&client, "select count(distinct ts) from accelerator_1m").await;
    assert!(minutes > Some(24 * 60 - 30), "{minutes:?} minutes");
    let last =
        number(&client, "select max(extract(epoch from ts))::bigint from availability_1h").await.expect("an hour");
    let sum = |of: &str| format!("select sum({of}_seconds)::bigint from availability_1h");
    let mut truth = [0_i64; 4];
    for host in 0..fleet.world.hosts.len() {
        let of = fleet.availability(host, fleet.world.options.start, last + HOUR);
        for (sum, more) in truth.iter_mut().zip([of.up, of.down, of.unknown, of.maintenance]) {
            *sum += more;
        }
    }
    for (name, wanted) in ["up", "down", "unknown", "maintenance"].iter().zip(truth) {
        assert_eq!(number(&client, &sum(name)).await, Some(wanted), "{name}");
    }
    assert!(truth[1] + truth[2] > 0, "nothing ever went wrong: {truth:?}");

    // Allocations: seconds held a day ago for a week, where hosts told of begins and ends.
    let (to, from) = (last - DAY, last - 8 * DAY);
    let held = number(
        &client,
        &format!(
            "select sum(extract(epoch from least(ended, to_timestamp({to}))) \
             - extract(epoch from greatest(began, to_timestamp({from}))))::bigint \
             from held_span where began < to_timestamp({to}) and ended > to_timestamp({from})"
        ),
    )
    .await;
    let devices = |host: usize| (0..8).map(move |device| (host, device));
    let truth: i64 = (0..fleet.world.hosts.len())
        .flat_map(devices)
        .map(|(host, device)| fleet.held_seconds(host, device, from, to))
        .sum();
    assert!(truth > 0);
    assert_eq!(held, Some(truth), "seconds held");

    // The present: newest rows, each once, as many as the fleet made.
    until(
        &client,
        &format!("select count(*) from accelerator where {hosts} and ts > now() - interval '5 seconds'"),
        |n| n > 0,
    )
    .await;
    let end = number(&client, "select extract(epoch from max(ts))::bigint from accelerator").await.expect("a row") - 3;
    let begin = end - 20;
    let span = format!("ts >= to_timestamp({begin}) and ts < to_timestamp({end})");
    let wanted: i64 = (begin..end)
        .map(|at| {
            let seen = |host: usize, device: usize| {
                let truth = fleet.device_truth(host, device, at);
                i64::from(truth.standing == Standing::Up && !truth.is_lost)
            };
            prompt.iter().map(|host| (0..8).map(|device| seen(*host, device)).sum::<i64>()).sum::<i64>()
        })
        .sum();
    until(&client, &format!("select count(*) from accelerator where {span} and {hosts}"), |n| n >= wanted).await;
    let twice = format!(
        "select (select count(*) from accelerator where {span}) - \
         (select count(*) from (select distinct device, ts from accelerator where {span}))"
    );
    assert_eq!(number(&client, &twice).await, Some(0), "a row is there twice");
    assert_eq!(
        number(&client, &format!("select count(*) from accelerator where {span} and {hosts}")).await,
        Some(wanted)
    );
    // What comes and goes is there too, all of it.
    let catalogue = Catalogue::built_in();
    for table in PASSING {
        let rows = |host: &usize| {
            let all = fleet.rows(&catalogue, *host, begin, end, |_| 10).expect("rows");
            all.get(table).map_or(0, |batch| batch.num_rows() as i64)
        };
        let wanted: i64 = prompt.iter().map(rows).sum();
        let count = format!("select count(*) from {table} where {span} and {hosts}");
        until(&client, &count, |n| n >= wanted).await;
        assert_eq!(number(&client, &count).await, Some(wanted), "{table}");
    }
    assert_eq!(number(&client, "select count(*) from quarantine").await, Some(0));
    assert_eq!(number(&client, "select count(*) from loss").await, Some(0));
    // The real agent goes on beside it.
    let own = "select count(*) from memory where host not in (select host from registry_registration)";
    until(&client, own, |n| n > 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollup_is_the_one_that_sql_makes_of_the_rows() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let up = Up::start_with(folder, &["--simulate=tiny"], &[]);
    let client = connect(([127, 0, 0, 1], up.postgres_port()).into()).await;
    let fleet = fleet(&data);
    let catalogue = Catalogue::built_in();
    // A minute in the middle of what is there raw, and the newest whole hour of what is there by the minute.
    let newest = fleet.world.options.horizon - 60 * DAY;
    let minute = newest.div_euclid(MINUTE) * MINUTE - 4 * MINUTE;
    let hour = newest.div_euclid(HOUR) * HOUR - HOUR;
    let mut compared = 0;
    let tables = SERIES.map(|name| catalogue.get(name).expect("a table"));
    let moving = tables.iter().filter(|table| table.moves());
    for (table, grain) in moving.flat_map(|table| Grain::ALL.map(|grain| (*table, grain))) {
        let (_, rule) = nodescope_query::rollups::text(table, grain);
        let select = rule.split_once("*/").expect("a head").1;
        let moment = |at: i64| format!("arrow_cast({}, 'Timestamp(Microsecond, Some(\"UTC\"))')", at * 1_000_000);
        // Look-back of five minutes is never less than the rule's own, and hosts were up before.
        let (begin, from, to) = match grain {
            Grain::Minute => (minute, minute - 5 * MINUTE, minute + MINUTE),
            Grain::Hour => (hour, hour, hour + HOUR),
        };
        let sql = select.replace("$from", &moment(from)).replace("$to", &moment(to));
        let title = format!("{}{}", table.name, grain.suffix());
        let key: Vec<String> =
            ["node", "host"].iter().map(|k| (*k).to_owned()).chain(table.entity.iter().cloned()).collect();
        let join: Vec<String> = key.iter().map(|k| format!("a.\"{k}\" = b.\"{k}\"")).collect();
        let kept = table.kept().map(|column| column.name.as_str());
        let mut differ: Vec<String> = ["samples", "expected"]
            .into_iter()
            .chain(kept)
            .map(|column| format!("(a.\"{column}\" is distinct from b.\"{column}\")"))
            .collect();
        for column in table.folded() {
            let parts: &[&str] = if column.kind == nodescope_model::catalogue::Kind::Counter {
                &["increase", "last"]
            } else {
                &["min", "max", "last", "mean"]
            };
            for part in parts {
                let c = format!("\"{}_{part}\"", column.name);
                differ.push(if *part == "mean" {
                    format!("coalesce(abs(a.{c} - b.{c}) > 1e-12 * abs(a.{c}), (a.{c} is null) <> (b.{c} is null))")
                } else if *part == "last" && parts.contains(&"increase") {
                    // The simulation shows doubles, which beyond 2^53 (a month of a busy link) leave out the last bits;
                    // below it, nothing.
                    let bits = format!("abs(b.\"{}_last\") / 1125899906842624.0", column.name);
                    format!("((a.{c} is distinct from b.{c}) and coalesce(abs(a.{c} - b.{c}) > {bits}, true))")
                } else {
                    format!("(a.{c} is distinct from b.{c})")
                });
            }
        }
        let both = format!(
            "from ({sql}) a full join (select * from {title} where ts = {}) b on {}",
            moment(begin),
            join.join(" and "),
        );
        // The machine this runs on has an agent of its own, and no history.
        let ours = "coalesce(a.host, b.host) in (select host from registry_registration)";
        let rows = number(&client, &format!("select count(*) {both} where {ours}")).await.expect("a count");
        assert!(rows > 0, "{title}: nothing to compare");
        let where_ = |differs: &str| {
            format!("select count(*) {both} where {ours} and ({differs} or a.host is null or b.host is null)")
        };
        // A statement may only be nested so deeply.
        for some in differ.chunks(16) {
            if number(&client, &where_(&some.join(" or "))).await == Some(0) {
                continue;
            }
            for differs in some {
                assert_eq!(number(&client, &where_(differs)).await, Some(0), "{title}: {differs}");
            }
        }
        compared += rows * differ.len() as i64;
    }
    assert!(compared > 1_000, "{compared}");
}
