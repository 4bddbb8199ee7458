//! The power goes at any operation of the disk, and no row that was acknowledged depends on luck.
//!
//! The disk forgets whatever was not synced. A life is what a collector does: segments, sealing, notes, merging,
//! deleting; it ends when the power does. The next life recovers, and everything acknowledged must be there, once.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use std::collections::VecDeque;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use nodescope_model::catalogue::Catalogue;
use nodescope_model::identity::RecordId;
use nodescope_model::rows::{Rows, Stamp};
use nodescope_model::seqs::Seqs;
use nodescope_store::cut::Reader;
use nodescope_store::faults::ForgetfulDisk;
use nodescope_store::layout::PartitionId;
use nodescope_store::seal::Sealer;
use nodescope_store::segment::{self, Draft, Footer, Taken};
use nodescope_store::taken::TakenSet;
use nodescope_store::{Store, StoreError, compaction, parquet_file, retention};
use object_store::ObjectStoreExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const AGENT: &str = "a";
const BOOT: u64 = 1;

fn partition() -> PartitionId {
    PartitionId::new("t", 0)
}

/// One row for each offset from `first` to before `next`: the offset is its value.
fn draft(catalogue: &Catalogue, first: u64, next: u64) -> Draft {
    let table = catalogue.get("memory").unwrap();
    let mut rows = Rows::new(table);
    for offset in first..next {
        rows.begin().count("total_bytes", offset);
    }
    let ts_micros = i64::try_from(first).unwrap() * 1_000_000;
    let batch = rows.finish(&Stamp { ts_micros, node: "n", host: "h" });
    Draft {
        partition: partition(),
        first,
        next,
        writer: "w".into(),
        written_us: 1,
        tables: vec![(table.clone(), vec![batch])],
        taken: vec![Taken { agent: AGENT.into(), boot: BOOT, seqs: Seqs::from(vec![(first, next - 1)]) }],
    }
}

/// What a collector does, until the power is gone. `acknowledged` is the offset before which a broker may forget.
async fn live(store: &Store, random: &mut StdRng, acknowledged: &mut u64) -> Result<(), StoreError> {
    let recovered = store.recover(&partition()).await?;
    let mut next = recovered.next.unwrap_or(0);
    let mut taken: TakenSet = recovered.taken;
    let mut noted = recovered.noted;
    let mut segments: VecDeque<Arc<Footer>> = recovered.segments.into_iter().map(Arc::new).collect();
    let mut sealer = Sealer::new(store.clone());
    loop {
        for _ in 0..random.random_range(1..6) {
            let until = next + random.random_range(1..8);
            let (footer, bytes) = segment::encode(draft(store.catalogue(), next, until))?;
            store.put_segment(&footer, bytes).await?;
            *acknowledged = until;
            next = until;
            taken.extend(&footer.taken);
            segments.push_back(Arc::new(footer));
        }
        sealer.seal(segments.make_contiguous()).await?;
        if random.random() {
            store.note_taken(&partition(), next, &taken).await?;
            noted = Some(next);
        }
        // Without readers there is nobody to wait for.
        while let Some(oldest) = segments.front().cloned() {
            if noted.is_none_or(|noted| oldest.next > noted) || !sealer.is_sealed(&oldest).await? {
                break;
            }
            retention::delete(store, &[oldest.path()]).await?;
            segments.pop_front();
        }
        for table in sealer.tables().await? {
            compaction::compact(store, table).await?;
            retention::sweep(store, table, std::time::Duration::ZERO, &mut Default::default()).await?;
        }
    }
}

/// All values there are, sorted.
async fn values(store: &Store) -> Vec<i64> {
    let table = store.catalogue().get("memory").unwrap().clone();
    let reader = Reader::new(store.clone(), 0);
    let cut = reader.cut(&table).await.unwrap();
    let mut batches = Vec::new();
    for file in cut.files.iter() {
        let bytes = store.objects().get(&file.path).await.unwrap().bytes().await.unwrap();
        batches.extend(parquet_file::decode("x", &table, bytes).unwrap());
    }
    for hot in &cut.hot {
        batches.push(reader.read(&table, hot).await.unwrap());
    }
    let mut values: Vec<i64> = batches
        .iter()
        .flat_map(|b| b.column_by_name("total_bytes").unwrap().as_primitive::<Int64Type>().values().to_vec())
        .collect();
    values.sort_unstable();
    values
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_row_depends_on_luck() {
    let seed = std::env::var("NODESCOPE_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("NODESCOPE_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let catalogue = Arc::new(Catalogue::built_in());
    let disk = ForgetfulDisk::default();
    let mut acknowledged = 0;
    for life in 0..100 {
        let store = Store::new(Arc::new(disk.store()), catalogue.clone(), "disk");
        disk.fail_after(random.random_range(0..250));
        let ended = live(&store, &mut random, &mut acknowledged).await;
        assert!(ended.is_err(), "only the power ends a life");
        disk.cut_power();

        let store = Store::new(Arc::new(disk.store()), catalogue.clone(), "disk");
        let recovered = store.recover(&partition()).await.unwrap();
        let next = recovered.next.unwrap_or(0);
        assert!(next >= acknowledged, "life {life}: acknowledged up to {acknowledged}, known up to {next}");
        let expected: Vec<i64> = (0..i64::try_from(next).unwrap()).collect();
        assert_eq!(values(&store).await, expected, "life {life}");
        for seq in 0..next {
            let id = RecordId { agent: AGENT.into(), boot: BOOT, seq };
            assert!(recovered.taken.contains(&id), "life {life}: record {seq} would be taken again");
        }
        // What was written and not acknowledged, and is there all the same, is acknowledged by being recovered.
        acknowledged = next;
    }
    assert!(acknowledged > 100, "the lives were too short to say anything: {acknowledged} rows");
}
