//! How a record lies in a file of the spool: a frame with its length and checksum in front.
//!
//! ```text
//! length u32 | CRC32C u32 | table length u8 | table | schema u32 | boot u64 | seq u64 | rows u32
//!            | flags u8 | clock i64 | tick i64, if flagged | value
//! ```
//!
//! Numbers are little-endian. A file ends where a frame is not whole or its checksum is wrong: what was being written
//! when the machine stopped. Flags say which of the two times are known, and whether the record may be thinned out.

use std::ops::Range;

use nodescope_model::identity::RecordId;
use nodescope_model::record::Envelope;

/// Frames are no longer than this; a longer length is damage.
const MAX_FRAME: usize = 16 << 20;

/// Bytes before a frame's body.
const HEAD: usize = 8;

/// The clock's offset is known.
const CLOCK: u8 = 1;
/// The tick follows.
const TICK: u8 = 2;
/// One of many of its kind: some may go when there is no room for all.
const THINNABLE: u8 = 4;

/// One record as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spooled {
    /// Its headers.
    pub envelope: Envelope,
    /// Its rows.
    pub rows: u32,
    /// The tick its rows were sampled at, microseconds since 1970. `None` for records of an older version.
    pub tick_micros: Option<i64>,
    /// Whether it is a sample that the next one replaces, and not an event.
    pub thinnable: bool,
    /// Its value.
    pub value: Vec<u8>,
}

/// A record as a frame.
pub(super) fn encode(record: &Spooled) -> Vec<u8> {
    let e = &record.envelope;
    let mut frame = Vec::with_capacity(record.value.len() + 96);
    frame.extend_from_slice(&[0; HEAD]);
    let table = &e.table.as_bytes()[..e.table.len().min(255)];
    frame.push(u8::try_from(table.len()).unwrap_or(u8::MAX));
    frame.extend_from_slice(table);
    frame.extend_from_slice(&e.schema.to_le_bytes());
    frame.extend_from_slice(&e.id.boot.to_le_bytes());
    frame.extend_from_slice(&e.id.seq.to_le_bytes());
    frame.extend_from_slice(&record.rows.to_le_bytes());
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    frame.push(
        flag(e.clock_offset_us.is_some(), CLOCK)
            | flag(record.tick_micros.is_some(), TICK)
            | flag(record.thinnable, THINNABLE),
    );
    frame.extend_from_slice(&e.clock_offset_us.unwrap_or(0).to_le_bytes());
    if let Some(tick) = record.tick_micros {
        frame.extend_from_slice(&tick.to_le_bytes());
    }
    frame.extend_from_slice(&record.value);
    let length = u32::try_from(frame.len() - HEAD).unwrap_or(u32::MAX);
    let checksum = crc32c::crc32c(&frame[HEAD..]);
    frame[..4].copy_from_slice(&length.to_le_bytes());
    frame[4..HEAD].copy_from_slice(&checksum.to_le_bytes());
    frame
}

/// Bodies of the whole frames at the beginning of `data`, and where they end.
pub(super) fn frames(data: &[u8]) -> (Vec<Range<usize>>, usize) {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(head) = data.get(at..at + HEAD) {
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let checksum = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        let start = at + HEAD;
        let body = if length <= MAX_FRAME { data.get(start..start + length) } else { None };
        match body {
            Some(body) if crc32c::crc32c(body) == checksum => {
                found.push(start..start + length);
                at = start + length;
            }
            _ => break,
        }
    }
    (found, at)
}

/// Bytes of the frame around a body.
pub(super) fn whole(body: &Range<usize>) -> Range<usize> {
    body.start.saturating_sub(HEAD)..body.end
}

/// What a frame says of its record beside the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Label {
    /// The boot.
    pub(super) boot: u64,
    /// The number in it.
    pub(super) seq: u64,
    /// Rows.
    pub(super) rows: u32,
    /// When its rows were sampled.
    pub(super) tick_micros: Option<i64>,
    /// Whether it may be thinned out.
    pub(super) thinnable: bool,
}

/// The label of the record with that body.
pub(super) fn label(body: &[u8]) -> Option<Label> {
    let parts = Parts::of(body)?;
    Some(Label {
        boot: parts.boot,
        seq: parts.seq,
        rows: parts.rows,
        tick_micros: parts.tick_micros,
        thinnable: parts.flags & THINNABLE != 0,
    })
}

/// The record with that body.
pub(super) fn decode(agent: &str, body: &[u8]) -> Option<Spooled> {
    let parts = Parts::of(body)?;
    Some(Spooled {
        envelope: Envelope {
            table: std::str::from_utf8(parts.table).ok()?.to_owned(),
            schema: parts.schema,
            id: RecordId { agent: agent.to_owned(), boot: parts.boot, seq: parts.seq },
            clock_offset_us: (parts.flags & CLOCK != 0).then_some(parts.clock),
        },
        rows: parts.rows,
        tick_micros: parts.tick_micros,
        thinnable: parts.flags & THINNABLE != 0,
        value: parts.value.to_vec(),
    })
}

struct Parts<'b> {
    table: &'b [u8],
    schema: u32,
    boot: u64,
    seq: u64,
    rows: u32,
    flags: u8,
    clock: i64,
    tick_micros: Option<i64>,
    value: &'b [u8],
}

impl<'b> Parts<'b> {
    fn of(body: &'b [u8]) -> Option<Self> {
        let (length, rest) = body.split_first()?;
        let (table, rest) = rest.split_at_checked(usize::from(*length))?;
        let (schema, rest) = rest.split_first_chunk::<4>()?;
        let (boot, rest) = rest.split_first_chunk::<8>()?;
        let (seq, rest) = rest.split_first_chunk::<8>()?;
        let (rows, rest) = rest.split_first_chunk::<4>()?;
        let (flags, rest) = rest.split_first()?;
        let (clock, mut value) = rest.split_first_chunk::<8>()?;
        let mut tick_micros = None;
        if flags & TICK != 0 {
            let (tick, rest) = value.split_first_chunk::<8>()?;
            (tick_micros, value) = (Some(i64::from_le_bytes(*tick)), rest);
        }
        Some(Self {
            table,
            schema: u32::from_le_bytes(*schema),
            boot: u64::from_le_bytes(*boot),
            seq: u64::from_le_bytes(*seq),
            rows: u32::from_le_bytes(*rows),
            flags: *flags,
            clock: i64::from_le_bytes(*clock),
            tick_micros,
            value,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(table: &str, clock: Option<i64>, tick: Option<i64>, thinnable: bool, value: Vec<u8>) -> Spooled {
        Spooled {
            envelope: Envelope {
                table: table.to_owned(),
                schema: 3,
                id: RecordId { agent: "a".into(), boot: 7, seq: u64::MAX - 1 },
                clock_offset_us: clock,
            },
            rows: 12,
            tick_micros: tick,
            thinnable,
            value,
        }
    }

    #[test]
    fn a_record_of_the_first_version_is_still_read() {
        let mut frame = encode(&record("cpu", Some(-5), None, false, b"value".to_vec()));
        // It had 1 or 0 where the flags are now, and no tick.
        assert_eq!(frame[HEAD + 1 + 3 + 4 + 8 + 8 + 4], 1);
        let (found, end) = frames(&frame);
        assert_eq!(end, frame.len());
        assert_eq!(decode("a", &frame[found[0].clone()]).unwrap().value, b"value");
        // Damage is found wherever it is.
        for at in 0..frame.len() {
            frame[at] ^= 0x10;
            assert!(frames(&frame).0.is_empty(), "byte {at}");
            frame[at] ^= 0x10;
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            table in "[a-z_]{1,40}", clock in any::<Option<i64>>(), tick in any::<Option<i64>>(), thinnable in any::<bool>(),
            value in prop::collection::vec(any::<u8>(), 0..300)
        ) {
            let record = record(&table, clock, tick, thinnable, value);
            let data = encode(&record).repeat(3);
            let (found, end) = frames(&data);
            prop_assert_eq!((found.len(), end), (3, data.len()));
            prop_assert_eq!(decode("a", &data[found[1].clone()]).unwrap(), record.clone());
            let label = label(&data[found[2].clone()]).unwrap();
            prop_assert_eq!((label.tick_micros, label.thinnable, label.rows), (tick, thinnable, 12));
            prop_assert_eq!(whole(&found[0]), 0..data.len() / 3);
        }

        #[test]
        fn random_bytes_are_no_frames(data in prop::collection::vec(any::<u8>(), 0..300)) {
            let (found, end) = frames(&data);
            prop_assert!(end <= data.len());
            for range in found {
                let _ = decode("a", &data[range]);
            }
            let _ = (decode("a", &data), label(&data));
        }
    }
}
