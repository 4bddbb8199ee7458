//! What a client is told when something fails.
//!
//! PostgreSQL's clients act on the five-character SQLSTATE (a pool reconnects, a driver retries, a tool shows a
//! missing column in red), and people read the message. The engine knows neither: its errors are chains of Rust
//! values with advice to file a bug. So every error passes through here once and becomes a code, a sentence and,
//! where there is something to do, a hint.

use std::time::Duration;

use datafusion::arrow::error::ArrowError;
use datafusion::common::{DataFusionError, SchemaError};
use datafusion::sql::sqlparser::parser::ParserError;
use pgwire::error::ErrorInfo;
use pgwire::messages::response::ErrorResponse;

use super::channel::ChannelError;
use crate::limits::AdmissionRefused;
use crate::metrics::Outcome;
use crate::session::SettingRefused;
use crate::statement::StatementRefused;

/// Longest message that is sent, in characters.
const LONGEST_MESSAGE: usize = 4_000;
/// How many columns a hint lists.
const COLUMNS_IN_HINT: usize = 30;

/// An error as the client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// The SQLSTATE.
    pub code: &'static str,
    /// What went wrong.
    pub message: String,
    /// What can be done about it.
    pub hint: Option<String>,
    /// Whether the connection ends with it.
    pub fatal: bool,
    /// How the statement is counted.
    pub outcome: Outcome,
}

impl Failure {
    pub(super) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Failure { code, message: message.into(), hint: None, fatal: false, outcome: Outcome::Failed }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(super) fn fatal(mut self) -> Self {
        self.fatal = true;
        self
    }

    fn counted_as(mut self, outcome: Outcome) -> Self {
        self.outcome = outcome;
        self
    }

    /// The client asked for the statement to be cancelled.
    pub(super) fn cancelled() -> Self {
        Failure::new("57014", "canceling statement due to user request").counted_as(Outcome::Cancelled)
    }

    /// The statement took longer than it may.
    pub(super) fn timed_out(timeout: Duration) -> Self {
        Failure::new("57014", format!("canceling statement due to statement timeout ({timeout:?})"))
            .hint("Ask for a shorter time range or fewer columns.")
            .counted_as(Outcome::TimedOut)
    }

    /// The client went away; nobody will read this.
    pub(super) fn gone() -> Self {
        Failure::new("08006", "the client went away").fatal().counted_as(Outcome::Cancelled)
    }

    /// The server stops.
    pub(super) fn shutting_down() -> Self {
        Failure::new("57P01", "the server is shutting down").fatal().counted_as(Outcome::Cancelled)
    }

    /// The statement returns more rows than it may.
    pub(super) fn too_many_rows(limit: u64) -> Self {
        Failure::new("54000", format!("the statement returns more than {limit} rows, which is the limit"))
            .hint("Aggregate, add a LIMIT, or ask for a shorter time range.")
            .counted_as(Outcome::Refused)
    }

    /// Something that must not happen did, and the server survived it.
    pub(super) fn internal(message: impl Into<String>) -> Self {
        Failure::new("XX000", message)
    }

    /// The transaction has failed and only its end is accepted.
    pub(super) fn in_failed_transaction() -> Self {
        Failure::new("25P02", "current transaction is aborted, commands ignored until end of transaction block")
    }

    /// The message that says so on the wire.
    pub(super) fn response(&self) -> ErrorResponse {
        let severity = if self.fatal { "FATAL" } else { "ERROR" };
        let mut info = ErrorInfo::new(severity.to_owned(), self.code.to_owned(), sendable(&self.message));
        info.severity_nonlocalized = Some(severity.to_owned());
        info.hint = self.hint.as_deref().map(sendable);
        info.into()
    }
}

/// The text as it fits into a message: without NUL, which ends a text on the wire, and not endlessly long.
fn sendable(text: &str) -> String {
    text.chars().filter(|c| *c != '\0').take(LONGEST_MESSAGE).collect()
}

impl From<ChannelError> for Failure {
    fn from(error: ChannelError) -> Self {
        match error {
            ChannelError::Io(_) => Failure::gone(),
            ChannelError::Wire(error) => Failure::new("08P01", error.to_string()).fatal(),
        }
    }
}

impl From<SettingRefused> for Failure {
    fn from(refused: SettingRefused) -> Self {
        Failure::new(refused.code(), refused.to_string()).counted_as(Outcome::Refused)
    }
}

impl From<AdmissionRefused> for Failure {
    fn from(refused: AdmissionRefused) -> Self {
        Failure::new("53300", refused.to_string()).hint(refused.hint()).counted_as(Outcome::Refused)
    }
}

impl From<StatementRefused> for Failure {
    fn from(refused: StatementRefused) -> Self {
        let failure = match &refused {
            StatementRefused::Syntax(error) => return from_engine(error),
            StatementRefused::TooLong { .. } => Failure::new("54000", refused.to_string()),
            StatementRefused::TooComplex { .. } => Failure::new("54001", refused.to_string()),
            StatementRefused::ReadOnly(_) => Failure::new("25006", refused.to_string()),
            StatementRefused::Unsupported(_) => Failure::new("0A000", refused.to_string()),
        };
        Failure { hint: refused.hint().map(str::to_owned), ..failure }.counted_as(Outcome::Refused)
    }
}

impl From<DataFusionError> for Failure {
    fn from(error: DataFusionError) -> Self {
        from_engine(&error)
    }
}

fn from_engine(error: &DataFusionError) -> Failure {
    match error.find_root() {
        DataFusionError::SQL(error, _) => Failure::new("42601", syntax(error)),
        DataFusionError::SchemaError(error, _) => from_schema(error),
        DataFusionError::Plan(message) => from_plan(message),
        DataFusionError::NotImplemented(message) => Failure::new("0A000", plain(message)),
        DataFusionError::ResourcesExhausted(message) => {
            Failure::new("53200", format!("the query needs more memory than there is: {}", plain(message)))
                .hint("Ask for a shorter time range or fewer groups, or raise the memory limit of the server.")
        }
        DataFusionError::Execution(message) => Failure::new("22000", plain(message)),
        DataFusionError::ArrowError(error, _) => from_arrow(error),
        DataFusionError::Configuration(message) => Failure::new("22023", plain(message)),
        DataFusionError::External(error) => match error.downcast_ref::<StatementRefused>() {
            Some(StatementRefused::ReadOnly(what)) => Failure::from(StatementRefused::ReadOnly(what.clone())),
            Some(refused) => Failure::new("0A000", refused.to_string()),
            None => Failure::internal(plain(&error.to_string())),
        },
        DataFusionError::ObjectStore(error) => unreadable(&error.to_string()),
        DataFusionError::IoError(error) => unreadable(&error.to_string()),
        DataFusionError::ParquetError(error) => unreadable(&error.to_string()),
        DataFusionError::Internal(message) => Failure::internal(plain(message)),
        other => Failure::internal(plain(&other.to_string())),
    }
}

fn unreadable(message: &str) -> Failure {
    Failure::new("58030", format!("stored data could not be read: {}", plain(message)))
}

fn syntax(error: &ParserError) -> String {
    match error {
        ParserError::TokenizerError(message) | ParserError::ParserError(message) => {
            format!("syntax error: {}", plain(message))
        }
        ParserError::RecursionLimitExceeded => "syntax error: the statement is nested too deeply".to_owned(),
    }
}

fn from_schema(error: &SchemaError) -> Failure {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let failure = Failure::new("42703", format!("column \"{}\" does not exist", field.name()));
            if valid_fields.is_empty() {
                return failure;
            }
            let mut columns: Vec<&str> =
                valid_fields.iter().take(COLUMNS_IN_HINT).map(datafusion::prelude::Column::name).collect();
            if valid_fields.len() > COLUMNS_IN_HINT {
                columns.push("…");
            }
            failure.hint(format!("The columns here are {}.", columns.join(", ")))
        }
        SchemaError::AmbiguousReference { field } => {
            Failure::new("42702", format!("column reference \"{}\" is ambiguous", field.name()))
        }
        SchemaError::DuplicateQualifiedField { name, .. } | SchemaError::DuplicateUnqualifiedField { name } => {
            Failure::new("42701", format!("column \"{name}\" is there twice"))
                .hint("Give one of them another name with AS.")
        }
    }
}

fn from_plan(message: &str) -> Failure {
    let message = plain(message);
    let lower = message.to_ascii_lowercase();
    if lower.starts_with("table '") && lower.contains("not found") {
        let name = message.split('\'').nth(1).unwrap_or_default();
        let name = name.rsplit('.').next().unwrap_or(name).to_owned();
        return Failure::new("42P01", format!("relation \"{name}\" does not exist"))
            .hint("\\d in psql, or information_schema.tables, lists the tables there are.");
    }
    let code = if lower.contains("invalid function")
        || lower.contains("no function matches")
        || lower.contains("failed to coerce arguments")
        || (lower.contains("function") && lower.contains("not found"))
    {
        "42883"
    } else if lower.contains("cannot infer common") || lower.contains("cannot coerce") || lower.contains("cannot cast")
    {
        "42804"
    } else if lower.contains("group by") && lower.contains("must be in the") {
        "42803"
    } else if lower.contains("placeholder") {
        "42P02"
    } else {
        "42000"
    };
    // The engine puts what it supposes was meant on lines of its own.
    match message.split_once('\n') {
        Some((first, rest)) => {
            let hint = rest.split_whitespace().collect::<Vec<_>>().join(" ");
            Failure::new(code, first.trim_end_matches('.')).hint(hint)
        }
        None => Failure::new(code, message),
    }
}

fn from_arrow(error: &ArrowError) -> Failure {
    let message = plain(&error.to_string());
    match error {
        ArrowError::DivideByZero => Failure::new("22012", "division by zero"),
        ArrowError::ArithmeticOverflow(_) => Failure::new("22003", message),
        ArrowError::CastError(_) | ArrowError::ParseError(_) => Failure::new("22P02", message),
        ArrowError::MemoryError(_) => Failure::new("53200", message),
        ArrowError::NotYetImplemented(_) => Failure::new("0A000", message),
        ArrowError::InvalidArgumentError(_) | ArrowError::ComputeError(_) => Failure::new("22000", message),
        _ => Failure::internal(message),
    }
}

/// The message without a backtrace, without the engine's request to file a bug, and without empty ends.
fn plain(message: &str) -> String {
    let message = message.split(DataFusionError::BACK_TRACE_SEP).next().unwrap_or(message);
    let message = message.split("\nThis issue was likely caused by a bug").next().unwrap_or(message);
    let message = message.split("This was likely caused by a bug in DataFusion").next().unwrap_or(message);
    message.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionContext;

    use super::*;

    async fn failure_of(sql: &str) -> Failure {
        let context = SessionContext::new();
        context.sql("create table cpu as select 1 as host, 2 as usage").await.expect("a table");
        let error = match context.sql(sql).await {
            Err(error) => error,
            Ok(frame) => frame.collect().await.expect_err(sql),
        };
        Failure::from(error)
    }

    #[tokio::test]
    async fn the_usual_mistakes_have_the_codes_that_clients_know() {
        for (sql, code, says) in [
            ("selec 1", "42601", "syntax error"),
            ("select * from memory", "42P01", "relation \"memory\" does not exist"),
            ("select usager from cpu", "42703", "column \"usager\" does not exist"),
            ("select a.host from cpu a, cpu b where host = 1", "42702", "ambiguous"),
            ("select no_such_function(1)", "42883", "no_such_function"),
            ("select 1 / 0", "22012", "division by zero"),
            ("select cast('x' as int)", "22P02", "x"),
        ] {
            let failure = failure_of(sql).await;
            assert_eq!(failure.code, code, "{sql}: {failure:?}");
            assert!(failure.message.contains(says), "{sql}: {failure:?}");
            assert!(!failure.fatal, "{sql}");
        }
    }

    #[tokio::test]
    async fn a_missing_column_comes_with_those_there_are() {
        let hint = failure_of("select usager from cpu").await.hint.expect("a hint");
        assert!(hint.contains("host") && hint.contains("usage"), "{hint}");
    }

    #[test]
    fn errors_of_our_own_pass_through_the_engine() {
        let error = DataFusionError::External(Box::new(StatementRefused::ReadOnly("DROP TABLE".to_owned())))
            .context("while planning");
        let failure = Failure::from(error);
        assert_eq!(failure.code, "25006");
        assert_eq!(failure.outcome, Outcome::Refused);
        let failure = Failure::from(DataFusionError::ResourcesExhausted("Failed to allocate".to_owned()));
        assert_eq!(failure.code, "53200");
        assert!(failure.hint.is_some());
    }

    #[test]
    fn noise_is_left_out_and_the_text_fits_the_wire() {
        let failure = Failure::from(DataFusionError::Internal(
            "it broke.\nThis issue was likely caused by a bug in DataFusion's code.\n\nbacktrace: 0: main".to_owned(),
        ));
        assert_eq!(failure.message, "it broke.");
        assert_eq!(sendable("a\0b"), "ab");
        assert_eq!(sendable(&"ü".repeat(10_000)).chars().count(), LONGEST_MESSAGE);
    }
}
