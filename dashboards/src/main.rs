//! Writes `dashboards/grafana/*/*.json` from the sources; with `--check`, only says whether it would change anything.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a tool for people says what it did")]

use std::path::Path;
use std::process::ExitCode;

use nodescope_dashboards::{Language, all, grafana_json};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let step = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => write as fn(&Path, &str) -> Result<(), String>,
        ["--check"] => check,
        _ => return failed("usage: nodescope-dashboards [--check]"),
    };
    for dashboard in all() {
        for language in Language::ALL {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("grafana").join(language.code());
            if let Err(why) =
                step(&folder.join(format!("{}.json", dashboard.name)), &grafana_json(&dashboard, language))
            {
                return failed(&why);
            }
        }
    }
    ExitCode::SUCCESS
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    made.and_then(|()| std::fs::write(path, text))
        .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    println!("wrote {}", path.display());
    Ok(())
}

fn check(path: &Path, text: &str) -> Result<(), String> {
    match std::fs::read_to_string(path) {
        Ok(kept) if kept == text => Ok(()),
        Ok(_) => Err(format!("{} is stale: cargo run -p nodescope-dashboards", path.display())),
        Err(error) => Err(format!("cannot read {}: {error}", path.display())),
    }
}

fn failed(why: &str) -> ExitCode {
    eprintln!("{why}");
    ExitCode::FAILURE
}
