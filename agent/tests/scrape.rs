//! The scrape adapter against servers that behave and servers that do not, and against what exporters write.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;
use nodescope_agent::host_root::HostRoot;
use nodescope_agent::probe::{Probe, Tick};
use nodescope_agent::scrape::{ScrapeOptions, ScrapeProbe, Source, Target};
use nodescope_model::catalogue::Catalogue;
use nodescope_model::rows::{Rows, Stamp};

/// What a request is answered with, once it was read.
type Answer = Arc<dyn Fn(&mut TcpStream) + Send + Sync>;

/// A server of our own, one thread a connection.
fn serve(answer: Answer) -> Source {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(mut stream), answer) = (stream, answer.clone()) else { continue };
            std::thread::spawn(move || {
                let mut request = Vec::new();
                let mut byte = [0];
                while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
                    request.push(byte[0]);
                }
                answer(&mut stream);
            });
        }
    });
    Source::parse(&format!("http://127.0.0.1:{port}/metrics")).unwrap()
}

/// Answers with this body.
fn text(body: &str) -> Source {
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    serve(Arc::new(move |stream| drop(stream.write_all(answer.as_bytes()))))
}

fn probe(targets: Vec<(&str, Source)>) -> ScrapeProbe {
    let targets =
        targets.into_iter().map(|(name, source)| Target { name: name.to_owned(), source }).collect::<Vec<_>>();
    with(ScrapeOptions { targets, ..options() })
}

fn with(options: ScrapeOptions) -> ScrapeProbe {
    ScrapeProbe::new(&HostRoot::new("/"), options)
}

fn options() -> ScrapeOptions {
    ScrapeOptions { timeout: Duration::from_secs(8), ..ScrapeOptions::default() }
}

/// One tick: the rows of `sample`, of the tables beside, and what was wrong.
fn tick(probe: &mut ScrapeProbe, seconds: i64) -> (RecordBatch, Vec<RecordBatch>, Option<String>) {
    let catalogue = Catalogue::built_in();
    let tick = Tick { ts_micros: seconds * 1_000_000, first: seconds == 0 };
    let stamp = Stamp { ts_micros: tick.ts_micros, node: "n", host: "h" };
    let mut own = Rows::new(catalogue.get(probe.table()).unwrap());
    let mut beside: Vec<Rows> = probe.beside().iter().map(|name| Rows::new(catalogue.get(name).unwrap())).collect();
    let error = probe.sample(&tick, &mut own).err().map(|error| error.to_string());
    probe.sample_beside(&tick, &mut beside);
    (own.finish(&stamp), beside.iter_mut().map(|rows| rows.finish(&stamp)).collect(), error)
}

/// The value of a series without labels.
fn value(batch: &RecordBatch, exporter: &str, name: &str) -> Option<f64> {
    let column = |name: &str| batch.column_by_name(name).unwrap().as_string::<i32>();
    let row = (0..batch.num_rows())
        .find(|row| column("exporter").value(*row) == exporter && column("name").value(*row) == name)?;
    let values = batch.column_by_name("value").unwrap().as_primitive::<Float64Type>();
    values.is_valid(row).then(|| values.value(row))
}

/// Rows as lines, without the common columns and NULLs.
fn lines(table: &str, batch: &RecordBatch) -> String {
    let mut out = String::new();
    for row in 0..batch.num_rows() {
        out.push_str(table);
        for (field, column) in batch.schema().fields().iter().zip(batch.columns()).skip(3) {
            if column.is_null(row) || field.name() == "at" || field.name() == "series" {
                continue;
            }
            let shown = match field.data_type() {
                DataType::Utf8 => format!("{:?}", column.as_string::<i32>().value(row)),
                DataType::Int64 => column.as_primitive::<Int64Type>().value(row).to_string(),
                // Factors leave a digit at the far end that is no news.
                DataType::Float64 => {
                    let value = column.as_primitive::<Float64Type>().value(row);
                    format!("{}", format!("{value:.9e}").parse::<f64>().unwrap())
                }
                DataType::Boolean => column.as_boolean().value(row).to_string(),
                DataType::Map(..) => {
                    let entries = column.as_map().value(row);
                    let (keys, values) = (entries.column(0).as_string::<i32>(), entries.column(1).as_string::<i32>());
                    let pairs: Vec<_> =
                        (0..keys.len()).map(|at| format!("{}={:?}", keys.value(at), values.value(at))).collect();
                    format!("{{{}}}", pairs.join(","))
                }
                other => panic!("{other} is not shown"),
            };
            out.push_str(&format!(" {}={shown}", field.name()));
        }
        out.push('\n');
    }
    out
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/exporters")
}

/// What each vendor's exporter writes, as rows. `UPDATE=1 cargo test` writes them anew.
#[test]
fn exporters_become_rows() {
    let mut differ = Vec::new();
    let mut seen = 0;
    let mut files: Vec<_> = std::fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in files.iter().filter(|file| file.extension().is_some_and(|e| e == "prom")) {
        seen += 1;
        let name = file.file_stem().unwrap().to_str().unwrap();
        let targets = vec![Target { name: name.to_owned(), source: Source::File(file.clone()) }];
        let mut probe = with(ScrapeOptions { targets, file_age: Duration::from_secs(u64::MAX >> 1), ..options() });
        let (own, beside, error) = tick(&mut probe, 0);
        assert_eq!(error, None, "{name}");
        assert_eq!(value(&own, name, "nodescope_scrape_errors"), Some(0.0), "{name}");
        let mut shown = String::new();
        for (table, batch) in probe.beside().iter().zip(&beside) {
            shown.push_str(&lines(table, batch));
        }
        shown.push_str(
            &lines("sample", &own)
                .lines()
                .filter(|line| !line.contains("nodescope_scrape_"))
                .map(|line| format!("{line}\n"))
                .collect::<String>(),
        );
        let golden = file.with_extension("rows");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&golden, &shown).unwrap();
        } else if std::fs::read_to_string(&golden).unwrap_or_default() != shown {
            differ.push(format!("==> {name}.rows\n{shown}"));
        }
    }
    assert_eq!(seen, 9);
    assert!(differ.is_empty(), "these are not as recorded:\n{}", differ.concat());
}

#[test]
fn answers_become_rows_with_an_account_of_them() {
    let body = "# TYPE a counter\na{x=\"1\"} 5 1700000000000\na{x=\"2\"} NaN\nwrong line\ngo_info 1\n\
                DCGM_FI_DEV_GPU_UTIL{UUID=\"GPU-9\"} 50\n";
    let mut probe = probe(vec![("one", text(body))]);
    let (own, beside, error) = tick(&mut probe, 0);
    assert_eq!(error, None);
    let account = |name: &str| value(&own, "one", &format!("nodescope_scrape_{name}"));
    assert_eq!(account("up"), Some(1.0));
    assert_eq!(account("samples"), Some(4.0));
    assert_eq!(account("errors"), Some(1.0));
    assert_eq!(account("samples_dropped"), Some(0.0));
    assert_eq!(account("rows"), Some(1.0));
    assert!(account("duration_seconds").is_some_and(|seconds| seconds > 0.0 && seconds < 8.0));
    let shown = lines("sample", &own);
    assert!(shown.contains("sample exporter=\"one\" name=\"a\" labels={x=\"1\"} value=5 type=\"counter\""), "{shown}");
    assert!(shown.contains("labels={x=\"2\"} type=\"counter\""), "NaN is NULL: {shown}");
    assert!(!shown.contains("go_info"));
    assert!(lines("accelerator", &beside[0]).contains("device=\"GPU-9\""));
    // Not due: nothing is asked and nothing repeated.
    let (own, beside, error) = tick(&mut probe, 5);
    assert_eq!((own.num_rows(), beside[0].num_rows(), error), (0, 0, None));
    assert!(tick(&mut probe, 10).0.num_rows() > 0);
}

#[test]
fn whoever_hangs_holds_up_itself_alone() {
    let slow = serve(Arc::new(|stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        for n in 0..600 {
            std::thread::sleep(Duration::from_millis(100));
            if stream.write_all(format!("drip{{n=\"{n}\"}} 1\n").as_bytes()).is_err() {
                return;
            }
        }
    }));
    let targets = [("slow", slow), ("good", text("a 1\n"))]
        .map(|(name, source)| Target { name: name.to_owned(), source })
        .to_vec();
    let mut probe = with(ScrapeOptions { targets, timeout: Duration::from_secs(3), ..options() });
    let began = Instant::now();
    let (own, _, error) = tick(&mut probe, 0);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(value(&own, "good", "a"), Some(1.0));
    assert_eq!(value(&own, "slow", "nodescope_scrape_up"), Some(0.0));
    assert_eq!(value(&own, "slow", "drip"), None, "half an answer is none");
    assert!(error.is_some_and(|error| error.contains("slow: no whole answer in time")));
    // At the next tick it is hardly waited for.
    let began = Instant::now();
    let (own, ..) = tick(&mut probe, 10);
    assert!(began.elapsed() < Duration::from_millis(2_500), "{:?}", began.elapsed());
    assert_eq!(value(&own, "good", "a"), Some(1.0));
}

#[test]
fn an_answer_without_end_is_bounded() {
    let endless = serve(Arc::new(|stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(&b"x{n=\"1\"} 1\n".repeat(1_000)).is_ok() {}
    }));
    let one_line = serve(Arc::new(|stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(&[b'x'; 65_536]).is_ok() {}
    }));
    let targets = [("endless", endless), ("line", one_line)]
        .map(|(name, source)| Target { name: name.to_owned(), source })
        .to_vec();
    let mut probe = with(ScrapeOptions { targets, body: 1 << 20, ..options() });
    let (own, _, error) = tick(&mut probe, 0);
    let error = error.unwrap();
    assert!(error.contains("endless: the answer is longer than 1048576 bytes"), "{error}");
    assert!(error.contains("line: the answer is longer"), "{error}");
    assert_eq!(value(&own, "endless", "nodescope_scrape_up"), Some(0.0));
}

#[test]
fn too_many_series_are_counted() {
    let body: String = (0..60_000).map(|n| format!("x{{series=\"{n}\",pad=\"{n:0>40}\"}} {n}\n")).collect();
    let mut probe =
        with(ScrapeOptions { targets: vec![Target { name: "big".to_owned(), source: text(&body) }], ..options() });
    let (own, _, error) = tick(&mut probe, 0);
    assert_eq!(error, None);
    let dropped = value(&own, "big", "nodescope_scrape_samples_dropped").unwrap();
    assert_eq!(value(&own, "big", "nodescope_scrape_samples"), Some(60_000.0));
    let kept = own.num_rows() as f64 - 7.0 - 1.0;
    assert_eq!(kept + dropped, 60_000.0);
    // It has to fit into a record, which the broker takes up to 4 MiB.
    assert!(kept > 5_000.0, "{kept}");
    let bytes = nodescope_model::record::encode(&own).unwrap().len();
    assert!(bytes < 4 << 20, "{bytes}");
}

#[test]
fn wrong_content_is_no_answer() {
    let page = "<!DOCTYPE html>\n<html><body>Sign in</body></html>\n";
    let mut probe = probe(vec![("page", text(page)), ("empty", text(""))]);
    let (own, _, error) = tick(&mut probe, 0);
    assert!(error.is_some_and(|error| error.contains("page: this is not the text of an exporter: `<!DOCTYPE html>`")));
    assert_eq!(value(&own, "page", "nodescope_scrape_up"), Some(0.0));
    assert_eq!(value(&own, "empty", "nodescope_scrape_up"), Some(1.0));
    assert_eq!(value(&own, "empty", "nodescope_scrape_samples"), Some(0.0));
}

#[test]
fn mappings_of_the_site_are_in_force_as_soon_as_they_are_right() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mine.toml");
    let good = "exporter = \"mine\"\nmatch = [\"my_*\"]\n[[table]]\nname = \"accelerator\"\n\
                columns = { device = \"{id}\", vendor = \"mine\" }\n\
                metric = [{ name = \"my_power\", column = \"power_watts\", unit = \"mW\" }]\n";
    let mut probe = with(ScrapeOptions {
        targets: vec![Target { name: "mine".to_owned(), source: text("my_power{id=\"x\"} 1500\n") }],
        mappings_dir: Some(directory.path().to_owned()),
        ..options()
    });
    let mut power = |seconds: i64| {
        let (own, beside, error) = tick(&mut probe, seconds);
        let column = beside[0].column_by_name("power_watts").unwrap().as_primitive::<Float64Type>().clone();
        let watts = (beside[0].num_rows() > 0).then(|| column.value(0));
        let mistakes = value(&own, "nodescope", "nodescope_scrape_mapping_mistakes");
        (watts, value(&own, "mine", "my_power"), mistakes, error)
    };
    assert_eq!(power(0), (None, Some(1500.0), None, None));
    std::fs::write(&path, good).unwrap();
    assert_eq!(power(10), (Some(1.5), None, None, None));
    std::fs::write(&path, good.replace("mW", "MHz")).unwrap();
    let (watts, _, mistakes, error) = power(20);
    assert_eq!((watts, mistakes), (Some(1.5), Some(1.0)), "the version before stays in force");
    assert!(error.is_some_and(|error| error.contains("mine.toml:6: unit = \"MHz\": `power_watts` takes")));
    std::fs::write(&path, good.replace("mW", "watts")).unwrap();
    assert_eq!(power(30), (Some(1500.0), None, None, None));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(power(40), (None, Some(1500.0), None, None));
}
