//! Incidents against a naive model, and what must hold of them whatever happens.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const EVERY: i64 = 60;

fn patience(hold: i64, resolve_after: i64, restate: i64) -> Patience {
    Patience {
        every_us: EVERY,
        hold_us: hold * EVERY,
        resolve_after_us: resolve_after * EVERY,
        restate_us: restate * EVERY,
    }
}

fn about() -> Arc<About> {
    Arc::new(About { rule: "r".into(), title: "t".into(), severity: "info".into(), techniques: String::new() })
}

fn machine(patience: Patience) -> Incidents {
    Incidents::restore(about(), patience, 0, [])
}

fn key(n: usize) -> Key {
    Key::from([("host".to_owned(), n.to_string())])
}

fn found(keys: impl IntoIterator<Item = usize>) -> BTreeMap<Key, Found> {
    let found = Found { columns: BTreeMap::new(), summary: "s".into() };
    keys.into_iter().map(|n| (key(n), found.clone())).collect()
}

/// What the store keeps.
#[derive(Default)]
struct Rows(Vec<Incident>);

impl Rows {
    fn newest(&self) -> Vec<Incident> {
        let mut newest: BTreeMap<&str, &Incident> = BTreeMap::new();
        for row in &self.0 {
            match newest.get(row.id.as_str()) {
                Some(other) if other.sequence >= row.sequence => {}
                _ => {
                    newest.insert(&row.id, row);
                }
            }
        }
        newest.into_values().cloned().collect()
    }
}

/// (began, fired, ended) of each incident of a key that holds in these windows, found by looking ahead.
fn naive(holds: &[bool], hold: usize, resolve_after: usize) -> Vec<(usize, Option<usize>, Option<usize>)> {
    let mut incidents = Vec::new();
    let mut from = 0;
    while let Some(began) = (from..holds.len()).find(|at| holds[*at]) {
        let gap = (began..holds.len()).find(|at| !holds[*at]);
        let fired = Some(began + hold).filter(|at| *at < gap.unwrap_or(holds.len()));
        let ended = match fired {
            None => gap,
            Some(fired) => {
                (fired + resolve_after + 1..holds.len()).find(|at| holds[at - resolve_after..=*at].iter().all(|h| !h))
            }
        };
        incidents.push((began, fired, ended));
        let Some(ended) = ended else { break };
        from = ended + 1;
    }
    incidents
}

fn lives(rows: &Rows, of: &Key) -> Vec<(i64, Option<i64>, Option<i64>)> {
    let of_key = rows.newest().into_iter().filter(|incident| incident.key == *of);
    let mut lives: Vec<_> =
        of_key.map(|i| (i.began_us / EVERY, i.fired_us.map(|t| t / EVERY), i.ended_us.map(|t| t / EVERY))).collect();
    lives.sort_unstable();
    lives
}

/// What must hold of the rows of a rule, in the order in which they were written.
fn check(rows: &Rows) -> Result<(), TestCaseError> {
    let mut by_id: BTreeMap<&str, Vec<&Incident>> = BTreeMap::new();
    let mut open: BTreeMap<&Key, &str> = BTreeMap::new();
    for row in &rows.0 {
        by_id.entry(&row.id).or_default().push(row);
        if row.state.is_open() {
            // One at a time.
            let other = open.insert(&row.key, &row.id);
            prop_assert!(other.is_none_or(|other| other == row.id), "two incidents of {:?}", row.key);
        } else if open.get(&row.key) == Some(&row.id.as_str()) {
            open.remove(&row.key);
        }
    }
    let mut raised: Vec<(&Key, i64, i64)> = Vec::new();
    for rows in by_id.values() {
        let states: Vec<State> = rows.iter().map(|row| row.state).collect();
        let mut sorted = states.clone();
        sorted.sort();
        prop_assert_eq!(&states, &sorted, "states go forward");
        prop_assert!(!(states.contains(&State::Withdrawn) && states.contains(&State::Firing)));
        for (at, row) in rows.iter().enumerate() {
            prop_assert_eq!(row.sequence, at as i64 + 1);
            prop_assert_eq!(row.fired_us.is_some(), matches!(row.state, State::Firing | State::Resolved));
            prop_assert_eq!(row.ended_us.is_some(), !row.state.is_open());
        }
        // It fires once and is over once: neither time ever changes.
        let times =
            |of: fn(&Incident) -> Option<i64>| rows.iter().filter_map(|row| of(row)).collect::<BTreeSet<_>>().len();
        prop_assert!(times(|row| row.fired_us) <= 1 && times(|row| row.ended_us) <= 1);
        let Some(last) = rows.last() else { continue };
        if let Some(fired) = last.fired_us {
            prop_assert!(last.began_us <= fired);
            let ended = last.ended_us.unwrap_or(i64::MAX);
            prop_assert!(fired <= ended);
            raised.push((&last.key, fired, ended));
        }
    }
    raised.sort_unstable();
    for pair in raised.windows(2) {
        prop_assert!(pair[0].0 != pair[1].0 || pair[0].2 < pair[1].1, "two at one time: {:?}", pair);
    }
    Ok(())
}

#[test]
fn pending_firing_lapsed_resolved() {
    let mut machine = machine(patience(2, 1, 0));
    let mut states = Vec::new();
    for (window, holds) in [(1, true), (2, true), (3, true), (4, false), (5, true), (6, false), (7, false), (8, false)]
    {
        for row in machine.run(window * EVERY, 0, found(holds.then_some(1))) {
            states.push((window, row.state, row.lapsed_us.map(|t| t / EVERY), row.ended_us.map(|t| t / EVERY)));
        }
    }
    assert_eq!(
        states,
        [
            (1, State::Pending, None, None),
            (3, State::Firing, None, None),
            (4, State::Firing, Some(4), None),
            (5, State::Firing, None, None),
            (6, State::Firing, Some(6), None),
            (7, State::Resolved, Some(6), Some(7)),
        ]
    );
}

#[test]
fn an_attack_told_late_is_raised_late_and_once() {
    let mut machine = machine(patience(0, 1, 100));
    for window in 1..=10 {
        assert!(machine.run(window * EVERY, 0, found([])).is_empty());
    }
    // A backlog comes: three windows run again, in any order.
    let changed: Vec<Incident> =
        [4, 3, 5].into_iter().flat_map(|window| machine.run(window * EVERY, 1, found([1]))).collect();
    assert!(changed.iter().all(|row| row.id == changed[0].id && row.fired_us == Some(4 * EVERY)), "{changed:?}");
    let over = machine.run(11 * EVERY, 0, found([]));
    assert_eq!((over[0].state, over[0].began_us, over[0].ended_us), (State::Resolved, 3 * EVERY, Some(11 * EVERY)));
    // And once more: nothing new.
    assert!(machine.run(4 * EVERY, 2, found([1])).is_empty());
    assert!(machine.run(5 * EVERY, 2, found([])).is_empty());
}

#[test]
fn what_must_hold_for_long_is_raised_late_when_its_windows_come_late_one_by_one() {
    let mut machine = machine(patience(2, 3, 100));
    machine.run(10 * EVERY, 0, found([]));
    let mut states = Vec::new();
    for (window, revision) in [(3, 1), (4, 1), (11, 0), (5, 1)] {
        let holds = if revision == 1 { Some(1) } else { None };
        states.extend(machine.run(window * EVERY, revision, found(holds)).into_iter().map(|row| (window, row.state)));
    }
    // The new window in between is long after: it withdraws what has waited for longer than `resolve_after`.
    assert_eq!(states, [(3, State::Pending), (4, State::Pending), (11, State::Withdrawn), (5, State::Pending)]);
    let mut machine = super::tests::machine(patience(2, 3, 100));
    machine.run(6 * EVERY, 0, found([]));
    let mut states = Vec::new();
    for (window, revision) in [(3, 1), (4, 1), (7, 0), (5, 1)] {
        let holds = if revision == 1 { Some(1) } else { None };
        states.extend(machine.run(window * EVERY, revision, found(holds)).into_iter().map(|row| (window, row.state)));
    }
    assert_eq!(states, [(3, State::Pending), (4, State::Pending), (5, State::Firing)]);
}

#[test]
fn what_late_rows_take_back_is_not_raised() {
    let mut machine = machine(patience(3, 1, 100));
    let mut rows = Rows::default();
    for window in 1..=3 {
        rows.0.extend(machine.run(window * EVERY, 0, found([1])));
    }
    // The second did not hold after all, so it holds since the third.
    rows.0.extend(machine.run(2 * EVERY, 1, found([])));
    for window in 4..=5 {
        rows.0.extend(machine.run(window * EVERY, 0, found([1])));
    }
    assert_eq!(lives(&rows, &key(1)), [(3, None, None)]);
    rows.0.extend(machine.run(6 * EVERY, 0, found([1])));
    assert_eq!(lives(&rows, &key(1)), [(3, Some(6), None)]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    /// Windows in order: exactly what the naive model says, with restarts anywhere.
    #[test]
    fn as_the_naive_model_says(
        windows in prop::collection::vec((prop::collection::vec(any::<bool>(), 3), any::<bool>()), 1..60),
        hold in 0usize..4,
        resolve_after in 0usize..4,
    ) {
        let patience = patience(hold as i64, resolve_after as i64, 0);
        let mut machine = machine(patience);
        let mut rows = Rows::default();
        for (at, (holds, restarts)) in windows.iter().enumerate() {
            let ends = at as i64 * EVERY + EVERY;
            rows.0.extend(machine.run(ends, 0, found((0..3).filter(|n| holds[*n]))));
            if *restarts {
                let restored = Incidents::restore(about(), patience, ends, rows.newest());
                prop_assert_eq!(&restored, &machine);
                machine = restored;
            }
        }
        check(&rows)?;
        for n in 0..3 {
            let holds: Vec<bool> = windows.iter().map(|(holds, _)| holds[n]).collect();
            let times = |at: usize| at as i64 + 1;
            let wanted: Vec<_> = naive(&holds, hold, resolve_after)
                .into_iter()
                .map(|(began, fired, ended)| (times(began), fired.map(times), ended.map(times)))
                .collect();
            prop_assert_eq!(lives(&rows, &key(n)), wanted);
        }
    }

    /// Whatever runs again, in whatever order, with restarts anywhere.
    #[test]
    fn raised_once_and_over_once_whatever_runs_again(
        steps in prop::collection::vec((any::<prop::sample::Index>(), prop::collection::vec(any::<bool>(), 2), any::<bool>()), 1..80),
        hold in 0i64..3,
        resolve_after in 0i64..3,
        restate in 0i64..40,
    ) {
        let patience = patience(hold, resolve_after, restate);
        let mut machine = machine(patience);
        let (mut rows, mut revisions) = (Rows::default(), vec![0i64]);
        for (which, holds, restarts) in steps {
            let newest = revisions.len();
            // The next window, or one that has run and may run again.
            let at = newest - which.index((restate as usize).min(newest - 1) + 1);
            if at == newest { revisions.push(0) } else { revisions[at] += 1 }
            let run = machine.run(at as i64 * EVERY, revisions[at], found((0..2).filter(|n| holds[*n])));
            rows.0.extend(run);
            if restarts {
                let ends = (revisions.len() as i64 - 1) * EVERY;
                let restored = Incidents::restore(about(), patience, ends, rows.newest());
                prop_assert_eq!(&restored, &machine);
                machine = restored;
            }
        }
        check(&rows)?;
    }
}
