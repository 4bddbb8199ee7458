//! What makes psql, Grafana and drivers feel at home.
//!
//! They do not only send the user's SQL. psql's `\d` is seven queries over `pg_catalog`; Grafana's query builder
//! reads `information_schema`; drivers look up types. All of it is written for PostgreSQL, so there are three parts:
//! relations that PostgreSQL has and we fill from the catalogue ([`PgCatalog`]), functions over them, and a change
//! of the parsed statement where DataFusion does not know an idiom ([`rewrite`]).
//!
//! Existing crates list the tables a session happens to have, numbering them as they go; psql then finds no relations
//! under the numbers it has been given. Here numbers come from names, comments from the catalogue, and everything but
//! the session's own facts is built once per engine: installing it for a connection only shares it.

mod functions;
mod layout;
mod names;
mod rewrite;
mod settings;
mod tables;
#[cfg(test)]
mod tests;
mod vacuous;

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, MemoryCatalogProvider, SchemaProvider, TableProvider};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::ScalarUDF;
use datafusion::prelude::SessionContext;
use nodescope_model::catalogue::Catalogue;

pub(crate) use rewrite::rewrite;
use settings::{SessionTable, setting};

use crate::views::View;

/// Name of the database, which is also that of DataFusion's catalog.
pub(crate) const DATABASE: &str = "nodescope";

/// Name of the role that owns everything.
const OWNER: &str = "nodescope";

/// The parameters a session keeps.
pub(crate) trait Settings: Send + Sync {
    /// The value of a parameter, its name in lower case; `None` if the session keeps no such parameter.
    ///
    /// The parameter `backend_pid` is the number given to the client for cancelling, if there is one.
    fn get(&self, name: &str) -> Option<String>;
}

/// What the functions need to know of a session.
pub(crate) struct SessionFacts {
    /// Who is asking.
    pub user: String,
    /// The database connected to.
    pub database: String,
    /// The version of PostgreSQL we answer as, for instance `15.0`.
    pub server_version: &'static str,
    /// The session's parameters, as they are at any moment.
    pub settings: Arc<dyn Settings>,
}

type Tables = HashMap<&'static str, Arc<dyn TableProvider>>;

/// `pg_catalog`, `information_schema` and the functions over them, as far as they are the same in all sessions.
#[derive(Debug)]
pub(crate) struct PgCatalog {
    pg_catalog: Arc<Tables>,
    information_schema: Arc<Tables>,
    functions: Vec<ScalarUDF>,
}

impl PgCatalog {
    /// Makes the relations from the catalogue and the views over it.
    ///
    /// # Errors
    /// A column has a type that PostgreSQL has not.
    pub(crate) fn new(catalogue: &Catalogue, views: &[View]) -> Result<Self> {
        let relations = tables::relations(catalogue, views)?;
        let rows = tables::rows(&relations);
        let mut schemas: HashMap<&str, Tables> = HashMap::new();
        for layout in layout::LAYOUTS.iter() {
            let rows = rows.get(&(layout.schema, layout.name)).map_or(&[][..], Vec::as_slice);
            schemas.entry(layout.schema).or_default().insert(layout.name, tables::table(layout, rows)?);
        }
        let mut schema = |name: &str| Arc::new(schemas.remove(name).unwrap_or_default());
        Ok(Self {
            pg_catalog: schema("pg_catalog"),
            information_schema: schema("information_schema"),
            functions: functions::shared(&Arc::new(functions::Names::new(relations))),
        })
    }

    /// Registers both schemas in the catalog `nodescope` of the context, and all functions.
    ///
    /// DataFusion's own `information_schema` must be off (it is by default), or it would hide ours.
    ///
    /// # Errors
    /// The catalog takes no schemas.
    pub(crate) fn install(&self, ctx: &SessionContext, session: SessionFacts) -> Result<()> {
        let facts = Arc::new(session);
        let catalog = ctx.catalog(DATABASE).unwrap_or_else(|| {
            let catalog: Arc<dyn CatalogProvider> = Arc::new(MemoryCatalogProvider::new());
            ctx.register_catalog(DATABASE, Arc::clone(&catalog));
            catalog
        });
        let session_tables = self.session_tables(&facts)?;
        catalog.register_schema(
            "pg_catalog",
            Arc::new(SystemSchema { shared: Arc::clone(&self.pg_catalog), own: session_tables }),
        )?;
        catalog.register_schema(
            "information_schema",
            Arc::new(SystemSchema { shared: Arc::clone(&self.information_schema), own: Tables::new() }),
        )?;
        for function in self.functions.iter().cloned().chain(functions::of_session(&facts)) {
            ctx.register_udf(function);
        }
        Ok(())
    }

    fn session_tables(&self, facts: &Arc<SessionFacts>) -> Result<Tables> {
        let rows: [fn(&SessionFacts) -> Vec<tables::Row>; 3] =
            [settings::pg_roles, settings::pg_user, settings::pg_settings];
        let mut own = Tables::new();
        for ((schema, name), rows) in tables::PER_SESSION.into_iter().zip(rows) {
            let layout = layout::layout(schema, name)
                .ok_or_else(|| DataFusionError::Plan(format!("relations.txt lacks {schema}.{name}")))?;
            own.insert(name, Arc::new(SessionTable { layout, facts: Arc::clone(facts), rows }));
        }
        Ok(own)
    }
}

/// A system schema: relations shared by all sessions, and a few of the session's own in front of them.
#[derive(Debug)]
struct SystemSchema {
    shared: Arc<Tables>,
    own: Tables,
}

#[async_trait]
impl SchemaProvider for SystemSchema {
    fn table_names(&self) -> Vec<String> {
        self.shared.keys().map(|name| (*name).to_owned()).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        Ok(self.own.get(name).or_else(|| self.shared.get(name)).cloned())
    }

    fn table_exist(&self, name: &str) -> bool {
        self.shared.contains_key(name)
    }
}
