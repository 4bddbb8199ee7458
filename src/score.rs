//! `nodescope rules score`: how good rules are, on a replay whose attacks are known.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, Utc};
use nodescope_model::catalogue::Catalogue;
use nodescope_query::definition::Definition;
use nodescope_query::engine::{Engine, Spill};
use nodescope_query::limits::Limits;
use nodescope_query::schedule::rules;
use nodescope_query::score::{self, Incident, Kept, Label, Measured, Score};
use nodescope_store::cut::Reader;
use nodescope_store::location::Location;

use crate::settings::open_filled;
use crate::{block_on, chain, say};

/// Bytes of hot segments kept in memory.
const CACHE: usize = 512 << 20;

/// Asks rules for every window of a time, and compares what they find with attacks that are known. Nothing is written
/// to the store.
#[derive(Debug, clap::Args)]
pub(crate) struct ScoreArgs {
    /// The store that was filled by a simulation or a recording.
    #[arg(long, value_name = "URL")]
    store: Location,
    /// Attacks: CSV with the header rule,node,host,device,begin,end.
    #[arg(long, value_name = "FILE", required_unless_present = "benign")]
    labels: Option<PathBuf>,
    /// Begin of the time; by default that of the first attack.
    #[arg(long, value_name = "TIME")]
    from: Option<DateTime<Utc>>,
    /// End of the time; by default an hour after the last attack.
    #[arg(long, value_name = "TIME")]
    to: Option<DateTime<Utc>>,
    /// Rules whose names begin so; all detections by default.
    #[arg(long, value_name = "NAME")]
    rule: Option<String>,
    /// Keeps the scores in this file, from which docs/detections.md is made. What it holds of the other sort of replay
    /// stays.
    #[arg(long, value_name = "FILE", requires = "replay", conflicts_with = "rule")]
    keep: Option<PathBuf>,
    /// What is replayed, in words: what cannot be counted, as the seed.
    #[arg(long, value_name = "WORDS")]
    replay: Option<String>,
    /// It is a benign day: there were no attacks, and every incident is wrong.
    #[arg(long, conflicts_with = "labels", requires = "from", requires = "to")]
    benign: bool,
    /// Prints every incident that was no attack, and every attack that was not found.
    #[arg(long)]
    wrong: bool,
}

/// Runs the command.
pub(crate) fn main(args: &ScoreArgs) -> Result<(), String> {
    let labels = match &args.labels {
        None => Vec::new(),
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|e| format!("{} cannot be read: {e}", path.display()))?;
            score::labels(&text).map_err(|e| format!("{}: {}", path.display(), chain(&e)))?
        }
    };
    let given = |time: Option<DateTime<Utc>>| time.map(|time| time.timestamp_micros());
    let from = given(args.from).or_else(|| labels.iter().map(|label| label.begin_us).min());
    let to = given(args.to).or_else(|| labels.iter().map(|label| label.end_us + score::AFTERWARDS).max());
    let (Some(from), Some(to)) = (from, to) else {
        return Err("no time to look at: there is no attack among the labels; give --from and --to".to_owned());
    };
    let catalogue = Arc::new(Catalogue::built_in());
    let all = rules::load(None, &catalogue).map_err(|mistakes| mistakes.to_string())?;
    let is_chosen = |rule: &Definition| match &args.rule {
        Some(name) => rule.alert.is_some() && rule.name.starts_with(name),
        None => score::is_detection(rule),
    };
    let chosen = all.into_iter().filter(is_chosen);
    let chosen: Vec<Arc<Definition>> = chosen.map(Arc::new).collect();
    let stray = labels.iter().find(|label| !chosen.iter().any(|rule| rule.name == label.rule));
    if let Some(stray) = stray.filter(|_| args.rule.is_none()) {
        return Err(format!("a label is of rule {}, which there is not", stray.rule));
    }
    let store = block_on(open_filled(&args.store, catalogue))?;
    let limits = Limits { statement_timeout: Duration::from_secs(600), ..Limits::default() };
    let engine = Engine::new(Reader::new(store, CACHE), limits, Spill { folder: None, bytes: 8 << 30 })
        .map_err(|error| chain(&error))?;
    let (scores, (hosts, accelerators)) = block_on(async {
        let size = score::size(&engine, from, to).await.map_err(|error| chain(&error))?;
        Ok::<_, String>((all_of(&engine, &chosen, &labels, (from, to), args.wrong).await?, size))
    })?;
    if let Some(path) = &args.keep {
        let replay = args.replay.clone().unwrap_or_default();
        let [begin, end] = [from, to].map(shown_time);
        keep(path, args.benign, Measured { replay, begin, end, hosts, accelerators, scores })?;
    }
    Ok(())
}

/// Writes what was measured beside what is known of the other sort of replay.
fn keep(path: &Path, is_benign: bool, measured: Measured) -> Result<(), String> {
    let mut kept: Kept = match std::fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text).map_err(|error| format!("{}: {}", path.display(), chain(&error)))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Kept::default(),
        Err(error) => return Err(format!("{} cannot be read: {error}", path.display())),
    };
    *(if is_benign { &mut kept.benign } else { &mut kept.attacks }) = Some(measured);
    let text = toml::to_string(&kept).map_err(|error| error.to_string())?;
    let head =
        "# How the rules did in the replays that `nodescope rules score --keep rules/scores.toml` was run on last.\n";
    std::fs::write(path, format!("{head}{text}"))
        .map_err(|error| format!("{} cannot be written: {error}", path.display()))
}

async fn all_of(
    engine: &Engine,
    rules: &[Arc<Definition>],
    labels: &[Label],
    (from, to): (i64, i64),
    print_wrong: bool,
) -> Result<Vec<Score>, String> {
    say(&format!(
        "{:<34} {:>7} {:>6} {:>7} {:>6} {:>6} {:>6} {:>9} {:>10} {:>8}",
        "rule", "attacks", "found", "recall", "right", "beside", "wrong", "precision", "told after", "took"
    ));
    let mut scores = Vec::with_capacity(rules.len());
    for rule in rules {
        let begin = Instant::now();
        let incidents =
            score::replay(engine, rule, from, to).await.map_err(|e| format!("{}: {}", rule.name, chain(&e)))?;
        let score = score::score(rule, &incidents, labels);
        say(&line(&score, begin.elapsed()));
        if print_wrong {
            incidents.iter().filter(|incident| score::is_wrong(rule, incident, labels)).for_each(|i| say(&shown(i)));
            for Label { node, host, device, begin_us, end_us, .. } in score::missed(rule, &incidents, labels) {
                let [begin, end] = [*begin_us, *end_us].map(shown_time);
                say(&format!("    missed: {begin} to {end}: node={node} host={host} device={device}"));
            }
        }
        scores.push(score);
    }
    Ok(scores)
}

fn line(score: &Score, took: Duration) -> String {
    let ratio = |ratio: Option<f64>| ratio.map_or_else(|| "·".to_owned(), |ratio| format!("{ratio:.3}"));
    format!(
        "{:<34} {:>7} {:>6} {:>7} {:>6} {:>6} {:>6} {:>9} {:>8} s {:>6.1} s",
        score.rule,
        score.labels,
        score.found,
        ratio(score.recall()),
        score.right,
        score.beside,
        score.wrong,
        ratio(score.precision()),
        score.slowest_us / 1_000_000,
        took.as_secs_f64(),
    )
}

fn shown(incident: &Incident) -> String {
    let found: Vec<String> = incident.found.iter().map(|(column, value)| format!("{column}={value}")).collect();
    format!("    wrong: {} to {}: {}", shown_time(incident.begin_us), shown_time(incident.end_us), found.join(" "))
}

fn shown_time(us: i64) -> String {
    DateTime::from_timestamp_micros(us).unwrap_or_default().to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sort_of_replay_is_kept_beside_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scores.toml");
        let measured = |words: &str| {
            let scores = vec![Score { rule: "d01_x".to_owned(), labels: 3, found: 2, ..Score::default() }];
            Measured { replay: words.to_owned(), scores, ..Measured::default() }
        };
        let read = || toml::from_str::<Kept>(&std::fs::read_to_string(&path).unwrap()).unwrap();
        keep(&path, false, measured("seed 1")).unwrap();
        keep(&path, true, measured("seed 2")).unwrap();
        keep(&path, false, measured("seed 3")).unwrap();
        assert_eq!(read(), Kept { attacks: Some(measured("seed 3")), benign: Some(measured("seed 2")) });
        std::fs::write(&path, "attacks = 1").unwrap();
        assert!(keep(&path, true, measured("seed 4")).unwrap_err().contains("scores.toml"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "attacks = 1", "what cannot be read is not written over");
    }
}
