//! Reports: the rows of a rule as they are, told to one webhook or topic (`sink = "webhook:NAME"`, `"kafka:TOPIC"`).
//!
//! A run that finds rows makes one report, named `RULE@WINDOW.REVISION`. Reports are kept nowhere: what has run and has
//! not been told (see [`super::outlets`]) is asked once more, and told under the same name.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::array::cast::AsArray;
use datafusion::arrow::datatypes::Int64Type;
use datafusion::common::ScalarValue;
use nodescope_model::catalogue::Table;
use serde_json::{Value, json};

use super::outlets::{Message, Outlets, time};
use super::summary::TextRows;
use crate::definition::Definition;
use crate::engine::Engine;
use crate::own::OwnError;
use crate::schedule::now_us;
use crate::schedule::run::Run;
use crate::schedule::sink::{Sink, SinkError};
use crate::schedule::windows::Grid;

/// Rows of one report that are told, and bytes of them: Kafka takes messages of less than a megabyte. Who wants more
/// reads a table.
const MOST: (usize, usize) = (1_000, 512 << 10);

/// Reports that have not been told are made anew this long after their run, in microseconds.
const OWED_FOR_US: i64 = 86_400_000_000;

/// Has the rows of one rule told to one outlet.
#[derive(Debug)]
pub struct ReportSink {
    outlet: String,
    report: Option<Message>,
    outlets: Outlets,
}

impl ReportSink {
    /// The sink of a rule whose reports go to an outlet of that name.
    ///
    /// # Errors
    /// When there is no such outlet.
    pub fn new(rule: &Definition, outlets: &Outlets) -> Result<Self, SinkError> {
        let Some(sink) = &rule.sink else {
            return Err(SinkError::Other(format!("{} is a view and has no sink", rule.name), None));
        };
        let outlet = sink.to_string();
        if outlets.has(&outlet) {
            Ok(Self { outlet, report: None, outlets: outlets.clone() })
        } else {
            Err(SinkError::NoOutlet(sink.clone()))
        }
    }
}

#[async_trait]
impl Sink for ReportSink {
    fn take(&mut self, run: &Run, rows: &[RecordBatch]) -> Result<Vec<(Arc<Table>, RecordBatch)>, SinkError> {
        let is_empty = rows.iter().all(|batch| batch.num_rows() == 0);
        self.report = (!is_empty).then(|| report(run, rows));
        Ok(Vec::new())
    }

    async fn committed(&mut self, _run: &Run) {
        if let Some(report) = self.report.take() {
            self.outlets.report(&self.outlet, &report);
        }
    }
}

/// What is told of a run: as many of its rows as there is room for, and how many are left out.
pub(crate) fn report(run: &Run, rows: &[RecordBatch]) -> Message {
    let (mut told, mut count, mut bytes): (Vec<Value>, _, _) = (Vec::new(), 0, 0);
    for batch in rows {
        let rows = TextRows::of(batch);
        count += rows.len();
        for row in 0..rows.len() {
            if told.len() == MOST.0 || bytes > MOST.1 {
                break;
            }
            let row = rows.json(row);
            bytes += row.to_string().len();
            if bytes <= MOST.1 {
                told.push(row);
            }
        }
    }
    let about = format!("{}@{}.{}", run.rule.name, run.window.ends_us, run.revision);
    let body = json!({
        "version": 1,
        "report": about,
        "rule": run.rule.name,
        "title": run.rule.title,
        "window_starts": time(run.window.starts_us),
        "window_ends": time(run.window.ends_us),
        "revision": run.revision,
        "left_out": count - told.len(),
        "rows": told,
    });
    Message::Report { about, body: Arc::new(body) }
}

/// Runs of the last day that found rows of which the outlet has not been told.
///
/// # Errors
/// When the store cannot be asked.
pub(crate) async fn owed(engine: &Engine, rule: &Arc<Definition>, outlet: &str) -> Result<Vec<Run>, OwnError> {
    let since = ScalarValue::TimestampMicrosecond(Some(now_us().saturating_sub(OWED_FOR_US)), Some("UTC".into()));
    let values = [
        ("rule".to_owned(), ScalarValue::from(rule.name.as_str())),
        ("outlet".to_owned(), ScalarValue::from(outlet)),
        ("since".to_owned(), since),
    ];
    let sql = "SELECT window_microseconds, revision, max(ts) AS ts FROM schedule_run r \
         WHERE rule = $rule AND state = 'done' AND \"rows\" > 0 AND ts > $since AND NOT EXISTS (\
         SELECT 1 FROM notification n WHERE n.outlet = $outlet AND n.about = \
         $rule || '@' || r.window_microseconds::varchar || '.' || r.revision::varchar) GROUP BY 1, 2 ORDER BY 1, 2";
    let grid = Grid::of(rule);
    let mut owed = Vec::new();
    for batch in engine.own(sql, &values).await?.collect().await? {
        let numbers = |at: usize| batch.column(at).as_primitive_opt::<Int64Type>();
        let (Some(ends), Some(revisions)) = (numbers(0), numbers(1)) else { continue };
        owed.extend(ends.values().iter().zip(revisions.values()).map(|(end, revision)| Run {
            rule: Arc::clone(rule),
            window: grid.ending(*end),
            revision: *revision,
            began_us: *end,
        }));
    }
    Ok(owed)
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::StringArray;

    use super::*;
    use crate::alerts::summary::LONGEST;
    use crate::definition::Purpose;
    use crate::schedule::windows::Window;

    fn told(texts: &[String]) -> Value {
        let text = "/* title = \"x\"\nevery = \"1m\"\nsink = \"kafka:x\" */ SELECT 1 FROM sample WHERE ts < $to";
        let rule = Arc::new(Definition::parse("r", text, Purpose::Rule).unwrap());
        let run = Run { rule, window: Window { starts_us: 0, ends_us: 60_000_000 }, revision: 2, began_us: 0 };
        let column = Arc::new(StringArray::from_iter_values(texts));
        let rows = RecordBatch::try_from_iter([("text", column as _)]).unwrap();
        let message =
            report(&run, &[rows.slice(0, texts.len() / 2), rows.slice(texts.len() / 2, texts.len().div_ceil(2))]);
        assert_eq!((message.about(), message.state()), ("r@60000000.2", "report"));
        message.body(&[("site".to_owned(), "a".to_owned())])
    }

    #[test]
    fn a_report_says_whose_it_is_and_what_it_leaves_out() {
        let body = told(&["a".to_owned(), "b".to_owned()]);
        assert_eq!(body["rows"], json!([{"text": "a"}, {"text": "b"}]));
        assert_eq!((&body["left_out"], &body["labels"]["site"]), (&json!(0), &json!("a")));
        assert_eq!((&body["window_ends"], &body["revision"]), (&json!("1970-01-01T00:01:00Z"), &json!(2)));
        let many: Vec<String> = (0..MOST.0 + 7).map(|n| n.to_string()).collect();
        let body = told(&many);
        assert_eq!((body["rows"].as_array().unwrap().len(), &body["left_out"]), (MOST.0, &json!(7)));
    }

    #[test]
    fn a_report_fits_into_a_message() {
        // Three bytes each, and as many of them as a value may have.
        let wide: Vec<String> = (0..900).map(|_| "宽".repeat(LONGEST)).collect();
        let body = told(&wide);
        assert!(body.to_string().len() < 1_000_000);
        let rows = body["rows"].as_array().unwrap().len();
        assert!(rows > 100 && rows < 900, "{rows}");
        assert_eq!(body["left_out"], json!(900 - rows));
    }
}
