//! The extended protocol: parse, bind, describe, execute.
//!
//! It is what drivers speak. A statement is parsed once and described, values are bound to its parameters, and the
//! portal that comes of it is executed, perhaps a few hundred rows at a time. `pgwire`'s own handler collects the
//! rows of a portal before it sends them and sets memory aside for as many as the client names; here rows are only
//! ever taken from the running query as they are sent. A statement is planned again for each execution: planning
//! costs little beside a scan, and each execution then sees the data and the settings of its own moment.

use std::sync::Arc;

use datafusion::arrow::datatypes::Schema;
use datafusion::common::ScalarValue;
use datafusion::sql::parser::Statement;
use pgwire::messages::PgWireBackendMessage as Backend;
use pgwire::messages::data::{NoData, ParameterDescription};
use pgwire::messages::extendedquery::{BindComplete, CloseComplete, ParseComplete, PortalSuspended};
use pgwire::messages::response::EmptyQueryResponse;

use super::connection::{Connection, Open, shown};
use super::errors::Failure;
use super::parameters::{self, ParameterType};
use super::rows::RowShape;
use super::run::{self, Budget};
use super::simple::{tag, tag_with_rows};
use super::wire::{Bind, Target};
use crate::metrics::Outcome;
use crate::statement::{self, Command};

/// A statement that has been parsed.
pub(super) struct Prepared {
    sql: Arc<str>,
    /// `None` for an empty text.
    command: Option<Command>,
    parameters: Vec<ParameterType>,
    /// The columns of its result, if it has one.
    schema: Option<Arc<Schema>>,
}

/// A statement with its parameters.
pub(super) struct Portal {
    prepared: Arc<Prepared>,
    values: Vec<ScalarValue>,
    formats: Vec<i16>,
    state: PortalState,
}

enum PortalState {
    Bound,
    Suspended(Box<Open>),
    Done,
}

impl Connection {
    /// Parses a statement and keeps it under `name`.
    pub(super) async fn parse(&mut self, name: String, sql: &str, types: &[u32]) -> Result<(), Failure> {
        if !name.is_empty() && self.prepared.contains_key(&name) {
            return Err(Failure::new("42P05", format!("prepared statement \"{name}\" already exists")));
        }
        self.prepared.remove(&name);
        self.check_room(self.prepared.len(), "prepared statements")?;
        match self.prepare(sql, types).await {
            Ok(prepared) => {
                self.prepared.insert(name, Arc::new(prepared));
                self.put(&Backend::ParseComplete(ParseComplete::new()))
            }
            Err(failure) => {
                self.count_failure(sql, &failure);
                Err(failure)
            }
        }
    }

    async fn prepare(&mut self, sql: &str, types: &[u32]) -> Result<Prepared, Failure> {
        let mut commands = statement::parse(sql, self.shared.engine.limits())?;
        if commands.len() > 1 {
            return Err(Failure::new("42601", "cannot insert multiple commands into a prepared statement"));
        }
        let command = commands.pop();
        let (parameters, schema) = match &command {
            None => (Vec::new(), None),
            Some(command) => {
                self.check_transaction(command)?;
                match command {
                    Command::Query(query) => {
                        let (parameters, schema) = self.describe_query(query.as_ref().clone(), types).await?;
                        (parameters, Some(schema))
                    }
                    Command::Show(_) | Command::ShowAll => {
                        (Vec::new(), Some(shown(command, self.session.settings())?.schema()))
                    }
                    _ => (Vec::new(), None),
                }
            }
        };
        Ok(Prepared { sql: sql.into(), command, parameters, schema })
    }

    /// Plans a query to learn the types of its parameters and of its columns.
    async fn describe_query(
        &mut self,
        query: Statement,
        types: &[u32],
    ) -> Result<(Vec<ParameterType>, Arc<Schema>), Failure> {
        let cancellable = self.registration.begin();
        let budget = Budget::new(self.session.settings().statement_timeout(), cancellable.token().clone());
        let context = self.context()?;
        let plan = run::plan(&budget, &mut self.channel, context, query).await?;
        let parameters = parameters::types(types, &plan.get_parameter_types()?)?;
        let plan = if parameters.is_empty() {
            plan
        } else {
            let nulls = parameters.iter().map(ParameterType::null).collect::<Result<Vec<_>, Failure>>()?;
            plan.with_param_values(nulls)?
        };
        Ok((parameters, Arc::new(plan.schema().as_arrow().clone())))
    }

    /// Binds values to a statement's parameters.
    pub(super) fn bind(&mut self, bind: &Bind) -> Result<(), Failure> {
        let prepared = self.prepared_statement(&bind.statement)?;
        if !bind.portal.is_empty() && self.portals.contains_key(&bind.portal) {
            return Err(Failure::new("42P03", format!("portal \"{}\" already exists", bind.portal)));
        }
        self.portals.remove(&bind.portal);
        self.check_room(self.portals.len(), "portals")?;
        if let Some(command) = &prepared.command {
            self.check_transaction(command)?;
        }
        let settings = self.session.settings();
        let values =
            parameters::values(&prepared.parameters, &bind.parameter_formats, &bind.parameters, settings.time_zone())?;
        if let Some(schema) = &prepared.schema {
            // The formats are checked now, where the client expects to hear of it.
            RowShape::new(schema, &bind.result_formats, settings)?;
        }
        let formats = bind.result_formats.clone();
        let portal = Portal { prepared, values, formats, state: PortalState::Bound };
        self.portals.insert(bind.portal.clone(), portal);
        self.put(&Backend::BindComplete(BindComplete::new()))
    }

    /// Describes the parameters and the columns of a statement, or the columns of a portal.
    pub(super) fn describe(&mut self, target: Target, name: &str) -> Result<(), Failure> {
        let (schema, formats) = match target {
            Target::Statement => {
                let prepared = self.prepared_statement(name)?;
                let types = prepared.parameters.iter().map(|parameter| parameter.postgres.oid()).collect();
                self.put(&Backend::ParameterDescription(ParameterDescription::new(types)))?;
                (prepared.schema.clone(), Vec::new())
            }
            Target::Portal => {
                let portal = self.portals.get(name).ok_or_else(|| no_portal(name))?;
                (portal.prepared.schema.clone(), portal.formats.clone())
            }
        };
        match schema {
            Some(schema) => {
                let shape = RowShape::new(&schema, &formats, self.session.settings())?;
                self.put(&Backend::RowDescription(shape.description()))
            }
            None => self.put(&Backend::NoData(NoData::new())),
        }
    }

    /// Sends the rows of a portal: all that there are, or the next `max_rows`.
    pub(super) async fn execute(&mut self, name: &str, max_rows: usize) -> Result<(), Failure> {
        // It is taken out while it runs: whatever fails, and whatever ends transactions, ends it too.
        let mut portal = self.portals.remove(name).ok_or_else(|| no_portal(name))?;
        let prepared = Arc::clone(&portal.prepared);
        let Some(command) = &prepared.command else {
            self.portals.insert(name.to_owned(), portal);
            return self.put(&Backend::EmptyQueryResponse(EmptyQueryResponse::new()));
        };
        self.check_transaction(command)?;
        let Command::Query(query) = command else {
            return self.control(command.clone(), &portal.formats, false);
        };
        let cancellable = self.registration.begin();
        let mut open = match portal.state {
            PortalState::Bound => {
                let timeout = self.session.settings().statement_timeout();
                let budget = Budget::new(timeout, cancellable.token().clone());
                let values = std::mem::take(&mut portal.values);
                let sql = Arc::clone(&prepared.sql);
                let open = self.open(budget, query.as_ref().clone(), sql, values, &portal.formats).await?;
                if let Err(failure) = self.check_columns(&prepared, &open, &portal.formats) {
                    open.finish(failure.outcome);
                    return Err(failure);
                }
                Box::new(open)
            }
            PortalState::Suspended(mut open) => {
                open.budget = open.budget.resumed(cancellable.token().clone());
                open
            }
            PortalState::Done => {
                self.portals.insert(name.to_owned(), portal);
                return self.complete(tag_with_rows(tag(query), 0));
            }
        };
        match self.send_rows(&mut open, max_rows).await {
            Ok(sent) if sent.complete => {
                open.finish(Outcome::Completed);
                portal.state = PortalState::Done;
                self.portals.insert(name.to_owned(), portal);
                self.complete(tag_with_rows(tag(query), sent.rows))
            }
            Ok(_) => {
                portal.state = PortalState::Suspended(open);
                self.portals.insert(name.to_owned(), portal);
                self.put(&Backend::PortalSuspended(PortalSuspended::new()))
            }
            Err(failure) => {
                open.finish(failure.outcome);
                Err(failure)
            }
        }
    }

    /// A driver reads rows by the columns it was shown; if these are others now, it must ask again.
    fn check_columns(&self, prepared: &Prepared, open: &Open, formats: &[i16]) -> Result<(), Failure> {
        let Some(schema) = &prepared.schema else { return Ok(()) };
        let described = RowShape::new(schema, formats, self.session.settings())?;
        if described.types().eq(open.shape().types()) {
            Ok(())
        } else {
            Err(Failure::new("0A000", "cached plan must not change result type").hint("Prepare the statement again."))
        }
    }

    /// Forgets a statement or a portal; it need not exist.
    pub(super) fn close(&mut self, target: Target, name: &str) -> Result<(), Failure> {
        match target {
            Target::Statement => {
                self.prepared.remove(name);
            }
            Target::Portal => {
                self.portals.remove(name);
            }
        }
        self.put(&Backend::CloseComplete(CloseComplete::new()))
    }

    fn prepared_statement(&self, name: &str) -> Result<Arc<Prepared>, Failure> {
        let prepared = self.prepared.get(name).map(Arc::clone);
        prepared.ok_or_else(|| Failure::new("26000", format!("prepared statement \"{name}\" does not exist")))
    }

    fn check_room(&self, kept: usize, what: &str) -> Result<(), Failure> {
        let most = self.shared.engine.limits().max_prepared;
        if kept < most {
            return Ok(());
        }
        Err(Failure::new("53400", format!("the session keeps {kept} {what}, which is the limit"))
            .hint("Close those that are no longer used."))
    }
}

fn no_portal(name: &str) -> Failure {
    Failure::new("34000", format!("portal \"{name}\" does not exist"))
}
