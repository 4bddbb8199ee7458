//! A million records that are wrong in every way we could think of: no crash, no stall, each accounted for.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use std::collections::BTreeMap;
use std::sync::Arc;

use nodescope_collector::assembler::{Assembler, Outcome};
use nodescope_collector::decoder::{MessageDecoder, Raw};
use nodescope_model::catalogue::{Catalogue, ColumnType};
use nodescope_model::identity::RecordId;
use nodescope_model::record::{Envelope, encode};
use nodescope_model::rows::{Rows, Stamp};
use nodescope_store::layout::PartitionId;
use nodescope_store::segment;
use nodescope_store::taken::TakenSet;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngCore, SeedableRng};

const RECORDS: u64 = 1_000_000;

/// Records between two segments.
const SEGMENT: u64 = 20_000;

/// A record that is right, of each table.
fn right(catalogue: &Catalogue) -> Vec<(String, Vec<u8>)> {
    catalogue
        .tables()
        .map(|table| {
            let mut rows = Rows::new(table);
            for at in 0..3 {
                let mut row = rows.begin();
                for column in &table.columns {
                    match column.column_type {
                        ColumnType::Int => row.int(&column.name, at),
                        ColumnType::Float => row.float(&column.name, 1.5),
                        ColumnType::Text => row.text(&column.name, "text"),
                        ColumnType::Bool => row.bool(&column.name, true),
                        ColumnType::Timestamp => row.timestamp(&column.name, 1),
                        ColumnType::Bytes => row.bytes(&column.name, &b"bytes"[..]),
                        ColumnType::IntMap => row.int_map(&column.name, [("a", 1), ("b", at)]),
                        ColumnType::TextMap => row.text_map(&column.name, [("a", "text")]),
                    };
                }
            }
            let batch = rows.finish(&Stamp { ts_micros: 1_000_000, node: "n", host: "h" });
            (table.name.clone(), encode(&batch).unwrap())
        })
        .collect()
}

fn mutate(random: &mut SmallRng, value: &mut Vec<u8>) {
    for _ in 0..random.random_range(1..4) {
        let at = random.random_range(0..value.len().max(1));
        match random.random_range(0..6) {
            0 => value.truncate(at),
            1 if !value.is_empty() => value[at] ^= 1 << random.random_range(0..8),
            2 if !value.is_empty() => value[at] = random.random(),
            // Lengths and offsets are little-endian words: make one of them enormous, or negative.
            3 if value.len() > 8 => {
                let at = (at & !3).min(value.len() - 4);
                let word: u32 = *[u32::MAX, 0x7fff_ffff, 0, 1 << 30].choose(random).unwrap();
                value[at..at + 4].copy_from_slice(&word.to_le_bytes());
            }
            4 => {
                let mut noise = vec![0; random.random_range(1..32)];
                random.fill_bytes(&mut noise);
                value.splice(at.min(value.len())..at.min(value.len()), noise);
            }
            _ => {
                let copy = value.get(at..(at + 64).min(value.len())).unwrap_or_default().to_vec();
                value.extend(copy);
            }
        }
    }
}

type Headers = Vec<(String, Option<Vec<u8>>)>;

fn record(random: &mut SmallRng, right: &[(String, Vec<u8>)], seq: u64) -> (Headers, Option<Vec<u8>>) {
    let (table, value) = right.choose(random).unwrap();
    let mut value = value.clone();
    let table = if random.random_range(0..50) == 0 { "nosuch".to_owned() } else { table.clone() };
    let id = RecordId { agent: "fuzz".into(), boot: 1, seq };
    let envelope = Envelope { table, schema: 1, id, clock_offset_us: None };
    let mut headers: Headers =
        envelope.to_headers().into_iter().map(|(n, v)| (n.to_owned(), Some(v.into_bytes()))).collect();
    match random.random_range(0..10) {
        0 => {
            let at = random.random_range(0..headers.len());
            headers.remove(at);
        }
        1 => {
            let at = random.random_range(0..headers.len());
            let mut noise = vec![0; random.random_range(0..200)];
            random.fill_bytes(&mut noise);
            headers[at].1 = if random.random() { Some(noise) } else { None };
        }
        2 => {
            value = vec![0; random.random_range(0..300)];
            random.fill_bytes(&mut value);
        }
        3 => return (headers, None),
        _ => mutate(random, &mut value),
    }
    (headers, Some(value))
}

#[test]
fn a_million_bad_records_are_each_accounted_for() {
    let seed = std::env::var("NODESCOPE_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("NODESCOPE_TEST_SEED={seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    // Arrow's reader may panic on such bytes; that it is caught, and the record set aside, is what is tested.
    std::panic::set_hook(Box::new(|_| {}));
    let catalogue = Arc::new(Catalogue::built_in());
    let right = right(&catalogue);
    let mut decoder = MessageDecoder::new(catalogue.clone());
    let partition = PartitionId::new("t", 0);
    let mut assembler = Assembler::new(&catalogue, partition, "n".into(), 0, TakenSet::default());
    let mut outcomes: BTreeMap<&'static str, u64> = BTreeMap::new();
    let (mut rows_taken, mut rows_kept, mut quarantined) = (0, 0, 0);
    for offset in 0..RECORDS {
        let (headers, value) = record(&mut random, &right, offset);
        let headers: Vec<(&str, Option<&[u8]>)> = headers.iter().map(|(n, v)| (n.as_str(), v.as_deref())).collect();
        let raw = Raw { key: Some(b"h"), headers: &headers, value: value.as_deref() };
        let outcome = match assembler.take(&mut decoder, offset, raw) {
            Outcome::Taken { rows, .. } => {
                rows_taken += rows as u64;
                "taken"
            }
            Outcome::Duplicate => "duplicate",
            Outcome::Past => panic!("{offset} is no past offset"),
            Outcome::SetAside(reason) => {
                quarantined += 1;
                reason
            }
        };
        *outcomes.entry(outcome).or_default() += 1;
        if (offset + 1) % SEGMENT == 0 {
            let draft = assembler.cut("w", 1).expect("there is something to write");
            assert_eq!(draft.next, offset + 1, "nothing is left behind");
            let (footer, _) = segment::encode(draft).expect("whatever was taken can be written");
            rows_kept += footer.parts.iter().map(|part| part.rows).sum::<u64>();
        }
    }
    let _ = std::panic::take_hook();
    println!("{outcomes:?}");
    assert_eq!(outcomes.values().sum::<u64>(), RECORDS);
    assert!(quarantined > RECORDS / 2, "too few were wrong: {outcomes:?}");
    assert_eq!(rows_kept, rows_taken + quarantined, "every record is a row of its table or of quarantine");
}
