//! The spool on a real folder.

use std::collections::BTreeSet;

use proptest::prelude::*;

use nodescope_model::identity::RecordId;
use nodescope_model::record::Envelope;

use super::*;

const LIMITS: SpoolLimits = SpoolLimits { bytes: 1 << 20, age: Duration::from_secs(3_600), queue_bytes: 1_000 };

fn record(seq: u64, size: usize) -> Spooled {
    Spooled {
        envelope: Envelope {
            table: "cpu".into(),
            schema: 1,
            id: RecordId { agent: "a".into(), boot: 1, seq },
            clock_offset_us: seq.is_multiple_of(2).then_some(-5),
        },
        rows: 1,
        tick_micros: None,
        thinnable: false,
        value: vec![u8::try_from(seq % 251).unwrap(); size],
    }
}

fn seqs(spool: &mut Spool) -> Vec<u64> {
    let mut found = Vec::new();
    while let Some((_, record)) = spool.next_new().or_else(|| spool.next_old()) {
        assert_eq!(*record, self::record(record.envelope.id.seq, record.value.len()));
        found.push(record.envelope.id.seq);
    }
    found
}

#[test]
fn new_records_come_first_and_the_rest_follows() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(folder.path(), "a", LIMITS).unwrap();
    (0..10).for_each(|seq| spool.append(record(seq, 300)));
    // Three records of 300 bytes fit in the queue.
    assert_eq!(seqs(&mut spool), [7, 8, 9, 0, 1, 2, 3, 4, 5, 6]);
}

#[test]
fn what_was_not_acknowledged_is_offered_again_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(folder.path(), "a", LIMITS).unwrap();
    (0..10).for_each(|seq| spool.append(record(seq, 50)));
    spool.next_new();
    drop(spool);
    let mut spool = Spool::open(folder.path(), "a", LIMITS).unwrap();
    assert_eq!(spool.facts().records, 10);
    assert_eq!(seqs(&mut spool), (0..10).collect::<Vec<_>>());
}

#[test]
fn a_file_goes_when_all_its_records_are_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(folder.path(), "a", SpoolLimits { bytes: 1 << 30, ..LIMITS }).unwrap();
    let count = 3 * FILE_BYTES / 100_000;
    (0..count).for_each(|seq| spool.append(record(seq, 100_000)));
    while let Some((place, _)) = spool.next_new().or_else(|| spool.next_old()) {
        spool.acknowledged(place.unwrap());
    }
    assert_eq!(spool.facts().records, 0);
    assert!(spool.disk.list().unwrap().is_empty());
}

#[test]
fn a_returned_record_is_offered_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(folder.path(), "a", LIMITS).unwrap();
    (0..3).for_each(|seq| spool.append(record(seq, 50)));
    let (place, first) = spool.next_new().unwrap();
    assert_eq!(seqs(&mut spool), [1, 2]);
    spool.returned(place, &first);
    assert_eq!(seqs(&mut spool), [0]);
}

#[test]
fn a_full_spool_loses_the_oldest_and_says_which() {
    let folder = tempfile::tempdir().unwrap();
    let limits = SpoolLimits { bytes: 3 * FILE_BYTES, ..LIMITS };
    let mut spool = Spool::open(folder.path(), "a", limits).unwrap();
    let count = 5 * FILE_BYTES / 100_000;
    (0..count).for_each(|seq| spool.append(record(seq, 100_000)));
    assert!(spool.facts().bytes <= limits.bytes);
    let lost: BTreeSet<u64> = spool.take_lost().iter().flat_map(|l| l.first..=l.last).collect();
    let kept: BTreeSet<u64> = seqs(&mut spool).into_iter().collect();
    assert!(lost.is_disjoint(&kept) && !lost.is_empty());
    assert_eq!(lost.union(&kept).copied().collect::<Vec<_>>(), (0..count).collect::<Vec<_>>());
    assert!(spool.take_lost().is_empty());
}

#[test]
fn a_disk_that_refuses_leaves_memory() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(folder.path().join("spool"), "a", LIMITS).unwrap();
    std::fs::remove_dir_all(folder.path()).unwrap();
    (0..10).for_each(|seq| spool.append(record(seq, 300)));
    assert_eq!(spool.facts().refused, 10);
    assert_eq!(seqs(&mut spool), [7, 8, 9]);
    let lost = spool.take_lost();
    assert_eq!((lost.len(), lost[0].first, lost[0].last, lost[0].reason), (1, 0, 6, "disk"));
}

#[test]
fn what_a_damaged_file_held_is_declared_lost() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(folder.path(), "a", LIMITS).unwrap();
    for seq in 0..10 {
        spool.append(record(seq, 100));
    }
    let first = spool.last_file;
    spool.close();
    spool.append(record(10, 100));
    let path = spool.disk.path_of(first);
    drop(spool);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let mut spool = Spool::open(folder.path(), "a", LIMITS).unwrap();
    let lost = spool.take_lost();
    let [stretch] = lost.as_slice() else { panic!("{lost:?}") };
    assert_eq!((stretch.last, stretch.rows, stretch.reason), (9, None, "damaged"));
    let mut offered = seqs(&mut spool);
    offered.sort_unstable();
    let whole: Vec<u64> = (0..stretch.first).chain([10]).collect();
    assert_eq!(offered, whole);
}

#[test]
fn a_file_that_is_damaged_from_its_beginning_is_declared_lost_as_a_whole() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(folder.path(), "a", LIMITS).unwrap();
    for seq in 0..6 {
        spool.append(record(seq, 100));
        if seq % 2 == 1 {
            spool.close();
        }
    }
    let path = spool.disk.path_of(2);
    drop(spool);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    std::fs::write(folder.path().join("00000000000000000009.new"), "half").unwrap();
    let mut spool = Spool::open(folder.path(), "a", LIMITS).unwrap();
    let wanted = LostStretch { boot: 1, first: 2, last: 3, rows: None, reason: "damaged" };
    assert_eq!(spool.take_lost(), [wanted]);
    assert_eq!(seqs(&mut spool), [0, 1, 4, 5]);
    assert!(!folder.path().join("00000000000000000009.new").exists());
}

#[test]
fn a_file_that_cannot_be_read_now_holds_up_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(folder.path(), "a", LIMITS).unwrap();
    for seq in 0..2 {
        spool.append(record(seq, 100));
        spool.close();
    }
    while let Some((place, record)) = spool.next_new() {
        spool.returned(place, &record);
    }
    // A folder in its place is an error that may pass.
    let path = spool.disk.path_of(1);
    let aside = folder.path().join("aside");
    std::fs::rename(&path, &aside).unwrap();
    std::fs::create_dir(&path).unwrap();
    spool.append(record(2, 100));
    assert_eq!(seqs(&mut spool), [2, 1]);
    assert_eq!(spool.facts().records, 3);
    assert!(spool.take_lost().is_empty());
    std::fs::remove_dir(&path).unwrap();
    std::fs::rename(&aside, &path).unwrap();
    assert!(seqs(&mut spool).is_empty(), "not at once");
    for kept in spool.files.values_mut() {
        kept.read_again = None;
    }
    assert_eq!(seqs(&mut spool), [0]);
}

#[test]
fn what_comes_back_after_its_file_was_given_up_is_not_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let limits = SpoolLimits { bytes: 4_000, ..LIMITS };
    let mut spool = Spool::open(folder.path(), "a", limits).unwrap();
    spool.append(record(0, 500));
    let (place, sent) = spool.next_new().unwrap();
    // Each start begins another file, so the first one is the oldest and goes.
    for seq in 1..10 {
        spool.close();
        spool.append(record(seq, 900));
    }
    assert!(!spool.files.contains_key(&place.unwrap().file), "the spool is full");
    spool.returned(place, &sent);
    let offered = seqs(&mut spool);
    let lost: BTreeSet<u64> = spool.take_lost().iter().flat_map(|l| l.first..=l.last).collect();
    for seq in 0..10 {
        assert!(offered.contains(&seq) || lost.contains(&seq), "{seq} is neither offered nor declared lost");
    }
}

/// A sample of that second; every seventh is an event.
fn sample(seq: u64, size: usize) -> Spooled {
    let second = i64::try_from(1_700_000_000 + seq).unwrap();
    Spooled { tick_micros: Some(second * 1_000_000), thinnable: !seq.is_multiple_of(7), ..record(seq, size) }
}

fn seqs_of(lost: &[LostStretch]) -> BTreeSet<u64> {
    lost.iter().flat_map(|l| l.first..=l.last).collect()
}

#[test]
fn a_full_spool_is_thinned_before_anything_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let limits = SpoolLimits { bytes: 3 * FILE_BYTES, ..LIMITS };
    let mut spool = Spool::open(folder.path(), "a", limits).unwrap();
    let count = 6 * FILE_BYTES / 20_000;
    (0..count).for_each(|seq| spool.append(sample(seq, 20_000)));
    let lost = spool.take_lost();
    assert!(lost.iter().all(|l| l.reason == "thinned"), "{lost:?}");
    let lost = seqs_of(&lost);
    // Events stay, and samples of whole ten seconds.
    assert!(lost.iter().all(|seq| seq % 7 != 0 && seq % 10 != 0), "{lost:?}");
    assert!(lost.len() > 100 && lost.contains(&1));
    // The newest are whole.
    assert!((count - FILE_BYTES / 20_000..count).all(|seq| !lost.contains(&seq)));
    let mut found = BTreeSet::new();
    while let Some((place, record)) = spool.next_new().or_else(|| spool.next_old()) {
        assert_eq!(*record, sample(record.envelope.id.seq, 20_000));
        found.insert(record.envelope.id.seq);
        spool.acknowledged(place.unwrap());
    }
    assert_eq!(found, (0..count).filter(|seq| !lost.contains(seq)).collect());
    assert_eq!(spool.facts(), SpoolFacts { bytes: spool.facts().bytes, ..SpoolFacts::default() });
}

#[test]
fn a_spool_without_end_keeps_whole_minutes_and_drops_the_oldest() {
    let folder = tempfile::tempdir().unwrap();
    let limits = SpoolLimits { bytes: 3 * FILE_BYTES, ..LIMITS };
    let mut spool = Spool::open(folder.path(), "a", limits).unwrap();
    let count = 200 * FILE_BYTES / 50_000;
    let mut lost = Vec::new();
    for seq in 0..count {
        spool.append(sample(seq, 50_000));
        lost.extend(spool.take_lost());
        spool.declared();
        assert!(spool.facts().bytes <= limits.bytes + FILE_BYTES);
    }
    assert!(lost.iter().any(|l| l.reason == "full"), "there is an end to thinning");
    let lost = seqs_of(&lost);
    let offered: BTreeSet<u64> = std::iter::from_fn(|| spool.next_new().or_else(|| spool.next_old()))
        .map(|(_, record)| record.envelope.id.seq)
        .collect();
    assert_eq!(offered, (0..count).filter(|seq| !lost.contains(seq)).collect());
}

#[test]
fn memory_is_thinned_while_the_disk_refuses_and_written_down_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool");
    let limits = SpoolLimits { queue_bytes: 20_000, ..LIMITS };
    let mut spool = Spool::open(&path, "a", limits).unwrap();
    std::fs::remove_dir_all(&path).unwrap();
    (0..100).for_each(|seq| spool.append(sample(seq, 400)));
    let lost = spool.take_lost();
    assert!(lost.iter().all(|l| l.reason == "thinned"), "{lost:?}");
    let lost = seqs_of(&lost);
    assert!(spool.has_memory_only() && !lost.is_empty() && !lost.contains(&70) && !lost.contains(&49));
    std::fs::create_dir_all(&path).unwrap();
    spool.append(sample(100, 400));
    assert!(!spool.has_memory_only());
    drop(spool);
    let mut spool = Spool::open(&path, "a", limits).unwrap();
    let offered: BTreeSet<u64> =
        std::iter::from_fn(|| spool.next_old()).map(|(_, record)| record.envelope.id.seq).collect();
    assert_eq!(offered, (0..=100).filter(|seq| !lost.contains(seq)).collect());
}

#[test]
fn what_was_lost_is_noted_until_it_is_declared() {
    let folder = tempfile::tempdir().unwrap();
    let limits = SpoolLimits { bytes: 2 * FILE_BYTES, ..LIMITS };
    let mut spool = Spool::open(folder.path(), "a", limits).unwrap();
    (0..4 * FILE_BYTES / 100_000).for_each(|seq| spool.append(record(seq, 100_000)));
    let lost = spool.take_lost();
    assert!(!lost.is_empty());
    // Nobody has written them elsewhere when the process dies.
    drop(spool);
    let mut spool = Spool::open(folder.path(), "a", limits).unwrap();
    assert_eq!(seqs_of(&spool.take_lost()), seqs_of(&lost));
    spool.declared();
    drop(spool);
    assert!(Spool::open(folder.path(), "a", limits).unwrap().take_lost().is_empty());
}

#[test]
fn a_note_is_read_line_by_line() {
    let text = "1 2 3 4 full\n1 9 9 - damaged\nrubbish\n1 3 2 4 full\n1 2 3 4 unknown\n-1 2 3 4 full\n";
    let stretch = |first, last, rows, reason| LostStretch { boot: 1, first, last, rows, reason };
    assert_eq!(parse_note(text), [stretch(2, 3, Some(4), "full"), stretch(9, 9, None, "damaged")]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_torn_or_changed_file_keeps_what_is_before(
        cut in any::<prop::sample::Index>(), change in prop::option::of(any::<prop::sample::Index>())
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(folder.path(), "a", LIMITS).unwrap();
        (0..10).for_each(|seq| spool.append(record(seq, 50)));
        drop(spool);
        let path = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        let mut data = std::fs::read(&path).unwrap();
        let frame = data.len() / 10;
        let good = match change {
            Some(at) => { let at = at.index(data.len()); data[at] ^= 0x55; at / frame }
            None => { let at = cut.index(data.len()); data.truncate(at); at / frame }
        };
        std::fs::write(&path, &data).unwrap();
        let mut spool = Spool::open(folder.path(), "a", LIMITS).unwrap();
        let expected: Vec<u64> = (0..good as u64).collect();
        prop_assert_eq!(seqs(&mut spool), expected);
        // And it goes on working.
        spool.append(record(77, 50));
        prop_assert_eq!(seqs(&mut spool), [77]);
    }

    #[test]
    fn nothing_is_lost_or_forgotten_through_restarts(ops in prop::collection::vec(0u8..6, 1..120)) {
        let folder = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(folder.path(), "a", LIMITS).unwrap();
        let (mut seq, mut owed) = (0, BTreeSet::new());
        let mut sent: Vec<(Option<Place>, Arc<Spooled>)> = Vec::new();
        for op in ops {
            match op {
                0 | 1 => { spool.append(record(seq, 200)); owed.insert(seq); seq += 1; }
                2 => sent.extend(spool.next_new()),
                3 => sent.extend(spool.next_old()),
                4 => if let Some((place, record)) = sent.pop() {
                    spool.acknowledged(place.unwrap());
                    owed.remove(&record.envelope.id.seq);
                },
                _ => if seq % 3 == 0 {
                    spool = Spool::open(folder.path(), "a", LIMITS).unwrap();
                    sent.clear();
                } else if let Some((place, record)) = sent.pop() {
                    spool.returned(place, &record);
                },
            }
        }
        drop(spool);
        let mut spool = Spool::open(folder.path(), "a", LIMITS).unwrap();
        let offered: BTreeSet<u64> = seqs(&mut spool).into_iter().collect();
        prop_assert!(offered.is_superset(&owed), "owed {:?}, offered {:?}", owed, offered);
    }
}
