//! One session: it reads a message, answers it, and reads the next.
//!
//! Both halves of the protocol, the simple and the extended one, meet here in the same session, the same rules for
//! transactions and the same way of sending rows. An error ends a statement, not the session, unless it says so; in
//! the extended protocol everything up to the next Sync is then skipped, as the protocol wants it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::common::ScalarValue;
use datafusion::execution::context::SessionContext;
use datafusion::sql::parser::Statement;
use pgwire::messages::PgWireBackendMessage as Backend;
use pgwire::messages::response::{CommandComplete, ReadyForQuery, TransactionStatus};
use pgwire::messages::startup::ParameterStatus;

use super::Shared;
use super::cancel::Registration;
use super::channel::{Channel, ChannelError, WRITE_SIZE};
use super::errors::Failure;
use super::extended::{Portal, Prepared};
use super::rows::{BatchRows, RowShape};
use super::run::{Budget, Running};
use super::wire::Frontend;
use crate::metrics::{Outcome, QueryTimer};
use crate::session::{Session, SessionSettings, TransactionState};
use crate::statement::Command;

/// How long a client may take to read an answer that is no longer part of a statement.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take to read the last words.
const PARTING_PATIENCE: Duration = Duration::from_secs(1);
/// How much of a statement goes into the log, in characters.
const LOGGED: usize = 1_000;

/// One client's session.
pub(super) struct Connection {
    pub shared: Arc<Shared>,
    pub channel: Channel,
    pub session: Session,
    pub registration: Registration,
    pub prepared: HashMap<String, Arc<Prepared>>,
    pub portals: HashMap<String, Portal>,
    peer: SocketAddr,
    context: Option<(Arc<SessionSettings>, SessionContext)>,
    skipping: bool,
}

/// A statement that is being answered, for the metrics and the log.
pub(super) struct Asked {
    timer: QueryTimer,
    sql: Arc<str>,
    user: String,
    peer: SocketAddr,
}

/// A query of which rows can be sent.
pub(super) struct Open {
    running: Running,
    shape: RowShape,
    current: Option<BatchRows>,
    asked: Asked,
    /// Its time, which does not begin anew when it goes on after a pause.
    pub budget: Budget,
}

/// What was sent of a query.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sent {
    /// Rows, this time.
    pub rows: usize,
    /// Whether these were the last.
    pub complete: bool,
}

impl Asked {
    fn finish(self, outcome: Outcome) {
        let sql: String = self.sql.chars().take(LOGGED).collect();
        tracing::info!(
            user = %self.user,
            peer = %self.peer,
            outcome = outcome.label(),
            rows = self.timer.rows(),
            %sql,
            "asked"
        );
        self.timer.finish(outcome);
    }
}

impl Open {
    /// The columns of its result.
    pub(super) fn shape(&self) -> &RowShape {
        &self.shape
    }

    /// Counts it as it ended.
    pub(super) fn finish(self, outcome: Outcome) {
        self.asked.finish(outcome);
    }
}

impl Connection {
    pub(super) fn new(
        shared: Arc<Shared>,
        channel: Channel,
        session: Session,
        registration: Registration,
        peer: SocketAddr,
    ) -> Self {
        Connection {
            shared,
            channel,
            session,
            registration,
            prepared: HashMap::new(),
            portals: HashMap::new(),
            peer,
            context: None,
            skipping: false,
        }
    }

    /// Answers messages until the client leaves, breaks the protocol, or the server stops.
    pub(super) async fn serve(mut self) {
        // Beside the statement a message holds names, formats and the like.
        let limit = self.shared.engine.limits().max_statement_bytes.saturating_add(64 * 1024);
        loop {
            let message = tokio::select! {
                biased;
                () = self.shared.shutdown.cancelled() => return self.part(&Failure::shutting_down()).await,
                message = self.channel.next(limit) => message,
            };
            let message = match message {
                Ok(Some(Frontend::Terminate) | None) => return self.channel.close().await,
                Ok(Some(message)) => message,
                Err(error) => return self.part(&Failure::from(error)).await,
            };
            if self.skipping && message != Frontend::Sync {
                continue;
            }
            let simple = matches!(message, Frontend::Query(_));
            let mut urgent = simple;
            if let Err(failure) = self.answer(message).await {
                urgent = true;
                if failure.fatal {
                    return self.part(&failure).await;
                }
                if self.fail(&failure, simple).is_err() {
                    return;
                }
            }
            if (urgent || self.channel.waiting() > WRITE_SIZE) && self.flush().await.is_err() {
                return;
            }
        }
    }

    async fn answer(&mut self, message: Frontend) -> Result<(), Failure> {
        match message {
            Frontend::Query(sql) => self.simple(&sql).await,
            Frontend::Parse { name, sql, types } => self.parse(name, &sql, &types).await,
            Frontend::Bind(bind) => self.bind(&bind),
            Frontend::Describe(target, name) => self.describe(target, &name),
            Frontend::Execute { portal, max_rows } => self.execute(&portal, max_rows).await,
            Frontend::Close(target, name) => self.close(target, &name),
            Frontend::Flush => Ok(self.flush().await?),
            Frontend::Sync => self.sync().await,
            Frontend::FunctionCall => Err(Failure::new("0A000", "function calls are not supported").fatal()),
            Frontend::Password(_) => Err(Failure::new("08P01", "a password was not asked for").fatal()),
            Frontend::Copy | Frontend::Terminate => Ok(()),
        }
    }

    /// Ends a series of messages of the extended protocol.
    async fn sync(&mut self) -> Result<(), Failure> {
        self.skipping = false;
        if self.session.transaction() == TransactionState::Idle {
            // Every statement outside a transaction is one of its own, and portals do not outlive theirs.
            self.portals.clear();
        }
        self.ready()?;
        Ok(self.flush().await?)
    }

    /// Tells the client of a failure, and puts the session into the state that follows.
    fn fail(&mut self, failure: &Failure, simple: bool) -> Result<(), Failure> {
        self.session.fail();
        self.put(&Backend::ErrorResponse(failure.response()))?;
        if simple {
            self.ready()
        } else {
            self.skipping = true;
            Ok(())
        }
    }

    /// Says the last words and closes; the client may be gone already.
    async fn part(mut self, failure: &Failure) {
        if self.channel.put(&Backend::ErrorResponse(failure.response())).is_ok() {
            let _ = tokio::time::timeout(PARTING_PATIENCE, self.channel.flush()).await;
        }
        let _ = tokio::time::timeout(PARTING_PATIENCE, self.channel.close()).await;
    }

    /// Adds a message to what is written next.
    pub(super) fn put(&mut self, message: &Backend) -> Result<(), Failure> {
        self.channel.put(message).map_err(|error| Failure::internal(format!("an answer cannot be sent: {error}")))
    }

    async fn flush(&mut self) -> Result<(), ChannelError> {
        match tokio::time::timeout(WRITE_PATIENCE, self.channel.flush()).await {
            Ok(written) => written,
            Err(_) => Err(ChannelError::Io(std::io::ErrorKind::TimedOut.into())),
        }
    }

    /// Says that the next statement may come.
    pub(super) fn ready(&mut self) -> Result<(), Failure> {
        let status = match self.session.transaction() {
            TransactionState::Idle => TransactionStatus::Idle,
            TransactionState::Open => TransactionStatus::Transaction,
            TransactionState::Failed => TransactionStatus::Error,
        };
        self.put(&Backend::ReadyForQuery(ReadyForQuery::new(status)))
    }

    /// Says that a command is done.
    pub(super) fn complete(&mut self, tag: impl Into<String>) -> Result<(), Failure> {
        self.put(&Backend::CommandComplete(CommandComplete::new(tag.into())))
    }

    /// A context with the session's settings; it is made anew when they have changed.
    pub(super) fn context(&mut self) -> Result<SessionContext, Failure> {
        let settings = self.session.settings();
        if let Some((made_with, context)) = &self.context
            && Arc::ptr_eq(made_with, settings)
        {
            return Ok(context.clone());
        }
        let context = self.shared.engine.session_context(settings)?;
        self.context = Some((Arc::clone(settings), context.clone()));
        Ok(context)
    }

    /// Makes sure that a failed transaction accepts nothing but its end.
    pub(super) fn check_transaction(&self, command: &Command) -> Result<(), Failure> {
        let ends = matches!(command, Command::Commit | Command::Rollback | Command::RollbackToSavepoint);
        if self.session.transaction() == TransactionState::Failed && !ends {
            return Err(Failure::in_failed_transaction());
        }
        Ok(())
    }

    /// Counts a statement from now on.
    pub(super) fn ask(&self, sql: Arc<str>) -> Asked {
        Asked {
            timer: self.shared.engine.metrics().start(),
            sql,
            user: self.session.settings().user.clone(),
            peer: self.peer,
        }
    }

    /// Counts a statement that failed before it ran.
    pub(super) fn count_failure(&self, sql: &str, failure: &Failure) {
        self.ask(sql.into()).finish(failure.outcome);
    }

    /// Begins to run a query.
    pub(super) async fn open(
        &mut self,
        budget: Budget,
        statement: Statement,
        sql: Arc<str>,
        values: Vec<ScalarValue>,
        formats: &[i16],
    ) -> Result<Open, Failure> {
        let asked = self.ask(sql);
        match self.start(&budget, statement, values, formats).await {
            Ok((running, shape)) => Ok(Open { running, shape, current: None, asked, budget }),
            Err(failure) => {
                asked.finish(failure.outcome);
                Err(failure)
            }
        }
    }

    async fn start(
        &mut self,
        budget: &Budget,
        statement: Statement,
        values: Vec<ScalarValue>,
        formats: &[i16],
    ) -> Result<(Running, RowShape), Failure> {
        let context = self.context()?;
        let admission = self.shared.engine.admission();
        let running = Running::start(budget, &mut self.channel, admission, context, statement, values).await?;
        let shape = RowShape::new(running.schema(), formats, self.session.settings())?;
        Ok((running, shape))
    }

    /// Sends up to `max_rows` rows of a query, or all of them if it is zero, as fast as the client reads.
    pub(super) async fn send_rows(&mut self, open: &mut Open, max_rows: usize) -> Result<Sent, Failure> {
        let most = self.shared.engine.limits().max_rows;
        let mut rows = 0;
        loop {
            if let Some(current) = &mut open.current {
                while let Some(row) = current.next_row() {
                    if open.asked.timer.rows() >= most {
                        return Err(Failure::too_many_rows(most));
                    }
                    self.put(&Backend::DataRow(row?))?;
                    open.asked.timer.add_rows(1);
                    rows += 1;
                    if self.channel.waiting() > WRITE_SIZE {
                        open.budget.flush(&mut self.channel).await?;
                    }
                    if rows == max_rows {
                        return Ok(Sent { rows, complete: false });
                    }
                }
            }
            open.current = match open.running.next(&open.budget, &mut self.channel).await? {
                Some(batch) => Some(open.shape.rows(&batch)?),
                None => return Ok(Sent { rows, complete: true }),
            };
        }
    }

    /// Answers a command about the session. What it shows, if anything, is described first if `describe` says so.
    pub(super) fn control(&mut self, command: Command, formats: &[i16], describe: bool) -> Result<(), Failure> {
        let before = Arc::clone(self.session.settings());
        let tag = match command {
            Command::Query(_) => return Err(Failure::internal("a query was taken for a command")),
            Command::Set { name, values, local } => {
                self.session.set(&name, values.as_deref(), local)?;
                if values.is_some() { "SET" } else { "RESET" }
            }
            Command::ResetAll => {
                self.session.reset_all();
                "RESET"
            }
            Command::Show(_) | Command::ShowAll => {
                let batch = shown(&command, &before)?;
                self.send_batch(&batch, formats, describe)?;
                "SHOW"
            }
            Command::Begin(tag) => {
                self.session.begin();
                tag
            }
            Command::Commit => {
                self.portals.clear();
                if self.session.commit() { "COMMIT" } else { "ROLLBACK" }
            }
            Command::Rollback => {
                self.portals.clear();
                self.session.rollback();
                "ROLLBACK"
            }
            Command::RollbackToSavepoint => {
                self.session.rollback_to_savepoint();
                "ROLLBACK"
            }
            Command::Deallocate(None) => {
                self.prepared.clear();
                "DEALLOCATE ALL"
            }
            Command::Deallocate(Some(name)) => {
                if self.prepared.remove(&name).is_none() {
                    return Err(Failure::new("26000", format!("prepared statement \"{name}\" does not exist")));
                }
                "DEALLOCATE"
            }
            Command::DiscardAll => {
                self.portals.clear();
                self.prepared.clear();
                self.session.reset_all();
                "DISCARD ALL"
            }
            Command::Nothing(tag) => tag,
        };
        self.report_changes(&before)?;
        self.complete(tag)
    }

    /// Tells the client of the parameters that have changed and that it wants to know of.
    fn report_changes(&mut self, before: &SessionSettings) -> Result<(), Failure> {
        let now = Arc::clone(self.session.settings());
        for (name, value) in now.reported() {
            if before.get(name).as_deref() != Some(value) {
                let status = ParameterStatus::new(name.to_owned(), value.to_owned());
                self.put(&Backend::ParameterStatus(status))?;
            }
        }
        Ok(())
    }

    fn send_batch(&mut self, batch: &RecordBatch, formats: &[i16], describe: bool) -> Result<(), Failure> {
        let shape = RowShape::new(&batch.schema(), formats, self.session.settings())?;
        if describe {
            self.put(&Backend::RowDescription(shape.description()))?;
        }
        let mut rows = shape.rows(batch)?;
        while let Some(row) = rows.next_row() {
            self.put(&Backend::DataRow(row?))?;
        }
        Ok(())
    }
}

/// What `SHOW` shows.
///
/// # Errors
/// When there is no such parameter.
pub(super) fn shown(command: &Command, settings: &SessionSettings) -> Result<RecordBatch, Failure> {
    let column = |values: Vec<&str>| -> ArrayRef { Arc::new(StringArray::from(values)) };
    let columns = if let Command::Show(name) = command {
        let (Some(name), Some(value)) = (SessionSettings::canonical_name(name), settings.get(name)) else {
            let shown: String = name.chars().take(100).collect();
            return Err(Failure::new("42704", format!("unrecognized configuration parameter \"{shown}\"")));
        };
        vec![(name, column(vec![value.as_str()]))]
    } else {
        let names = settings.all().map(|(name, _, _)| name).collect();
        let values = settings.all().map(|(_, value, _)| value).collect();
        let meanings = settings.all().map(|(_, _, meaning)| meaning).collect();
        vec![("name", column(names)), ("setting", column(values)), ("description", column(meanings))]
    };
    RecordBatch::try_from_iter(columns).map_err(|error| Failure::internal(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_shown_one_or_all() {
        let settings = SessionSettings::new("ada", Duration::from_secs(1));
        let one = shown(&Command::Show("timezone".to_owned()), &settings).expect("shown");
        assert_eq!((one.num_rows(), one.schema().field(0).name().as_str()), (1, "TimeZone"));
        let all = shown(&Command::ShowAll, &settings).expect("shown");
        assert_eq!((all.num_rows(), all.num_columns()), (settings.all().count(), 3));
        assert_eq!(shown(&Command::Show("nothing".to_owned()), &settings).expect_err("none").code, "42704");
    }
}
