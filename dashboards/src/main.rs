//! Writes `dashboards/grafana/*.json` from the sources; with `--check`, only says whether it would change anything.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a tool for people says what it did")]

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("grafana/host.json");
    let fresh = nodescope_dashboards::grafana_json(&nodescope_dashboards::host());
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => match std::fs::write(&path, fresh) {
            Ok(()) => {
                println!("wrote {}", path.display());
                ExitCode::SUCCESS
            }
            Err(error) => failed(&format!("cannot write {}: {error}", path.display())),
        },
        ["--check"] => match std::fs::read_to_string(&path) {
            Ok(kept) if kept == fresh => ExitCode::SUCCESS,
            Ok(_) => failed(&format!("{} is stale: cargo run -p nodescope-dashboards", path.display())),
            Err(error) => failed(&format!("cannot read {}: {error}", path.display())),
        },
        _ => failed("usage: nodescope-dashboards [--check]"),
    }
}

fn failed(why: &str) -> ExitCode {
    eprintln!("{why}");
    ExitCode::FAILURE
}
