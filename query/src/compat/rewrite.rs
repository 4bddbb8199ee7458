//! PostgreSQL's idioms in terms DataFusion plans, changed in the parsed statement.
//!
//! | Written | Becomes |
//! |---|---|
//! | `pg_catalog.f(x)` | `f(x)` |
//! | `FROM pg_class` | `FROM pg_catalog.pg_class` |
//! | `a OPERATOR(pg_catalog.~) b COLLATE c` | `a ~ b` |
//! | `x::regclass`, `'cpu'::regclass` | `regclass_name(x)`, `regclass_oid('cpu')` |
//! | `x::oid`, `x::pg_catalog.text`, `x::"char"` | `x::integer`, `x::text` |
//! | `x = ANY('{a,b}')` | `x = ANY(ARRAY['a', 'b'])` |
//! | `ARRAY(SELECT x FROM …)` | `(SELECT array_agg(x) FROM …)` |
//! | a scalar subquery over system relations | the same with `max(…)`, since it has one row at most |
//! | Grafana's walk over `search_path` | `in_search_path(…)` |
//! | a query over relations that are always empty | nothing but its columns, see [`super::vacuous`] |
//! | two columns of one name | the second with a number |
//!
//! A statement with parameters is not made hollow, because its parameters would be lost with its text.

use std::collections::HashSet;
use std::mem;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Array, ArrayElemTypeDef, BinaryOperator, CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArgumentClause, FunctionArgumentList, FunctionArguments, Ident, ObjectName, OrderByKind, Query, Select,
    SelectItem, SelectItemQualifiedWildcardKind, SetExpr, Statement, TableFactor, TableWithJoins, TimezoneInfo,
    UnaryOperator, Value, ValueWithSpan, VisitMut, VisitorMut, visit_expressions,
};

use super::vacuous;

/// Functions that PostgreSQL calls without parentheses, also those sqlparser takes for columns.
const NILADIC: &[&str] = &["current_catalog", "current_role", "current_schema", "current_user", "session_user", "user"];

/// Functions whose column is called as they are, which clients rely on.
const NAMED: &[&str] = &[
    "current_catalog",
    "current_database",
    "current_role",
    "current_schema",
    "current_schemas",
    "current_setting",
    "current_user",
    "pg_backend_pid",
    "pg_is_in_recovery",
    "session_user",
    "user",
    "version",
];

/// Casts between names and numbers that [`super::functions`] answers.
const REG_TYPES: &[&str] = &["regclass", "regnamespace", "regproc", "regrole", "regtype"];

const NUMBERS: &[&str] = &["bigint", "int", "int4", "int8", "integer", "oid"];

/// Adapts a parsed statement before planning.
pub(crate) fn rewrite(mut statement: Statement) -> Statement {
    let placeholder = |expr: &Expr| {
        let is_one = matches!(expr, Expr::Value(ValueWithSpan { value: Value::Placeholder(_), .. }));
        if is_one { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let mut rewriter = Rewriter { has_parameters: visit_expressions(&statement, placeholder).is_break() };
    // Nothing below breaks off.
    let _ = statement.visit(&mut rewriter);
    statement
}

struct Rewriter {
    has_parameters: bool,
}

impl VisitorMut for Rewriter {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        // The order goes first: it may name columns that a hollow selection no longer has.
        if !self.has_parameters && vacuous::is_vacuous(query) {
            query.order_by = None;
            query.limit_clause = None;
            query.fetch = None;
        }
        query.locks.clear();
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        if !self.has_parameters && vacuous::select_is_vacuous(select) {
            vacuous::hollow(select);
        } else {
            name_outputs(select);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &mut ObjectName) -> ControlFlow<()> {
        if relation.0.len() == 1
            && let Some((schema, name)) = vacuous::system_relation(relation)
        {
            *relation = ObjectName::from(vec![Ident::new(schema), Ident::new(name)]);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, args: Some(_), .. } = factor {
            strip_schema(name);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if !self.has_parameters {
            replace_vacuous(expr);
        }
        match expr {
            Expr::Collate { expr: inner, .. } => {
                let inner = take(inner);
                *expr = inner;
                return self.pre_visit_expr(expr);
            }
            Expr::BinaryOp { op, .. } => plain_operator(op),
            Expr::Identifier(ident) if ident.quote_style.is_none() => {
                let name = ident.value.to_ascii_lowercase();
                if NILADIC.contains(&name.as_str()) {
                    *expr = call(&name, vec![]);
                }
            }
            Expr::Cast { .. } => cast(expr),
            Expr::AnyOp { right, .. } | Expr::AllOp { right, .. } => array_literal(right),
            Expr::InSubquery { expr: needle, subquery, negated }
                if subquery.to_string().contains("current_setting('search_path')") =>
            {
                let found = call("in_search_path", vec![take(needle)]);
                *expr = if *negated { Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(found) } } else { found };
            }
            Expr::Subquery(query) => single_row(query),
            Expr::Function(_) => function(expr),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// Subqueries without rows, as the values they have.
fn replace_vacuous(expr: &mut Expr) {
    match expr {
        Expr::Subquery(query) if vacuous::is_vacuous(query) => *expr = vacuous::null_text(),
        Expr::Exists { subquery, negated } if vacuous::is_vacuous(subquery) => {
            *expr = value(Value::Boolean(*negated));
        }
        Expr::InSubquery { subquery, negated, .. } if vacuous::is_vacuous(subquery) => {
            *expr = value(Value::Boolean(*negated));
        }
        Expr::Function(Function { name, args: FunctionArguments::Subquery(query), .. })
            if vacuous::last_word(name) == "array" && (vacuous::is_vacuous(query) || unnests_options(query)) =>
        {
            *expr = no_texts();
        }
        _ => {}
    }
}

/// psql shows a relation's storage options together with those of its TOAST table. No relation here has either.
fn unnests_options(query: &Query) -> bool {
    let SetExpr::Select(select) = query.body.as_ref() else { return false };
    let [TableWithJoins { relation, .. }] = select.from.as_slice() else { return false };
    let relation = relation.to_string().to_ascii_lowercase();
    relation.contains("unnest(") && relation.contains("reloptions")
}

/// `CAST(ARRAY[] AS TEXT[])`.
fn no_texts() -> Expr {
    Expr::Cast {
        kind: CastKind::Cast,
        expr: Box::new(Expr::Array(Array { elem: vec![], named: true })),
        data_type: DataType::Array(ArrayElemTypeDef::SquareBracket(Box::new(DataType::Text), None)),
        array: false,
        format: None,
    }
}

fn plain_operator(op: &mut BinaryOperator) {
    let BinaryOperator::PGCustomBinaryOperator(parts) = op else { return };
    *op = match parts.last().map(String::as_str) {
        Some("~") => BinaryOperator::PGRegexMatch,
        Some("~*") => BinaryOperator::PGRegexIMatch,
        Some("!~") => BinaryOperator::PGRegexNotMatch,
        Some("!~*") => BinaryOperator::PGRegexNotIMatch,
        Some("=") => BinaryOperator::Eq,
        Some("<>" | "!=") => BinaryOperator::NotEq,
        Some("<") => BinaryOperator::Lt,
        Some(">") => BinaryOperator::Gt,
        Some("||") => BinaryOperator::StringConcat,
        _ => return,
    };
}

fn strip_schema(name: &mut ObjectName) {
    let is_catalog = |part: &Ident| part.value.eq_ignore_ascii_case("pg_catalog");
    if name.0.len() == 2 && name.0[0].as_ident().is_some_and(is_catalog) {
        name.0.remove(0);
    }
}

fn function(expr: &mut Expr) {
    let Expr::Function(function) = expr else { return };
    strip_schema(&mut function.name);
    if function.name.0.len() != 1 {
        return;
    }
    let name = vacuous::last_word(&function.name);
    match (name.as_str(), &mut function.args) {
        ("array", FunctionArguments::Subquery(query)) => {
            if let Some(aggregated) = array_of(query) {
                *expr = aggregated;
            }
        }
        (name, FunctionArguments::None) if NILADIC.contains(&name) => *expr = call(name, vec![]),
        // All arrays here begin at 1 and have one dimension.
        ("array_upper", FunctionArguments::List(_)) => function.name = ObjectName::from(Ident::new("array_length")),
        ("array_lower", FunctionArguments::List(_)) => *expr = value(Value::Number("1".to_owned(), false)),
        _ => {}
    }
}

/// `ARRAY(SELECT x … ORDER BY …)` as `(SELECT array_agg(x ORDER BY …) …)`.
fn array_of(query: &mut Query) -> Option<Expr> {
    let order = query.order_by.take();
    let SetExpr::Select(select) = query.body.as_mut() else { return None };
    let [item] = select.projection.as_mut_slice() else { return None };
    let (SelectItem::UnnamedExpr(column) | SelectItem::ExprWithAlias { expr: column, .. }) = item else { return None };
    let mut clauses = Vec::new();
    if let Some(OrderByKind::Expressions(mut keys)) = order.map(|order| order.kind) {
        for key in &mut keys {
            if matches!(key.expr, Expr::Value(ValueWithSpan { value: Value::Number(..), .. })) {
                key.expr = column.clone();
            }
        }
        clauses.push(FunctionArgumentClause::OrderBy(keys));
    }
    let mut aggregate = call("array_agg", vec![take(column)]);
    if let Expr::Function(Function { args: FunctionArguments::List(list), .. }) = &mut aggregate {
        list.clauses = clauses;
    }
    *item = SelectItem::UnnamedExpr(aggregate);
    Some(Expr::Subquery(Box::new(query.clone())))
}

/// DataFusion wants to see that a correlated subquery has one row, and a lookup by number in a system relation does
/// not look like it.
fn single_row(query: &mut Query) {
    let SetExpr::Select(select) = query.body.as_mut() else { return };
    let is_system =
        |table: &TableWithJoins| is_system(&table.relation) && table.joins.iter().all(|join| is_system(&join.relation));
    let plain = !select.from.is_empty()
        && select.from.iter().all(is_system)
        && select.distinct.is_none()
        && !vacuous::is_grouped(select)
        && !vacuous::aggregates(select);
    if plain
        && let [SelectItem::UnnamedExpr(column) | SelectItem::ExprWithAlias { expr: column, .. }] =
            select.projection.as_mut_slice()
    {
        let inner = take(column);
        *column = call("max", vec![inner]);
        query.order_by = None;
        query.limit_clause = None;
    }
}

fn is_system(factor: &TableFactor) -> bool {
    let TableFactor::Table { name, args: None, .. } = factor else { return false };
    vacuous::system_relation(name).is_some()
}

fn cast(expr: &mut Expr) {
    let Expr::Cast { expr: operand, data_type, .. } = expr else { return };
    let target = type_word(data_type);
    if REG_TYPES.contains(&target.as_str()) {
        let direction = if is_given(operand) { "oid" } else { "name" };
        let operand = take(operand);
        *expr = call(&format!("{target}_{direction}"), vec![operand]);
        return;
    }
    let plain = plain_type(data_type);
    // A cast through a name: `x::regclass::oid` wants the number, `'x'::regtype::text` the name.
    if let Expr::Cast { expr: named, data_type: through, .. } = operand.as_mut() {
        let through = type_word(through);
        if REG_TYPES.contains(&through.as_str()) {
            let direction = if NUMBERS.contains(&target.as_str()) { "oid" } else { "name" };
            let named = take(named);
            **operand = call(&format!("{through}_{direction}"), vec![named]);
        }
    }
    if let Some(plain) = plain {
        *data_type = plain;
    }
}

/// Whether the operand is written out or a parameter, and so a name to look up.
fn is_given(operand: &Expr) -> bool {
    matches!(operand, Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(_) | Value::Placeholder(_), .. }))
}

/// A type's name without its schema, in lower case.
fn type_word(data_type: &DataType) -> String {
    match data_type {
        DataType::Custom(name, _) => vacuous::last_word(name),
        other => other.to_string().to_ascii_lowercase(),
    }
}

/// PostgreSQL's own types as types that DataFusion knows; `None` for those it knows already.
fn plain_type(data_type: &DataType) -> Option<DataType> {
    match data_type {
        DataType::Array(ArrayElemTypeDef::SquareBracket(element, size)) => {
            let element = plain_type(element)?;
            Some(DataType::Array(ArrayElemTypeDef::SquareBracket(Box::new(element), *size)))
        }
        DataType::Custom(name, _) => Some(match vacuous::last_word(name).as_str() {
            "text" | "name" | "char" | "bpchar" | "varchar" | "cstring" | "unknown" | "aclitem" | "pg_node_tree" => {
                DataType::Text
            }
            "oid" | "xid" | "cid" | "int4" | "integer" => DataType::Integer(None),
            "int2" => DataType::SmallInt(None),
            "int8" => DataType::BigInt(None),
            "bool" => DataType::Boolean,
            "float4" => DataType::Real,
            "float8" => DataType::DoublePrecision,
            "date" => DataType::Date,
            "timestamptz" => DataType::Timestamp(None, TimezoneInfo::Tz),
            "timestamp" => DataType::Timestamp(None, TimezoneInfo::None),
            _ => return None,
        }),
        _ => None,
    }
}

/// `'{a,b}'` as `ARRAY['a', 'b']`; elements with quotes of their own are left to fail.
fn array_literal(expr: &mut Expr) {
    let text = match expr {
        Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(text), .. }) => text,
        Expr::Nested(inner) => return array_literal(inner),
        _ => return,
    };
    let Some(elements) = text.trim().strip_prefix('{').and_then(|text| text.strip_suffix('}')) else { return };
    if elements.is_empty() || elements.contains(['"', '{', '\\']) {
        return;
    }
    let string = |element: &str| value(Value::SingleQuotedString(element.trim().to_owned()));
    *expr = Expr::Array(Array { elem: elements.split(',').map(string).collect(), named: true });
}

/// Gives columns names where two would have the same, which DataFusion refuses, and where clients expect one.
fn name_outputs(select: &mut Select) {
    let own_name = |item: &SelectItem| match item {
        SelectItem::ExprWithAlias { alias, .. } => Some(alias.value.clone()),
        SelectItem::UnnamedExpr(expr @ (Expr::Identifier(_) | Expr::CompoundIdentifier(_))) if !is_named(expr) => {
            Some(vacuous::output_name(expr))
        }
        _ => None,
    };
    let all = select.projection.iter().any(|item| matches!(item, SelectItem::Wildcard(_)));
    let tables: HashSet<String> = select
        .projection
        .iter()
        .filter_map(|item| match item {
            SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), _) => {
                Some(name.to_string())
            }
            _ => None,
        })
        .collect();
    let mut names: HashSet<String> = select.projection.iter().filter_map(own_name).collect();
    let mut texts = HashSet::new();
    for item in &mut select.projection {
        let SelectItem::UnnamedExpr(expr) = item else { continue };
        let name = vacuous::output_name(expr);
        // Repeated by a wildcard beside it.
        let repeated = match expr {
            Expr::Identifier(_) => all,
            Expr::CompoundIdentifier(parts) => {
                let table: Vec<String> = parts[..parts.len() - 1].iter().map(ToString::to_string).collect();
                all || tables.contains(&table.join("."))
            }
            _ => false,
        };
        let alias = if repeated || !texts.insert(expr.to_string()) {
            vacuous::fresh(&name, &mut names)
        } else if is_named(expr) && names.insert(name.clone()) {
            name
        } else {
            continue;
        };
        let expr = take(expr);
        *item = SelectItem::ExprWithAlias { expr, alias: Ident::with_quote('"', alias) };
    }
}

/// Whether rewriting would change the name of the column, or clients ask for it by name.
fn is_named(expr: &Expr) -> bool {
    match expr {
        Expr::Function(function) => NAMED.contains(&vacuous::last_word(&function.name).as_str()),
        Expr::Identifier(ident) => NILADIC.contains(&ident.value.to_ascii_lowercase().as_str()),
        Expr::Cast { expr, data_type, .. } => {
            (REG_TYPES.contains(&type_word(data_type).as_str()) && !is_given(expr)) || is_named(expr)
        }
        _ => false,
    }
}

fn take(expr: &mut Expr) -> Expr {
    mem::replace(expr, value(Value::Null))
}

fn value(value: Value) -> Expr {
    Expr::Value(value.with_empty_span())
}

fn call(name: &str, arguments: Vec<Expr>) -> Expr {
    let args = arguments.into_iter().map(|argument| FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))).collect();
    Expr::Function(Function {
        name: ObjectName::from(Ident::new(name)),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: vec![] }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: vec![],
    })
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    fn rewritten(sql: &str) -> String {
        rewrite(Parser::parse_sql(&PostgreSqlDialect {}, sql).unwrap().remove(0)).to_string()
    }

    #[test]
    fn idioms_become_what_datafusion_plans() {
        for (written, expected) in [
            ("SELECT pg_catalog.f(a) FROM pg_class", "SELECT f(a) FROM pg_catalog.pg_class"),
            (
                "SELECT a FROM t WHERE a OPERATOR(pg_catalog.~) '^b$' COLLATE pg_catalog.default",
                "SELECT a FROM t WHERE a ~ '^b$'",
            ),
            ("SELECT x FROM t WHERE x = 'cpu'::regclass", "SELECT x FROM t WHERE x = regclass_oid('cpu')"),
            ("SELECT c.oid::pg_catalog.regclass FROM t AS c", "SELECT regclass_name(c.oid) AS \"oid\" FROM t AS c"),
            (
                "SELECT a FROM t WHERE b = 'cpu'::regclass::oid",
                "SELECT a FROM t WHERE b = regclass_oid('cpu')::INTEGER",
            ),
            ("SELECT b::regtype::pg_catalog.text AS c FROM t", "SELECT regtype_name(b)::TEXT AS c FROM t"),
            ("SELECT a::oid AS b, c::\"char\" AS d FROM t", "SELECT a::INTEGER AS b, c::TEXT AS d FROM t"),
            ("SELECT a = ANY('{r, v}') AS b FROM t", "SELECT a = ANY(ARRAY['r', 'v']) AS b FROM t"),
            (
                "SELECT ARRAY(SELECT a FROM u ORDER BY 1) AS b FROM t",
                "SELECT (SELECT array_agg(a ORDER BY a) FROM u) AS b FROM t",
            ),
            ("SELECT db.oid, db.* FROM db", "SELECT db.oid AS \"oid_1\", db.* FROM db"),
            ("SELECT c.a, db.* FROM db, c", "SELECT c.a, db.* FROM db, c"),
            ("SELECT NULL, NULL", "SELECT NULL, NULL AS \"?column?\""),
            ("SELECT current_schema", "SELECT current_schema() AS \"current_schema\""),
            ("SELECT user", "SELECT user() AS \"user\""),
            ("SELECT version()", "SELECT version() AS \"version\""),
            ("SELECT EXISTS (SELECT 1 FROM pg_trigger) AS a", "SELECT false AS a"),
            ("SELECT tgname FROM pg_trigger ORDER BY tgtype", "SELECT CAST(NULL AS TEXT) AS \"tgname\" WHERE false"),
            ("SELECT tgname FROM pg_trigger WHERE oid = $1", "SELECT tgname FROM pg_catalog.pg_trigger WHERE oid = $1"),
        ] {
            assert_eq!(rewritten(written), expected);
        }
    }

    #[test]
    fn a_users_own_query_is_left_as_it_is() {
        for sql in [
            "SELECT host, max(user_seconds), count(*) FROM cpu WHERE host IN (SELECT host FROM memory) GROUP BY host",
            "SELECT date_bin(INTERVAL '1 minute', ts) AS time, avg(x) FROM cpu WHERE ts BETWEEN 'a' AND 'b' GROUP BY 1",
            "SELECT DISTINCT ON (host) * FROM cpu ORDER BY host, ts DESC",
            "WITH a AS (SELECT ts FROM cpu) SELECT a.ts, (SELECT max(ts) FROM memory) FROM a",
            "SELECT ts::date, x::DOUBLE PRECISION, y::text FROM cpu",
        ] {
            let parsed = Parser::parse_sql(&PostgreSqlDialect {}, sql).unwrap().remove(0);
            assert_eq!(rewrite(parsed.clone()), parsed, "{sql}");
        }
    }
}
