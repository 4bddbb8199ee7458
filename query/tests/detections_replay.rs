//! Detections on a labelled replay: a simulated fleet with attacks, and the same fleet on a benign day.
//!
//! The seeds here are not those that the rules were tuned on (`rules/scores.toml` says which those were).
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by it")]

use std::sync::Arc;
use std::time::Duration;

use nodescope_model::catalogue::Catalogue;
use nodescope_query::definition::Definition;
use nodescope_query::engine::{Engine, Spill};
use nodescope_query::limits::Limits;
use nodescope_query::schedule::rules;
use nodescope_query::score::{self, Label};
use nodescope_simulate::history::{self, HistoryOptions};
use nodescope_simulate::plan::{PlanOptions, labels_csv, plan};
use nodescope_simulate::world::{HOUR, Options};
use nodescope_simulate::{Fleet, world};
use nodescope_store::Store;
use nodescope_store::cut::Reader;

/// 2026-03-02T14:00:00Z.
const NOW: i64 = 1_772_460_000;

/// Raw rows, and attacks in them, seconds.
const RAW: i64 = 2 * HOUR;

/// Attacks found, of those there were; and incidents that were attacks, of all.
const GOOD: f64 = 0.95;

async fn replay(seed: u64, attacks: bool) -> (Engine, Vec<Label>) {
    let options = Options { failures: 1.0, ..Options::around(seed, 40, 4, NOW, 16) };
    let fleet = tokio::task::spawn_blocking(move || {
        Fleet::with_attacks(options, |world, lives, schedule| {
            plan(world, lives, schedule, &PlanOptions { from: NOW - RAW, to: NOW, attacks, benign: true })
        })
    })
    .await
    .unwrap();
    let store = Store::new(Arc::new(object_store::memory::InMemory::new()), Arc::new(Catalogue::built_in()), "memory:");
    let options =
        HistoryOptions { raw: RAW + 70 * world::MINUTE, minutes: RAW + 2 * HOUR, ..HistoryOptions::until(NOW) };
    history::write(&fleet, &store, &options, |_| {}).await.unwrap();
    let limits = Limits { statement_timeout: Duration::from_secs(120), ..Limits::default() };
    let engine = Engine::new(Reader::new(store, 1 << 28), limits, Spill { folder: None, bytes: 1 << 32 }).unwrap();
    (engine, score::labels(&labels_csv(&fleet.attacks.labels)).unwrap())
}

fn detections() -> Vec<Arc<Definition>> {
    let all = rules::load(None, &Catalogue::built_in()).unwrap();
    let is_detection = |rule: &Definition| rule.alert.is_some() && rule.name.as_bytes()[1].is_ascii_digit();
    all.into_iter().filter(is_detection).map(Arc::new).collect()
}

async fn wrong_of(seed: u64, attacks: bool) -> (usize, Vec<String>) {
    let (engine, labels) = replay(seed, attacks).await;
    let (mut attacked, mut bad) = (0, Vec::new());
    for rule in detections() {
        let incidents = score::replay(&engine, &rule, (NOW - RAW) * 1_000_000, NOW * 1_000_000).await.unwrap();
        let score = score::score(&rule, &incidents, &labels);
        attacked += score.labels;
        if score.recall().is_some_and(|r| r < GOOD) || score.precision().is_some_and(|p| p < GOOD) {
            let wrong: Vec<_> = incidents.iter().filter(|i| score::is_wrong(&rule, i, &labels)).collect();
            bad.push(format!("{score:?}\n{wrong:#?}"));
        }
    }
    (attacked, bad)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: cargo test -p nodescope-query --test detections_replay -- --ignored"]
async fn attacks_are_found_and_nothing_else() {
    let (attacked, bad) = wrong_of(90_001, true).await;
    assert!(attacked >= 16, "{attacked} attacks");
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: cargo test -p nodescope-query --test detections_replay -- --ignored"]
async fn a_benign_day_has_no_incident() {
    let (attacked, bad) = wrong_of(90_002, false).await;
    assert_eq!(attacked, 0);
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}
