//! The simple protocol: a text in, results out.
//!
//! It is what psql and Grafana speak. A text may hold several statements; they are all parsed before the first one
//! runs, they run one after the other, and the first that fails ends the text. Each has the whole time limit for
//! itself, as in PostgreSQL.

use std::sync::Arc;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::Statement as SqlStatement;
use pgwire::messages::PgWireBackendMessage as Backend;
use pgwire::messages::response::EmptyQueryResponse;

use super::connection::Connection;
use super::errors::Failure;
use super::run::Budget;
use crate::metrics::Outcome;
use crate::statement::{self, Command};

impl Connection {
    /// Answers a text of statements.
    pub(super) async fn simple(&mut self, sql: &str) -> Result<(), Failure> {
        // The protocol wants it: a simple query replaces what has no name.
        self.prepared.remove("");
        self.portals.remove("");
        let commands = match statement::parse(sql, self.shared.engine.limits()) {
            Ok(commands) => commands,
            Err(refused) => {
                let failure = Failure::from(refused);
                self.count_failure(sql, &failure);
                return Err(failure);
            }
        };
        if commands.is_empty() {
            self.put(&Backend::EmptyQueryResponse(EmptyQueryResponse::new()))?;
        }
        let text: Arc<str> = sql.into();
        for command in commands {
            self.check_transaction(&command)?;
            match command {
                Command::Query(query) => self.simple_query(*query, Arc::clone(&text)).await?,
                command => self.control(command, &[], true)?,
            }
        }
        self.ready()
    }

    async fn simple_query(&mut self, query: Statement, text: Arc<str>) -> Result<(), Failure> {
        let cancellable = self.registration.begin();
        let budget = Budget::new(self.session.settings().statement_timeout(), cancellable.token().clone());
        let word = tag(&query);
        let mut open = self.open(budget, query, text, Vec::new(), &[]).await?;
        let described = self.put(&Backend::RowDescription(open.shape().description()));
        let sent = match described {
            Ok(()) => self.send_rows(&mut open, 0).await,
            Err(failure) => Err(failure),
        };
        match sent {
            Ok(sent) => {
                open.finish(Outcome::Completed);
                self.complete(tag_with_rows(word, sent.rows))
            }
            Err(failure) => {
                open.finish(failure.outcome);
                Err(failure)
            }
        }
    }
}

/// The word with which the end of a query is announced.
pub(super) fn tag(query: &Statement) -> &'static str {
    match query {
        Statement::Explain(_) => "EXPLAIN",
        Statement::Statement(statement) => match statement.as_ref() {
            SqlStatement::Query(_) => "SELECT",
            _ => "SHOW",
        },
        Statement::CreateExternalTable(_) | Statement::CopyTo(_) | Statement::Reset(_) => "SELECT",
    }
}

/// The same with the number of rows, where clients expect it.
pub(super) fn tag_with_rows(word: &str, rows: usize) -> String {
    if word == "SELECT" { format!("SELECT {rows}") } else { word.to_owned() }
}
