//! Gathering a partition's rows until it is time for a segment.
//!
//! One assembler per partition, for its whole life: it knows the next offset, which records have been taken, and what
//! has been gathered since the last segment began. Duplicates are dropped here, before their rows are even decoded.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use arrow_array::RecordBatch;
use nodescope_model::accident::{Accidents, Lost, Quarantined};
use nodescope_model::catalogue::{Catalogue, Table};
use nodescope_model::identity::RecordId;
use nodescope_model::rows::Stamp;
use nodescope_model::seqs::Seqs;
use nodescope_store::layout::PartitionId;
use nodescope_store::segment::{Draft, Taken};
use nodescope_store::taken::TakenSet;

use crate::decoder::{Decoded, MessageDecoder, Raw, Refusal};

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Its rows are gathered.
    Taken {
        /// How many rows.
        rows: usize,
        /// Its table.
        table: Arc<str>,
        /// Columns that were left out.
        unknown: Vec<String>,
    },
    /// It was taken before.
    Duplicate,
    /// It lies before the position: a broker may deliver such, and they are done with.
    Past,
    /// It is set aside, for this reason.
    SetAside(&'static str),
}

/// Gathers one partition.
pub struct Assembler {
    partition: PartitionId,
    node: String,
    taken: TakenSet,
    /// First offset that is not yet in a segment.
    first: u64,
    /// The offset expected next.
    next: u64,
    gathered: Gathered,
    accidents: Accidents,
    opened: Option<Instant>,
}

#[derive(Default)]
struct Gathered {
    tables: BTreeMap<String, (Arc<Table>, Vec<RecordBatch>)>,
    taken: HashMap<(String, u64), Seqs>,
    bytes: usize,
}

impl Assembler {
    /// Goes on from what the store knows of the partition.
    pub fn new(catalogue: &Catalogue, partition: PartitionId, node: String, next: u64, taken: TakenSet) -> Self {
        Self {
            partition,
            node,
            taken,
            first: next,
            next,
            gathered: Gathered::default(),
            accidents: Accidents::new(catalogue),
            opened: None,
        }
    }

    /// The offset expected next.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Bytes of records gathered.
    pub fn bytes(&self) -> usize {
        self.gathered.bytes
    }

    /// When the first record of the coming segment was gathered.
    pub fn opened(&self) -> Option<Instant> {
        self.opened
    }

    /// Takes a message.
    pub fn take(&mut self, decoder: &mut MessageDecoder, offset: u64, raw: Raw<'_>) -> Outcome {
        if offset < self.next {
            return Outcome::Past;
        }
        self.next = offset + 1;
        self.opened.get_or_insert_with(Instant::now);
        let size = raw.key.map_or(0, <[u8]>::len) + raw.value.map_or(0, <[u8]>::len);
        self.gathered.bytes += size;
        let envelope = match decoder.envelope(raw) {
            Ok(envelope) => envelope,
            Err(refusal) => return self.set_aside(offset, raw, refusal),
        };
        let id = envelope.id.clone();
        if self.taken.contains(&id) {
            self.gathered.bytes -= size;
            return Outcome::Duplicate;
        }
        let outcome = match decoder.decode(envelope, raw) {
            Ok(decoded) => self.add(decoded),
            Err(refusal) => self.set_aside(offset, raw, refusal),
        };
        // A record that was set aside is taken too: sent again, it would only be set aside again.
        self.note(&id);
        outcome
    }

    fn note(&mut self, id: &RecordId) {
        self.taken.insert(id);
        self.gathered.taken.entry((id.agent.clone(), id.boot)).or_default().insert(id.seq);
    }

    fn add(&mut self, decoded: Decoded) -> Outcome {
        let Decoded { table, batches, unknown, .. } = decoded;
        let rows = batches.iter().map(RecordBatch::num_rows).sum();
        let name: Arc<str> = table.name.as_str().into();
        self.gathered.tables.entry(table.name.clone()).or_insert_with(|| (table, Vec::new())).1.extend(batches);
        Outcome::Taken { rows, table: name, unknown }
    }

    fn set_aside(&mut self, offset: u64, raw: Raw<'_>, refusal: Refusal) -> Outcome {
        let headers: Vec<String> = raw
            .headers
            .iter()
            .map(|(name, value)| format!("{name}={}", String::from_utf8_lossy(value.unwrap_or_default())))
            .collect();
        self.accidents.quarantine(&Quarantined {
            topic: &self.partition.topic,
            partition: self.partition.partition,
            offset: i64::try_from(offset).unwrap_or(i64::MAX),
            reason: refusal.reason,
            detail: refusal.detail,
            key: raw.key,
            headers: headers.join("\n"),
            value: raw.value,
        });
        Outcome::SetAside(refusal.reason)
    }

    /// Notes that the broker has forgotten everything before `low`, and goes on there. Returns how many offsets that is.
    pub fn skip_to(&mut self, low: u64) -> u64 {
        if low <= self.next {
            return 0;
        }
        let lost = low - self.next;
        self.accidents.lost(&Lost {
            stage: "broker",
            origin: &self.partition.to_string(),
            first: self.next,
            last: low - 1,
            reason: "retention",
            rows: None,
        });
        self.next = low;
        self.opened.get_or_insert_with(Instant::now);
        lost
    }

    /// Takes what has been gathered as a segment to be. The next one begins where it ends. `None` when there is
    /// nothing to write.
    pub fn cut(&mut self, writer: &str, now_us: i64) -> Option<Draft> {
        if self.next == self.first {
            return None;
        }
        let Gathered { mut tables, taken, .. } = std::mem::take(&mut self.gathered);
        // These rows are ours, not a host's; the collector's own are told apart by an empty host.
        let stamp = Stamp { ts_micros: now_us, node: &self.node, host: "" };
        for (table, batch) in self.accidents.finish(&stamp) {
            tables.entry(table.name.clone()).or_insert_with(|| (table, Vec::new())).1.push(batch);
        }
        let mut taken: Vec<Taken> =
            taken.into_iter().map(|((agent, boot), seqs)| Taken { agent, boot, seqs }).collect();
        taken.sort_by(|a, b| (&a.agent, a.boot).cmp(&(&b.agent, b.boot)));
        let draft = Draft {
            partition: self.partition.clone(),
            first: self.first,
            next: self.next,
            writer: writer.to_owned(),
            written_us: now_us,
            tables: tables.into_values().collect(),
            taken,
        };
        self.first = self.next;
        self.opened = None;
        Some(draft)
    }
}

#[cfg(test)]
mod tests {
    use nodescope_model::record::{Envelope, encode};
    use nodescope_model::rows::Rows;

    use super::*;

    struct Bench {
        catalogue: Arc<Catalogue>,
        decoder: MessageDecoder,
        assembler: Assembler,
    }

    impl Bench {
        fn new(next: u64, taken: TakenSet) -> Self {
            let catalogue = Arc::new(Catalogue::built_in());
            let assembler = Assembler::new(&catalogue, PartitionId::new("t", 3), "n".into(), next, taken);
            Self { decoder: MessageDecoder::new(catalogue.clone()), catalogue, assembler }
        }

        fn send(&mut self, offset: u64, seq: u64, table: &str) -> Outcome {
            let mut rows = Rows::new(self.catalogue.get("memory").unwrap());
            rows.begin().int("total_bytes", i64::try_from(seq).unwrap());
            let value = encode(&rows.finish(&Stamp { ts_micros: 1, node: "n", host: "h" })).unwrap();
            let headers = Envelope {
                table: table.into(),
                schema: 1,
                id: RecordId { agent: "a".into(), boot: 1, seq },
                clock_offset_us: None,
            }
            .to_headers();
            let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, Some(v.as_bytes()))).collect();
            let raw = Raw { key: Some(b"h"), headers: &headers, value: Some(&value) };
            self.assembler.take(&mut self.decoder, offset, raw)
        }
    }

    fn rows_of(draft: &Draft, table: &str) -> usize {
        draft.tables.iter().filter(|(t, _)| t.name == table).flat_map(|(_, b)| b).map(RecordBatch::num_rows).sum()
    }

    #[test]
    fn a_record_sent_twice_is_taken_once() {
        let mut bench = Bench::new(10, TakenSet::default());
        assert!(matches!(bench.send(10, 0, "memory"), Outcome::Taken { rows: 1, .. }));
        assert_eq!(bench.send(11, 0, "memory"), Outcome::Duplicate);
        assert_eq!(bench.send(11, 0, "memory"), Outcome::Past);
        let draft = bench.assembler.cut("w", 1).unwrap();
        assert_eq!((draft.first, draft.next), (10, 12));
        assert_eq!(rows_of(&draft, "memory"), 1);
        assert!(bench.assembler.cut("w", 1).is_none());
        // Also when its segment was written long ago.
        assert_eq!(bench.send(12, 0, "memory"), Outcome::Duplicate);
        let draft = bench.assembler.cut("w", 1).unwrap();
        assert_eq!((draft.first, draft.next, draft.tables.len()), (12, 13, 0));
    }

    #[test]
    fn what_was_taken_before_a_restart_is_known() {
        let mut taken = TakenSet::default();
        taken.insert(&RecordId { agent: "a".into(), boot: 1, seq: 5 });
        let mut bench = Bench::new(0, taken);
        assert_eq!(bench.send(0, 5, "memory"), Outcome::Duplicate);
        assert!(matches!(bench.send(1, 4, "memory"), Outcome::Taken { .. }));
    }

    #[test]
    fn what_cannot_be_read_is_a_row_of_quarantine() {
        let mut bench = Bench::new(0, TakenSet::default());
        assert_eq!(bench.send(0, 0, "nosuch"), Outcome::SetAside("table"));
        assert_eq!(bench.send(1, 0, "nosuch"), Outcome::Duplicate);
        let raw = Raw { key: None, headers: &[], value: Some(b"x") };
        assert_eq!(bench.assembler.take(&mut bench.decoder, 2, raw), Outcome::SetAside("headers"));
        let draft = bench.assembler.cut("w", 1).unwrap();
        assert_eq!(rows_of(&draft, "quarantine"), 2);
    }

    #[test]
    fn what_the_broker_forgot_is_a_row_of_loss_and_no_hole() {
        let mut bench = Bench::new(5, TakenSet::default());
        assert_eq!(bench.assembler.skip_to(5), 0);
        assert_eq!(bench.assembler.skip_to(9), 4);
        assert!(matches!(bench.send(9, 0, "memory"), Outcome::Taken { .. }));
        let draft = bench.assembler.cut("w", 1).unwrap();
        assert_eq!((draft.first, draft.next), (5, 10));
        assert_eq!(rows_of(&draft, "loss"), 1);
    }
}
