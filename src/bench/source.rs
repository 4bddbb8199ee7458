//! A source of rows that are known beforehand, for tests that kill.
//!
//! It sends through an agent's spool, as the agent does, rows of a table `known`: numbers from 0 on, each with a text
//! that follows from its number. What the spool has taken is written into a journal, and only then: a row is in the
//! journal if and only if somebody has been promised it. The one record that was on its way into the spool when the
//! source was killed is written down as *uncertain* by the next run, which never uses its numbers again. So at the end
//! every journalled row must be there once, and every uncertain one once or not at all.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nodescope_agent::host_root::HostRoot;
use nodescope_agent::installation::Installation;
use nodescope_agent::metrics::AgentMetrics;
use nodescope_agent::publisher::{Publisher, PublisherOptions};
use nodescope_model::rows::{Rows, Stamp};
use nodescope_service::http::Health;
use nodescope_service::settings::parse_duration;
use tokio_util::sync::CancellationToken;

use crate::settings::{AllSettings, load};
use crate::{ConfigArgs, chain};

/// Rows of one record.
const ROWS: u64 = 5;

/// Flags of `bench source`.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct SourceArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Folder of identity, spool and journal.
    #[arg(long)]
    data: PathBuf,
    /// Kafka's addresses.
    #[arg(long)]
    brokers: String,
    /// Pause between two records.
    #[arg(long, default_value = "5ms", value_parser = parse_duration)]
    pause: Duration,
}

/// Runs the command, until it is killed or its standard input ends.
pub(super) fn main(args: &SourceArgs) -> Result<(), String> {
    let mut settings = load(args.config.config.as_deref());
    settings.flag("kafka.brokers", Some(&args.brokers));
    let settings = AllSettings::read(settings)?;
    settings.common.logs.start();
    let table = settings.common.catalogue.get("known").ok_or("the catalogue has no table `known`")?.clone();
    let installation = Installation::begin(&args.data, &HostRoot::new("/")).map_err(|e| chain(&e))?;
    let (mut journal, mut next) = Journal::open(&args.data.join("journal")).map_err(|e| e.to_string())?;
    let options = PublisherOptions {
        kafka: settings.agent.kafka,
        agent: installation.agent.clone(),
        boot: installation.boot,
        node: "test".to_owned(),
        host: "source".to_owned(),
        spool: args.data.join("spool"),
        limits: settings.agent.spool,
        backlog_rate: settings.agent.backlog_rate,
        backlog_jitter: settings.agent.backlog_jitter,
    };
    let stop = CancellationToken::new();
    let metrics = AgentMetrics::default();
    let publisher = Publisher::start(options, &settings.common.catalogue, &Health::default(), metrics, &stop)
        .map_err(|e| chain(&e))?;
    std::thread::spawn({
        let stop = stop.clone();
        move || {
            // Whoever started us closes it to say that it is enough.
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            stop.cancel();
        }
    });
    let mut rows = Rows::new(&table);
    let (mut records, mut journalled) = (0, 0);
    while !stop.is_cancelled() {
        for number in next..next + ROWS {
            rows.begin().text("source", "source").count("number", number).text("content", content(number).as_str());
        }
        let ts_micros =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_micros();
        let stamp = Stamp { ts_micros: i64::try_from(ts_micros).unwrap_or(i64::MAX), node: "test", host: "source" };
        if !publisher.offer_blocking(&table, &rows.finish(&stamp)) {
            break;
        }
        records += 1;
        while publisher.facts().spooled < records && !stop.is_cancelled() {
            std::thread::sleep(Duration::from_micros(200));
        }
        if stop.is_cancelled() {
            // The spool may have it and not have said so: that is known only when the publisher has ended.
            break;
        }
        journal.write(Entry::Taken, next, next + ROWS - 1).map_err(|e| e.to_string())?;
        next += ROWS;
        journalled = records;
        std::thread::sleep(args.pause);
    }
    publisher.finish();
    if publisher.facts().spooled > journalled {
        journal.write(Entry::Taken, next, next + ROWS - 1).map_err(|e| e.to_string())?;
    }
    Ok(())
}

/// The text that belongs to a number.
fn content(number: u64) -> String {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    format!("{:016x}", mixed ^ (mixed >> 31))
}

#[derive(Clone, Copy)]
enum Entry {
    Taken = 0,
    Uncertain = 1,
}

/// Entries of 24 bytes: kind, first number, last number.
struct Journal(File);

impl Journal {
    /// Opens the journal; gives the first number that is free.
    fn open(path: &Path) -> std::io::Result<(Self, u64)> {
        let mut text = Vec::new();
        let is_new = !path.exists();
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
        file.read_to_end(&mut text)?;
        let whole = text.len() - text.len() % 24;
        file.set_len(whole as u64)?;
        let last = text[..whole].rchunks_exact(8).next().map(|b| u64::from_le_bytes(b.try_into().unwrap_or_default()));
        let mut journal = Self(file);
        let next = last.map_or(0, |last| last + 1);
        if is_new {
            return Ok((journal, next));
        }
        journal.write(Entry::Uncertain, next, next + ROWS - 1)?;
        Ok((journal, next + ROWS))
    }

    fn write(&mut self, entry: Entry, first: u64, last: u64) -> std::io::Result<()> {
        let bytes: Vec<u8> = [entry as u64, first, last].iter().flat_map(|n| n.to_le_bytes()).collect();
        self.0.write_all(&bytes)
    }
}
