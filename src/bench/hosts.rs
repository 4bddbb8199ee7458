//! Hosts that are simulated: rows as a busy server with eight CPUs has them, in the catalogue's own tables.
//!
//! Counters grow by a random step and gauges walk about, so that what compresses well on a real host does so here.

use std::sync::Arc;

use arrow_array::RecordBatch;
use nodescope_model::catalogue::{Catalogue, ColumnType, Kind, Table};
use nodescope_model::rows::{Rows, Stamp};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// Tables sampled every second, and how many rows each has.
const TABLES: [(&str, usize); 7] =
    [("cpu", 9), ("memory", 1), ("system", 1), ("disk", 4), ("filesystem", 4), ("interface", 4), ("protocol", 1)];

/// One simulated host.
pub(super) struct SimulatedHost {
    pub(super) name: String,
    random: SmallRng,
    tables: Vec<SimulatedTable>,
}

struct SimulatedTable {
    table: Arc<Table>,
    rows: Rows,
    entities: Vec<String>,
    /// By row and column.
    values: Vec<Vec<f64>>,
}

impl SimulatedHost {
    /// Host number `number`, always the same.
    pub(super) fn new(catalogue: &Catalogue, number: usize) -> Self {
        let tables = TABLES
            .iter()
            .filter_map(|(name, rows)| {
                let table = catalogue.get(name)?.clone();
                let values = vec![vec![500.0; table.columns.len()]; *rows];
                let entities = (0..*rows).map(|n| if n == 0 { "all".to_owned() } else { format!("e{n}") }).collect();
                Some(SimulatedTable { rows: Rows::new(&table), table, entities, values })
            })
            .collect();
        Self { name: format!("host-{number:05}"), random: SmallRng::seed_from_u64(number as u64), tables }
    }

    /// One tick of all tables.
    pub(super) fn tick(&mut self, ts_micros: i64) -> Vec<(Arc<Table>, RecordBatch)> {
        let Self { name, random, tables } = self;
        let stamp = Stamp { ts_micros, node: "bench", host: name };
        tables.iter_mut().map(|table| (table.table.clone(), table.tick(random, &stamp))).collect()
    }
}

impl SimulatedTable {
    #[allow(clippy::cast_possible_truncation, reason = "simulated values are small")]
    fn tick(&mut self, random: &mut SmallRng, stamp: &Stamp<'_>) -> RecordBatch {
        let Self { table, rows, entities, values } = self;
        for (entity, values) in entities.iter().zip(values) {
            let mut row = rows.begin();
            for (column, value) in table.columns.iter().zip(values) {
                let is_entity = table.entity.contains(&column.name);
                match column.kind {
                    Kind::Counter => *value += f64::from(random.random_range(0..1000_i32)),
                    _ => *value = (*value + f64::from(random.random_range(-5..=5_i32))).max(0.0),
                }
                match column.column_type {
                    ColumnType::Text if is_entity => row.text(&column.name, entity.as_str()),
                    // A label that hardly ever changes.
                    ColumnType::Text => row.text(&column.name, "simulated"),
                    ColumnType::Int => row.int(&column.name, *value as i64),
                    ColumnType::Float => row.float(&column.name, (*value * 100.0).round() / 100.0),
                    ColumnType::Bool => row.bool(&column.name, true),
                    ColumnType::Timestamp | ColumnType::Bytes | ColumnType::IntMap | ColumnType::TextMap => continue,
                };
            }
        }
        rows.finish(stamp)
    }
}

/// Values in a batch: cells that are not NULL, without the three common columns and the entity.
pub(super) fn values(table: &Table, batch: &RecordBatch) -> u64 {
    batch
        .columns()
        .iter()
        .skip(3 + table.entity.len())
        .map(|column| (batch.num_rows() - arrow_array::Array::null_count(column)) as u64)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_values_and_they_move() {
        let catalogue = Catalogue::built_in();
        let mut host = SimulatedHost::new(&catalogue, 1);
        let (one, two) = (host.tick(1_000_000), host.tick(2_000_000));
        assert_eq!(one.len(), TABLES.len());
        let count: u64 = one.iter().map(|(table, batch)| values(table, batch)).sum();
        assert!(count > 200, "{count} values a tick");
        assert!(one.iter().zip(&two).all(|(a, b)| a.1.num_rows() == b.1.num_rows() && a.1 != b.1));
    }
}
