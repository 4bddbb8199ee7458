//! One statement on its way: admitted, planned, executed and streamed, within its time.
//!
//! A statement has one deadline, set when it arrives, and it holds to the last row: for the wait until it may run,
//! for planning, for every batch and for every write to a client that reads slowly. The engine works in a task of
//! its own and hands over a few batches ahead, no more, so that a slow client slows the query down instead of
//! filling the memory. The connection meanwhile waits for four things at once: the next batch, the deadline, a
//! request to cancel, and the client's hanging up. Whichever of the last three comes, the task is dropped, and with
//! it the query, its memory and its place among those that run. A panic in the engine ends in the task too.

use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::Schema;
use datafusion::common::ScalarValue;
use datafusion::execution::context::SessionContext;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::execute_stream;
use datafusion::sql::parser::Statement;
use futures::StreamExt;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::channel::Channel;
use super::errors::Failure;
use crate::limits::Admission;
use crate::statement;

/// Batches that wait between the engine and the client.
const BATCHES_AHEAD: usize = 2;

/// How long a statement may go on, and who may stop it before.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    deadline: Instant,
    timeout: Duration,
    cancel: CancellationToken,
}

impl Budget {
    /// A budget that begins now.
    pub(super) fn new(timeout: Duration, cancel: CancellationToken) -> Self {
        Budget { deadline: Instant::now() + timeout, timeout, cancel }
    }

    /// The same deadline, with another token; for a statement that goes on after a pause.
    pub(super) fn resumed(&self, cancel: CancellationToken) -> Self {
        Budget { cancel, ..self.clone() }
    }

    /// Waits for `work`, unless it is cancelled or its time is up.
    ///
    /// # Errors
    /// When one of them comes first.
    pub(super) async fn keep<T>(&self, work: impl Future<Output = T>) -> Result<T, Failure> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(Failure::cancelled()),
            () = tokio::time::sleep_until(self.deadline) => Err(Failure::timed_out(self.timeout)),
            done = work => Ok(done),
        }
    }

    /// The same, and gives up when the client hangs up.
    ///
    /// # Errors
    /// When one of the three comes first.
    pub(super) async fn keep_watching<T>(
        &self,
        channel: &mut Channel,
        work: impl Future<Output = T>,
    ) -> Result<T, Failure> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(Failure::cancelled()),
            () = tokio::time::sleep_until(self.deadline) => Err(Failure::timed_out(self.timeout)),
            done = work => Ok(done),
            () = channel.hang_up() => Err(Failure::gone()),
        }
    }

    /// Writes what waits in the channel.
    ///
    /// # Errors
    /// When the statement is stopped first, or the client is gone.
    pub(super) async fn flush(&self, channel: &mut Channel) -> Result<(), Failure> {
        Ok(self.keep(channel.flush()).await??)
    }
}

/// Plans a statement without running it.
///
/// # Errors
/// What the planner says, or what stopped it.
pub(super) async fn plan(
    budget: &Budget,
    channel: &mut Channel,
    context: SessionContext,
    statement: Statement,
) -> Result<LogicalPlan, Failure> {
    let task = AbortOnDropHandle::new(tokio::spawn(async move {
        let state = context.state();
        statement::plan(&state, statement).await
    }));
    match budget.keep_watching(channel, task).await? {
        Ok(plan) => Ok(plan?),
        Err(_) => Err(died()),
    }
}

/// A query that runs.
pub(super) struct Running {
    schema: Arc<Schema>,
    batches: mpsc::Receiver<RecordBatch>,
    task: AbortOnDropHandle<Result<(), Failure>>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl Running {
    /// Begins to run a statement; returns when its columns are known.
    ///
    /// # Errors
    /// When it may not run, cannot be planned, or is stopped.
    pub(super) async fn start(
        budget: &Budget,
        channel: &mut Channel,
        admission: &Admission,
        context: SessionContext,
        statement: Statement,
        parameters: Vec<ScalarValue>,
    ) -> Result<Running, Failure> {
        let admitted = budget.keep_watching(channel, admission.admit()).await??;
        let (tell_schema, schema) = oneshot::channel();
        let (send, batches) = mpsc::channel(BATCHES_AHEAD);
        let (deadline, timeout) = (budget.deadline, budget.timeout);
        let mut task = AbortOnDropHandle::new(tokio::spawn(async move {
            let work = produce(context, statement, parameters, tell_schema, send);
            let done = tokio::time::timeout_at(deadline, work).await;
            // A portal may wait long for its client after this; its place among the running ones is free.
            drop(admitted);
            done.unwrap_or_else(|_| Err(Failure::timed_out(timeout)))
        }));
        match budget.keep_watching(channel, schema).await? {
            Ok(schema) => Ok(Running { schema, batches, task }),
            // It ended without columns, so it ended with an error.
            Err(_) => match budget.keep(&mut task).await? {
                Ok(Err(failure)) => Err(failure),
                Ok(Ok(())) | Err(_) => Err(died()),
            },
        }
    }

    /// The columns of its result.
    pub(super) fn schema(&self) -> &Schema {
        &self.schema
    }

    /// The next batch; `None` after the last one.
    ///
    /// # Errors
    /// When the query fails or is stopped.
    pub(super) async fn next(
        &mut self,
        budget: &Budget,
        channel: &mut Channel,
    ) -> Result<Option<RecordBatch>, Failure> {
        if let Some(batch) = budget.keep_watching(channel, self.batches.recv()).await? {
            return Ok(Some(batch));
        }
        // No more batches come; only the task itself knows whether these were all.
        match budget.keep(&mut self.task).await? {
            Ok(Ok(())) => Ok(None),
            Ok(Err(failure)) => Err(failure),
            Err(_) => Err(died()),
        }
    }
}

fn died() -> Failure {
    Failure::internal("the query died of a fault in the engine; the server goes on")
        .hint("The server's log holds the details.")
}

async fn produce(
    context: SessionContext,
    statement: Statement,
    parameters: Vec<ScalarValue>,
    tell_schema: oneshot::Sender<Arc<Schema>>,
    send: mpsc::Sender<RecordBatch>,
) -> Result<(), Failure> {
    let state = context.state();
    let mut plan = statement::plan(&state, statement).await?;
    if !parameters.is_empty() {
        plan = plan.with_param_values(parameters)?;
    }
    // The plan's own schema and not that of the stream: it is the one that Describe has shown.
    let schema = Arc::new(plan.schema().as_arrow().clone());
    let physical = state.create_physical_plan(&plan).await?;
    let mut stream = execute_stream(physical, state.task_ctx())?;
    if tell_schema.send(schema).is_err() {
        return Ok(());
    }
    while let Some(batch) = stream.next().await {
        if send.send(batch?).await.is_err() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use datafusion::sql::parser::DFParser;
    use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
    use tokio::io::{DuplexStream, duplex};

    use super::*;
    use crate::limits::Limits;
    use crate::metrics::Outcome;

    fn connected() -> (DuplexStream, Channel) {
        let (client, server) = duplex(1024);
        (client, Channel::new(Box::new(server)))
    }

    fn budget(milliseconds: u64) -> (CancellationToken, Budget) {
        let token = CancellationToken::new();
        (token.clone(), Budget::new(Duration::from_millis(milliseconds), token))
    }

    async fn start(sql: &str, budget: &Budget, channel: &mut Channel) -> Result<Running, Failure> {
        let context = SessionContext::new();
        let admission = Admission::new(&Limits::default());
        let statement = DFParser::parse_sql_with_dialect(sql, &PostgreSqlDialect {})?.pop_front().expect("one");
        Running::start(budget, channel, &admission, context, statement, Vec::new()).await
    }

    #[tokio::test(start_paused = true)]
    async fn time_cancelling_and_hanging_up_stop_whatever_goes_on() {
        let (client, mut channel) = connected();
        let (token, budget) = self::budget(500);
        let before = Instant::now();
        let failure = budget.keep_watching(&mut channel, pending::<()>()).await.expect_err("time");
        assert_eq!((failure.code, failure.outcome), ("57014", Outcome::TimedOut));
        assert!((500..=510).contains(&before.elapsed().as_millis()), "{:?}", before.elapsed());

        let (_, budget) = self::budget(60_000);
        let resumed = budget.resumed(token.clone());
        token.cancel();
        let failure = resumed.keep_watching(&mut channel, pending::<()>()).await.expect_err("cancelled");
        assert_eq!((failure.code, failure.outcome), ("57014", Outcome::Cancelled));

        drop(client);
        let failure = budget.keep_watching(&mut channel, pending::<()>()).await.expect_err("gone");
        assert!(failure.fatal, "{failure:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_does_not_hold_a_query_for_ever() {
        let (_client, mut channel) = connected();
        let (_, budget) = self::budget(500);
        let tag = pgwire::messages::response::CommandComplete::new("x".repeat(10_000));
        channel.put(&pgwire::messages::PgWireBackendMessage::CommandComplete(tag)).expect("encoded");
        let failure = budget.flush(&mut channel).await.expect_err("time");
        assert_eq!(failure.outcome, Outcome::TimedOut);
    }

    #[tokio::test]
    async fn batches_come_one_by_one_and_end_with_the_last() {
        let (_client, mut channel) = connected();
        let (_, budget) = self::budget(60_000);
        let sql = "select value from generate_series(1, 20000)";
        let mut running = start(sql, &budget, &mut channel).await.expect("started");
        assert_eq!(running.schema().fields().len(), 1);
        let mut rows = 0;
        while let Some(batch) = running.next(&budget, &mut channel).await.expect("a batch") {
            rows += batch.num_rows();
        }
        assert_eq!(rows, 20_000);
    }

    #[tokio::test]
    async fn an_error_in_the_middle_is_an_error_and_not_an_end() {
        let (_client, mut channel) = connected();
        let (_, budget) = self::budget(60_000);
        let sql = "select 1 / (value - 15000) from generate_series(1, 20000)";
        let mut running = start(sql, &budget, &mut channel).await.expect("started");
        let failure = loop {
            match running.next(&budget, &mut channel).await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the error was lost"),
                Err(failure) => break failure,
            }
        };
        assert_eq!(failure.code, "22012");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_endless_query_is_stopped_by_its_deadline_and_by_a_cancel() {
        let (_client, mut channel) = connected();
        let sql = "select max(value % 7) from generate_series(1, 1000000000000)";
        let (_, budget) = self::budget(200);
        let mut running = start(sql, &budget, &mut channel).await.expect("started");
        let failure = running.next(&budget, &mut channel).await.expect_err("stopped");
        assert_eq!(failure.outcome, Outcome::TimedOut);

        let (token, budget) = self::budget(60_000);
        let mut running = start(sql, &budget, &mut channel).await.expect("started");
        token.cancel();
        let failure = running.next(&budget, &mut channel).await.expect_err("stopped");
        assert_eq!(failure.outcome, Outcome::Cancelled);
    }

    #[tokio::test]
    async fn whatever_would_write_is_refused_by_the_plan_too() {
        let (_client, mut channel) = connected();
        let (_, budget) = self::budget(60_000);
        for sql in [
            "create table a as select 1",
            "copy (select 1) to '/nowhere/x.parquet'",
            "set datafusion.execution.batch_size = 1",
        ] {
            let failure = start(sql, &budget, &mut channel).await.expect_err(sql);
            assert_eq!(failure.code, "25006", "{sql}: {failure:?}");
        }
    }
}
