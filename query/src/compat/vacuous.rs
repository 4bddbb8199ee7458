//! Queries that can have no rows, known from their text.
//!
//! psql asks about triggers, policies, publications and partitions of every table, in SQL that DataFusion cannot
//! always plan: subqueries over arrays, two columns of one name. None of these things exist here, so the relations
//! that would list them are always empty, and a query that joins one of them is empty too. Such a query is made
//! hollow: it keeps the names of its columns and loses everything else.

use std::collections::HashSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    CastKind, DataType, Expr, FunctionArguments, GroupByExpr, Ident, JoinOperator, ObjectName, Query, Select,
    SelectItem, SetExpr, TableFactor, TableWithJoins, Value, Visit, Visitor,
};

use super::layout::layout;

/// The system relations that have rows.
pub(super) const FILLED: &[(&str, &str)] = &[
    ("pg_catalog", "pg_attribute"),
    ("pg_catalog", "pg_class"),
    ("pg_catalog", "pg_database"),
    ("pg_catalog", "pg_description"),
    ("pg_catalog", "pg_extension"),
    ("pg_catalog", "pg_namespace"),
    ("pg_catalog", "pg_roles"),
    ("pg_catalog", "pg_settings"),
    ("pg_catalog", "pg_stat_all_tables"),
    ("pg_catalog", "pg_stat_user_tables"),
    ("pg_catalog", "pg_tables"),
    ("pg_catalog", "pg_tablespace"),
    ("pg_catalog", "pg_type"),
    ("pg_catalog", "pg_user"),
    ("pg_catalog", "pg_views"),
    ("information_schema", "columns"),
    ("information_schema", "schemata"),
    ("information_schema", "tables"),
];

const AGGREGATES: &[&str] =
    &["array_agg", "avg", "bool_and", "bool_or", "count", "every", "json_agg", "max", "min", "string_agg", "sum"];

/// The schema and name of a system relation, qualified or, for those called `pg_…`, not.
pub(super) fn system_relation(name: &ObjectName) -> Option<(&'static str, &'static str)> {
    let parts: Vec<String> =
        name.0.iter().filter_map(|part| part.as_ident()).map(|ident| ident.value.to_ascii_lowercase()).collect();
    let found = match parts.as_slice() {
        [relation] if relation.starts_with("pg_") => layout("pg_catalog", relation),
        [schema, relation] | [_, schema, relation] => layout(schema, relation),
        _ => None,
    };
    found.map(|layout| (layout.schema, layout.name))
}

fn factor_is_empty(factor: &TableFactor) -> bool {
    match factor {
        TableFactor::Table { name, args: None, .. } => {
            system_relation(name).is_some_and(|found| !FILLED.contains(&found))
        }
        TableFactor::Derived { subquery, .. } => is_vacuous(subquery),
        TableFactor::NestedJoin { table_with_joins, .. } => joins_are_empty(table_with_joins),
        _ => false,
    }
}

fn joins_are_empty(table: &TableWithJoins) -> bool {
    table.joins.iter().fold(factor_is_empty(&table.relation), |empty, join| {
        let joined = || factor_is_empty(&join.relation);
        match &join.join_operator {
            JoinOperator::Join(_) | JoinOperator::Inner(_) | JoinOperator::CrossJoin(_) => empty || joined(),
            JoinOperator::Left(_) | JoinOperator::LeftOuter(_) => empty,
            JoinOperator::Right(_) | JoinOperator::RightOuter(_) => joined(),
            JoinOperator::FullOuter(_) => empty && joined(),
            _ => false,
        }
    })
}

/// Whether the query can have no rows.
pub(super) fn is_vacuous(query: &Query) -> bool {
    matches!(query.body.as_ref(), SetExpr::Select(select) if select_is_vacuous(select))
}

/// Whether the selection can have no rows, and the names of its columns are known from its text.
pub(super) fn select_is_vacuous(select: &Select) -> bool {
    let named = |item: &SelectItem| matches!(item, SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. });
    select.from.iter().any(joins_are_empty)
        && select.projection.iter().all(named)
        // A count of nothing is a row.
        && (is_grouped(select) || !aggregates(select))
}

/// Whether there is a GROUP BY.
pub(super) fn is_grouped(select: &Select) -> bool {
    !matches!(&select.group_by, GroupByExpr::Expressions(expressions, _) if expressions.is_empty())
}

/// Whether a column is an aggregate; those of subqueries do not count.
pub(super) fn aggregates(select: &Select) -> bool {
    select.projection.iter().any(|item| item.visit(&mut Aggregates { depth: 0 }).is_break())
}

struct Aggregates {
    depth: u32,
}

impl Visitor for Aggregates {
    type Break = ();

    fn pre_visit_query(&mut self, _query: &Query) -> ControlFlow<()> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        match expr {
            Expr::Function(function)
                if self.depth == 0
                    && function.over.is_none()
                    && matches!(function.args, FunctionArguments::List(_))
                    && AGGREGATES.contains(&last_word(&function.name).as_str()) =>
            {
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

/// The last part of a name, in lower case.
pub(super) fn last_word(name: &ObjectName) -> String {
    name.0.last().and_then(|part| part.as_ident()).map(|ident| ident.value.to_ascii_lowercase()).unwrap_or_default()
}

/// Leaves nothing of a selection but its columns' names.
pub(super) fn hollow(select: &mut Select) {
    let mut names = HashSet::new();
    for item in &mut select.projection {
        let wanted = match item {
            SelectItem::ExprWithAlias { alias, .. } => alias.value.clone(),
            SelectItem::UnnamedExpr(expr) => output_name(expr),
            _ => continue,
        };
        let alias = Ident::with_quote('"', fresh(&wanted, &mut names));
        *item = SelectItem::ExprWithAlias { expr: null_text(), alias };
    }
    select.distinct = None;
    select.from.clear();
    select.selection = Some(Expr::Value(Value::Boolean(false).with_empty_span()));
    select.group_by = GroupByExpr::Expressions(vec![], vec![]);
    select.having = None;
    select.named_window.clear();
}

/// `CAST(NULL AS TEXT)`.
pub(super) fn null_text() -> Expr {
    Expr::Cast {
        kind: CastKind::Cast,
        expr: Box::new(Expr::Value(Value::Null.with_empty_span())),
        data_type: DataType::Text,
        array: false,
        format: None,
    }
}

/// The name PostgreSQL gives a column that has none.
pub(super) fn output_name(expr: &Expr) -> String {
    match expr {
        Expr::Identifier(ident) => ident.value.clone(),
        Expr::CompoundIdentifier(parts) => parts.last().map_or_else(String::new, |ident| ident.value.clone()),
        Expr::Function(function) => last_word(&function.name),
        Expr::Case { .. } => "case".to_owned(),
        Expr::Cast { expr, .. } | Expr::Nested(expr) => output_name(expr),
        _ => "?column?".to_owned(),
    }
}

/// The name, or the name with the first number that tells it from those already there.
pub(super) fn fresh(name: &str, names: &mut HashSet<String>) -> String {
    let mut candidate = name.to_owned();
    let mut number = 0;
    while !names.insert(candidate.clone()) {
        number += 1;
        candidate = format!("{name}_{number}");
    }
    candidate
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::ast::Statement;
    use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    fn query(sql: &str) -> Query {
        let statement = Parser::parse_sql(&PostgreSqlDialect {}, sql).unwrap().remove(0);
        let Statement::Query(query) = statement else { panic!("{sql} is no query") };
        *query
    }

    #[test]
    fn emptiness_follows_the_joins() {
        for (sql, expected) in [
            ("SELECT tgname FROM pg_catalog.pg_trigger", true),
            ("SELECT tgname FROM pg_trigger t, cpu", true),
            ("SELECT relname FROM pg_class c JOIN pg_index i ON i.indrelid = c.oid", true),
            ("SELECT relname FROM pg_class c LEFT JOIN pg_index i ON i.indrelid = c.oid", false),
            ("SELECT relname FROM pg_index i RIGHT JOIN pg_class c ON i.indrelid = c.oid", false),
            ("SELECT x FROM (SELECT tgname AS x FROM pg_trigger) AS t", true),
            ("SELECT count(*) FROM pg_trigger", false),
            ("SELECT tgname, count(*) FROM pg_trigger GROUP BY tgname", true),
            ("SELECT (SELECT count(*) FROM cpu) FROM pg_trigger", true),
            ("SELECT * FROM pg_trigger", false),
            ("SELECT relname FROM pg_class", false),
            ("SELECT a FROM other.pg_trigger", false),
            ("SELECT 1", false),
        ] {
            assert_eq!(is_vacuous(&query(sql)), expected, "{sql}");
        }
    }

    #[test]
    fn a_hollow_query_keeps_its_columns_names() {
        let mut query = query("SELECT pubname, NULL, NULL, f(x) AS \"F\" FROM pg_publication p WHERE p.oid = 1");
        let SetExpr::Select(select) = query.body.as_mut() else { panic!() };
        hollow(select);
        let columns =
            ["pubname", "?column?", "?column?_1", "F"].map(|name| format!("CAST(NULL AS TEXT) AS \"{name}\""));
        assert_eq!(query.to_string(), format!("SELECT {} WHERE false", columns.join(", ")));
    }
}
