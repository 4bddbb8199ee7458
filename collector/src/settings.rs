//! Section `[collector]`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use nodescope_model::catalogue::Catalogue;
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

/// How long rows of a table are kept if nobody says otherwise and not as long as all others.
fn kept(table: &str) -> Option<Duration> {
    const DAY: Duration = Duration::from_secs(86_400);
    match table {
        // What things are is never too old: samples are joined with it as of their own time.
        _ if table.starts_with("registry_") => Some(36_500 * DAY),
        "alert" | "demand" | "progress" => Some(730 * DAY),
        _ if table.ends_with("_1h") => Some(1_826 * DAY),
        _ if table.ends_with("_1m") => Some(92 * DAY),
        _ => None,
    }
}

impl UpkeepSettings {
    /// How long rows of that table are kept.
    pub fn retention_of(&self, table: &str) -> Duration {
        self.retention_of.get(table).copied().or_else(|| kept(table)).unwrap_or(self.retention)
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
        let retention = settings.duration(
            "collector.retention",
            "30d",
            "How long rows are kept. Rollups by the minute stay 92 days, by the hour five years; incidents two years; the \
             registry for ever.",
        );
        let mut retention_of = BTreeMap::new();
        for entry in settings.list(
            "collector.retention_of",
            "",
            "How long rows of single tables are kept, as table=length, in place of collector.retention.",
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
        assert!(read.upkeep.retention_of("registry_node") > Duration::from_secs(99 * 365 * 86_400));
        assert!(read.upkeep.retention_of("cpu_1h") > read.upkeep.retention_of("cpu_1m"));
        assert_eq!(settings.finish().unwrap_err().0.len(), 2);
    }
}
