//! What a session tells of itself: its parameters and its user.
//!
//! The server keeps the parameters it obeys. Clients also ask for some that nothing here depends on, such as the
//! longest name; those have PostgreSQL's values. `pg_settings`, `pg_roles` and `pg_user` are made from both.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;

use super::layout::Layout;
use super::tables::{Cell, OWNER_OID, Row, table};
use super::{OWNER, SessionFacts};

/// Number of the session's user, if it is not the owner. Nothing refers to it.
const USER_OID: i64 = 16_382;

/// Parameters and PostgreSQL's values for those the server does not keep.
const PARAMETERS: &[(&str, &str)] = &[
    ("application_name", ""),
    ("bytea_output", "hex"),
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "on"),
    ("extra_float_digits", "1"),
    ("integer_datetimes", "on"),
    ("IntervalStyle", "postgres"),
    ("is_superuser", "off"),
    ("lc_collate", "C"),
    ("lc_ctype", "C"),
    ("max_identifier_length", "63"),
    ("max_index_keys", "32"),
    ("search_path", "\"$user\", public"),
    ("server_encoding", "UTF8"),
    ("standard_conforming_strings", "on"),
    ("statement_timeout", "0"),
    ("TimeZone", "UTC"),
    ("transaction_isolation", "read committed"),
    ("transaction_read_only", "on"),
];

/// Parameters that follow from the session's other facts.
const DERIVED: &[&str] = &["server_version", "server_version_num", "session_authorization"];

/// The value of a parameter, whatever the case of its name; `None` if there is none of that name.
pub(super) fn setting(facts: &SessionFacts, name: &str) -> Option<String> {
    let lower = name.to_ascii_lowercase();
    if let Some(value) = facts.settings.get(&lower) {
        return Some(value);
    }
    match lower.as_str() {
        "server_version" => Some(facts.server_version.to_owned()),
        "server_version_num" => Some(version_number(facts.server_version)),
        "session_authorization" => Some(facts.user.clone()),
        _ => {
            let known = PARAMETERS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
            known.map(|(_, value)| (*value).to_owned())
        }
    }
}

/// `15.3` as `150003`.
fn version_number(version: &str) -> String {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    let major = numbers.next().unwrap_or(0);
    (major * 10_000 + numbers.next().unwrap_or(0)).to_string()
}

/// A relation whose rows are asked of the session each time it is read.
pub(super) struct SessionTable {
    pub layout: &'static Layout,
    pub facts: Arc<SessionFacts>,
    pub rows: fn(&SessionFacts) -> Vec<Row>,
}

impl std::fmt::Debug for SessionTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionTable").field("name", &self.layout.name).finish_non_exhaustive()
    }
}

#[async_trait]
impl TableProvider for SessionTable {
    fn schema(&self) -> SchemaRef {
        self.layout.arrow_schema()
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let rows = (self.rows)(&self.facts);
        table(self.layout, &rows)?.scan(state, projection, filters, limit).await
    }
}

/// The rows of `pg_settings`.
pub(super) fn pg_settings(facts: &SessionFacts) -> Vec<Row> {
    let names = PARAMETERS.iter().map(|(name, _)| *name).chain(DERIVED.iter().copied());
    names
        .filter_map(|name| {
            let value = setting(facts, name)?;
            Some(vec![
                ("name", name.into()),
                ("setting", value.into()),
                ("context", "user".into()),
                ("vartype", "string".into()),
                ("source", "session".into()),
                ("pending_restart", false.into()),
            ])
        })
        .collect()
}

/// The owner of everything and the session's user: all roles that a session may know of.
fn roles(facts: &SessionFacts) -> Vec<(i64, String)> {
    let mut roles = vec![(OWNER_OID, OWNER.to_owned())];
    if facts.user != OWNER {
        roles.push((USER_OID, facts.user.clone()));
    }
    roles
}

/// The rows of `pg_roles`.
pub(super) fn pg_roles(facts: &SessionFacts) -> Vec<Row> {
    let no = ["rolsuper", "rolcreaterole", "rolcreatedb", "rolreplication", "rolbypassrls"];
    let role = |(oid, name): (i64, String)| {
        let mut row: Row = no.iter().map(|column| (*column, Cell::Bool(false))).collect();
        row.extend([
            ("oid", oid.into()),
            ("rolname", name.into()),
            ("rolinherit", true.into()),
            ("rolcanlogin", true.into()),
            ("rolconnlimit", (-1).into()),
        ]);
        row
    };
    roles(facts).into_iter().map(role).collect()
}

/// The rows of `pg_user`.
pub(super) fn pg_user(facts: &SessionFacts) -> Vec<Row> {
    let no = ["usecreatedb", "usesuper", "userepl", "usebypassrls"];
    let user = |(oid, name): (i64, String)| {
        let mut row: Row = no.iter().map(|column| (*column, Cell::Bool(false))).collect();
        row.extend([("usesysid", oid.into()), ("usename", name.into())]);
        row
    };
    roles(facts).into_iter().map(user).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Settings;
    use super::*;

    struct Kept;

    impl Settings for Kept {
        fn get(&self, name: &str) -> Option<String> {
            (name == "timezone").then(|| "Europe/London".to_owned())
        }
    }

    #[test]
    fn the_servers_value_goes_before_the_usual_one() {
        let facts = SessionFacts {
            user: "ada".into(),
            database: "nodescope".into(),
            server_version: "15.3",
            settings: Arc::new(Kept),
        };
        for (name, value) in [
            ("TimeZone", Some("Europe/London")),
            ("timezone", Some("Europe/London")),
            ("datestyle", Some("ISO, MDY")),
            ("server_version_num", Some("150003")),
            ("session_authorization", Some("ada")),
            ("nosuch", None),
        ] {
            assert_eq!(setting(&facts, name).as_deref(), value, "{name}");
        }
        assert_eq!(pg_settings(&facts).len(), PARAMETERS.len() + DERIVED.len());
        assert_eq!(version_number("15.0 (Nodescope)"), "150000");
    }
}
