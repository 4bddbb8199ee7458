//! The spool against a disk that loses power, fills up and refuses, at random.
//!
//! The model keeps for every file what is durable and what is only written. A crash keeps of what was not durable as
//! much as it likes: a file's end is cut anywhere or torn, names come and go, removed files come back. A kill keeps
//! everything that was written. After any of them, and whatever the disk refused, every record that the spool was
//! obliged to keep is offered or declared lost, and none is offered that was never appended.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use proptest::prelude::*;

use super::*;
use nodescope_model::identity::RecordId;
use nodescope_model::record::Envelope;

#[derive(Debug, Clone, Default)]
struct File {
    bytes: Vec<u8>,
    durable: usize,
    named: bool,
}

/// What outlives the spool that uses it.
#[derive(Debug, Default)]
struct Medium {
    files: BTreeMap<u64, File>,
    /// Removed, and may be back after a crash.
    removed: BTreeMap<u64, File>,
    note: Vec<u8>,
    /// Bytes it can hold.
    capacity: usize,
    /// Every so many operations are refused; 0 for none.
    refuse_every: u32,
    operations: u32,
    random: u64,
}

impl Medium {
    fn chance(&mut self, below: u64) -> u64 {
        // A small generator: the choices follow from the test's seed alone.
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % below.max(1)
    }

    fn room(&self) -> usize {
        self.capacity.saturating_sub(self.files.values().map(|f| f.bytes.len()).sum::<usize>() + self.note.len())
    }

    fn may(&mut self) -> io::Result<()> {
        self.operations += 1;
        if self.refuse_every > 0 && self.operations.is_multiple_of(self.refuse_every) {
            return Err(io::Error::other("the model refuses"));
        }
        Ok(())
    }

    fn crash(&mut self) {
        for number in self.files.keys().copied().collect::<Vec<_>>() {
            let Some(mut file) = self.files.remove(&number) else { continue };
            if !file.named && self.chance(2) == 0 {
                continue;
            }
            let written = file.bytes.len() - file.durable;
            let keeps = file.durable + usize::try_from(self.chance(written as u64 + 1)).unwrap();
            file.bytes.truncate(keeps);
            if keeps > file.durable && self.chance(3) == 0 {
                let at = file.durable + usize::try_from(self.chance((keeps - file.durable) as u64)).unwrap();
                file.bytes[at] ^= 0x40;
            }
            (file.durable, file.named) = (file.bytes.len(), true);
            self.files.insert(number, file);
        }
        for (number, file) in std::mem::take(&mut self.removed) {
            if self.chance(2) == 0 {
                self.files.insert(number, file);
            }
        }
    }
}

#[derive(Debug, Clone)]
struct Model(Rc<RefCell<Medium>>);

impl Disk for Model {
    fn list(&mut self) -> io::Result<Vec<u64>> {
        Ok(self.0.borrow().files.keys().copied().rev().collect())
    }

    fn read(&mut self, file: u64) -> io::Result<Vec<u8>> {
        self.0.borrow().files.get(&file).map(|f| f.bytes.clone()).ok_or(io::ErrorKind::NotFound.into())
    }

    fn written(&mut self, _: u64) -> SystemTime {
        SystemTime::now()
    }

    fn create(&mut self, file: u64) -> io::Result<()> {
        let mut medium = self.0.borrow_mut();
        medium.may()?;
        assert!(medium.files.insert(file, File::default()).is_none(), "the file is there already");
        medium.removed.remove(&file);
        Ok(())
    }

    fn append(&mut self, file: u64, bytes: &[u8]) -> io::Result<()> {
        let mut medium = self.0.borrow_mut();
        let room = medium.room();
        let refused = medium.may().err();
        let part = if refused.is_some() { bytes.len() / 2 } else { bytes.len().min(room) };
        let file = medium.files.get_mut(&file).ok_or(io::ErrorKind::NotFound)?;
        file.bytes.extend_from_slice(&bytes[..part]);
        match refused {
            Some(error) => Err(error),
            None if part < bytes.len() => Err(io::ErrorKind::StorageFull.into()),
            None => Ok(()),
        }
    }

    fn cut(&mut self, file: u64, length: u64) -> io::Result<()> {
        let mut medium = self.0.borrow_mut();
        medium.may()?;
        let file = medium.files.get_mut(&file).ok_or(io::ErrorKind::NotFound)?;
        file.bytes.truncate(usize::try_from(length).unwrap());
        file.durable = file.durable.min(file.bytes.len());
        Ok(())
    }

    fn sync(&mut self, file: u64) -> io::Result<()> {
        let mut medium = self.0.borrow_mut();
        medium.may()?;
        if let Some(file) = medium.files.get_mut(&file) {
            (file.durable, file.named) = (file.bytes.len(), true);
        }
        Ok(())
    }

    fn close(&mut self, _: u64) {}

    fn replace(&mut self, file: u64, bytes: &[u8]) -> io::Result<()> {
        let mut medium = self.0.borrow_mut();
        medium.may()?;
        if medium.room() < bytes.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        medium.files.insert(file, File { bytes: bytes.to_vec(), durable: bytes.len(), named: true });
        Ok(())
    }

    fn remove(&mut self, file: u64) -> io::Result<()> {
        let mut medium = self.0.borrow_mut();
        medium.may()?;
        let gone = medium.files.remove(&file).ok_or(io::ErrorKind::NotFound)?;
        if gone.named {
            medium.removed.insert(file, gone);
        }
        Ok(())
    }

    fn note(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut medium = self.0.borrow_mut();
        // Its promise is hard and its size small: the model lets it through.
        medium.note = bytes.to_vec();
        Ok(())
    }

    fn read_note(&mut self) -> io::Result<Vec<u8>> {
        Ok(self.0.borrow().note.clone())
    }
}

fn record(seq: u64, size: usize) -> Spooled {
    Spooled {
        envelope: Envelope {
            table: "cpu".into(),
            schema: 1,
            id: RecordId { agent: "a".into(), boot: 1, seq },
            clock_offset_us: None,
        },
        rows: 1,
        tick_micros: Some(i64::try_from(seq).unwrap() * 1_000_000),
        thinnable: !seq.is_multiple_of(5),
        value: vec![u8::try_from(seq % 251).unwrap(); size],
    }
}

const SIZE: usize = 9_000;

/// What can happen.
#[derive(Debug, Clone, Copy)]
enum Step {
    Append,
    Sync,
    SendNew,
    SendOld,
    Acknowledge,
    Return,
    Declare,
    Kill,
    Crash,
    /// The disk begins to refuse one operation in so many, or stops to.
    Refuse(u32),
    /// What the disk can hold changes, in records.
    Capacity(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        40 => Just(Step::Append),
        10 => Just(Step::Sync),
        8 => Just(Step::SendNew),
        8 => Just(Step::SendOld),
        8 => Just(Step::Acknowledge),
        4 => Just(Step::Return),
        4 => Just(Step::Declare),
        1 => Just(Step::Kill),
        1 => Just(Step::Crash),
        1 => prop_oneof![Just(0u32), 2u32..9].prop_map(Step::Refuse),
        1 => (20usize..600).prop_map(Step::Capacity),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_durable_is_lost_in_silence(steps in prop::collection::vec(step(), 1..900), random in any::<u64>()) {
        // Room for a few files: thinning and dropping happen all the time.
        let limits = SpoolLimits { bytes: 3 * FILE_BYTES, age: Duration::from_secs(3_600), queue_bytes: 30 * SIZE };
        let medium = Rc::new(RefCell::new(Medium { capacity: usize::MAX, random, ..Medium::default() }));
        let begin = || Spool::on(Model(medium.clone()), "a", limits).unwrap();
        let mut spool = begin();
        let mut seq = 0u64;
        // Records the spool has, those of them that must survive a power cut, those somebody else has.
        let (mut appended, mut durable) = (BTreeSet::new(), BTreeSet::new());
        let (mut done, mut declared) = (BTreeSet::new(), BTreeSet::new());
        let mut sent: Vec<(Option<Place>, Arc<Spooled>)> = Vec::new();
        for step in steps {
            match step {
                Step::Append => {
                    spool.append(record(seq, SIZE));
                    appended.insert(seq);
                    seq += 1;
                }
                Step::Sync => if spool.sync().is_ok() && !spool.has_memory_only() {
                    durable = appended.clone();
                    // What the disk refused and somebody else has now is on no disk.
                    for (_, record) in sent.iter().filter(|(place, _)| place.is_none()) {
                        durable.remove(&record.envelope.id.seq);
                    }
                },
                Step::SendNew => sent.extend(spool.next_new()),
                Step::SendOld => sent.extend(spool.next_old()),
                Step::Acknowledge => if !sent.is_empty() {
                    let (place, record) = sent.remove(0);
                    done.insert(record.envelope.id.seq);
                    if let Some(place) = place {
                        spool.acknowledged(place);
                    }
                },
                Step::Return => if let Some((place, record)) = sent.pop() {
                    spool.returned(place, &record);
                },
                Step::Declare => {
                    declared.extend(spool.take_lost().iter().flat_map(|l| l.first..=l.last));
                    spool.declared();
                }
                Step::Refuse(every) => medium.borrow_mut().refuse_every = every,
                Step::Capacity(records) => medium.borrow_mut().capacity = records * SIZE,
                Step::Kill | Step::Crash => {
                    let kept = if matches!(step, Step::Crash) { durable.clone() } else { written(&medium) };
                    let refuses = std::mem::take(&mut medium.borrow_mut().refuse_every);
                    if matches!(step, Step::Crash) {
                        medium.borrow_mut().crash();
                    }
                    spool = begin();
                    sent.clear();
                    // What was in memory alone is gone with it, and so is what was not durable.
                    appended = appended.intersection(&kept).copied().collect();
                    durable = appended.clone();
                    medium.borrow_mut().refuse_every = refuses;
                }
            }
        }
        medium.borrow_mut().refuse_every = 0;
        medium.borrow_mut().capacity = usize::MAX;
        for (place, record) in sent.drain(..) {
            spool.returned(place, &record);
        }
        let mut offered = BTreeSet::new();
        while let Some((place, found)) = spool.next_new().or_else(|| spool.next_old()) {
            let number = found.envelope.id.seq;
            prop_assert_eq!(&*found, &record(number, SIZE));
            prop_assert!(number < seq);
            offered.insert(number);
            if let Some(place) = place {
                spool.acknowledged(place);
            }
        }
        declared.extend(spool.take_lost().iter().flat_map(|l| l.first..=l.last));
        let silent: Vec<u64> = appended
            .iter()
            .filter(|seq| !offered.contains(seq) && !declared.contains(seq) && !done.contains(seq))
            .copied()
            .collect();
        prop_assert!(silent.is_empty(), "neither offered nor declared: {silent:?}");
        prop_assert_eq!(spool.facts().records, 0);
    }
}

/// Records that are in a file now.
fn written(medium: &RefCell<Medium>) -> BTreeSet<u64> {
    let medium = medium.borrow();
    let labels = medium.files.values().flat_map(|file| {
        let (found, _) = frames(&file.bytes);
        found.into_iter().filter_map(|range| label(&file.bytes[range]).map(|label| label.seq)).collect::<Vec<_>>()
    });
    labels.collect()
}
