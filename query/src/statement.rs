//! What a text asks for: which statements it holds and what each of them is.
//!
//! A session may ask questions and arrange itself; it may change nothing. So every statement falls into one of
//! three classes: a query, which is planned and run; a command about the session (`SET`, `SHOW`, `BEGIN`, …),
//! which the server answers itself; and everything else, which is refused with a sentence. What may pass is
//! listed here and all the rest is refused, never the other way round, and the plan is checked a second time,
//! because a statement that slips through the first list must still not write.

use datafusion::common::DataFusionError;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::{DFParserBuilder, ResetStatement, Statement as EngineStatement};
use datafusion::sql::sqlparser::ast::{ContextModifier, DiscardObject, Expr, ObjectName, Set, Statement, Value};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};
use thiserror::Error;

use crate::compat;
use crate::limits::Limits;

/// One statement, as the server understands it.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// A question for the engine.
    Query(Box<EngineStatement>),
    /// Set a parameter; without values, return it to what it was when the session began.
    Set {
        /// The parameter.
        name: String,
        /// Its new value; several for a list.
        values: Option<Vec<String>>,
        /// Whether it ends with the transaction.
        local: bool,
    },
    /// Return every parameter to what it was when the session began.
    ResetAll,
    /// Show one parameter.
    Show(String),
    /// Show all of them.
    ShowAll,
    /// Begin a transaction; the tag repeats the word that was used.
    Begin(&'static str),
    /// End the transaction and keep its settings.
    Commit,
    /// End the transaction and undo its settings.
    Rollback,
    /// Return to a savepoint.
    RollbackToSavepoint,
    /// Forget one prepared statement, or all of them.
    Deallocate(Option<String>),
    /// Forget everything the session has set and prepared.
    DiscardAll,
    /// Accepted without an effect, because there is nothing to do; the tag that answers it.
    Nothing(&'static str),
}

/// Why a text is not run.
#[derive(Debug, Error)]
pub enum StatementRefused {
    /// It is longer than a statement may be.
    #[error("the statement is {length} bytes long and may have {limit}")]
    TooLong {
        /// Its length in bytes.
        length: usize,
        /// The bound.
        limit: usize,
    },
    /// Its expressions would be nested too deeply.
    #[error("the statement has {operators} operators and may have {limit}")]
    TooComplex {
        /// Its operators.
        operators: usize,
        /// The bound.
        limit: usize,
    },
    /// It is not SQL.
    #[error("the statement could not be parsed")]
    Syntax(#[source] DataFusionError),
    /// It would change something.
    #[error("cannot execute {0} in a read-only database")]
    ReadOnly(String),
    /// It only reads, but there is no such thing here.
    #[error("{0} is not supported")]
    Unsupported(String),
}

impl StatementRefused {
    /// What the asker can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            StatementRefused::TooComplex { .. } => Some("Write a long chain of OR as IN (…)."),
            StatementRefused::ReadOnly(_) => {
                Some("Rows are written by sending them to Kafka; tables are defined in the catalogue.")
            }
            StatementRefused::Unsupported(_) => {
                Some("Queries, EXPLAIN, SET, SHOW, RESET and transaction commands are supported.")
            }
            StatementRefused::TooLong { .. } | StatementRefused::Syntax(_) => None,
        }
    }
}

/// Parses a text that may hold several statements, separated by semicolons.
///
/// # Errors
/// When the text is too long or too complex, is not SQL, or holds a statement that is not allowed. Then none of
/// its statements is to be run.
pub fn parse(sql: &str, limits: &Limits) -> Result<Vec<Command>, StatementRefused> {
    if sql.len() > limits.max_statement_bytes {
        return Err(StatementRefused::TooLong { length: sql.len(), limit: limits.max_statement_bytes });
    }
    let dialect = PostgreSqlDialect {};
    let mut tokens = Tokenizer::new(&dialect, sql)
        .tokenize_with_location()
        .map_err(|error| StatementRefused::Syntax(DataFusionError::SQL(Box::new(error.into()), None)))?;
    let operators = tokens.iter().filter(|token| deepens(&token.token)).count();
    if operators > limits.max_statement_operators {
        return Err(StatementRefused::TooComplex { operators, limit: limits.max_statement_operators });
    }
    write_abort_as_rollback(&mut tokens);
    let statements = DFParserBuilder::new(tokens)
        .with_dialect(&dialect)
        .build()
        .and_then(|mut parser| parser.parse_statements())
        .map_err(StatementRefused::Syntax)?;
    statements.into_iter().map(classify).collect()
}

/// Plans a query and makes sure that the plan only reads.
///
/// # Errors
/// Whatever the planner finds wrong with it; and an error that carries [`StatementRefused::ReadOnly`] if the plan
/// would write.
pub async fn plan(state: &SessionState, statement: EngineStatement) -> Result<LogicalPlan, DataFusionError> {
    let plan = state.statement_to_plan(statement).await?;
    SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false)
        .with_allow_statements(false)
        .verify_plan(&plan)
        .map_err(|_| DataFusionError::External(Box::new(StatementRefused::ReadOnly("this statement".to_owned()))))?;
    Ok(plan)
}

/// Whether a token makes the tree one level deeper when it is repeated.
fn deepens(token: &Token) -> bool {
    match token {
        Token::Word(word) => {
            matches!(word.keyword, Keyword::AND | Keyword::OR | Keyword::UNION | Keyword::INTERSECT | Keyword::EXCEPT)
        }
        Token::Plus
        | Token::Minus
        | Token::Mul
        | Token::Div
        | Token::Mod
        | Token::StringConcat
        | Token::DoubleColon
        | Token::Eq
        | Token::Lt
        | Token::Gt
        | Token::LtEq
        | Token::GtEq
        | Token::Neq
        | Token::Pipe
        | Token::Ampersand
        | Token::Caret
        | Token::Tilde
        | Token::ExclamationMark
        | Token::LBracket => true,
        _ => false,
    }
}

/// `ABORT` is PostgreSQL's older word for `ROLLBACK`, which the parser does not know.
fn write_abort_as_rollback(tokens: &mut [TokenWithSpan]) {
    let mut first = true;
    for token in tokens {
        match &token.token {
            Token::Whitespace(_) => {}
            Token::SemiColon => first = true,
            Token::Word(word) if first && word.quote_style.is_none() && word.value.eq_ignore_ascii_case("abort") => {
                token.token = Token::make_keyword("ROLLBACK");
                first = false;
            }
            _ => first = false,
        }
    }
}

fn classify(statement: EngineStatement) -> Result<Command, StatementRefused> {
    match statement {
        EngineStatement::Statement(statement) => classify_sql(compat::rewrite(*statement)),
        EngineStatement::Explain(mut explain) => match classify(*explain.statement)? {
            Command::Query(query) => {
                explain.statement = query;
                Ok(Command::Query(Box::new(EngineStatement::Explain(explain))))
            }
            _ => Err(StatementRefused::Unsupported("EXPLAIN of anything but a query".to_owned())),
        },
        EngineStatement::Reset(ResetStatement::Variable(name)) => Ok(reset(&name.to_string())),
        EngineStatement::CreateExternalTable(_) => Err(StatementRefused::ReadOnly("CREATE EXTERNAL TABLE".to_owned())),
        EngineStatement::CopyTo(_) => Err(StatementRefused::ReadOnly("COPY".to_owned())),
    }
}

fn classify_sql(statement: Statement) -> Result<Command, StatementRefused> {
    match statement {
        Statement::Query(_)
        | Statement::ShowTables { .. }
        | Statement::ShowColumns { .. }
        | Statement::ExplainTable { .. } => {
            Ok(Command::Query(Box::new(EngineStatement::Statement(Box::new(statement)))))
        }
        Statement::Set(set) => classify_set(set),
        Statement::Reset(_) => Ok(reset(statement.to_string().trim_start_matches("RESET").trim())),
        Statement::ShowVariable { variable } => {
            let words: Vec<&str> = variable.iter().map(|word| word.value.as_str()).collect();
            Ok(show(&words))
        }
        Statement::StartTransaction { begin, statements, .. } if statements.is_empty() => {
            Ok(Command::Begin(if begin { "BEGIN" } else { "START TRANSACTION" }))
        }
        Statement::Commit { .. } => Ok(Command::Commit),
        Statement::Rollback { savepoint: Some(_), .. } => Ok(Command::RollbackToSavepoint),
        Statement::Rollback { savepoint: None, .. } => Ok(Command::Rollback),
        Statement::Savepoint { .. } => Ok(Command::Nothing("SAVEPOINT")),
        Statement::ReleaseSavepoint { .. } => Ok(Command::Nothing("RELEASE")),
        Statement::Deallocate { name, .. } => {
            let all = name.quote_style.is_none() && name.value.eq_ignore_ascii_case("all");
            Ok(Command::Deallocate((!all).then_some(name.value)))
        }
        Statement::Discard { object_type: DiscardObject::ALL } => Ok(Command::DiscardAll),
        Statement::Discard { object_type: DiscardObject::PLANS } => Ok(Command::Nothing("DISCARD PLANS")),
        Statement::Discard { object_type: DiscardObject::SEQUENCES } => Ok(Command::Nothing("DISCARD SEQUENCES")),
        Statement::Discard { object_type: DiscardObject::TEMP } => Ok(Command::Nothing("DISCARD TEMP")),
        // There is nothing to listen to and there are no cursors, so there is nothing to end either.
        Statement::UNLISTEN { .. } => Ok(Command::Nothing("UNLISTEN")),
        Statement::Close { .. } => Ok(Command::Nothing("CLOSE CURSOR")),
        Statement::Prepare { .. } => Err(StatementRefused::Unsupported("PREPARE".to_owned())),
        Statement::Execute { .. } => Err(StatementRefused::Unsupported("EXECUTE".to_owned())),
        Statement::Declare { .. } => Err(StatementRefused::Unsupported("DECLARE".to_owned())),
        Statement::Fetch { .. } => Err(StatementRefused::Unsupported("FETCH".to_owned())),
        Statement::LISTEN { .. } => Err(StatementRefused::Unsupported("LISTEN".to_owned())),
        other => Err(StatementRefused::ReadOnly(verb(&other))),
    }
}

fn classify_set(set: Set) -> Result<Command, StatementRefused> {
    match set {
        Set::SingleAssignment { scope, variable, values, .. } => {
            let name = plain_name(&variable);
            let local = scope == Some(ContextModifier::Local);
            assign(name, &values, local)
        }
        Set::SetTimeZone { local, value } => assign("timezone".to_owned(), &[value], local),
        Set::SetNames { charset_name, .. } => Ok(Command::Set {
            name: "client_encoding".to_owned(),
            values: Some(vec![charset_name.value]),
            local: false,
        }),
        Set::SetNamesDefault {} => Ok(Command::Set { name: "client_encoding".to_owned(), values: None, local: false }),
        // Every transaction here reads one state of the data and writes nothing, whatever it is called.
        Set::SetTransaction { snapshot: None, .. } => Ok(Command::Nothing("SET")),
        other => Err(StatementRefused::Unsupported(verb(&Statement::Set(other)))),
    }
}

fn assign(name: String, values: &[Expr], local: bool) -> Result<Command, StatementRefused> {
    if let [Expr::Identifier(word)] = values
        && word.quote_style.is_none()
        && word.value.eq_ignore_ascii_case("default")
    {
        return Ok(Command::Set { name, values: None, local });
    }
    let values = values
        .iter()
        .map(|value| setting_text(value).ok_or_else(|| StatementRefused::Unsupported(format!("SET {name} TO {value}"))))
        .collect::<Result<Vec<String>, StatementRefused>>()?;
    Ok(Command::Set { name, values: Some(values), local })
}

/// The text of a value in `SET`: a literal, a bare word, a signed number, or an interval for the time zone.
fn setting_text(value: &Expr) -> Option<String> {
    match value {
        Expr::Value(literal) => match &literal.value {
            Value::SingleQuotedString(text)
            | Value::DoubleQuotedString(text)
            | Value::EscapedStringLiteral(text)
            | Value::UnicodeStringLiteral(text) => Some(text.clone()),
            Value::Number(number, _) => Some(number.clone()),
            Value::Boolean(true) => Some("on".to_owned()),
            Value::Boolean(false) => Some("off".to_owned()),
            _ => None,
        },
        Expr::Identifier(word) => Some(word.value.clone()),
        Expr::UnaryOp { op, expr } => setting_text(expr).map(|text| format!("{op}{text}")),
        Expr::Interval(interval) => setting_text(&interval.value),
        _ => None,
    }
}

/// A parameter's name without quotes, its parts joined by dots.
fn plain_name(name: &ObjectName) -> String {
    let parts: Vec<String> = name
        .0
        .iter()
        .map(|part| part.as_ident().map_or_else(|| part.to_string(), |ident| ident.value.clone()))
        .collect();
    let name = parts.join(".");
    if name.eq_ignore_ascii_case("time zone") { "timezone".to_owned() } else { name }
}

fn reset(name: &str) -> Command {
    let name = name.replace('"', "");
    if name.eq_ignore_ascii_case("all") {
        return Command::ResetAll;
    }
    let name = if name.eq_ignore_ascii_case("time.zone") { "timezone".to_owned() } else { name };
    Command::Set { name, values: None, local: false }
}

fn show(words: &[&str]) -> Command {
    let name = words.join(" ");
    match name.to_ascii_lowercase().as_str() {
        "all" => Command::ShowAll,
        "time zone" => Command::Show("TimeZone".to_owned()),
        "transaction isolation level" => Command::Show("transaction_isolation".to_owned()),
        "session authorization" => Command::Show("session_authorization".to_owned()),
        _ => Command::Show(words.join(".")),
    }
}

/// The words by which PostgreSQL would call a statement, as in `DROP TABLE`.
fn verb(statement: &Statement) -> String {
    let text: String = statement.to_string().chars().take(200).collect();
    let mut words = text.split_whitespace().map(|word| word.trim_matches(|c: char| !c.is_ascii_alphanumeric()));
    let first = words.next().unwrap_or_default().to_ascii_uppercase();
    let second = words.next().unwrap_or_default().to_ascii_uppercase();
    if matches!(first.as_str(), "CREATE" | "DROP" | "ALTER" | "SET" | "REFRESH") && !second.is_empty() {
        format!("{first} {second}")
    } else {
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(sql: &str) -> Result<Command, StatementRefused> {
        let mut commands = parse(sql, &Limits::default())?;
        assert_eq!(commands.len(), 1, "{sql}");
        Ok(commands.remove(0))
    }

    fn set(name: &str, values: &[&str], local: bool) -> Command {
        let values = Some(values.iter().map(|value| (*value).to_owned()).collect());
        Command::Set { name: name.to_owned(), values, local }
    }

    #[test]
    fn questions_are_queries() {
        for sql in [
            "select 1",
            "SELECT * FROM cpu WHERE ts > now() - interval '5 minutes'",
            "with a as (select 1) select * from a",
            "values (1), (2)",
            "(select 1) union all (select 2)",
            "explain select 1",
            "explain analyze verbose select * from cpu",
            "explain (analyze, verbose) select 1",
        ] {
            assert!(matches!(one(sql), Ok(Command::Query(_))), "{sql}: {:?}", one(sql));
        }
    }

    #[test]
    fn commands_about_the_session_are_understood() {
        for (sql, command) in [
            ("set timezone to 'Europe/Berlin'", set("TIMEZONE", &["Europe/Berlin"], false)),
            ("SET TIME ZONE 'UTC'", set("timezone", &["UTC"], false)),
            ("set time zone -8", set("timezone", &["-8"], false)),
            ("set local timezone = 'UTC'", set("TIMEZONE", &["UTC"], true)),
            ("SET extra_float_digits = 3", set("extra_float_digits", &["3"], false)),
            ("SET search_path TO a, b", set("search_path", &["a", "b"], false)),
            ("SET datafusion.execution.batch_size = 1", set("datafusion.execution.batch_size", &["1"], false)),
            ("SET statement_timeout = '5s'", set("statement_timeout", &["5s"], false)),
            ("SET session client_encoding to 'UTF8'", set("client_encoding", &["UTF8"], false)),
            ("reset all", Command::ResetAll),
            ("show all", Command::ShowAll),
            ("SHOW TimeZone", Command::Show("TimeZone".to_owned())),
            ("show transaction isolation level", Command::Show("transaction_isolation".to_owned())),
            ("begin", Command::Begin("BEGIN")),
            ("BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED, READ ONLY", Command::Begin("BEGIN")),
            ("start transaction", Command::Begin("START TRANSACTION")),
            ("commit", Command::Commit),
            ("end", Command::Commit),
            ("rollback", Command::Rollback),
            ("abort", Command::Rollback),
            ("savepoint a", Command::Nothing("SAVEPOINT")),
            ("release savepoint a", Command::Nothing("RELEASE")),
            ("rollback to savepoint a", Command::RollbackToSavepoint),
            ("discard all", Command::DiscardAll),
            ("deallocate all", Command::Deallocate(None)),
            ("deallocate prepare s1", Command::Deallocate(Some("s1".to_owned()))),
            ("set transaction read only", Command::Nothing("SET")),
            ("set session characteristics as transaction read only", Command::Nothing("SET")),
        ] {
            match one(sql) {
                Ok(found) => assert_eq!(found, command, "{sql}"),
                Err(refused) => panic!("{sql}: {refused}"),
            }
        }
        for sql in ["reset timezone", "set timezone to default"] {
            let Ok(Command::Set { name, values: None, .. }) = one(sql) else { panic!("{sql}: {:?}", one(sql)) };
            assert!(name.eq_ignore_ascii_case("timezone"), "{sql}: {name}");
        }
    }

    #[test]
    fn whatever_would_change_something_is_refused() {
        for (sql, verb) in [
            ("drop table cpu", "DROP TABLE"),
            ("create table a (b int)", "CREATE TABLE"),
            ("create view a as select 1", "CREATE VIEW"),
            ("create external table a stored as parquet location '/etc'", "CREATE EXTERNAL TABLE"),
            ("insert into cpu values (1)", "INSERT"),
            ("update cpu set a = 1", "UPDATE"),
            ("delete from cpu", "DELETE"),
            ("truncate cpu", "TRUNCATE"),
            ("copy cpu to '/tmp/x'", "COPY"),
            ("alter table cpu add column a int", "ALTER TABLE"),
        ] {
            match one(sql) {
                Err(StatementRefused::ReadOnly(found)) => assert_eq!(found, verb, "{sql}"),
                other => panic!("{sql}: {other:?}"),
            }
        }
        for sql in
            ["prepare a as select 1", "execute a", "explain drop table cpu", "explain analyze insert into a values (1)"]
        {
            assert!(
                matches!(one(sql), Err(StatementRefused::Unsupported(_) | StatementRefused::ReadOnly(_))),
                "{sql}: {:?}",
                one(sql)
            );
        }
    }

    #[test]
    fn a_text_may_hold_several_statements_or_none() {
        let limits = Limits::default();
        assert_eq!(parse("", &limits).expect("nothing").len(), 0);
        assert_eq!(parse(" ;; -- a comment\n;", &limits).expect("nothing").len(), 0);
        assert_eq!(parse("select 1; select 2;", &limits).expect("two").len(), 2);
        assert!(matches!(parse("select 1 select 2 3", &limits), Err(StatementRefused::Syntax(_))));
        assert!(parse("select 1; drop table cpu", &limits).is_err(), "all or nothing");
    }

    #[test]
    fn length_and_depth_are_bounded() {
        let limits = Limits { max_statement_bytes: 100_000, ..Limits::default() };
        let long = format!("select '{}'", "x".repeat(100_000));
        assert!(matches!(parse(&long, &limits), Err(StatementRefused::TooLong { .. })));
        let deep = format!("select 1{}", "+1".repeat(40_000));
        assert!(matches!(parse(&deep, &limits), Err(StatementRefused::TooComplex { .. })));
        let nested = format!("select {}1{}", "(".repeat(10_000), ")".repeat(10_000));
        assert!(matches!(parse(&nested, &limits), Err(StatementRefused::Syntax(_))));
        let wide = format!("select 1 where 1 in (1{})", ",1".repeat(20_000));
        assert!(parse(&wide, &limits).is_ok(), "a list is wide, not deep");
    }
}
