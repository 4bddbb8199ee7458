//! Section `[collector]`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use nodescope_model::catalogue::{Catalogue, Grain, Table};
use nodescope_service::kafka::KafkaSettings;
use nodescope_service::node::NodeSettings;
use nodescope_service::settings::Settings;

/// What a collector needs to know.
#[derive(Debug, Clone)]
pub struct CollectorSettings {
    /// How to reach Kafka.
    pub kafka: KafkaSettings,
    /// Identification code of the platform node, for rows of the collector's own.
    pub node: String,
    /// Partitions to read.
    pub partitions: Partitions,
    /// A segment is written at the latest so long after its first record.
    pub segment_every: Duration,
    /// A segment is written as soon as its records are this large.
    pub segment_bytes: usize,
    /// Records held in memory at the most, over all partitions. Beyond it, reading waits for the store.
    pub buffer_bytes: usize,
    /// Background work.
    pub upkeep: UpkeepSettings,
    /// Address of `/metrics`, `/healthz` and `/readyz`.
    pub metrics_address: SocketAddr,
}

/// Which partitions a collector reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Partitions {
    /// All there are.
    All,
    /// These.
    These(Vec<i32>),
}

impl FromStr for Partitions {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "`all`, or numbers and ranges, as in 0-7,12";
        if text == "all" {
            return Ok(Self::All);
        }
        let mut these = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first: i32 = first.trim().parse().map_err(|_| WRONG)?;
            let last: i32 = last.trim().parse().map_err(|_| WRONG)?;
            if first < 0 || last < first || last - first > 100_000 {
                return Err(WRONG);
            }
            these.extend(first..=last);
        }
        these.sort_unstable();
        these.dedup();
        Ok(Self::These(these))
    }
}

/// Background work.
#[derive(Debug, Clone)]
pub struct UpkeepSettings {
    /// How often rows are sealed.
    pub seal_every: Duration,
    /// How long files that are no longer needed stay for readers.
    pub grace: Duration,
    /// How long rows are kept.
    pub retention: Duration,
    /// The same for single tables.
    pub retention_of: BTreeMap<String, Duration>,
    /// Whether journals are looked after too.
    pub journals: bool,
}

/// A hundred years: what things are is never too old, since samples are joined with it as of their own time.
const FOR_EVER: Duration = Duration::from_secs(36_500 * 86_400);

/// What a table's rows are, by how long it makes sense to keep them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// Samples.
    Samples,
    /// Each row tells something of its own: who logged in, what was raised, what ran.
    Events,
    /// By the minute.
    Minutes,
    /// By the hour.
    Hours,
    /// What things are.
    ForEver,
}

impl Kept {
    fn of(table: &Table) -> Self {
        if table.name.starts_with("registry_") {
            Self::ForEver
        } else if table.revised && table.name.ends_with(Grain::Minute.suffix()) {
            Self::Minutes
        } else if table.revised && table.name.ends_with(Grain::Hour.suffix()) {
            Self::Hours
        } else if table.events {
            Self::Events
        } else {
            Self::Samples
        }
    }
}

impl UpkeepSettings {
    /// How long rows of that table are kept.
    pub fn retention_of(&self, table: &str) -> Duration {
        self.retention_of.get(table).copied().unwrap_or(self.retention)
    }
}

impl CollectorSettings {
    /// Reads the section, and `[kafka]`.
    pub fn read(settings: &mut Settings, catalogue: &Catalogue) -> Self {
        let kafka = KafkaSettings::read(settings);
        if kafka.topic.starts_with(nodescope_store::journal::PREFIX) {
            settings.mistake("kafka.topic: names that begin with `journal.` are those of our own journals");
        }
        let node = NodeSettings::read(settings).id;
        let partitions = settings.get(
            "collector.partitions",
            "all",
            "Partitions this collector reads: `all`, or numbers and ranges. No two collectors may share one.",
        );
        let segment_every = settings.duration(
            "collector.segment_every",
            "400ms",
            "Rows become readable at the latest so long after they were read from Kafka.",
        );
        if segment_every.is_zero() {
            settings.mistake("collector.segment_every: at least 1ms");
        }
        let segment_bytes = settings.bytes("collector.segment_bytes", "16MiB", "Records that make a segment at once.");
        let buffer_bytes = settings.bytes(
            "collector.buffer_bytes",
            "256MiB",
            "Records held in memory at the most. Beyond it, reading from Kafka waits for the store.",
        );
        let seal_every = settings.duration("collector.seal_every", "1m", "How often hot rows are sealed into Parquet.");
        let grace = settings.duration(
            "collector.grace",
            "10m",
            "How long files that are no longer needed stay for readers. Longer than any query may run.",
        );
        let retention = settings.duration("collector.retention", "30d", "How long samples are kept.");
        let events = settings.duration(
            "collector.retention_events",
            "200d",
            "How long rows of tables of events are kept: logins, alerts, what ran. The law may ask for half a year.",
        );
        let minutes = settings.duration("collector.retention_minutes", "200d", "How long rows by the minute are kept.");
        let hours = settings.duration(
            "collector.retention_hours",
            "1826d",
            "How long rows by the hour are kept. What the registry says is kept for ever.",
        );
        let kept = |table: &Table| match Kept::of(table) {
            Kept::Samples => retention,
            Kept::Events => events,
            Kept::Minutes => minutes,
            Kept::Hours => hours,
            Kept::ForEver => FOR_EVER,
        };
        let mut retention_of: BTreeMap<String, Duration> =
            catalogue.tables().map(|table| (table.name.clone(), kept(table))).collect();
        for entry in settings.list(
            "collector.retention_of",
            "",
            "How long rows of single tables are kept, as table=length, whatever else is said.",
        ) {
            match entry.split_once('=') {
                Some((table, length)) if catalogue.get(table.trim()).is_some() => {
                    match nodescope_service::settings::parse_duration(length) {
                        Ok(length) => {
                            retention_of.insert(table.trim().to_owned(), length);
                        }
                        Err(what) => settings.mistake(format!("collector.retention_of: {table}: {what}")),
                    }
                }
                Some((table, _)) => settings.mistake(format!("collector.retention_of: there is no table `{table}`")),
                None => settings.mistake("collector.retention_of: each is table=length, as in process=7d"),
            }
        }
        let journals = match &partitions {
            Partitions::All => true,
            Partitions::These(these) => these.contains(&0),
        };
        Self {
            kafka,
            node,
            partitions,
            segment_every,
            segment_bytes: usize::try_from(segment_bytes).unwrap_or(usize::MAX),
            buffer_bytes: usize::try_from(buffer_bytes).unwrap_or(usize::MAX),
            metrics_address: settings.get(
                "collector.metrics_address",
                "127.0.0.1:15481",
                "Address of /metrics, /healthz and /readyz.",
            ),
            upkeep: UpkeepSettings { seal_every, grace, retention, retention_of, journals },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_numbers_and_ranges() {
        assert_eq!("all".parse(), Ok(Partitions::All));
        assert_eq!("0-2, 5".parse(), Ok(Partitions::These(vec![0, 1, 2, 5])));
        for wrong in ["", "x", "3-1", "-1", "1-", "0-999999999"] {
            assert!(wrong.parse::<Partitions>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn retention_of_one_table_replaces_the_rest() {
        let mut settings = Settings::default();
        settings.flag("collector.retention_of", Some("process=7d,nosuch=1d,cpu"));
        let read = CollectorSettings::read(&mut settings, &Catalogue::built_in());
        assert_eq!(read.upkeep.retention_of("process"), Duration::from_secs(7 * 86_400));
        assert_eq!(read.upkeep.retention_of("cpu"), Duration::from_secs(30 * 86_400));
        assert_eq!(settings.finish().unwrap_err().0.len(), 2);
    }

    #[test]
    fn events_minutes_hours_and_the_registry_outlive_samples() {
        let days = |settings: &mut Settings| {
            let read = CollectorSettings::read(settings, &Catalogue::built_in()).upkeep;
            move |table: &str| read.retention_of(table).as_secs() / 86_400
        };
        let kept = days(&mut Settings::default());
        assert_eq!((kept("cpu"), kept("accelerator"), kept("quarantine")), (30, 30, 30));
        for table in ["login", "alert", "schedule_run", "allocation", "config_change", "cpu_1m", "availability_1m"] {
            assert!(kept(table) >= 200, "half a year is asked for, of {table} too");
        }
        assert_eq!((kept("cpu_1h"), kept("availability_1h")), (1_826, 1_826));
        for table in ["registry_node", "registry_registration", "registry_billed"] {
            assert!(kept(table) > 36_000, "{table}");
        }

        let mut settings = Settings::default();
        settings.flag("collector.retention_minutes", Some("90d"));
        settings.flag("collector.retention_events", Some("400d"));
        settings.flag("collector.retention_of", Some("cpu_1m=10d"));
        let kept = days(&mut settings);
        assert_eq!((kept("cpu"), kept("cpu_1m"), kept("disk_1m"), kept("login")), (30, 10, 90, 400));
        settings.finish().unwrap();
    }
}
