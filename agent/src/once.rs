//! `--once`: what this agent would send, for people and for programs, without a broker.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{ArrayRef, RecordBatch};
use arrow_cast::pretty::pretty_format_batches;
use nodescope_model::catalogue::{Catalogue, Table};
use nodescope_service::errors::chain;

use crate::probe::{ProbeError, Tick};
use crate::settings::AgentSettings;
use crate::ticker::{self, Place, Tables};

/// How it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OnceFormat {
    /// Tables, for people. Columns without a value are left out.
    Table,
    /// One JSON object a row, with the table's name in it.
    Json,
}

/// Longest wait for all probes together.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// What all probes said at one tick.
pub(crate) struct Sampled {
    /// Rows, by table; a table may come from two probes.
    pub(crate) batches: Vec<(Arc<Table>, RecordBatch)>,
    /// Probes that had none, or not all, and why.
    pub(crate) troubles: Vec<(&'static str, ProbeError)>,
    /// Probes that have not answered.
    pub(crate) late: Vec<&'static str>,
}

/// Samples everything once.
///
/// # Errors
/// When the system gives no threads.
pub(crate) fn sample(settings: &AgentSettings, catalogue: &Catalogue) -> io::Result<Sampled> {
    let place = Place { node: settings.node.clone(), host: settings.host.clone() };
    let tick = Tick { ts_micros: ticker::now_us(), first: true };
    let (sent, received) = channel();
    let mut late: Vec<&'static str> = Vec::new();
    for mut probe in crate::probes::all(&settings.probes) {
        let name = probe.table();
        if settings.without.iter().any(|w| w == name) {
            continue;
        }
        let mut tables = Tables::of(probe.as_ref(), catalogue).map_err(io::Error::other)?;
        late.push(name);
        let (sent, place) = (sent.clone(), place.clone());
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let (batches, result) = tables.sample(probe.as_mut(), &tick, &place);
            // Nobody listens any more when this came too late.
            let _ = sent.send((name, batches, result));
        })?;
    }
    drop(sent);
    let until = Instant::now() + PATIENCE;
    let mut batches: Vec<(Arc<Table>, RecordBatch)> = Vec::new();
    let mut troubles: Vec<(&'static str, ProbeError)> = Vec::new();
    // Until all have answered, or time is up.
    while let Ok((name, rows, result)) = received.recv_timeout(until.saturating_duration_since(Instant::now())) {
        late.retain(|late| *late != name);
        batches.extend(rows.into_iter().filter(|(table, _)| !settings.without.contains(&table.name)));
        troubles.extend(result.err().map(|error| (name, error)));
    }
    batches.sort_by(|a, b| a.0.name.cmp(&b.0.name));
    troubles.sort_by_key(|(name, _)| *name);
    Ok(Sampled { batches, troubles, late })
}

/// Samples everything once and writes it. What could not be read is told at the end.
///
/// # Errors
/// When nothing can be written.
pub fn once(
    settings: &AgentSettings,
    catalogue: &Catalogue,
    format: OnceFormat,
    out: &mut dyn Write,
) -> io::Result<()> {
    let sampled = sample(settings, catalogue)?;
    for (table, batch) in &sampled.batches {
        let batch = &at_offset(batch)?;
        match format {
            OnceFormat::Table => write_table(out, table, batch)?,
            OnceFormat::Json => write_json(out, table, batch)?,
        }
    }
    if format == OnceFormat::Table {
        for (name, error) in &sampled.troubles {
            writeln!(out, "{name}: {}", chain(error))?;
        }
        for name in sampled.late {
            writeln!(out, "{name}: no answer within {} s", PATIENCE.as_secs())?;
        }
    }
    Ok(())
}

/// The same rows with their times at offset +00:00. A zone's name, `UTC` included, is known to the formatters only with
/// a database of all zones.
fn at_offset(batch: &RecordBatch) -> io::Result<RecordBatch> {
    let columns = batch.schema_ref().fields().iter().zip(batch.columns()).map(|(field, column)| {
        let column: ArrayRef = match column.as_primitive_opt::<TimestampMicrosecondType>() {
            Some(times) => Arc::new(times.clone().with_timezone("+00:00")),
            None => Arc::clone(column),
        };
        (field.name().clone(), column)
    });
    RecordBatch::try_from_iter(columns).map_err(io::Error::other)
}

fn write_table(out: &mut dyn Write, table: &Table, batch: &RecordBatch) -> io::Result<()> {
    use arrow_array::Array;
    let with_values: Vec<usize> =
        (3..batch.num_columns()).filter(|at| batch.column(*at).null_count() < batch.num_rows()).collect();
    let shown = batch.project(&with_values).map_err(io::Error::other)?;
    writeln!(out, "{} ({} rows): {}", table.name, batch.num_rows(), table.comment)?;
    writeln!(out, "{}\n", pretty_format_batches(&[shown]).map_err(io::Error::other)?)
}

fn write_json(out: &mut dyn Write, table: &Table, batch: &RecordBatch) -> io::Result<()> {
    let mut lines = Vec::new();
    arrow_json::LineDelimitedWriter::new(&mut lines).write(batch).map_err(io::Error::other)?;
    for line in lines.split(|b| *b == b'\n').filter(|line| line.len() > 2) {
        write!(out, "{{\"table\":\"{}\",", table.name)?;
        out.write_all(&line[1..])?;
        writeln!(out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use nodescope_service::settings::Settings;

    use super::*;

    fn text(format: OnceFormat) -> String {
        let mut settings = Settings::default();
        settings.flag("agent.root", Some(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/busy-host")));
        settings.flag("agent.host", Some("busy"));
        let catalogue = Catalogue::built_in();
        let settings = AgentSettings::read(&mut settings, &catalogue);
        let mut out = Vec::new();
        once(&settings, &catalogue, format, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_recorded_machine_is_shown_whole() {
        let shown = text(OnceFormat::Table);
        for part in ["cpu (", "memory (1 rows)", "interface (", "accelerator: "] {
            assert!(shown.contains(part), "`{part}` is not in:\n{shown}");
        }
        let lines = text(OnceFormat::Json);
        assert!(lines.lines().count() > 20);
        for line in lines.lines() {
            assert!(
                line.starts_with("{\"table\":\"") && line.contains("\"host\":\"busy\"") && line.ends_with('}'),
                "{line}"
            );
        }
    }
}
