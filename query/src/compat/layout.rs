//! What PostgreSQL's system relations and types look like.
//!
//! Clients name columns of `pg_catalog` that say nothing about us (which trigger, which partition), and a query
//! that names a missing column is an error, not an empty answer. So every relation they ask for exists with all its
//! columns. Two small text files hold the facts: `relations.txt`, the columns, and `types.txt`, the types with the
//! numbers that the protocol has fixed for them. Rows are made elsewhere; most relations have none.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

/// How a column is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An object's number. Marked for the encoder, because the wire knows `oid` as a type of its own.
    Oid,
    /// One byte of text, likewise marked.
    Char,
    /// True or false.
    Bool,
    /// 16 bits.
    Int2,
    /// 32 bits.
    Int4,
    /// 64 bits.
    Int8,
    /// 32 bits, floating.
    Float4,
    /// 64 bits, floating.
    Float8,
    /// A point in time.
    Timestamp,
    /// Bytes.
    Bytes,
    /// Text and everything shown as text.
    Text,
    /// Several `int2`.
    Int2s,
    /// Several `oid`.
    Oids,
    /// Several texts.
    Texts,
}

impl Kind {
    fn of(word: &str) -> Self {
        match word {
            "oid" => Self::Oid,
            "char" => Self::Char,
            "bool" => Self::Bool,
            "int2" => Self::Int2,
            "int4" => Self::Int4,
            "int8" => Self::Int8,
            "float4" => Self::Float4,
            "float8" => Self::Float8,
            "timestamptz" => Self::Timestamp,
            "bytea" => Self::Bytes,
            "int2[]" => Self::Int2s,
            "oid[]" => Self::Oids,
            "text[]" => Self::Texts,
            _ => Self::Text,
        }
    }

    /// The Arrow type.
    pub(super) fn data_type(self) -> DataType {
        match self {
            Self::Oid | Self::Int4 => DataType::Int32,
            Self::Bool => DataType::Boolean,
            Self::Int2 => DataType::Int16,
            Self::Int8 => DataType::Int64,
            Self::Float4 => DataType::Float32,
            Self::Float8 => DataType::Float64,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Self::Bytes => DataType::Binary,
            Self::Char | Self::Text => DataType::Utf8,
            Self::Int2s => DataType::new_list(DataType::Int16, true),
            Self::Oids => DataType::new_list(DataType::Int32, true),
            Self::Texts => DataType::new_list(DataType::Utf8, true),
        }
    }
}

/// One column of a system relation.
#[derive(Debug)]
pub(super) struct ColumnLayout {
    pub name: &'static str,
    pub kind: Kind,
    /// Never NULL.
    pub required: bool,
    /// Its type, as `pg_attribute` numbers it.
    pub type_oid: i32,
}

/// One system relation.
#[derive(Debug)]
pub(super) struct Layout {
    pub schema: &'static str,
    pub name: &'static str,
    pub oid: i32,
    /// `r` table, `v` view.
    pub relkind: &'static str,
    pub columns: Vec<ColumnLayout>,
}

impl Layout {
    /// The Arrow schema, with the marks that the encoder of the wire protocol looks for.
    pub(super) fn arrow_schema(&self) -> SchemaRef {
        let field = |column: &ColumnLayout| {
            let field = Field::new(column.name, column.kind.data_type(), true);
            let mark = match column.kind {
                Kind::Oid => ("pg.oid_alias", "oid"),
                Kind::Char => ("pg.char", "char"),
                _ => return field,
            };
            field.with_metadata(HashMap::from([(mark.0.to_owned(), mark.1.to_owned())]))
        };
        Arc::new(Schema::new(self.columns.iter().map(field).collect::<Vec<_>>()))
    }
}

/// One type, with the numbers the protocol has fixed.
#[derive(Debug)]
pub(super) struct TypeLayout {
    pub oid: i32,
    pub name: &'static str,
    pub length: i64,
    pub by_value: bool,
    /// `b` base, `p` pseudo.
    pub class: &'static str,
    pub category: &'static str,
    pub preferred: bool,
    pub element: i64,
    pub array: i64,
    /// Number of the function that reads it; that of `array_in` is how clients tell an array.
    pub input: i64,
    pub alignment: &'static str,
    pub storage: &'static str,
    pub collation: i64,
    /// What `format_type` answers.
    pub sql_name: String,
}

/// All system relations.
pub(super) static LAYOUTS: LazyLock<Vec<Layout>> =
    LazyLock::new(|| lines(include_str!("relations.txt")).map(relation).collect());

/// All types.
pub(super) static TYPES: LazyLock<Vec<TypeLayout>> =
    LazyLock::new(|| lines(include_str!("types.txt")).map(type_layout).collect());

/// The type of that number.
pub(super) fn type_by_oid(oid: i64) -> Option<&'static TypeLayout> {
    TYPES.iter().find(|t| i64::from(t.oid) == oid)
}

/// The type of that name, PostgreSQL's own (`int8`) or SQL's (`bigint`, `bigint[]`).
pub(super) fn type_by_name(name: &str) -> Option<&'static TypeLayout> {
    let name = name.trim().to_ascii_lowercase();
    let name = name.strip_prefix("pg_catalog.").unwrap_or(&name).trim_matches('"');
    TYPES.iter().find(|t| t.name == name || t.sql_name == name || matches!((t.name, name), ("int4", "int")))
}

/// The system relation of that schema and name.
pub(super) fn layout(schema: &str, name: &str) -> Option<&'static Layout> {
    LAYOUTS.iter().find(|l| l.schema == schema && l.name == name)
}

fn lines(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn relation(line: &'static str) -> Layout {
    let mut words = line.split(' ');
    let mut next = || words.next().expect("every line of relations.txt is read by a test");
    let (schema, name) = next().split_once('.').expect("names of relations.txt are qualified");
    let oid = next().parse().expect("oids of relations.txt are numbers");
    let relkind = next();
    Layout { schema, name, oid, relkind, columns: words.map(column).collect() }
}

fn column(word: &'static str) -> ColumnLayout {
    let (name, type_word) = word.split_once(':').expect("columns of relations.txt have a type");
    let required = type_word.ends_with('!');
    let type_word = type_word.trim_end_matches('!');
    let type_name = type_word.strip_suffix("[]").map_or_else(|| type_word.to_owned(), |element| format!("_{element}"));
    let type_oid = TYPES.iter().find(|t| t.name == type_name).map(|t| t.oid);
    ColumnLayout {
        name,
        kind: Kind::of(type_word),
        required,
        type_oid: type_oid.expect("types of relations.txt are in types.txt"),
    }
}

fn type_layout(line: &'static str) -> TypeLayout {
    let mut words = line.split(' ');
    let mut next = || words.next().expect("every line of types.txt is read by a test");
    let number = |word: &str| word.parse::<i64>().expect("numbers of types.txt are numbers");
    TypeLayout {
        oid: next().parse().expect("oids of types.txt are numbers"),
        name: next(),
        length: number(next()),
        by_value: next() == "t",
        class: next(),
        category: next(),
        preferred: next() == "t",
        element: number(next()),
        array: number(next()),
        input: number(next()),
        alignment: next(),
        storage: next(),
        collation: number(next()),
        sql_name: next().replace('+', " "),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_line_of_both_files_is_read() {
        let class = layout("pg_catalog", "pg_class").unwrap();
        assert_eq!((class.oid, class.relkind), (1259, "r"));
        let oid = &class.columns[0];
        assert_eq!((oid.name, oid.kind, oid.required, oid.type_oid), ("oid", Kind::Oid, true, 26));
        assert_eq!(LAYOUTS.len(), LAYOUTS.iter().map(|l| l.oid).collect::<HashSet<_>>().len());
        assert!(LAYOUTS.iter().all(|l| l.oid < 16384));
        assert_eq!(class.arrow_schema().field(0).metadata()["pg.oid_alias"], "oid");
    }

    #[test]
    fn types_are_found_by_number_and_by_either_name() {
        assert_eq!(type_by_oid(1184).unwrap().sql_name, "timestamp with time zone");
        for name in ["int8", "bigint", "pg_catalog.int8", "BIGINT"] {
            assert_eq!(type_by_name(name).unwrap().oid, 20, "{name}");
        }
        assert_eq!(type_by_name("integer[]").unwrap().name, "_int4");
        assert_eq!(type_by_name("\"char\"").unwrap().name, "char");
        assert!(type_by_name("hstore").is_none());
    }
}
