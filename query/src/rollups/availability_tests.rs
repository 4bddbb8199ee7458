//! Hosts of which it is known what they did, and what the minutes make of them.

use super::tests::{BEGIN, World, int};
use super::*;
use crate::schedule::built_in::BUILT_IN;
use nodescope_model::rows::{Rows, Stamp};
use std::collections::BTreeMap;

/// Up, down, unknown and maintenance, in seconds.
type Seconds = (i64, i64, i64, i64);

fn rule(name: &str) -> Definition {
    let (file, text) = BUILT_IN.iter().find(|(file, _)| file.ends_with(&format!("/{name}.sql"))).unwrap();
    Definition::parse(file, text, Purpose::Rule).unwrap_or_else(|e| panic!("{e}"))
}

async fn rows(world: &World, table: &str, second: i64, host: &str, fill: impl FnOnce(&mut Rows)) {
    let mut rows = Rows::new(world.catalogue().get(table).unwrap());
    fill(&mut rows);
    let stamp = Stamp { ts_micros: (BEGIN + second) * 1_000_000, node: "n", host };
    world.append(table, rows.finish(&stamp)).await;
}

async fn register(world: &World, host: &str, from: i64, status: &str) {
    rows(world, "registry_registration", from, host, |rows| {
        rows.begin()
            .text("device", "")
            .timestamp("valid_from", (BEGIN + from) * 1_000_000)
            .bool("revoked", false)
            .text("import", "1")
            .text("status", status);
    })
    .await;
}

/// Samples of a host at these seconds, by a kernel that started then.
async fn alive(world: &World, host: &str, seconds: impl IntoIterator<Item = i64>, booted: i64) {
    let table = world.catalogue().get("system").unwrap().clone();
    let one = |second: i64| {
        let mut rows = Rows::new(&table);
        rows.begin().int("boot_time_seconds", BEGIN + booted);
        rows.finish(&Stamp { ts_micros: (BEGIN + second) * 1_000_000, node: "n", host })
    };
    let batches: Vec<_> = seconds.into_iter().map(one).collect();
    let all = datafusion::arrow::compute::concat_batches(table.schema(), &batches).unwrap();
    world.append("system", all).await;
}

async fn probed(world: &World, host: &str, seconds: impl IntoIterator<Item = i64>, peer: &str, received: i64) {
    for second in seconds {
        rows(world, "link", second, host, |rows| {
            let mut row = rows.begin();
            row.text("peer", peer).text("protocol", "udp").text("host_name", peer);
            row.int("sent", 10).int("received", received).int("lost", 10 - received);
        })
        .await;
    }
}

async fn answer(world: &World, table: &str) -> BTreeMap<(i64, String), Seconds> {
    let sql = format!(
        "SELECT CAST(ts AS BIGINT) / 1000000 - {BEGIN} AS second, up_seconds, down_seconds, unknown_seconds, \
         maintenance_seconds, host FROM {table}"
    );
    let found = world.ask(&sql).await;
    let host = datafusion::arrow::array::AsArray::as_string::<i32>(found.column(5));
    let number = |column: usize, row: usize| int(&found, column, row).unwrap();
    (0..found.num_rows())
        .map(|row| {
            let seconds = (number(1, row), number(2, row), number(3, row), number(4, row));
            ((number(0, row), host.value(row).to_owned()), seconds)
        })
        .collect()
}

#[tokio::test]
async fn up_down_unknown_and_maintenance_are_told_apart() {
    let (world, minute) = (World::new(), rule("availability_1m"));
    let hosts =
        ["steady", "silent", "restarted", "long_gone", "cut_off", "one_witness", "blind", "worked_on", "stopped"];
    for host in hosts {
        register(&world, host, -86_400, "in_service").await;
    }
    register(&world, "new", 30, "in_service").await;
    register(&world, "retired", -86_400, "retired").await;
    for host in ["steady", "worked_on", "new", "retired"] {
        alive(&world, host, 0..60, -5_000).await;
    }
    // Ends at 20, starts anew at 300 and tells so at 330.
    alive(&world, "restarted", 0..20, -5_000).await;
    alive(&world, "restarted", 330..340, 300).await;
    // Its next start is more than ten minutes away.
    alive(&world, "long_gone", (0..20).chain(656..660), 655).await;
    // Its agent stopped for a while; the kernel ran on.
    alive(&world, "stopped", (0..20).chain(330..340), -5_000).await;
    // Who answers nobody, though two hosts reach another.
    let ticks = || (10..=60).step_by(10).map(i64::from);
    for witness in ["steady", "worked_on"] {
        probed(&world, witness, ticks(), "new", 10).await;
        probed(&world, witness, ticks(), "cut_off", 0).await;
    }
    probed(&world, "steady", ticks(), "one_witness", 0).await;
    // Two see nothing at all: that is theirs.
    for witness in ["silent", "stopped"] {
        probed(&world, witness, ticks(), "blind", 0).await;
    }
    rows(&world, "registry_maintenance", -86_400, "worked_on", |rows| {
        rows.begin()
            .text("maintenance", "T1")
            .timestamp("valid_from", (BEGIN - 86_400) * 1_000_000)
            .bool("revoked", false)
            .text("import", "1")
            .timestamp("starts", (BEGIN + 40) * 1_000_000)
            .timestamp("ends", (BEGIN + 400) * 1_000_000);
    })
    .await;

    world.run(&minute, BEGIN + 660, 0).await;
    let found = answer(&world, "availability_1m").await;
    let expected: BTreeMap<(i64, String), Seconds> = [
        ("steady", (60, 0, 0, 0)),
        ("silent", (0, 0, 60, 0)),
        ("long_gone", (20, 0, 40, 0)),
        ("stopped", (20, 0, 40, 0)),
        ("cut_off", (0, 60, 0, 0)),
        ("one_witness", (0, 0, 60, 0)),
        ("blind", (0, 0, 60, 0)),
        ("worked_on", (40, 0, 0, 20)),
        ("new", (30, 0, 0, 0)),
        ("restarted", (20, 40, 0, 0)),
    ]
    .into_iter()
    .map(|(host, seconds)| ((0, host.to_owned()), seconds))
    .collect();
    assert_eq!(found, expected);

    // The rows were on their way: the host was there all the time.
    alive(&world, "silent", 0..60, -5_000).await;
    world.run(&minute, BEGIN + 660, 1).await;
    world.run(&minute, BEGIN + 720, 0).await;
    let found = answer(&world, "availability_1m").await;
    assert_eq!(found[&(0, "silent".to_owned())], (60, 0, 0, 0));
    assert_eq!(found[&(60, "silent".to_owned())], (0, 0, 60, 0));

    world.run(&rule("availability_1h"), BEGIN + 3_600, 0).await;
    let hours = answer(&world, "availability_1h").await;
    assert_eq!(hours[&(0, "silent".to_owned())], (60, 0, 60, 0));
    assert_eq!(hours[&(0, "worked_on".to_owned())], (40, 0, 0, 80));
    assert_eq!(hours[&(0, "new".to_owned())], (30, 0, 60, 0));
}

#[tokio::test]
async fn a_row_stands_for_the_interval_of_its_probe() {
    let (world, minute) = (World::new(), rule("availability_1m"));
    for host in ["slow", "plain"] {
        register(&world, host, -86_400, "in_service").await;
        alive(&world, host, [0], -5_000).await;
    }
    rows(&world, "agent", 5, "slow", |rows| {
        rows.begin().text("probe", "system").float("interval_seconds", 30.0);
    })
    .await;
    world.run(&minute, BEGIN + 660, 0).await;
    let found = answer(&world, "availability_1m").await;
    assert_eq!(found[&(0, "slow".to_owned())], (30, 0, 30, 0));
    assert_eq!(found[&(0, "plain".to_owned())], (10, 0, 50, 0));
}
