//! Detections on a labelled replay: a simulated fleet with attacks, and another one in benign hours.
//!
//! The seeds here are none that rules are tuned on; `rules/scores.toml` says which those are. The fleets are small and
//! sample every ten seconds, so that this takes minutes: what needs more time or more hosts than there are
//! (D4, D12) is left to the long replay, by `nodescope simulate` and `nodescope rules score`.
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

/// Time that is judged, seconds.
const JUDGED: i64 = 2 * HOUR;

/// What rules look back on before it.
const BEFORE: i64 = 70 * world::MINUTE;

/// Hosts of four accelerators each.
const HOSTS: usize = 32;

/// Attacks found, of those there were; and incidents that were attacks, of all.
const GOOD: f64 = 0.95;

async fn replay(seed: u64, attacks: bool) -> (Engine, Vec<Label>) {
    let options = Options { interval: 10, ..Options::around(seed, HOSTS, 4, NOW, 16) };
    let fleet = tokio::task::spawn_blocking(move || {
        Fleet::with_attacks(options, |world, lives, schedule| {
            plan(world, lives, schedule, &PlanOptions { from: NOW - JUDGED, to: NOW, attacks, benign: true })
        })
    })
    .await
    .unwrap();
    let store = Store::new(Arc::new(object_store::memory::InMemory::new()), Arc::new(Catalogue::built_in()), "memory:");
    let raw = JUDGED + BEFORE;
    let options = HistoryOptions { raw, minutes: raw + HOUR, ..HistoryOptions::until(NOW) };
    history::write(&fleet, &store, &options, |_| {}).await.unwrap();
    let limits = Limits { statement_timeout: Duration::from_secs(120), ..Limits::default() };
    let engine = Engine::new(Reader::new(store, 1 << 28), limits, Spill { folder: None, bytes: 1 << 32 }).unwrap();
    (engine, score::labels(&labels_csv(&fleet.attacks.labels)).unwrap())
}

fn detections() -> Vec<Arc<Definition>> {
    let all = rules::load(None, &Catalogue::built_in()).unwrap();
    all.into_iter().filter(score::is_detection).map(Arc::new).collect()
}

/// Rules that have attacks, and what is said of those that do not find them, or find what is none.
async fn judged(seed: u64, attacks: bool) -> (usize, Vec<String>) {
    let (engine, labels) = replay(seed, attacks).await;
    let (mut attacked, mut bad) = (0, Vec::new());
    for rule in detections() {
        let incidents = score::replay(&engine, &rule, (NOW - JUDGED) * 1_000_000, NOW * 1_000_000).await.unwrap();
        let score = score::score(&rule, &incidents, &labels);
        attacked += usize::from(score.labels > 0);
        if score.recall().is_some_and(|r| r < GOOD) || score.precision().is_some_and(|p| p < GOOD) {
            let wrong: Vec<_> = incidents.iter().filter(|i| score::is_wrong(&rule, i, &labels)).collect();
            bad.push(format!("{score:?} {:?}\n{wrong:#?}", score::missed(&rule, &incidents, &labels)));
        }
    }
    (attacked, bad)
}

#[tokio::test(flavor = "multi_thread")]
async fn attacks_are_found_and_nothing_else() {
    let (attacked, bad) = judged(90_001, true).await;
    assert!(bad.is_empty(), "{}", bad.join("\n"));
    assert!(attacked >= 17, "only {attacked} rules were attacked");
}

#[tokio::test(flavor = "multi_thread")]
async fn benign_hours_have_no_incident() {
    let (attacked, bad) = judged(90_002, false).await;
    assert!(bad.is_empty(), "{}", bad.join("\n"));
    assert_eq!(attacked, 0, "this seed's hours have an agent that falls silent by itself: take another");
}
