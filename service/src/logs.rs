//! Structured logs on standard error: one event a line, as text for people or as JSON for collectors of logs.

use std::io::IsTerminal;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::settings::Settings;

/// Section `[log]`.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// What is logged: a level, or levels by target.
    pub filter: String,
    /// How.
    pub format: LogFormat,
}

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl FromStr for LogFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("one of text, json"),
        }
    }
}

impl LogSettings {
    /// Reads the section.
    pub fn read(settings: &mut Settings) -> Self {
        let filter: String = settings.get(
            "log.filter",
            "info",
            "What is logged: error, warn, info, debug or trace, or levels by part, as in `info,nodescope_collector=debug`.",
        );
        if let Err(error) = EnvFilter::try_new(&filter) {
            settings.mistake(format!("log.filter: {error}"));
        }
        Self { filter, format: settings.get("log.format", "text", "`text` or `json`.") }
    }

    /// Starts logging. A second call in one process changes nothing.
    pub fn start(&self) {
        // Libraries that narrate at info level are held to warnings unless asked for by name.
        let quiet = "tansu_broker=warn,tansu_storage=warn,tansu_service=warn,tansu_sans_io=warn,deltalake=warn,buoyant_kernel=warn,delta_kernel=warn,rama=warn";
        let filter = EnvFilter::new(format!("{quiet},{}", self.filter));
        let builder = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .with_span_events(FmtSpan::NONE);
        let _ = match self.format {
            LogFormat::Text => builder.with_target(false).compact().try_init(),
            LogFormat::Json => builder.json().flatten_event(true).try_init(),
        };
    }
}
