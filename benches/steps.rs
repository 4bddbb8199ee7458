//! The steps of a row's way, one by one: encode, decode, write a segment, seal.
//!
//! Beside each stands what the step could cost at best: a copy of the same bytes, or the sort alone. `nodescope bench`
//! measures the whole way.

use std::hint::black_box;
use std::sync::Arc;

use arrow_array::RecordBatch;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use nodescope_model::catalogue::{Catalogue, ColumnType, Table};
use nodescope_model::record::{Decoder, encode};
use nodescope_model::rows::{Rows, Stamp};
use nodescope_store::layout::PartitionId;
use nodescope_store::parquet_file;
use nodescope_store::segment::{self, Draft};

/// Ten rows of `cpu`, as a host with nine CPUs has them, of one of many hosts.
fn cpu_rows(catalogue: &Catalogue, number: i64) -> (Arc<Table>, RecordBatch) {
    let table = catalogue.get("cpu").expect("built in").clone();
    let mut rows = Rows::new(&table);
    for cpu in 0..10 {
        let mut row = rows.begin();
        for (at, column) in table.columns.iter().enumerate() {
            let value = number * 37 + cpu * 11 + i64::try_from(at).unwrap_or(0);
            match column.column_type {
                ColumnType::Text => row.text(&column.name, cpu.to_string().as_str()),
                ColumnType::Int => row.int(&column.name, value),
                #[allow(clippy::cast_precision_loss)]
                ColumnType::Float => row.float(&column.name, value as f64 / 100.0),
                _ => continue,
            };
        }
    }
    let host = format!("host-{:04}", number % 500);
    let batch = rows.finish(&Stamp { ts_micros: number / 500 * 1_000_000, node: "n", host: &host });
    (table, batch)
}

fn draft(batches: &[(Arc<Table>, RecordBatch)]) -> Draft {
    let table = batches[0].0.clone();
    Draft {
        partition: PartitionId::new("t", 0),
        first: 0,
        next: batches.len() as u64,
        writer: "w".into(),
        written_us: 1,
        tables: vec![(table, batches.iter().map(|(_, batch)| batch.clone()).collect())],
        taken: Vec::new(),
    }
}

fn steps(criterion: &mut Criterion) {
    let catalogue = Catalogue::built_in();
    let (table, batch) = cpu_rows(&catalogue, 1);
    let values = (batch.num_rows() * (batch.num_columns() - 3)) as u64;
    let value = encode(&batch).expect("it can be encoded");

    let mut group = criterion.benchmark_group("record");
    group.throughput(Throughput::Elements(values));
    group.bench_function("encode", |b| b.iter(|| encode(black_box(&batch)).expect("it can be encoded")));
    group.bench_function("decode", |b| {
        let mut decoder = Decoder::default();
        b.iter_batched(
            || arrow_buffer::Buffer::from(value.as_slice()),
            |bytes| decoder.decode(&bytes).expect("it can be decoded"),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("copy of the bytes", |b| b.iter(|| black_box(&value).clone()));
    group.finish();

    let batches: Vec<_> = (0..4_000).map(|n| cpu_rows(&catalogue, n)).collect();
    let plain: Vec<RecordBatch> = batches.iter().map(|(_, batch)| batch.clone()).collect();
    let mut group = criterion.benchmark_group("segment of 4,000 records");
    group.sample_size(20).throughput(Throughput::Elements(values * 4_000));
    group.bench_function("write", |b| {
        b.iter_batched(|| draft(&batches), |d| segment::encode(d).expect("a segment"), BatchSize::LargeInput);
    });
    group.bench_function("sort", |b| b.iter(|| parquet_file::sort(&table, black_box(&plain)).expect("sorted")));
    group.bench_function("seal: sort and write Parquet", |b| {
        b.iter(|| {
            let sorted = parquet_file::sort(&table, black_box(&plain)).expect("sorted");
            parquet_file::encode(&table, &sorted).expect("a file")
        });
    });
    group.finish();
}

criterion_group!(benches, steps);
criterion_main!(benches);
