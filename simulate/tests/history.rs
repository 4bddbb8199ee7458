//! History in a store: sealed files in order, each row once, and no second history.

use std::sync::Arc;

use nodescope_model::catalogue::Catalogue;
use nodescope_simulate::history::{self, HistoryOptions};
use nodescope_simulate::kept::Kept;
use nodescope_simulate::world::{DAY, HOUR, Options};
use nodescope_simulate::{Fleet, SimulateError};
use nodescope_store::sealed::SealedTable;
use nodescope_store::{Store, parquet_file};
use object_store::ObjectStoreExt;

const NOW: i64 = 1_790_000_000 / 60 * 60;

#[tokio::test]
async fn history_is_sealed_in_order_and_once() {
    let fleet = Fleet::new(Options { horizon: NOW + DAY, failures: 10.0, ..Options::around(9, 8, 2, NOW, 2) });
    let objects: Arc<dyn object_store::ObjectStore> = Arc::new(object_store::memory::InMemory::new());
    let store = Store::new(objects, Arc::new(Catalogue::built_in()), "test");
    assert_eq!(Kept::read(&store).await.unwrap(), None);
    let options = HistoryOptions { raw: 120, ..HistoryOptions::until(NOW) };
    let mut reports = 0;
    let done = history::write(&fleet, &store, &options, |_| reports += 1).await.unwrap();
    assert!(done.done == done.all && reports > done.all, "{done:?}");

    let (mut rows, mut tables) = (0, 0);
    for table in store.catalogue().tables() {
        let Some(sealed) = SealedTable::open(&store, table).await.unwrap() else { continue };
        tables += 1;
        for file in sealed.files() {
            rows += file.facts.num_records;
            let bytes = store.objects().get(&file.path).await.unwrap().bytes().await.unwrap();
            let batches = parquet_file::decode(file.path.as_ref(), table, bytes).unwrap();
            let sorted = parquet_file::sort(table, &batches).unwrap();
            let there = arrow_select::concat::concat_batches(table.schema(), &batches).unwrap();
            assert_eq!(sorted, there, "{} is not in order", table.name);
            let (from, to) = file.facts.ts_range().unwrap();
            assert!(from >= fleet.world.options.start * 1_000_000 && to < (NOW + 1) * 1_000_000, "{}", table.name);
        }
    }
    assert_eq!(rows, done.rows);
    assert!(tables > 45, "{tables} tables");
    let hours = SealedTable::open(&store, store.catalogue().get("availability_1h").unwrap()).await.unwrap().unwrap();
    let wanted = 8 * ((NOW / HOUR * HOUR - fleet.world.options.start) / HOUR) as u64;
    assert_eq!(hours.files().iter().map(|f| f.facts.num_records).sum::<u64>(), wanted);

    let kept = Kept::read(&store).await.unwrap().unwrap();
    assert_eq!((kept.options, kept.until, kept.raw), (fleet.world.options.clone(), NOW, 120));
    assert!(!kept.has_overlays);
    let again = history::write(&fleet, &store, &options, |_| {}).await;
    assert!(matches!(again, Err(SimulateError::There(_))), "{again:?}");
}
