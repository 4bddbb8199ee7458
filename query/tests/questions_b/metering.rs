//! `metering`: every minute of every card is asked whose it is and under which identifier.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use crate::fleet::{Card, Fleet, Registered};
use crate::store::{DAY, MINUTE, Row, Rows, START, assert_same, row, time};

struct Bill {
    node: &'static str,
    identifier: String,
    project: String,
    starts: i64,
    ends: i64,
    hours: f64,
}

/// The identifier of a card at a time: by its own entries if it has any, else by those of its host.
fn identifier(fleet: &Fleet, card: &Card, at: i64) -> Option<String> {
    let of = |device: &str| -> Vec<_> {
        let same = |e: &&Registered| e.card.0 == card.0 && e.card.1 == card.1 && e.card.2 == device;
        fleet.registered.iter().filter(same).collect()
    };
    let own = of(&card.2);
    let entries = if own.is_empty() { of("") } else { own };
    let newest = entries.into_iter().filter(|entry| entry.from <= at).max_by_key(|entry| entry.from);
    newest.and_then(|entry| entry.identifier.clone())
}

#[tokio::test]
async fn metered_beside_billed() {
    for seed in 70..76 {
        let mut fleet = Fleet::random(seed, 3);
        // Whole minutes, so that minutes can be counted.
        for entry in &mut fleet.registered {
            entry.from = entry.from / MINUTE * MINUTE;
        }
        let mut random = StdRng::seed_from_u64(seed);
        let mut bills = Vec::new();
        for node in ["n1", "n2"] {
            for identifier in ["id-0", "id-1"] {
                for project in ["p0", "p1", "p9"] {
                    for day in 0..random.random_range(0..3) {
                        bills.push(Bill {
                            node,
                            identifier: identifier.to_owned(),
                            project: project.to_owned(),
                            starts: START + day * DAY,
                            ends: START + (day + 1) * DAY,
                            hours: if random.random_bool(0.1) { 0.0 } else { random.random_range(0.0..20.0) },
                        });
                    }
                }
            }
        }
        let mut rows = fleet.rows();
        for bill in &bills {
            rows.add(
                "registry_billed",
                json!({ "ts": time(START), "node": bill.node, "host": "", "identifier": bill.identifier,
                    "project": bill.project, "valid_from": time(bill.starts), "revoked": false, "import": "1",
                    "period_starts": time(bill.starts), "period_ends": time(bill.ends),
                    "accelerator_hours": bill.hours }),
            );
        }
        let mut held: BTreeMap<(Card, Option<String>), BTreeSet<i64>> = BTreeMap::new();
        for span in &fleet.spans {
            held.entry((span.card.clone(), fleet.project_of(span))).or_default().extend(span.minutes());
        }
        let window = START / MINUTE..fleet.end() / MINUTE;
        // Node, identifier, project and bill: minutes and cards.
        type Key = (String, Option<String>, Option<String>, Option<usize>);
        let mut sums: BTreeMap<Key, (i64, BTreeSet<String>)> = BTreeMap::new();
        for (number, bill) in bills.iter().enumerate() {
            let key = (bill.node.to_owned(), Some(bill.identifier.clone()), Some(bill.project.clone()), Some(number));
            sums.entry(key).or_default();
        }
        for ((card, project), minutes) in &held {
            for minute in minutes.iter().filter(|minute| window.contains(minute)) {
                let at = minute * MINUTE;
                let identifier = identifier(&fleet, card, at);
                let bill = bills.iter().position(|bill| {
                    bill.node == card.0
                        && Some(&bill.identifier) == identifier.as_ref()
                        && Some(&bill.project) == project.as_ref()
                        && (bill.starts..bill.ends).contains(&at)
                });
                let sum = sums.entry((card.0.clone(), identifier, project.clone(), bill)).or_default();
                sum.0 += 1;
                sum.1.insert(card.2.clone());
            }
        }
        let expected: Vec<Row> = sums
            .into_iter()
            .map(|((node, identifier, project, bill), (minutes, cards))| {
                let bill = bill.map(|number| &bills[number]);
                let metered = minutes as f64 / 60.0;
                let difference = bill.map(|bill| metered - bill.hours);
                row(json!({
                    "node": node, "identifier": identifier, "project": project,
                    "period_starts": bill.map(|bill| bill.starts), "period_ends": bill.map(|bill| bill.ends),
                    "metered_hours": metered, "billed_hours": bill.map(|bill| bill.hours),
                    "difference_hours": difference,
                    "difference_ratio": bill.filter(|bill| bill.hours > 0.0).map(|bill| (metered - bill.hours) / bill.hours),
                    "accelerators": cards.len(),
                }))
            })
            .collect();
        let asked = rows.open().await;
        let sql = format!("SELECT * FROM metering('{}', '{}')", time(START), time(fleet.end()));
        let key = ["node", "identifier", "project", "period_starts"];
        assert_same(&format!("seed {seed}"), &key, &asked.ask(&sql).await, &expected);
    }
    assert!(Rows::default().open().await.ask("SELECT * FROM metering").await.is_empty());
}

#[tokio::test]
async fn the_measure_says_how_good_it_is() {
    let mut rows = Rows::default();
    let mut told = |device: &str,
                    allocation: &str,
                    minute: i64,
                    state: &str,
                    began: Option<i64>,
                    ended: Option<i64>| {
        rows.add(
            "allocation",
            json!({ "ts": time(START + minute * MINUTE), "node": "n", "host": "h", "source": "file", "project": "p",
                "allocation": allocation, "device": device, "state": state,
                "began": began.map(|at| time(START + at * MINUTE)), "ended": ended.map(|at| time(START + at * MINUTE)) }),
        );
    };
    // All is known; the begin is not; the end is not; two at once.
    told("a", "1", 0, "held", Some(0), None);
    told("a", "1", 60, "ended", Some(0), Some(60));
    told("b", "2", 0, "held", None, None);
    told("b", "2", 30, "ended", None, Some(30));
    told("c", "3", 0, "held", Some(0), None);
    told("c", "3", 90, "held", Some(0), None);
    told("d", "4", 0, "held", Some(0), None);
    told("d", "4", 60, "ended", Some(0), Some(60));
    told("d", "5", 30, "held", Some(30), None);
    told("d", "5", 90, "ended", Some(30), Some(90));
    let asked = rows.open().await;
    let sql = format!("SELECT * FROM metering('{}', '{}')", time(START), time(START + DAY));
    let expected = row(json!({ "node": "n", "identifier": null, "project": "p", "period_starts": null,
        "metered_hours": 4.5, "billed_hours": null, "difference_hours": null, "accelerators": 4, "spans": 5,
        "unknown_begins": 1, "unknown_ends": 1 }));
    assert_same("evidence", &["node"], &asked.ask(&sql).await, &[expected]);
}
