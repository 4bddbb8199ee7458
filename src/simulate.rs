//! `nodescope simulate`: a fleet to try things on.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nodescope_service::kafka::KafkaSettings;
use nodescope_service::settings::parse_duration;
use nodescope_service::stop;
use nodescope_simulate::attacks::Attack;
use nodescope_simulate::history::{self, HistoryOptions, Progress};
use nodescope_simulate::live::{self, Pace};
use nodescope_simulate::world::{DAY, HOUR, MINUTE, Options};
use nodescope_simulate::{Fleet, SimulateError, plan};
use nodescope_store::Store;
use nodescope_store::location::Location;
use tokio_util::sync::CancellationToken;

use crate::settings::{Common, finish, load};
use crate::{ConfigArgs, block_on, chain, say};

/// Makes up a fleet: regions, nodes, hosts, accelerators of several vendors, jobs, failures, attacks.
///
/// The same seed gives the same fleet with the same fate. Its rows go two ways, which can be combined:
///
/// * `--history 30d --store FOLDER` writes the past straight into an empty store: hours for all of it, minutes for the
///   last day, raw rows for the last ten minutes, and everything that was told once (jobs, faults, logins, registry).
///
/// * `--live` sends rows through Kafka, record by record, as the fleet's agents would; `--speed 60 --replay 6h` begins
///   six hours ago and catches up with the present at sixty times its pace.
///
/// A first look, without any of this: `nodescope up --simulate`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    nodescope simulate --hosts 24 --history 30d --store /tmp/fleet\n  \
    nodescope simulate --hosts 2000 --accelerators 8 --seed 7 --history 30d --store s3://bucket/fleet\n  \
    nodescope simulate --hosts 96 --live --brokers 127.0.0.1:19092\n  \
    nodescope simulate --hosts 120 --accelerators 4 --interval 10s --attacks --benign --labels labels.csv \\\n      \
      --history 16d --raw 10h --store /tmp/replay\n\n\
    docs/simulate.md tells what is simulated, how, and how true it is.")]
pub(crate) struct SimulateArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Hosts of the fleet.
    #[arg(long, value_name = "N", default_value = "24")]
    hosts: usize,
    /// Accelerators in each host.
    #[arg(long, value_name = "N", default_value = "8", value_parser = clap::value_parser!(u8).range(1..=16))]
    accelerators: u8,
    /// Names the fleet and its fate.
    #[arg(long, value_name = "NUMBER", default_value = "7")]
    seed: u64,
    /// How much more often things fail than published.
    #[arg(long, value_name = "FACTOR", default_value = "1")]
    failures: f64,
    /// Agents sample no table more often than this, as with `agent.interval`.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration)]
    interval: Duration,
    /// Write the past of so long into the store.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    history: Option<Duration>,
    /// Of that, raw rows of the last so long.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse_duration)]
    raw: Duration,
    /// Store for the history and the registry: a folder, or s3://bucket/prefix. That of the configuration without it.
    #[arg(long, value_name = "URL")]
    store: Option<Location>,
    /// End of the history, seconds since 1970; now without it. The same end gives the same rows.
    #[arg(long, value_name = "SECONDS")]
    until: Option<i64>,
    /// Send rows through Kafka until it is stopped.
    #[arg(long)]
    live: bool,
    /// Kafka's addresses, in place of the configuration's.
    #[arg(long, value_name = "HOST:PORT")]
    brokers: Option<String>,
    /// Begin so long ago.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_duration)]
    replay: Duration,
    /// Simulated seconds in a second, until the present is reached.
    #[arg(long, value_name = "FACTOR", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=3600))]
    speed: u32,
    /// Lay attacks over the newest hours of the raw rows, after those that rules look back on.
    #[arg(long)]
    attacks: bool,
    /// Lay over them what looks like attacks and is none.
    #[arg(long)]
    benign: bool,
    /// Write what the attacks are, as CSV: rule, node, host, device, begin, end.
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn main(args: &SimulateArgs) -> Result<(), String> {
    if args.history.is_none() && !args.live && args.labels.is_none() {
        return Err("nothing to do: --history writes the past into a store, --live sends rows through Kafka".to_owned());
    }
    let mut settings = load(args.config.config.as_deref());
    settings.flag("kafka.brokers", args.brokers.as_ref());
    settings.preset("log.filter", "warn");
    let common = Common::read(&mut settings);
    let kafka = KafkaSettings::read(&mut settings);
    settings.tolerate(&["agent", "collector", "query", "schedule", "alerts"]);
    finish(settings)?;
    common.logs.start();
    let now = args.until.unwrap_or_else(live::now);
    let options = options(args, now);
    let raw = seconds(args.raw);
    let (attacks, benign) = (args.attacks, args.benign);
    block_on(async move {
        let fleet = made(options, now, raw, attacks, benign).await?;
        if let Some(file) = &args.labels {
            write_labels(file, &fleet.attacks.labels)?;
        }
        let mut from = now - seconds(args.replay);
        let location = args.store.as_ref().unwrap_or(&common.store);
        let store = location.open(common.catalogue.clone()).map_err(|e| chain(&e))?;
        if args.history.is_some() {
            let minutes = DAY.max(raw + 2 * HOUR);
            let history = HistoryOptions { raw, minutes, ..HistoryOptions::until(from.min(now)) };
            from = history.now;
            write_history(&fleet, &store, &history).await?;
        }
        if !args.live {
            return Ok(());
        }
        let stop = CancellationToken::new();
        let asked = stop.clone();
        tokio::spawn(async move {
            stop::asked().await;
            asked.cancel();
        });
        say(&format!("{} hosts send to {}; Ctrl-C stops them", fleet.world.hosts.len(), kafka.brokers));
        let pace = Pace { from, until: i64::MAX, speed: args.speed, run: run_number() };
        let sent = live::send(&fleet, &store, &kafka, &pace, &stop).await.map_err(|e| chain(&e))?;
        say(&format!("{} records with {} rows were sent", sent.records, sent.rows));
        Ok(())
    })
}

fn seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

/// A number that grows from run to run, for agents' boots.
pub(crate) fn run_number() -> u64 {
    u64::try_from(live::now()).unwrap_or(0)
}

fn options(args: &SimulateArgs, now: i64) -> Options {
    let days = args.history.map_or(2, |h| seconds(h).div_euclid(DAY).max(1));
    let around = Options::around(args.seed, args.hosts.max(1), usize::from(args.accelerators), now, days);
    Options { failures: args.failures, interval: seconds(args.interval).max(1), ..around }
}

/// What rules look back on before the first attack, seconds.
const LOOK_BACK: i64 = 70 * MINUTE;

/// The fleet, made where it may take a while.
pub(crate) async fn made(
    options: Options,
    now: i64,
    raw: i64,
    attacks: bool,
    benign: bool,
) -> Result<Arc<Fleet>, String> {
    tokio::task::spawn_blocking(move || {
        Fleet::with_attacks(options, |world, lives, schedule| {
            plan::plan(
                world,
                lives,
                schedule,
                &plan::PlanOptions { from: now - (raw - LOOK_BACK).max(HOUR), to: now, attacks, benign },
            )
        })
    })
    .await
    .map_err(|e| format!("the fleet cannot be made: {e}"))
}

/// Writes the history, and tells a terminal how far it is.
pub(crate) async fn write_history(fleet: &Arc<Fleet>, store: &Store, options: &HistoryOptions) -> Result<(), String> {
    let is_terminal = std::io::stderr().is_terminal();
    let done = history::write(fleet, store, options, |progress| {
        if is_terminal {
            show(progress);
        }
    })
    .await
    .map_err(|e| chain(&e))?;
    if is_terminal {
        // A terminal that is gone is no reason to stop.
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }
    let took = done.took.as_secs_f64().max(0.001);
    say(&format!(
        "{} rows in {:.1} MiB of history written in {took:.1} s: {:.0} rows/s, {:.1} MiB/s",
        done.rows,
        done.bytes as f64 / f64::from(1 << 20),
        done.rows as f64 / took,
        done.bytes as f64 / f64::from(1 << 20) / took,
    ));
    Ok(())
}

fn show(progress: &Progress) {
    const WIDTH: usize = 30;
    let full = WIDTH * progress.done / progress.all.max(1);
    let left = progress.left().map_or_else(String::new, |left| format!(" · {} s left", left.as_secs()));
    let mut err = std::io::stderr().lock();
    let _ = write!(
        err,
        "\r\x1b[K[{}{}] {:3} % · {:.1} M rows{left}",
        "#".repeat(full),
        " ".repeat(WIDTH - full),
        100 * progress.done / progress.all.max(1),
        progress.rows as f64 / 1e6,
    );
    let _ = err.flush();
}

/// Name of the file that remembers which fleet a folder has.
const KEPT: &str = "simulate.json";

/// The fleet of a folder, and the second from which its rows are to be sent: the fleet that the folder has had before,
/// from now on; or a new one, whose past is written first, from where that ends.
pub(crate) async fn kept(data: &Path, store: &Store, hosts: usize) -> Result<(Arc<Fleet>, i64), String> {
    let file = data.join(KEPT);
    let now = live::now();
    let cannot = |what: &str, error: &dyn std::fmt::Display| format!("cannot {what} {}: {error}", file.display());
    if let Ok(text) = std::fs::read_to_string(&file) {
        let options = Kept::parse(&text).ok_or_else(|| cannot("read", &"it is not what was written"))?;
        if options.hosts != hosts {
            return Err(format!(
                "{} has a fleet of {} hosts already; take another folder (--data) for one of {hosts}",
                data.display(),
                options.hosts,
            ));
        }
        if options.horizon <= now {
            return Err(format!("the fleet of {} has come to its end; take another folder (--data)", data.display()));
        }
        return Ok((made(options, now, 0, false, false).await?, now));
    }
    // Failures are so much more frequent than published that a small fleet shows some.
    let around = Options::around(7, hosts, 8, now, 30);
    let options = Options { failures: 6.0, horizon: now + 60 * DAY, ..around };
    let fleet = made(options.clone(), now, 0, false, false).await?;
    say(&format!("making the past of {hosts} hosts that do not exist"));
    let history = HistoryOptions::until(now);
    write_history(&fleet, store, &history).await?;
    std::fs::write(&file, Kept::text(&options)).map_err(|e| cannot("write", &e))?;
    Ok((fleet, history.now))
}

/// What names a fleet, as it is kept.
struct Kept;

impl Kept {
    fn text(options: &Options) -> String {
        let Options { seed, hosts, accelerators, start, horizon, failures, interval } = options;
        serde_json::json!({
            "seed": seed, "hosts": hosts, "accelerators": accelerators, "start": start, "horizon": horizon,
            "failures": failures, "interval": interval,
        })
        .to_string()
    }

    fn parse(text: &str) -> Option<Options> {
        let value: serde_json::Value = serde_json::from_str(text).ok()?;
        Some(Options {
            seed: value["seed"].as_u64()?,
            hosts: usize::try_from(value["hosts"].as_u64()?).ok()?,
            accelerators: usize::try_from(value["accelerators"].as_u64()?).ok()?,
            start: value["start"].as_i64()?,
            horizon: value["horizon"].as_i64()?,
            failures: value["failures"].as_f64()?,
            // Fleets of earlier versions have none.
            interval: value["interval"].as_i64().unwrap_or(1),
        })
    }
}

/// Sends a fleet's rows from a second on, as they come, until it is stopped.
pub(crate) async fn play(
    fleet: &Arc<Fleet>,
    from: i64,
    store: &Store,
    kafka: &KafkaSettings,
    stop: &CancellationToken,
) -> Result<(), SimulateError> {
    // What was missed while the past was written is made up for soon.
    let pace = Pace { from, until: i64::MAX, speed: 30, run: run_number() };
    live::send(fleet, store, kafka, &pace, stop).await.map(|_| ())
}

fn write_labels(file: &Path, labels: &[Attack]) -> Result<(), String> {
    std::fs::write(file, plan::labels_csv(labels)).map_err(|e| format!("cannot write {}: {e}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_that_is_kept_is_the_same_fleet() {
        let options = Options { failures: 6.5, interval: 10, ..Options::around(3, 24, 8, 1_790_000_000, 30) };
        assert_eq!(Kept::parse(&Kept::text(&options)), Some(options));
        assert_eq!(Kept::parse("{}"), None);
    }
}
