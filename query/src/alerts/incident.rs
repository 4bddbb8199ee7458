//! Incidents of one rule: from the first window that shows one to the last.
//!
//! A run of a rule finds rows; each row has a key (a host, a device of it). What is found of a key in window after
//! window is one **incident**:
//!
//! ```text
//!            found                 found for `for`                not found for `resolve_after`
//! nothing ──────────► pending ─────────────────────► firing ────────────────────────────────────► resolved
//!                        └── not found ──► withdrawn
//! ```
//!
//! All times are ends of windows, so event time: the same rows give the same incidents whenever they are looked at. A
//! firing incident that is not found any more has *lapsed*; found again before `resolve_after` is over, it goes on.
//!
//! **Restarts.** Every change is a row of the table `alert`, and between two rows nothing changes that is not known from
//! the newer runs. So the newest row of each incident, and the end of the last window that ran, are the whole state.
//!
//! **Windows that run again** because rows came late correct the record and never raise an incident twice:
//! - What is found in them before or during the newest incident of its key belongs to that incident; `began` moves back.
//! - What is found after it is an incident like any other, raised late.
//! - What is found no more ends what is pending. What has fired has been told, and is over in due time.

use std::collections::BTreeMap;
use std::sync::Arc;

use ring::digest::{SHA256, digest};

/// Columns and values that tell one incident of a rule from another.
pub type Key = BTreeMap<String, String>;

/// How an incident stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// It holds, not for long enough yet.
    Pending,
    /// It is raised.
    Firing,
    /// It was raised and is over.
    Resolved,
    /// It was pending and holds no more.
    Withdrawn,
}

impl State {
    /// The word in rows and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Firing => "firing",
            Self::Resolved => "resolved",
            Self::Withdrawn => "withdrawn",
        }
    }

    /// Whether more may come of it.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Pending | Self::Firing)
    }
}

impl std::str::FromStr for State {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Pending, Self::Firing, Self::Resolved, Self::Withdrawn]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or("`pending`, `firing`, `resolved` or `withdrawn`")
    }
}

/// What an incident says of its rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// Name of the rule.
    pub rule: String,
    /// What the rule looks for.
    pub title: String,
    /// `critical`, `warning` or `info`.
    pub severity: String,
    /// ATT&CK techniques, with commas between them.
    pub techniques: String,
}

/// One incident. Times are microseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incident {
    /// Its rule.
    pub about: Arc<About>,
    /// Its name, for ever.
    pub id: String,
    /// Counts its changes, from 1.
    pub sequence: i64,
    /// How it stands.
    pub state: State,
    /// What it is about.
    pub key: Key,
    /// The row that showed it last, when it changed last.
    pub found: BTreeMap<String, String>,
    /// The sentence made of that row.
    pub summary: String,
    /// First window in which it held.
    pub began_us: i64,
    /// When it was raised.
    pub fired_us: Option<i64>,
    /// First window in which it held no more, while it is open.
    pub lapsed_us: Option<i64>,
    /// When it was over.
    pub ended_us: Option<i64>,
}

/// What a run says of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The row, as text.
    pub columns: BTreeMap<String, String>,
    /// The sentence made of it.
    pub summary: String,
}

/// Lengths of time that decide, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// From one window's end to the next.
    pub every_us: i64,
    /// How long it must hold before it is raised.
    pub hold_us: i64,
    /// How long it must not have held before it is over.
    pub resolve_after_us: i64,
    /// Windows no older may run again.
    pub restate_us: i64,
}

/// All incidents of a rule that may still change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incidents {
    about: Arc<About>,
    patience: Patience,
    /// End of the newest window that has run.
    newest_us: i64,
    /// The open incident of each key.
    open: BTreeMap<Key, Incident>,
    /// The newest of each key that is over, while windows may run again that it held in.
    resolved: BTreeMap<Key, Incident>,
}

/// A window that has run, as incidents see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct At {
    ends_us: i64,
    revision: i64,
    /// It runs for the first time, and all before it have run.
    is_new: bool,
    newest_us: i64,
}

impl Incidents {
    /// The incidents of a rule whose last window ended there, from the newest row of each. Rows of incidents that
    /// cannot change any more may be among them.
    pub fn restore(
        about: Arc<About>,
        patience: Patience,
        newest_us: i64,
        rows: impl IntoIterator<Item = Incident>,
    ) -> Self {
        let (mut open, mut resolved) = (BTreeMap::new(), BTreeMap::<Key, Incident>::new());
        for incident in rows {
            let key = incident.key.clone();
            match incident.state {
                State::Pending | State::Firing => {
                    open.insert(key, incident);
                }
                State::Resolved if resolved.get(&key).is_none_or(|other| other.ended_us < incident.ended_us) => {
                    resolved.insert(key, incident);
                }
                State::Resolved | State::Withdrawn => {}
            }
        }
        let mut incidents = Self { about, patience, newest_us, open, resolved };
        incidents.forget();
        incidents
    }

    /// What is open.
    pub fn open(&self) -> impl Iterator<Item = &Incident> {
        self.open.values()
    }

    /// Takes what a run of the window that ended there has found, and gives the incidents that changed, in the order of
    /// their changes.
    pub fn run(&mut self, ends_us: i64, revision: i64, mut found: BTreeMap<Key, Found>) -> Vec<Incident> {
        let is_new = ends_us > self.newest_us;
        self.newest_us = self.newest_us.max(ends_us);
        let at = At { ends_us, revision, is_new, newest_us: self.newest_us };
        let mut changed = Vec::new();
        let patience = self.patience;
        for incident in self.open.values_mut() {
            if !found.contains_key(&incident.key) && incident.misses(&patience, at) {
                changed.push(incident.changed(None));
            }
        }
        while let Some((key, found)) = found.pop_first() {
            self.holds(key, &found, at, &mut changed);
        }
        let over = self.open.extract_if(.., |_, incident| !incident.state.is_open());
        self.resolved.extend(over.filter(|(_, incident)| incident.state == State::Resolved));
        self.forget();
        changed
    }

    fn holds(&mut self, key: Key, found: &Found, at: At, changed: &mut Vec<Incident>) {
        let patience = self.patience;
        if let Some(resolved) = self.resolved.get_mut(&key)
            && resolved.ended_us.is_some_and(|ended| at.ends_us <= ended)
        {
            if at.ends_us < resolved.began_us {
                resolved.began_us = at.ends_us;
                changed.push(resolved.changed(Some(found)));
            }
            return;
        }
        if let Some(incident) = self.open.get_mut(&key) {
            match incident.holds(&patience, at) {
                Holds::Same => return,
                Holds::Changed => return changed.push(incident.changed(Some(found))),
                Holds::Another => {
                    incident.end(State::Withdrawn, at.ends_us);
                    changed.push(incident.changed(None));
                }
            }
        }
        let mut incident = Incident {
            about: Arc::clone(&self.about),
            id: id(&self.about.rule, &key, at),
            sequence: 0,
            state: State::Pending,
            key: key.clone(),
            found: BTreeMap::new(),
            summary: String::new(),
            began_us: at.ends_us,
            fired_us: None,
            lapsed_us: at.lapse(&patience),
            ended_us: None,
        };
        incident.ripen(&patience, at);
        changed.push(incident.changed(Some(found)));
        self.open.insert(key, incident);
    }

    /// Leaves out what no window can concern any more.
    fn forget(&mut self) {
        let oldest = self.newest_us.saturating_sub(self.patience.restate_us);
        self.resolved.retain(|_, incident| incident.ended_us.is_some_and(|ended| ended > oldest));
    }
}

impl At {
    /// First window after this one that is not known to show it: none when no newer one has run.
    fn lapse(&self, patience: &Patience) -> Option<i64> {
        (self.ends_us < self.newest_us).then(|| self.ends_us.saturating_add(patience.every_us))
    }
}

/// What a find means for the open incident of its key.
enum Holds {
    /// It is of this incident and changes nothing.
    Same,
    /// It is of this incident and changes its record.
    Changed,
    /// It is of another incident; this one, which was pending, is withdrawn.
    Another,
}

impl Incident {
    fn holds(&mut self, patience: &Patience, at: At) -> Holds {
        let ends = at.ends_us;
        if ends < self.began_us {
            // Something pending must have held without a gap; what is raised takes what was before it.
            if self.state == State::Pending && self.began_us - ends > patience.every_us {
                return Holds::Same;
            }
            self.began_us = ends;
            self.ripen(patience, at);
            return Holds::Changed;
        }
        let before = (self.state, self.lapsed_us, self.began_us);
        if let Some(lapsed) = self.lapsed_us
            && ends >= lapsed
        {
            if self.state == State::Pending && ends > lapsed {
                if at.is_new {
                    return Holds::Another;
                }
                self.began_us = ends;
            }
            self.lapsed_us = at.lapse(patience);
        }
        self.ripen(patience, at);
        if before == (self.state, self.lapsed_us, self.began_us) { Holds::Same } else { Holds::Changed }
    }

    /// Not found in a window. Says whether that changes it.
    fn misses(&mut self, patience: &Patience, at: At) -> bool {
        let ends = at.ends_us;
        match (self.state, self.lapsed_us) {
            (State::Firing, lapsed) if at.is_new => {
                let since = lapsed.unwrap_or(ends);
                self.lapsed_us = Some(since);
                let is_over = ends - since >= patience.resolve_after_us;
                if is_over {
                    self.end(State::Resolved, ends);
                }
                is_over || lapsed.is_none()
            }
            // The newest window, which showed it at first.
            (State::Firing, None) if ends == at.newest_us => {
                self.lapsed_us = Some(ends);
                true
            }
            (State::Pending, None) if at.is_new || ends == at.newest_us => {
                self.end(State::Withdrawn, ends);
                true
            }
            // Found late, and waiting for more that may come late.
            (State::Pending, Some(lapsed)) if at.is_new => {
                let is_over = ends - lapsed >= patience.resolve_after_us;
                if is_over {
                    self.end(State::Withdrawn, ends);
                }
                is_over
            }
            (State::Pending, lapsed) if ends >= self.began_us && lapsed.is_none_or(|lapsed| ends < lapsed) => {
                self.began_us = ends.saturating_add(patience.every_us);
                if lapsed.is_some_and(|lapsed| self.began_us >= lapsed) {
                    self.end(State::Withdrawn, ends);
                }
                true
            }
            _ => false,
        }
    }

    /// Raises it when it has held for long enough.
    fn ripen(&mut self, patience: &Patience, at: At) {
        if self.state != State::Pending {
            return;
        }
        let until = self.lapsed_us.map_or(at.newest_us, |lapsed| lapsed - patience.every_us);
        if until - self.began_us >= patience.hold_us {
            self.state = State::Firing;
            self.fired_us = Some(until);
        }
    }

    fn end(&mut self, state: State, ended_us: i64) {
        self.state = state;
        self.ended_us = Some(ended_us.max(self.fired_us.unwrap_or(ended_us)));
    }

    /// Notes a change.
    fn changed(&mut self, found: Option<&Found>) -> Self {
        self.sequence += 1;
        if let Some(found) = found {
            self.found.clone_from(&found.columns);
            self.summary.clone_from(&found.summary);
        }
        self.clone()
    }
}

/// A name that no other incident has: of a key there begins no more than one in one run.
fn id(rule: &str, key: &Key, at: At) -> String {
    let mut text = format!("{rule}\0{}\0{}", at.ends_us, at.revision);
    for (column, value) in key {
        text.push_str(&format!("\0{column}\0{value}"));
    }
    let hex: String = digest(&SHA256, text.as_bytes()).as_ref().iter().take(8).map(|b| format!("{b:02x}")).collect();
    format!("{rule}-{hex}")
}

#[cfg(test)]
mod tests;
