//! `nodescope sql`: ask, and print the answer.
//!
//! The types of the answer come from preparing the statement; the values come as text, by the simple protocol, and are
//! read into Arrow columns of those types. From there arrow writes CSV, JSON, an Arrow file, or a table for people.

use std::io::{self, IsTerminal, Read, Write};
use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::{ArrayRef, RecordBatch};
use arrow_cast::pretty::pretty_format_batches_with_options;
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use futures::TryStreamExt;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage, SimpleQueryRow};

use crate::{block_on, chain, say};

/// Asks a question in SQL, and prints the answer.
#[derive(Debug, clap::Args)]
pub(crate) struct SqlArgs {
    /// The question; `-` reads it from standard input.
    question: String,
    /// How the answer is printed.
    #[arg(long, value_enum, default_value = "table")]
    format: SqlFormat,
    /// Where to ask: HOST:PORT, or a postgres:// URL with user and password.
    #[arg(long, value_name = "SERVER", default_value = "127.0.0.1:15432", env = "NODESCOPE_SERVER")]
    server: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum SqlFormat {
    /// A table, for people.
    Table,
    /// Comma-separated values, with a header.
    Csv,
    /// One JSON object a row.
    Json,
    /// An Arrow IPC stream.
    Arrow,
}

/// Rows of one batch.
const BATCH: usize = 8192;

/// Runs the command.
pub(crate) fn main(args: &SqlArgs) -> Result<(), String> {
    let mut question = args.question.clone();
    if question == "-" {
        question.clear();
        io::stdin().read_to_string(&mut question).map_err(|e| format!("standard input cannot be read: {e}"))?;
    }
    if args.format == SqlFormat::Arrow && io::stdout().is_terminal() {
        return Err("an Arrow stream is not for a terminal: send it to a file or a program".to_owned());
    }
    block_on(async {
        let client = connect(&args.server).await?;
        answer(&client, &question, args.format).await
    })
}

/// Connects to a server given as `HOST:PORT` or as a URL.
pub(crate) async fn connect(server: &str) -> Result<Client, String> {
    let url = if server.contains("://") || server.contains('=') {
        server.to_owned()
    } else {
        format!("postgresql://nodescope@{server}/nodescope?application_name=nodescope%20sql&connect_timeout=5")
    };
    let shown = server.rsplit('@').next().unwrap_or(server);
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.map_err(|error| {
        format!(
            "no answer from {shown}: {}\nIs `nodescope up` running? Another server is named with --server.",
            chain(&error)
        )
    })?;
    // It ends with the client, or with an error that the client's next question gets too.
    tokio::spawn(connection);
    Ok(client)
}

/// The first row of an answer.
pub(crate) fn first_row(answer: &[SimpleQueryMessage]) -> Option<&SimpleQueryRow> {
    answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    })
}

fn refused(error: &tokio_postgres::Error) -> String {
    let Some(refusal) = error.as_db_error() else { return chain(error) };
    let mut text = refusal.message().to_owned();
    for more in [refusal.detail(), refusal.hint()].into_iter().flatten() {
        text.push('\n');
        text.push_str(more);
    }
    text
}

async fn answer(client: &Client, question: &str, format: SqlFormat) -> Result<(), String> {
    let prepared = client.prepare(question).await.map_err(|e| refused(&e))?;
    let fields: Vec<Field> =
        prepared.columns().iter().map(|c| Field::new(c.name(), arrow_type(c.type_()), true)).collect();
    let schema = Arc::new(Schema::new(fields));
    let mut out = Out::new(format, &schema)?;
    let mut rows = std::pin::pin!(client.simple_query_raw(question).await.map_err(|e| refused(&e))?);
    let mut columns = Columns::new(schema);
    while let Some(message) = rows.try_next().await.map_err(|e| refused(&e))? {
        if let SimpleQueryMessage::Row(row) = message {
            columns.push(&row);
            if columns.rows == BATCH {
                out.write(&columns.finish()?)?;
            }
        }
    }
    if columns.rows > 0 {
        out.write(&columns.finish()?)?;
    }
    out.finish()
}

/// The Arrow type of a PostgreSQL one. What Arrow would have to be told more about stays text.
fn arrow_type(of: &Type) -> DataType {
    match *of {
        Type::BOOL => DataType::Boolean,
        Type::INT2 => DataType::Int16,
        Type::INT4 => DataType::Int32,
        Type::INT8 => DataType::Int64,
        Type::FLOAT4 => DataType::Float32,
        Type::FLOAT8 => DataType::Float64,
        Type::TIMESTAMPTZ => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        Type::TIMESTAMP => DataType::Timestamp(TimeUnit::Microsecond, None),
        Type::DATE => DataType::Date32,
        _ => DataType::Utf8,
    }
}

/// Rows as they come, in text.
struct Columns {
    schema: SchemaRef,
    text: Vec<StringBuilder>,
    rows: usize,
}

impl Columns {
    fn new(schema: SchemaRef) -> Self {
        Self { text: schema.fields().iter().map(|_| StringBuilder::new()).collect(), schema, rows: 0 }
    }

    fn push(&mut self, row: &SimpleQueryRow) {
        for (at, column) in self.text.iter_mut().enumerate() {
            column.append_option(row.get(at));
        }
        self.rows += 1;
    }

    fn finish(&mut self) -> Result<RecordBatch, String> {
        let strict = CastOptions { safe: false, ..CastOptions::default() };
        let columns: Vec<ArrayRef> = self
            .text
            .iter_mut()
            .zip(self.schema.fields())
            .map(|(text, field)| cast_with_options(&text.finish(), field.data_type(), &strict))
            .collect::<Result<_, _>>()
            .map_err(|e| format!("the answer cannot be read: {e}"))?;
        self.rows = 0;
        let options = arrow_array::RecordBatchOptions::new()
            .with_row_count(Some(columns.first().map_or(0, arrow_array::Array::len)));
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options).map_err(|e| e.to_string())
    }
}

/// Where batches go.
enum Out {
    Table(SchemaRef, Vec<RecordBatch>),
    Csv(Box<arrow_csv::Writer<io::Stdout>>),
    Json(Box<arrow_json::LineDelimitedWriter<io::Stdout>>),
    Arrow(Box<arrow_ipc::writer::StreamWriter<io::Stdout>>),
}

impl Out {
    fn new(format: SqlFormat, schema: &Schema) -> Result<Self, String> {
        Ok(match format {
            SqlFormat::Table => Self::Table(Arc::new(schema.clone()), Vec::new()),
            SqlFormat::Csv => Self::Csv(Box::new(arrow_csv::Writer::new(io::stdout()))),
            SqlFormat::Json => Self::Json(Box::new(arrow_json::LineDelimitedWriter::new(io::stdout()))),
            SqlFormat::Arrow => Self::Arrow(Box::new(
                arrow_ipc::writer::StreamWriter::try_new(io::stdout(), schema).map_err(|e| e.to_string())?,
            )),
        })
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<(), String> {
        match self {
            Self::Table(_, batches) => {
                batches.push(batch.clone());
                Ok(())
            }
            Self::Csv(writer) => writer.write(batch),
            Self::Json(writer) => writer.write(batch),
            Self::Arrow(writer) => writer.write(batch),
        }
        .map_err(|e| written(&e))
    }

    fn finish(self) -> Result<(), String> {
        match self {
            Self::Table(schema, batches) => {
                let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
                let batches = if batches.is_empty() { vec![RecordBatch::new_empty(schema)] } else { batches };
                let table =
                    pretty_format_batches_with_options(&batches, &arrow_cast::display::FormatOptions::default())
                        .map_err(|e| e.to_string())?;
                say(&format!("{table}\n{rows} row{}", if rows == 1 { "" } else { "s" }));
                Ok(())
            }
            Self::Csv(_) => io::stdout().flush().map_err(|e| e.to_string()),
            Self::Json(mut writer) => writer.finish().map_err(|e| written(&e)),
            Self::Arrow(mut writer) => writer.finish().map_err(|e| written(&e)),
        }
    }
}

fn written(error: &arrow_schema::ArrowError) -> String {
    format!("the answer cannot be written: {error}")
}

#[cfg(test)]
mod tests {
    use arrow_array::{Array, StringArray};

    use super::*;

    #[test]
    fn what_postgresql_writes_is_read() {
        let strict = CastOptions { safe: false, ..CastOptions::default() };
        for (text, of) in [
            ("2026-11-24 23:46:33.5+00", Type::TIMESTAMPTZ),
            ("2026-11-24 23:46:33+08", Type::TIMESTAMPTZ),
            ("2026-11-24 23:46:33.123456", Type::TIMESTAMP),
            ("2026-11-24", Type::DATE),
            ("t", Type::BOOL),
            ("f", Type::BOOL),
            ("NaN", Type::FLOAT8),
            ("-Infinity", Type::FLOAT8),
            ("-5", Type::INT8),
            ("{1,2}", Type::INT4_ARRAY),
        ] {
            let array: ArrayRef = Arc::new(StringArray::from(vec![Some(text), None]));
            let read = cast_with_options(&array, &arrow_type(&of), &strict).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert!(!read.is_null(0) && read.is_null(1), "{text}");
        }
    }
}
