//! What the registry says: every history, folded out of all that was ever imported.
//!
//! Of the entries with one key and one `valid_from`, the newest import's counts: the others were corrected. What
//! remains, in order of `valid_from`, is the key's history, and each entry of it holds until the next begins.
//!
//! The views `node`, `resource`, … of the query server say the same in SQL.

use std::collections::BTreeMap;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, RecordBatch};
use nodescope_model::catalogue::ColumnType;
use nodescope_store::cut::Reader;
use nodescope_store::{StoreError, parquet_file};
use object_store::ObjectStoreExt;

use crate::kinds::{Kind, Kinds, Role};
use crate::value::Value;

/// An entry without its key and without its time.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    /// When it was imported: microseconds since 1970. Later imports have later ones.
    pub ts: i64,
    /// Name of the import.
    pub import: String,
    /// Whether it ends what came before and says nothing.
    pub revoked: bool,
    /// The values, in the order of [`Kind::value_fields`].
    pub values: Vec<Value>,
}

impl Known {
    /// Whether it says the same.
    pub fn says(&self, revoked: bool, values: &[Value]) -> bool {
        self.revoked == revoked && (revoked || self.values == values)
    }
}

/// One key's entries, by the time from which they are valid.
pub type History = BTreeMap<i64, Known>;

/// What an entry is valid for: from, and up to, if it ends.
pub type Span = (i64, Option<i64>);

/// All entries of one kind, by key.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Histories(BTreeMap<Vec<String>, History>);

impl Histories {
    /// Takes in an entry; of two with the same key and time, the later import stays.
    pub fn put(&mut self, key: Vec<String>, valid_from: i64, known: Known) {
        let history = self.0.entry(key).or_default();
        match history.get(&valid_from) {
            Some(there) if (there.ts, &there.import) > (known.ts, &known.import) => {}
            _ => {
                history.insert(valid_from, known);
            }
        }
    }

    /// A key's history.
    pub fn get(&self, key: &[String]) -> Option<&History> {
        self.0.get(key)
    }

    /// What a key says at a time.
    pub fn at(&self, key: &[String], time: i64) -> Option<&Known> {
        let (_, known) = self.get(key)?.range(..=time).next_back()?;
        (!known.revoked).then_some(known)
    }

    /// All keys with their histories, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Vec<String>, &History)> {
        self.0.iter()
    }

    /// All that stands at a time.
    pub fn standing(&self, time: i64) -> impl Iterator<Item = (&Vec<String>, Span, &Known)> {
        self.0.iter().filter_map(move |(key, history)| {
            let (from, known) = history.range(..=time).next_back()?;
            let next = end_of(history, *from);
            (!known.revoked).then_some((key, (*from, next), known))
        })
    }
}

/// Where the entry that begins at `from` ends.
pub fn end_of(history: &History, from: i64) -> Option<i64> {
    use std::ops::Bound::{Excluded, Unbounded};
    history.range((Excluded(from), Unbounded)).next().map(|(next, _)| *next)
}

/// Everything the registry says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Registry {
    kinds: Vec<Histories>,
    /// Time of the newest import; 0 when there was none.
    pub newest: i64,
}

impl Registry {
    /// An empty one.
    pub fn empty(kinds: &Kinds) -> Self {
        Self { kinds: vec![Histories::default(); kinds.all().len()], newest: 0 }
    }

    /// Reads all that is in a store.
    ///
    /// # Errors
    /// When the store fails or something in it is damaged.
    pub async fn read(reader: &Reader, kinds: &Kinds) -> Result<Self, StoreError> {
        let mut registry = Self::empty(kinds);
        for (at, kind) in kinds.all().iter().enumerate() {
            let cut = reader.cut(&kind.table).await?;
            for hot in &cut.hot {
                registry.fold(at, kind, &reader.read(&kind.table, hot).await?);
            }
            for file in cut.files.iter() {
                let failed = |source| StoreError::Objects { action: "read", path: file.path.to_string(), source };
                let object = reader.store().objects().get(&file.path).await.map_err(failed)?;
                let bytes = object.bytes().await.map_err(failed)?;
                for batch in parquet_file::decode(file.path.as_ref(), &kind.table, bytes)? {
                    registry.fold(at, kind, &batch);
                }
            }
        }
        Ok(registry)
    }

    /// The histories of a kind.
    pub fn of(&self, kind: usize) -> &Histories {
        &self.kinds[kind]
    }

    /// Takes in an entry.
    pub fn put(&mut self, kind: usize, key: Vec<String>, valid_from: i64, known: Known) {
        self.newest = self.newest.max(known.ts);
        self.kinds[kind].put(key, valid_from, known);
    }

    /// Takes in the rows of a batch, which is in the schema of the kind's table.
    fn fold(&mut self, at: usize, kind: &Kind, batch: &RecordBatch) {
        let Some(ts) = batch.column_by_name("ts").map(AsArray::as_primitive::<TimestampMicrosecondType>) else {
            return;
        };
        let text = |name: &str, row: usize| match cell(batch, name, ColumnType::Text, row) {
            Value::Text(text) => text,
            _ => String::new(),
        };
        for row in 0..batch.num_rows() {
            let (node, host) = (text("node", row), text("host", row));
            let key = kind.key(&node, &host, kind.table.entity.iter().map(|name| text(name, row)));
            let mut known =
                Known { ts: ts.value(row), import: text("import", row), revoked: false, values: Vec::new() };
            let mut valid_from = known.ts;
            for field in &kind.fields {
                let value = || cell(batch, &field.name, field.column_type, row);
                match field.role {
                    Role::Key(_) => {}
                    Role::ValidFrom => valid_from = value().as_time().unwrap_or(known.ts),
                    Role::Revoked => known.revoked = value() == Value::Bool(true),
                    Role::Value(_) => known.values.push(value()),
                }
            }
            self.put(at, key, valid_from, known);
        }
    }
}

fn cell(batch: &RecordBatch, name: &str, column_type: ColumnType, row: usize) -> Value {
    let Some(column) = batch.column_by_name(name).filter(|column| column.is_valid(row)) else { return Value::Null };
    match column_type {
        ColumnType::Int => Value::Int(column.as_primitive::<Int64Type>().value(row)),
        ColumnType::Float => Value::Float(column.as_primitive::<Float64Type>().value(row)),
        ColumnType::Bool => Value::Bool(column.as_boolean().value(row)),
        ColumnType::Timestamp => Value::Time(column.as_primitive::<TimestampMicrosecondType>().value(row)),
        ColumnType::Text => match column.as_string::<i32>().value(row) {
            "" => Value::Null,
            text => Value::Text(text.to_owned()),
        },
        ColumnType::Bytes | ColumnType::IntMap | ColumnType::TextMap => Value::Null,
    }
}
