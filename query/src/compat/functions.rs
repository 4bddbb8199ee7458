//! PostgreSQL's functions over names and numbers of the catalogue, and over the session.
//!
//! All of them work on a handful of rows, so one shape serves: arguments are taken as text, whatever their type,
//! and a closure answers row by row. A NULL argument gives NULL, as it does in PostgreSQL, save where the closure
//! says otherwise. Where we have nothing to tell (default expressions, triggers, sizes on disk) the answer is NULL.

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::RangeInclusive;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, ListBuilder, StringArray, StringBuilder,
};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::error::ArrowError;
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};

use super::layout::{type_by_name, type_by_oid};
use super::names::{parse_ident, quote_ident, quote_literal, size_pretty};
use super::tables::{INFORMATION_SCHEMA, OWNER_OID, PG_CATALOG, PUBLIC, Relation};
use super::{OWNER, SessionFacts, setting};

/// What a function returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Returns {
    Text,
    Bool,
    Int4,
    Int8,
    Texts,
}

/// One answer.
#[derive(Debug)]
enum Answer {
    Text(String),
    Bool(bool),
    Int(i64),
    Texts(Vec<String>),
}

type Body = Arc<dyn Fn(&[Option<&str>]) -> Result<Option<Answer>> + Send + Sync>;

struct CatalogFunction {
    name: &'static str,
    signature: Signature,
    returns: Returns,
    body: Body,
}

impl fmt::Debug for CatalogFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CatalogFunction").field("name", &self.name).finish_non_exhaustive()
    }
}

// Two sessions' functions of one name are different functions.
impl PartialEq for CatalogFunction {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && Arc::ptr_eq(&self.body, &other.body)
    }
}

impl Eq for CatalogFunction {}

impl Hash for CatalogFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for CatalogFunction {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(match self.returns {
            Returns::Text => DataType::Utf8,
            Returns::Bool => DataType::Boolean,
            Returns::Int4 => DataType::Int32,
            Returns::Int8 => DataType::Int64,
            Returns::Texts => DataType::new_list(DataType::Utf8, true),
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { args.number_rows };
        let columns = ColumnarValue::values_to_arrays(&args.args)?
            .iter()
            .map(|column| cast(column, &DataType::Utf8))
            .collect::<Result<Vec<_>, ArrowError>>()?;
        let texts: Vec<&StringArray> = columns.iter().map(AsArray::as_string::<i32>).collect();
        let answers = (0..rows)
            .map(|row| {
                let values: Vec<_> = texts.iter().map(|text| text.is_valid(row).then(|| text.value(row))).collect();
                (self.body)(&values)
            })
            .collect::<Result<Vec<_>>>()?;
        let array = array(self.returns, answers);
        Ok(if constant {
            ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?)
        } else {
            ColumnarValue::Array(array)
        })
    }
}

fn array(returns: Returns, answers: Vec<Option<Answer>>) -> ArrayRef {
    let answers = answers.into_iter();
    let int = |answer| if let Some(Answer::Int(value)) = answer { Some(value) } else { None };
    match returns {
        Returns::Text => {
            let text = |answer| if let Some(Answer::Text(text)) = answer { Some(text) } else { None };
            Arc::new(answers.map(text).collect::<StringArray>())
        }
        Returns::Bool => {
            let bool = |answer| if let Some(Answer::Bool(value)) = answer { Some(value) } else { None };
            Arc::new(answers.map(bool).collect::<BooleanArray>())
        }
        Returns::Int4 => Arc::new(answers.map(|a| int(a).and_then(|v| i32::try_from(v).ok())).collect::<Int32Array>()),
        Returns::Int8 => Arc::new(answers.map(int).collect::<Int64Array>()),
        Returns::Texts => {
            let mut builder = ListBuilder::new(StringBuilder::new());
            for answer in answers {
                let present = if let Some(Answer::Texts(texts)) = answer {
                    texts.iter().for_each(|text| builder.values().append_value(text));
                    true
                } else {
                    false
                };
                builder.append(present);
            }
            Arc::new(builder.finish())
        }
    }
}

/// Collects functions; one line each below.
#[derive(Default)]
struct Functions(Vec<ScalarUDF>);

impl Functions {
    /// A function that sees its NULLs.
    fn any(
        &mut self,
        name: &'static str,
        arguments: RangeInclusive<usize>,
        returns: Returns,
        body: impl Fn(&[Option<&str>]) -> Result<Option<Answer>> + Send + Sync + 'static,
    ) {
        let signatures = arguments
            .map(|count| if count == 0 { TypeSignature::Nullary } else { TypeSignature::Any(count) })
            .collect();
        self.0.push(ScalarUDF::new_from_impl(CatalogFunction {
            name,
            signature: Signature::one_of(signatures, Volatility::Stable),
            returns,
            body: Arc::new(body),
        }));
    }

    /// A function that gives NULL for a NULL and otherwise sees plain text.
    fn strict(
        &mut self,
        name: &'static str,
        arguments: RangeInclusive<usize>,
        returns: Returns,
        body: impl Fn(&[&str]) -> Result<Option<Answer>> + Send + Sync + 'static,
    ) {
        self.any(name, arguments, returns, move |values| {
            let values: Option<Vec<&str>> = values.iter().copied().collect();
            values.map_or(Ok(None), |values| body(&values))
        });
    }

    fn text(
        &mut self,
        name: &'static str,
        arguments: RangeInclusive<usize>,
        body: impl Fn(&[&str]) -> Option<String> + Send + Sync + 'static,
    ) {
        self.strict(name, arguments, Returns::Text, move |values| Ok(body(values).map(Answer::Text)));
    }

    fn bool(
        &mut self,
        name: &'static str,
        arguments: RangeInclusive<usize>,
        body: impl Fn(&[&str]) -> bool + Send + Sync + 'static,
    ) {
        self.strict(name, arguments, Returns::Bool, move |values| Ok(Some(Answer::Bool(body(values)))));
    }

    /// A cast between names and numbers, which SQL spells `::regclass` and the rewriter as two calls.
    fn reg(
        &mut self,
        [to_oid, to_name, lenient]: [&'static str; 3],
        what: &'static str,
        find: impl Fn(&str) -> Option<i64> + Clone + Send + Sync + 'static,
        name: impl Fn(i64) -> Option<String> + Send + Sync + 'static,
    ) {
        let oid = move |text: &str| text.trim().parse().ok().or_else(|| find(text));
        let (first, second) = (oid.clone(), oid.clone());
        self.strict(to_oid, 1..=1, Returns::Int4, move |values| match first(values[0]) {
            Some(oid) => Ok(Some(Answer::Int(oid))),
            None => Err(DataFusionError::Plan(format!("{what} \"{}\" does not exist", values[0]))),
        });
        self.text(to_name, 1..=1, move |values| match second(values[0]) {
            Some(0) => Some("-".to_owned()),
            Some(oid) => Some(name(oid).unwrap_or_else(|| oid.to_string())),
            None => None,
        });
        self.strict(lenient, 1..=1, Returns::Int4, move |values| Ok(oid(values[0]).map(Answer::Int)));
    }
}

/// Names, numbers and comments of all relations, for the functions.
#[derive(Debug)]
pub(super) struct Names {
    relations: Vec<Relation>,
    by_oid: HashMap<i64, usize>,
    by_name: HashMap<(String, String), usize>,
}

impl Names {
    pub(super) fn new(relations: Vec<Relation>) -> Self {
        let by_oid = relations.iter().enumerate().map(|(index, r)| (r.oid, index)).collect();
        let by_name =
            relations.iter().enumerate().map(|(index, r)| ((r.schema.to_owned(), r.name.clone()), index)).collect();
        Self { relations, by_oid, by_name }
    }

    fn get(&self, oid: &str) -> Option<&Relation> {
        self.relation(oid.parse().ok()?)
    }

    fn relation(&self, oid: i64) -> Option<&Relation> {
        self.by_oid.get(&oid).map(|index| &self.relations[*index])
    }

    /// The number of a relation, its name perhaps qualified, perhaps quoted.
    fn find(&self, name: &str) -> Option<i64> {
        let mut parts = parse_ident(name)?;
        let relation = parts.pop()?;
        let schemas = parts.pop().map_or_else(|| vec!["pg_catalog".to_owned(), "public".to_owned()], |one| vec![one]);
        let mut found = schemas.into_iter().filter_map(|schema| self.by_name.get(&(schema, relation.clone())));
        found.next().map(|index| self.relations[*index].oid)
    }

    /// A relation's name as SQL needs it: qualified where it would not be found without.
    fn shown(&self, oid: i64) -> Option<String> {
        let relation = self.relation(oid)?;
        let name = quote_ident(&relation.name);
        Some(if relation.schema == "information_schema" { format!("{}.{name}", relation.schema) } else { name })
    }
}

/// Functions whose answer is always NULL, with the number of arguments they take.
const NOTHING: &[(&str, RangeInclusive<usize>)] = &[
    ("pg_get_expr", 2..=3),
    ("pg_get_indexdef", 1..=3),
    ("pg_get_constraintdef", 1..=2),
    ("pg_get_viewdef", 1..=2),
    ("pg_get_triggerdef", 1..=2),
    ("pg_get_ruledef", 1..=2),
    ("pg_get_partkeydef", 1..=1),
    ("pg_get_partition_constraintdef", 1..=1),
    ("pg_get_functiondef", 1..=1),
    ("pg_get_function_result", 1..=1),
    ("pg_get_function_arguments", 1..=1),
    ("pg_get_function_identity_arguments", 1..=1),
    ("pg_get_function_sqlbody", 1..=1),
    ("pg_get_serial_sequence", 2..=2),
    ("pg_get_statisticsobjdef_columns", 1..=1),
    ("pg_tablespace_location", 1..=1),
    ("shobj_description", 2..=2),
];

/// Sizes, which nobody has measured.
const SIZES: &[&str] = &[
    "pg_relation_size",
    "pg_table_size",
    "pg_total_relation_size",
    "pg_indexes_size",
    "pg_database_size",
    "pg_tablespace_size",
];

/// Questions whether something is found without its schema; for all but relations the answer is yes.
const VISIBLE: &[&str] = &[
    "pg_type_is_visible",
    "pg_function_is_visible",
    "pg_operator_is_visible",
    "pg_opclass_is_visible",
    "pg_opfamily_is_visible",
    "pg_collation_is_visible",
    "pg_conversion_is_visible",
    "pg_statistics_obj_is_visible",
    "pg_ts_config_is_visible",
    "pg_ts_dict_is_visible",
    "pg_ts_parser_is_visible",
    "pg_ts_template_is_visible",
];

/// Questions for a privilege: everything here can be read and nothing written.
const PRIVILEGES: &[&str] = &[
    "has_any_column_privilege",
    "has_column_privilege",
    "has_database_privilege",
    "has_function_privilege",
    "has_schema_privilege",
    "has_sequence_privilege",
    "has_table_privilege",
    "has_tablespace_privilege",
    "has_type_privilege",
    "pg_has_role",
];

/// The functions that are the same in all sessions.
pub(super) fn shared(names: &Arc<Names>) -> Vec<ScalarUDF> {
    let mut f = Functions::default();
    for (name, arguments) in NOTHING {
        f.any(name, arguments.clone(), Returns::Text, |_| Ok(None));
    }
    for name in SIZES {
        f.any(name, 1..=2, Returns::Int8, |_| Ok(None));
    }
    for name in VISIBLE {
        f.bool(name, 1..=1, |_| true);
    }
    for name in PRIVILEGES {
        f.bool(name, 2..=4, |values| values.last().is_some_and(|wanted| may(wanted)));
    }
    for name in ["pg_relation_is_publishable", "pg_is_other_temp_schema"] {
        f.bool(name, 1..=1, |_| false);
    }
    f.bool("pg_is_in_recovery", 0..=0, |_| false);

    f.text("quote_ident", 1..=1, |values| Some(quote_ident(values[0])));
    f.text("quote_literal", 1..=1, |values| Some(quote_literal(values[0])));
    f.text("pg_size_pretty", 1..=1, |values| values[0].parse().ok().map(size_pretty));
    f.text("pg_encoding_to_char", 1..=1, |values| Some(if values[0] == "6" { "UTF8" } else { "" }.to_owned()));
    f.text("pg_get_userbyid", 1..=1, |values| {
        let unknown = || format!("unknown (OID={})", values[0]);
        Some(if values[0].parse() == Ok(OWNER_OID) { OWNER.to_owned() } else { unknown() })
    });
    f.strict("parse_ident", 1..=2, Returns::Texts, |values| match parse_ident(values[0]) {
        Some(parts) => Ok(Some(Answer::Texts(parts))),
        None => Err(DataFusionError::Plan(format!("string is not a valid identifier: \"{}\"", values[0]))),
    });
    // Its second argument, the modifier, is NULL as often as not, and none of our types has one.
    f.any("format_type", 2..=2, Returns::Text, |values| {
        let Some(oid) = values[0].and_then(|oid| oid.parse::<i64>().ok()) else { return Ok(None) };
        let name = type_by_oid(oid).map_or(if oid == 0 { "-" } else { "???" }, |t| t.sql_name.as_str());
        Ok(Some(Answer::Text(name.to_owned())))
    });

    let known = Arc::clone(names);
    f.bool("pg_table_is_visible", 1..=1, move |values| {
        known.get(values[0]).is_some_and(|relation| relation.schema != "information_schema")
    });
    let known = Arc::clone(names);
    f.text("obj_description", 1..=2, move |values| {
        let relation = known.get(values[0]).filter(|_| values.get(1).is_none_or(|class| *class == "pg_class"));
        relation?.comment.clone()
    });
    let known = Arc::clone(names);
    f.text("col_description", 2..=2, move |values| {
        known.get(values[0])?.column_comment(values[1].parse().ok()?).map(str::to_owned)
    });
    casts(&mut f, names);
    f.0
}

fn casts(f: &mut Functions, names: &Arc<Names>) {
    let (find, show) = (Arc::clone(names), Arc::clone(names));
    f.reg(
        ["regclass_oid", "regclass_name", "to_regclass"],
        "relation",
        move |name| find.find(name),
        move |oid| show.shown(oid),
    );
    f.reg(
        ["regtype_oid", "regtype_name", "to_regtype"],
        "type",
        |name| type_by_name(name).map(|t| t.oid.into()),
        |oid| type_by_oid(oid).map(|t| t.sql_name.clone()),
    );
    let schemas = [("pg_catalog", PG_CATALOG), ("public", PUBLIC), ("information_schema", INFORMATION_SCHEMA)];
    f.reg(
        ["regnamespace_oid", "regnamespace_name", "to_regnamespace"],
        "schema",
        move |name| schemas.iter().find(|(schema, _)| *schema == name.trim_matches('"')).map(|(_, oid)| *oid),
        move |oid| schemas.iter().find(|(_, number)| *number == oid).map(|(schema, _)| (*schema).to_owned()),
    );
    f.reg(
        ["regrole_oid", "regrole_name", "to_regrole"],
        "role",
        |name| (name.trim_matches('"') == OWNER).then_some(OWNER_OID),
        |oid| (oid == OWNER_OID).then(|| OWNER.to_owned()),
    );
    // Functions are not listed; this one is how JDBC and others recognise arrays.
    f.reg(
        ["regproc_oid", "regproc_name", "to_regproc"],
        "function",
        |name| matches!(name, "array_in" | "pg_catalog.array_in").then_some(750),
        |oid| (oid == 750).then(|| "array_in".to_owned()),
    );
}

fn may(wanted: &str) -> bool {
    wanted.split(',').any(|one| {
        let one = one.trim().to_ascii_uppercase();
        matches!(one.as_str(), "SELECT" | "USAGE" | "CONNECT" | "EXECUTE" | "MEMBER")
    })
}

/// The functions of one session.
pub(super) fn of_session(session: &Arc<SessionFacts>) -> Vec<ScalarUDF> {
    let mut f = Functions::default();
    for name in ["current_user", "session_user", "user", "current_role"] {
        let facts = Arc::clone(session);
        f.text(name, 0..=0, move |_| Some(facts.user.clone()));
    }
    for name in ["current_database", "current_catalog"] {
        let facts = Arc::clone(session);
        f.text(name, 0..=0, move |_| Some(facts.database.clone()));
    }
    let facts = Arc::clone(session);
    f.text("version", 0..=0, move |_| Some(format!("PostgreSQL {} (Nodescope)", facts.server_version)));
    let facts = Arc::clone(session);
    f.strict("pg_backend_pid", 0..=0, Returns::Int4, move |_| {
        Ok(facts.settings.get("backend_pid").and_then(|pid| pid.parse().ok()).map(Answer::Int))
    });
    let facts = Arc::clone(session);
    f.text("current_schema", 0..=0, move |_| search_path(&facts).into_iter().find(|schema| exists(schema)));
    let facts = Arc::clone(session);
    f.strict("current_schemas", 1..=1, Returns::Texts, move |values| {
        let mut schemas: Vec<_> = search_path(&facts).into_iter().filter(|schema| exists(schema)).collect();
        if matches!(values[0], "true" | "t") && !schemas.iter().any(|schema| schema == "pg_catalog") {
            schemas.insert(0, "pg_catalog".to_owned());
        }
        Ok(Some(Answer::Texts(schemas)))
    });
    let facts = Arc::clone(session);
    f.bool("in_search_path", 1..=1, move |values| search_path(&facts).iter().any(|schema| schema == values[0]));
    let facts = Arc::clone(session);
    f.strict("current_setting", 1..=2, Returns::Text, move |values| {
        let value = setting(&facts, values[0]).map(Answer::Text);
        if value.is_none() && !matches!(values.get(1), Some(&("true" | "t"))) {
            return Err(DataFusionError::Plan(format!("unrecognized configuration parameter \"{}\"", values[0])));
        }
        Ok(value)
    });
    f.0
}

fn exists(schema: &str) -> bool {
    matches!(schema, "public" | "pg_catalog" | "information_schema")
}

/// The schemas of `search_path`, `$user` being the user's name.
fn search_path(facts: &SessionFacts) -> Vec<String> {
    let path = setting(facts, "search_path").unwrap_or_default();
    let schema = |one: &str| match one.trim().trim_matches('"') {
        "$user" => facts.user.clone(),
        other => other.to_owned(),
    };
    path.split(',').map(schema).filter(|schema| !schema.is_empty()).collect()
}
