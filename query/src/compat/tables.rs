//! The rows of the system relations, made from the catalogue once per engine.
//!
//! A row names the columns it has something to say about. The others are NULL, or the zero of their type where
//! PostgreSQL promises a value. What nobody here knows (sizes, row counts) is NULL, or the number PostgreSQL itself
//! uses for it: `reltuples` is -1 until somebody has counted.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, BooleanArray, Float32Array, Float64Array, Int16Array, Int32Array, Int64Array, RecordBatch, StringArray,
    new_null_array,
};
use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::catalog::{MemTable, TableProvider};
use datafusion::error::{DataFusionError, Result};
use nodescope_model::catalogue::{Catalogue, Table};

use super::layout::{ColumnLayout, Kind, LAYOUTS, Layout, TYPES, TypeLayout, type_by_name};
use super::{DATABASE, OWNER};
use crate::views::View;

/// Number of the schema `pg_catalog`.
pub(super) const PG_CATALOG: i64 = 11;
/// Number of the schema `public`.
pub(super) const PUBLIC: i64 = 2200;
/// Number of the schema `information_schema`.
pub(super) const INFORMATION_SCHEMA: i64 = 13_000;
/// Number of the role that owns everything.
pub(super) const OWNER_OID: i64 = 10;
/// Number of the database.
const DATABASE_OID: i64 = 5;
/// Number of the only tablespace.
const TABLESPACE_OID: i64 = 1663;
/// Number of `pg_class`, as descriptions refer to it.
const PG_CLASS: i64 = 1259;
/// Where the numbers of users' relations begin.
const FIRST_USER_OID: u32 = 16_384;

/// One value of a row.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell {
    /// Any integer or oid.
    Int(i64),
    /// A 32-bit floating number.
    Real(f32),
    /// True or false.
    Bool(bool),
    /// Text, or one byte of it.
    Text(String),
}

impl From<i64> for Cell {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<i32> for Cell {
    fn from(value: i32) -> Self {
        Self::Int(value.into())
    }
}

impl From<bool> for Cell {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<&str> for Cell {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Cell {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

/// A row: the columns it names.
pub(super) type Row = Vec<(&'static str, Cell)>;

/// Rows of every relation that has some, by schema and name.
pub(super) type Rows = HashMap<(&'static str, &'static str), Vec<Row>>;

/// One relation, ours or the system's.
#[derive(Debug)]
pub(super) struct Relation {
    pub oid: i64,
    pub schema: &'static str,
    pub name: String,
    relkind: &'static str,
    pub comment: Option<String>,
    columns: Vec<Attribute>,
}

#[derive(Debug)]
struct Attribute {
    name: String,
    data_type: &'static TypeLayout,
    required: bool,
    comment: Option<String>,
}

impl Relation {
    fn schema_oid(&self) -> i64 {
        match self.schema {
            "pg_catalog" => PG_CATALOG,
            "information_schema" => INFORMATION_SCHEMA,
            _ => PUBLIC,
        }
    }

    /// The comment on a column, counted from 1.
    pub(super) fn column_comment(&self, number: i64) -> Option<&str> {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        self.columns.get(index)?.comment.as_deref()
    }
}

/// Every relation: the catalogue's in the order of their names, the views in that of theirs, then the system's.
///
/// # Errors
/// A column's type has no counterpart in PostgreSQL.
pub(super) fn relations(catalogue: &Catalogue, views: &[View]) -> Result<Vec<Relation>> {
    let mut relations = Vec::new();
    let mut taken = Vec::new();
    for table in catalogue.tables() {
        let oid = user_oid(&table.name, &taken);
        taken.push(oid);
        relations.push(user_relation(table, oid)?);
    }
    for view in views {
        let oid = user_oid(&view.name, &taken);
        taken.push(oid);
        relations.push(view_relation(view, oid)?);
    }
    relations.extend(LAYOUTS.iter().map(system_relation));
    Ok(relations)
}

/// A number from the name alone, so that it is the same in every session and after every restart; where two names
/// meet, the later one takes the next free number.
fn user_oid(name: &str, taken: &[i64]) -> i64 {
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    // Half of what an `int4` holds, so that the search for a free number cannot run out of it.
    let mut oid = i64::from(FIRST_USER_OID + hash % (1 << 30));
    while taken.contains(&oid) {
        oid += 1;
    }
    oid
}

fn user_relation(table: &Table, oid: i64) -> Result<Relation> {
    let columns = table
        .schema()
        .fields()
        .iter()
        .map(|field| {
            Ok(Attribute {
                name: field.name().clone(),
                data_type: type_of(field)?,
                required: !field.is_nullable(),
                comment: table.column_comment(field.name()),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(Relation {
        oid,
        schema: "public",
        name: table.name.clone(),
        relkind: "r",
        comment: Some(table.comment.clone()),
        columns,
    })
}

fn view_relation(view: &View, oid: i64) -> Result<Relation> {
    let attribute = |field: &Arc<Field>| {
        Ok(Attribute {
            name: field.name().clone(),
            data_type: type_of(field)?,
            required: false,
            comment: view.columns.get(field.name()).cloned(),
        })
    };
    Ok(Relation {
        oid,
        schema: "public",
        name: view.name.clone(),
        relkind: "v",
        comment: Some(view.comment.clone()),
        columns: view.schema.fields().iter().map(attribute).collect::<Result<Vec<_>>>()?,
    })
}

fn type_of(field: &Field) -> Result<&'static TypeLayout> {
    let name = match field.data_type() {
        DataType::Int64 => "int8",
        DataType::Float64 => "float8",
        // A map is sent as the text of a JSON object.
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 | DataType::Map(_, _) => "text",
        DataType::Int32 => "int4",
        DataType::UInt64 | DataType::Decimal128(_, _) => "numeric",
        DataType::Date32 => "date",
        DataType::Interval(_) => "interval",
        DataType::Boolean => "bool",
        DataType::Timestamp(_, Some(_)) => "timestamptz",
        DataType::Binary => "bytea",
        other => {
            return Err(DataFusionError::Plan(format!("column {}: {other} has no type in pg_catalog", field.name())));
        }
    };
    type_by_name(name).ok_or_else(|| DataFusionError::Plan(format!("types.txt lacks {name}")))
}

fn system_relation(layout: &Layout) -> Relation {
    let attribute = |column: &ColumnLayout| {
        let data_type = TYPES.iter().find(|t| t.oid == column.type_oid);
        Attribute {
            name: column.name.to_owned(),
            data_type: data_type.expect("layouts take their types from TYPES"),
            required: column.required,
            comment: None,
        }
    };
    Relation {
        oid: layout.oid.into(),
        schema: layout.schema,
        name: layout.name.to_owned(),
        relkind: layout.relkind,
        comment: None,
        columns: layout.columns.iter().map(attribute).collect(),
    }
}

/// Relations that a session fills for itself, because they tell of its user and its settings.
pub(super) const PER_SESSION: [(&str, &str); 3] =
    [("pg_catalog", "pg_roles"), ("pg_catalog", "pg_user"), ("pg_catalog", "pg_settings")];

/// The rows of everything that is the same in all sessions.
pub(super) fn rows(relations: &[Relation]) -> Rows {
    let ours = || relations.iter().filter(|r| r.schema == "public");
    let schemas = [(PG_CATALOG, "pg_catalog"), (PUBLIC, "public"), (INFORMATION_SCHEMA, "information_schema")];
    let mut rows = Rows::new();
    let mut add = |schema, name, new: Vec<Row>| rows.insert((schema, name), new);
    add("pg_catalog", "pg_class", relations.iter().map(pg_class).collect());
    add("pg_catalog", "pg_attribute", relations.iter().flat_map(pg_attribute).collect());
    add("pg_catalog", "pg_type", TYPES.iter().map(pg_type).collect());
    add("pg_catalog", "pg_description", ours().flat_map(pg_description).collect());
    let (views, tables): (Vec<_>, Vec<_>) = ours().partition(|relation| relation.relkind == "v");
    add("pg_catalog", "pg_tables", tables.iter().copied().map(pg_tables).collect());
    add("pg_catalog", "pg_views", views.iter().copied().map(pg_views).collect());
    for name in ["pg_stat_all_tables", "pg_stat_user_tables"] {
        add("pg_catalog", name, tables.iter().copied().map(pg_stat_tables).collect());
    }
    add(
        "pg_catalog",
        "pg_namespace",
        schemas
            .iter()
            .map(|(oid, name)| row([("oid", (*oid).into()), ("nspname", (*name).into()), owner("nspowner")]))
            .collect(),
    );
    add("pg_catalog", "pg_database", vec![pg_database()]);
    add(
        "pg_catalog",
        "pg_tablespace",
        vec![row([("oid", TABLESPACE_OID.into()), ("spcname", "pg_default".into()), owner("spcowner")])],
    );
    // Grafana offers `time_bucket` where it finds this extension, and `time_bucket` is what we answer best.
    add(
        "pg_catalog",
        "pg_extension",
        vec![row([
            ("oid", 16_383.into()),
            ("extname", "timescaledb".into()),
            owner("extowner"),
            ("extnamespace", PUBLIC.into()),
            ("extversion", "2.0".into()),
        ])],
    );
    add("information_schema", "tables", relations.iter().map(information_tables).collect());
    add("information_schema", "columns", relations.iter().flat_map(information_columns).collect());
    add(
        "information_schema",
        "schemata",
        schemas
            .iter()
            .map(|(_, name)| {
                row([
                    ("catalog_name", DATABASE.into()),
                    ("schema_name", (*name).into()),
                    ("schema_owner", OWNER.into()),
                ])
            })
            .collect(),
    );
    rows
}

fn row<const N: usize>(cells: [(&'static str, Cell); N]) -> Row {
    cells.into()
}

fn owner(column: &'static str) -> (&'static str, Cell) {
    (column, OWNER_OID.into())
}

/// A count of columns; no relation has more than fit.
fn count(columns: usize) -> i64 {
    i64::try_from(columns).unwrap_or(i64::MAX)
}

fn pg_class(relation: &Relation) -> Row {
    row([
        ("oid", relation.oid.into()),
        ("relname", relation.name.clone().into()),
        ("relnamespace", relation.schema_oid().into()),
        owner("relowner"),
        ("reltuples", Cell::Real(-1.0)),
        ("relpersistence", "p".into()),
        ("relkind", relation.relkind.into()),
        ("relnatts", count(relation.columns.len()).into()),
        ("relispopulated", true.into()),
        ("relreplident", "d".into()),
    ])
}

fn pg_attribute(relation: &Relation) -> Vec<Row> {
    let attribute = |(number, column): (i64, &Attribute)| {
        row([
            ("attrelid", relation.oid.into()),
            ("attname", column.name.clone().into()),
            ("atttypid", column.data_type.oid.into()),
            ("attstattarget", (-1).into()),
            ("attlen", column.data_type.length.into()),
            ("attnum", number.into()),
            ("attcacheoff", (-1).into()),
            ("atttypmod", (-1).into()),
            ("attbyval", column.data_type.by_value.into()),
            ("attalign", column.data_type.alignment.into()),
            ("attstorage", column.data_type.storage.into()),
            ("attnotnull", column.required.into()),
            ("attislocal", true.into()),
            ("attcollation", column.data_type.collation.into()),
        ])
    };
    (1..).zip(&relation.columns).map(attribute).collect()
}

fn pg_type(t: &TypeLayout) -> Row {
    row([
        ("oid", t.oid.into()),
        ("typname", t.name.into()),
        ("typnamespace", PG_CATALOG.into()),
        owner("typowner"),
        ("typlen", t.length.into()),
        ("typbyval", t.by_value.into()),
        ("typtype", t.class.into()),
        ("typcategory", t.category.into()),
        ("typispreferred", t.preferred.into()),
        ("typisdefined", true.into()),
        ("typdelim", ",".into()),
        ("typelem", t.element.into()),
        ("typarray", t.array.into()),
        ("typinput", t.input.into()),
        ("typalign", t.alignment.into()),
        ("typstorage", t.storage.into()),
        ("typtypmod", (-1).into()),
        ("typcollation", t.collation.into()),
    ])
}

fn pg_description(relation: &Relation) -> Vec<Row> {
    let of_columns = (1..).zip(&relation.columns).map(|(number, column)| (number, &column.comment));
    std::iter::once((0, &relation.comment))
        .chain(of_columns)
        .filter_map(|(number, comment)| {
            Some(row([
                ("objoid", relation.oid.into()),
                ("classoid", PG_CLASS.into()),
                ("objsubid", Cell::Int(number)),
                ("description", comment.clone()?.into()),
            ]))
        })
        .collect()
}

fn pg_tables(relation: &Relation) -> Row {
    row([
        ("schemaname", relation.schema.into()),
        ("tablename", relation.name.clone().into()),
        ("tableowner", OWNER.into()),
        ("hasindexes", false.into()),
        ("hasrules", false.into()),
        ("hastriggers", false.into()),
        ("rowsecurity", false.into()),
    ])
}

fn pg_views(relation: &Relation) -> Row {
    row([
        ("schemaname", relation.schema.into()),
        ("viewname", relation.name.clone().into()),
        ("viewowner", OWNER.into()),
    ])
}

fn pg_stat_tables(relation: &Relation) -> Row {
    row([
        ("relid", relation.oid.into()),
        ("schemaname", relation.schema.into()),
        ("relname", relation.name.clone().into()),
    ])
}

fn pg_database() -> Row {
    row([
        ("oid", DATABASE_OID.into()),
        ("datname", DATABASE.into()),
        owner("datdba"),
        // UTF8.
        ("encoding", 6.into()),
        ("datlocprovider", "c".into()),
        ("datallowconn", true.into()),
        ("datconnlimit", (-1).into()),
        ("dattablespace", TABLESPACE_OID.into()),
        ("datcollate", "C".into()),
        ("datctype", "C".into()),
    ])
}

fn information_tables(relation: &Relation) -> Row {
    row([
        ("table_catalog", DATABASE.into()),
        ("table_schema", relation.schema.into()),
        ("table_name", relation.name.clone().into()),
        ("table_type", if relation.relkind == "v" { "VIEW" } else { "BASE TABLE" }.into()),
        ("is_insertable_into", "NO".into()),
        ("is_typed", "NO".into()),
    ])
}

fn information_columns(relation: &Relation) -> Vec<Row> {
    let column = |(number, column): (i64, &Attribute)| {
        let t = column.data_type;
        row([
            ("table_catalog", DATABASE.into()),
            ("table_schema", relation.schema.into()),
            ("table_name", relation.name.clone().into()),
            ("column_name", column.name.clone().into()),
            ("ordinal_position", number.into()),
            ("is_nullable", if column.required { "NO" } else { "YES" }.into()),
            ("data_type", if t.category == "A" { "ARRAY" } else { t.sql_name.as_str() }.into()),
            ("udt_catalog", DATABASE.into()),
            ("udt_schema", "pg_catalog".into()),
            ("udt_name", t.name.into()),
            ("dtd_identifier", number.to_string().into()),
            ("is_self_referencing", "NO".into()),
            ("is_identity", "NO".into()),
            ("is_generated", "NEVER".into()),
            ("is_updatable", "NO".into()),
        ])
    };
    (1..).zip(&relation.columns).map(column).collect()
}

/// A relation with these rows.
///
/// # Errors
/// A row names a column that the relation has not.
pub(super) fn table(layout: &Layout, rows: &[Row]) -> Result<Arc<dyn TableProvider>> {
    let batches = if rows.is_empty() { vec![] } else { vec![batch(layout, rows)?] };
    Ok(Arc::new(MemTable::try_new(layout.arrow_schema(), vec![batches])?))
}

/// Rows as a batch.
///
/// # Errors
/// As [`table`].
pub(super) fn batch(layout: &Layout, rows: &[Row]) -> Result<RecordBatch> {
    for (name, _) in rows.iter().flatten() {
        if !layout.columns.iter().any(|column| column.name == *name) {
            return Err(DataFusionError::Plan(format!("{}.{} has no column {name}", layout.schema, layout.name)));
        }
    }
    let columns = layout
        .columns
        .iter()
        .map(|column| {
            let cells = rows.iter().map(|row| row.iter().find(|(name, _)| *name == column.name).map(|(_, cell)| cell));
            array(column, &cells.collect::<Vec<_>>())
        })
        .collect();
    Ok(RecordBatch::try_new(layout.arrow_schema(), columns)?)
}

fn array(column: &ColumnLayout, cells: &[Option<&Cell>]) -> ArrayRef {
    let required = column.required;
    let int = move |cell: &Option<&Cell>| match cell {
        Some(Cell::Int(value)) => Some(*value),
        _ => required.then_some(0),
    };
    let text = move |cell: &Option<&Cell>| match cell {
        Some(Cell::Text(text)) => Some(text.clone()),
        _ => required.then(String::new),
    };
    let bool = move |cell: &Option<&Cell>| match cell {
        Some(Cell::Bool(value)) => Some(*value),
        _ => required.then_some(false),
    };
    let real = move |cell: &Option<&Cell>| match cell {
        Some(Cell::Real(value)) => Some(*value),
        _ => required.then_some(0.0),
    };
    match column.kind {
        Kind::Oid | Kind::Int4 => {
            Arc::new(cells.iter().map(|c| int(c).and_then(|v| i32::try_from(v).ok())).collect::<Int32Array>())
        }
        Kind::Int2 => {
            Arc::new(cells.iter().map(|c| int(c).and_then(|v| i16::try_from(v).ok())).collect::<Int16Array>())
        }
        Kind::Int8 => Arc::new(cells.iter().map(int).collect::<Int64Array>()),
        Kind::Bool => Arc::new(cells.iter().map(bool).collect::<BooleanArray>()),
        Kind::Float4 => Arc::new(cells.iter().map(real).collect::<Float32Array>()),
        Kind::Float8 => Arc::new(cells.iter().map(|c| real(c).map(f64::from)).collect::<Float64Array>()),
        Kind::Char | Kind::Text => Arc::new(cells.iter().map(text).collect::<StringArray>()),
        // No row of ours has a list, a time or bytes to show.
        Kind::Int2s | Kind::Oids | Kind::Texts | Kind::Timestamp | Kind::Bytes => {
            new_null_array(&column.kind.data_type(), cells.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Array, AsArray};

    use super::super::layout::layout;
    use super::*;

    #[test]
    fn numbers_of_tables_are_stable_and_never_meet() {
        // The number is part of what clients remember: this one must not change.
        let cpu = user_oid("cpu", &[]);
        assert_eq!(cpu, user_oid("cpu", &[1]));
        assert_eq!(user_oid("cpu", &[cpu]), cpu + 1);
        assert!(cpu >= 16_384 && i32::try_from(cpu).is_ok());
        assert_ne!(cpu, user_oid("memory", &[]));
    }

    #[test]
    fn every_row_fits_its_relation() {
        let relations = relations(&Catalogue::built_in(), &[]).unwrap();
        for ((schema, name), rows) in rows(&relations) {
            let layout = layout(schema, name).unwrap_or_else(|| panic!("{schema}.{name}"));
            let batch = batch(layout, &rows).unwrap();
            assert_eq!(batch.num_rows(), rows.len());
            for (column, array) in layout.columns.iter().zip(batch.columns()) {
                assert!(!column.required || array.null_count() == 0, "{name}.{}", column.name);
            }
        }
    }

    #[test]
    fn what_a_row_does_not_say_is_null_or_zero() {
        let layout = layout("pg_catalog", "pg_class").unwrap();
        let batch = batch(layout, &[row([("relname", "cpu".into())])]).unwrap();
        let value = |name: &str| batch.column_by_name(name).unwrap();
        assert_eq!(value("relname").as_string::<i32>().value(0), "cpu");
        assert_eq!(value("relkind").as_string::<i32>().value(0), "");
        assert!(value("reloptions").is_null(0));
        assert!(super::batch(layout, &[row([("nosuch", 1.into())])]).is_err());
    }
}
