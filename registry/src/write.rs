//! From sheets to the store: all kinds in one append of the registry's journal.
//!
//! One append is one conditional PUT, so an import is there whole or not at all, whatever is killed. If somebody else
//! appended meanwhile, what they wrote is read and everything is examined again.
//!
//! Every append is stamped (`ts`) later than all before, also where the clock of this machine is behind that of
//! another: of two entries with one key and one `valid_from`, the later stamp counts. It is also from when an entry is
//! valid that does not say, so that a change which was imported later begins later.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arrow_array::builder::{BooleanBuilder, Float64Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder};
use arrow_array::{ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray, new_null_array};
use nodescope_model::catalogue::{ColumnType, Table};
use nodescope_store::cut::Reader;
use nodescope_store::journal::{Journal, REGISTRY};
use nodescope_store::{Store, StoreError};

use crate::check::{Entry, Import, Plan, check};
use crate::entries::Registry;
use crate::kinds::{Kind, Kinds};
use crate::parse::{self, Sheet};
use crate::value::{Cell, MAX_TIME, Value, show_time};
use crate::{Mistakes, RegistryError};

/// How often an import is examined again because somebody else has written.
const TRIES: u32 = 100;

/// Decoded hot rows a reader keeps: none is read twice here.
const CACHE: usize = 0;

/// How an import is done.
#[derive(Debug, Clone, Copy, Default)]
pub struct How {
    /// From when entries are valid that do not say, in microseconds; `None` for the moment of the import.
    pub from: Option<i64>,
    /// Examine only.
    pub dry_run: bool,
}

/// What became of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// Its name in the column `import`; `None` when there was nothing to write.
    pub import: Option<String>,
    /// By kind: its name, new entries, rows that say what was said already. Kinds without rows are left out.
    pub kinds: Vec<(&'static str, usize, usize)>,
}

impl Done {
    /// How many entries are new.
    pub fn added(&self) -> usize {
        self.kinds.iter().map(|(_, new, _)| new).sum()
    }
}

/// What a registry in a store says.
///
/// # Errors
/// When the store fails or something in it is damaged.
pub async fn read(store: &Store, kinds: &Kinds) -> Result<Registry, StoreError> {
    Registry::read(&Reader::new(store.clone(), CACHE), kinds).await
}

/// Imports sheets: all of them or nothing.
///
/// # Errors
/// Every mistake in them, or that the store failed.
pub async fn import(store: &Store, kinds: &Kinds, sheets: &[Sheet], how: How) -> Result<Done, RegistryError> {
    parse::bounded(sheets)?;
    append(store, kinds, sheets, how, false).await
}

/// Revokes one entry, from `at` or now on. `key` is the parts of its key in order; parts at the end that may be empty
/// may be left out.
///
/// # Errors
/// When there is no such entry, others still name it, or the store failed.
pub async fn revoke(
    store: &Store,
    kinds: &Kinds,
    kind: usize,
    key: &[String],
    at: Option<i64>,
) -> Result<Done, RegistryError> {
    let of = &kinds.all()[kind];
    let names = of.key_fields().iter().map(|field| field.name.clone());
    if key.len() > of.keys {
        let mut mistakes = Mistakes::default();
        let names: Vec<String> = names.collect();
        mistakes.add(of.name, format!("{} words given, but its key is {}", key.len(), names.join(", ")));
        return Err(mistakes.into());
    }
    let mut cells: Vec<(String, Cell)> = names.zip(key.iter().map(|part| Cell::Text(part.clone()))).collect();
    cells.push(("revoked".to_owned(), Cell::Text("true".to_owned())));
    cells.extend(at.map(|at| ("valid_from".to_owned(), Cell::Text(show_time(at)))));
    append(store, kinds, &[parse::one_row(kinds, kind, cells)], How::default(), true).await
}

async fn append(
    store: &Store,
    kinds: &Kinds,
    sheets: &[Sheet],
    how: How,
    must_stand: bool,
) -> Result<Done, RegistryError> {
    let mut journal = Journal::open(store, REGISTRY).await?;
    for _ in 0..TRIES {
        // The journal's end is known before its rows are read: what comes between the two is refused below.
        let mut registry = read(store, kinds).await?;
        let ts = now_us().max(registry.newest.saturating_add(1));
        if ts >= MAX_TIME {
            return Err(RegistryError::Clock);
        }
        let name = uuid::Uuid::now_v7().to_string();
        let import = Import { name: name.clone(), ts, from: how.from.unwrap_or(ts), must_stand };
        let plan = check(kinds, &mut registry, sheets, &import)?;
        drop(registry);
        let mut done = Done { import: None, kinds: counts(kinds, &plan) };
        if plan.rows() == 0 || how.dry_run {
            return Ok(done);
        }
        match journal.append(tables(kinds, &plan, ts, &name)?).await {
            Ok(()) => {
                done.import = Some(name);
                return Ok(done);
            }
            Err(StoreError::AlreadyWritten { path }) => {
                tracing::info!(path, "somebody else has written to the registry meanwhile; examining again");
                journal.catch_up().await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(RegistryError::Contended(TRIES))
}

fn counts(kinds: &Kinds, plan: &Plan) -> Vec<(&'static str, usize, usize)> {
    let counts = kinds.all().iter().zip(plan.new.iter().zip(&plan.unchanged));
    counts.map(|(kind, (new, same))| (kind.name, new.len(), *same)).filter(|(_, new, same)| new + same > 0).collect()
}

fn tables(
    kinds: &Kinds,
    plan: &Plan,
    ts: i64,
    import: &str,
) -> Result<Vec<(Arc<Table>, Vec<RecordBatch>)>, RegistryError> {
    let mut tables = Vec::new();
    for (kind, entries) in kinds.all().iter().zip(&plan.new).filter(|(_, entries)| !entries.is_empty()) {
        tables.push((Arc::clone(&kind.table), vec![rows(kind, entries, ts, import)?]));
    }
    Ok(tables)
}

/// Entries in the schema of their table.
fn rows(kind: &Kind, entries: &[Entry], ts: i64, import: &str) -> Result<RecordBatch, RegistryError> {
    let texts = |text: &dyn Fn(&Entry) -> String| -> ArrayRef {
        Arc::new(entries.iter().map(|entry| Some(text(entry))).collect::<StringArray>())
    };
    let times = |time: &dyn Fn(&Entry) -> i64| -> ArrayRef {
        let times: TimestampMicrosecondArray = entries.iter().map(|entry| Some(time(entry))).collect();
        Arc::new(times.with_timezone("UTC"))
    };
    let columns = kind.table.schema().fields().iter().map(|field| {
        let name = field.name().as_str();
        if let Some(at) = kind.table.entity.iter().position(|entity| entity == name) {
            return texts(&|entry| kind.entity(&entry.key)[at].clone());
        }
        match name {
            "ts" => times(&|_| ts),
            "node" => texts(&|entry| entry.key[0].clone()),
            "host" => texts(&|entry| kind.host(&entry.key).to_owned()),
            "valid_from" => times(&|entry| entry.valid_from),
            "revoked" => Arc::new(entries.iter().map(|e| Some(e.revoked)).collect::<arrow_array::BooleanArray>()),
            "import" => texts(&|_| import.to_owned()),
            name => match kind.value_at(name) {
                Some(at) => values(kind.value_fields()[at].column_type, entries.iter().map(|entry| &entry.values[at])),
                None => new_null_array(field.data_type(), entries.len()),
            },
        }
    });
    let batch = RecordBatch::try_new(Arc::clone(kind.table.schema()), columns.collect());
    batch.map_err(|source| {
        let table = kind.table.name.clone();
        StoreError::Rows { table, action: "assemble", source: Box::new(source) }.into()
    })
}

/// One column of values, which are all of its type or nothing.
fn values<'v>(column_type: ColumnType, values: impl ExactSizeIterator<Item = &'v Value>) -> ArrayRef {
    macro_rules! column {
        ($builder:expr, $variant:ident, $append:expr) => {{
            let mut builder = $builder;
            for value in values {
                match value {
                    Value::$variant(value) => $append(&mut builder, value),
                    _ => builder.append_null(),
                }
            }
            Arc::new(builder.finish())
        }};
    }
    match column_type {
        ColumnType::Int => column!(Int64Builder::new(), Int, |b: &mut Int64Builder, v: &i64| b.append_value(*v)),
        ColumnType::Float => {
            column!(Float64Builder::new(), Float, |b: &mut Float64Builder, v: &f64| b.append_value(*v))
        }
        ColumnType::Bool => column!(BooleanBuilder::new(), Bool, |b: &mut BooleanBuilder, v: &bool| b.append_value(*v)),
        ColumnType::Text => column!(StringBuilder::new(), Text, |b: &mut StringBuilder, v: &String| b.append_value(v)),
        ColumnType::Timestamp => column!(
            TimestampMicrosecondBuilder::new().with_data_type(ColumnType::Timestamp.data_type()),
            Time,
            |b: &mut TimestampMicrosecondBuilder, v: &i64| b.append_value(*v)
        ),
        // No cell can be read into these: nothing stands there.
        other => new_null_array(&other.data_type(), values.len()),
    }
}

fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
