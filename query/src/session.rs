//! What one connection has set for itself.
//!
//! PostgreSQL's clients set parameters all the time: drivers when they connect, tools before they ask, people
//! by hand. A short list of them means something here (the time zone, the shape of dates, a shorter time
//! limit, the search path); some more exist so that ordinary clients do not stumble; the rest, and every
//! option of the engine, is refused by name. A value is checked when it is set, so that a statement never
//! fails later because of it. A setting made inside a transaction ends as the transaction ends, which is all
//! that a transaction means in a database that only reads.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::timezone::Tz;
use thiserror::Error;

/// The only database; any name a client connects to leads here.
pub const DATABASE: &str = "nodescope";
/// The version we answer with: the dialect of the system tables, then who really speaks.
pub const SERVER_VERSION: &str = concat!("15.0 (Nodescope ", env!("CARGO_PKG_VERSION"), ")");
/// The same version as the number that programs compare.
pub const SERVER_VERSION_NUM: &str = "150000";

/// What a parameter accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Any text of a reasonable length.
    Text,
    /// A list of identifiers.
    List,
    /// A switch.
    Switch,
    /// A whole number in a range.
    Number(i64, i64),
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A time zone's name or offset.
    Zone,
    /// Style and order of dates.
    DateStyle,
    /// UTF-8, under any of its names.
    Encoding,
    /// A length of time that means nothing here but does no harm.
    Time,
    /// The statement's time limit, never above the server's.
    Timeout,
    /// May be read only.
    Fixed,
}

/// One parameter: its name, its first value, what it accepts, whether clients are told of changes, its meaning.
struct Parameter {
    name: &'static str,
    value: &'static str,
    kind: Kind,
    reported: bool,
    meaning: &'static str,
}

const fn parameter(
    name: &'static str,
    value: &'static str,
    kind: Kind,
    reported: bool,
    meaning: &'static str,
) -> Parameter {
    Parameter { name, value, kind, reported, meaning }
}

const ISOLATION: Kind = Kind::OneOf(&["read committed", "repeatable read", "serializable", "read uncommitted"]);
const LEVELS: Kind =
    Kind::OneOf(&["debug5", "debug4", "debug3", "debug2", "debug1", "log", "notice", "warning", "error"]);
const INTERVALS: Kind = Kind::OneOf(&["postgres", "postgres_verbose", "sql_standard", "iso_8601"]);

/// Every parameter there is, in the order of `SHOW ALL`.
const PARAMETERS: &[Parameter] = &[
    parameter("application_name", "", Kind::Text, true, "The name the client gives itself"),
    parameter("bytea_output", "hex", Kind::OneOf(&["hex", "escape"]), false, "The text form of bytes"),
    parameter("client_encoding", "UTF8", Kind::Encoding, true, "The encoding of text, always UTF-8"),
    parameter("client_min_messages", "notice", LEVELS, false, "The least serious message that is sent"),
    parameter("DateStyle", "ISO, MDY", Kind::DateStyle, true, "The text form of dates and times"),
    parameter("default_transaction_isolation", "read committed", ISOLATION, false, "Means nothing here"),
    parameter("default_transaction_read_only", "on", Kind::Fixed, true, "This server only reads"),
    parameter("extra_float_digits", "1", Kind::Number(-15, 3), false, "Digits of floating-point numbers"),
    parameter("idle_in_transaction_session_timeout", "0", Kind::Time, false, "Means nothing here"),
    parameter("in_hot_standby", "off", Kind::Fixed, true, "Means nothing here"),
    parameter("integer_datetimes", "on", Kind::Fixed, true, "Times are whole microseconds"),
    parameter("IntervalStyle", "postgres", INTERVALS, true, "The text form of intervals"),
    parameter("is_superuser", "off", Kind::Fixed, true, "Nobody is"),
    parameter("jit", "off", Kind::Switch, false, "Means nothing here"),
    parameter("lock_timeout", "0", Kind::Time, false, "There are no locks"),
    parameter("max_identifier_length", "63", Kind::Fixed, false, "What clients may count on"),
    parameter("search_path", "public", Kind::List, false, "Where unqualified tables are looked for"),
    parameter("server_encoding", "UTF8", Kind::Fixed, true, "The encoding of the data"),
    parameter("server_version", SERVER_VERSION, Kind::Fixed, true, "The version of PostgreSQL we resemble"),
    parameter("server_version_num", SERVER_VERSION_NUM, Kind::Fixed, false, "The same as a number"),
    parameter("session_authorization", "", Kind::Fixed, true, "The user who logged in"),
    parameter("standard_conforming_strings", "on", Kind::Fixed, true, "A backslash is a backslash"),
    parameter("statement_timeout", "0", Kind::Timeout, false, "The longest a statement may take"),
    parameter("TimeZone", "UTC", Kind::Zone, true, "The zone in which times are shown and read"),
    parameter("transaction_isolation", "read committed", ISOLATION, false, "Means nothing here"),
    parameter("transaction_read_only", "on", Kind::Fixed, false, "This server only reads"),
];

/// Longest value of a text parameter, in bytes.
const LONGEST_VALUE: usize = 1_000;

/// Why a parameter was not set.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SettingRefused {
    /// No such parameter.
    #[error("unrecognized configuration parameter \"{0}\"")]
    Unknown(String),
    /// It belongs to the engine, and a session may not change the engine.
    #[error("parameter \"{0}\" belongs to the engine and cannot be changed by a session")]
    Engine(String),
    /// It can only be read.
    #[error("parameter \"{0}\" cannot be changed")]
    Fixed(&'static str),
    /// The value is not one of those it accepts.
    #[error("invalid value for parameter \"{name}\": \"{value}\" ({expected})")]
    Invalid {
        /// The parameter.
        name: &'static str,
        /// What was given.
        value: String,
        /// What it accepts.
        expected: String,
    },
}

impl SettingRefused {
    /// The SQLSTATE that PostgreSQL gives for the same mistake.
    pub fn code(&self) -> &'static str {
        match self {
            SettingRefused::Unknown(_) => "42704",
            SettingRefused::Engine(_) => "42501",
            SettingRefused::Fixed(_) => "55P02",
            SettingRefused::Invalid { .. } => "22023",
        }
    }
}

/// The settings of a session at one moment. The engine plans with them and the server writes rows by them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionSettings {
    /// Who asks.
    pub user: String,
    /// The name of the database, always [`DATABASE`].
    pub database: String,
    values: BTreeMap<&'static str, String>,
    longest_statement: Duration,
}

impl SessionSettings {
    /// The settings of a new session of `user`, whose statements may take `longest_statement` at most.
    pub fn new(user: &str, longest_statement: Duration) -> Self {
        let mut values: BTreeMap<&'static str, String> =
            PARAMETERS.iter().map(|parameter| (parameter.name, parameter.value.to_owned())).collect();
        values.insert("session_authorization", user.to_owned());
        SessionSettings { user: user.to_owned(), database: DATABASE.to_owned(), values, longest_statement }
    }

    fn value(&self, name: &str) -> &str {
        self.values.get(name).map_or("", String::as_str)
    }

    /// The time zone, in a form that both Arrow and DataFusion's `execution.time_zone` take.
    pub fn time_zone(&self) -> &str {
        self.value("TimeZone")
    }

    /// The text form of dates and times, as in `ISO, MDY`.
    pub fn date_style(&self) -> &str {
        self.value("DateStyle")
    }

    /// The text form of intervals.
    pub fn interval_style(&self) -> &str {
        self.value("IntervalStyle")
    }

    /// The text form of bytes.
    pub fn bytea_output(&self) -> &str {
        self.value("bytea_output")
    }

    /// Digits of floating-point numbers beyond the usual ones.
    pub fn extra_float_digits(&self) -> i8 {
        self.value("extra_float_digits").parse().unwrap_or(1)
    }

    /// The schemas in which unqualified tables are looked for.
    pub fn search_path(&self) -> &str {
        self.value("search_path")
    }

    /// The name the client gives itself; empty if it gives none.
    pub fn application_name(&self) -> &str {
        self.value("application_name")
    }

    /// The longest a statement of this session may take; never more than the server allows.
    pub fn statement_timeout(&self) -> Duration {
        match parse_milliseconds(self.value("statement_timeout")) {
            Some(0) | None => self.longest_statement,
            Some(milliseconds) => Duration::from_millis(milliseconds).min(self.longest_statement),
        }
    }

    /// The value of a parameter, as `SHOW` and `current_setting` give it; the case of the name does not matter.
    pub fn get(&self, name: &str) -> Option<String> {
        find(name).map(|parameter| self.value(parameter.name).to_owned())
    }

    /// The name of a parameter as it is written, for instance `TimeZone` for `timezone`.
    pub fn canonical_name(name: &str) -> Option<&'static str> {
        find(name).map(|parameter| parameter.name)
    }

    /// Every parameter with its value and its meaning.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, &str, &'static str)> {
        PARAMETERS.iter().map(|parameter| (parameter.name, self.value(parameter.name), parameter.meaning))
    }

    /// The parameters of which clients are told when they connect and when they change.
    pub fn reported(&self) -> impl Iterator<Item = (&'static str, &str)> {
        PARAMETERS
            .iter()
            .filter(|parameter| parameter.reported)
            .map(|parameter| (parameter.name, self.value(parameter.name)))
    }

    /// Sets a parameter.
    ///
    /// # Errors
    /// When there is no such parameter, when it may only be read, or when it does not accept the value.
    pub fn set(&mut self, name: &str, values: &[String]) -> Result<(), SettingRefused> {
        let Some(parameter) = find(name) else {
            return Err(unknown(name));
        };
        let given = values.join(", ");
        let accepted = self.accept(parameter, &given).map_err(|expected| match parameter.kind {
            Kind::Fixed => SettingRefused::Fixed(parameter.name),
            _ => SettingRefused::Invalid { name: parameter.name, value: given.chars().take(100).collect(), expected },
        })?;
        self.values.insert(parameter.name, accepted);
        Ok(())
    }

    /// The value to keep, or what would have been accepted.
    fn accept(&self, parameter: &Parameter, given: &str) -> Result<String, String> {
        let word = given.trim();
        match parameter.kind {
            Kind::Text | Kind::List => {
                if given.len() > LONGEST_VALUE || given.contains('\0') {
                    return Err(format!("at most {LONGEST_VALUE} bytes"));
                }
                Ok(given.to_owned())
            }
            Kind::Switch => switch(word).map(|on| if on { "on" } else { "off" }.to_owned()).ok_or("on or off".into()),
            Kind::Number(least, most) => match word.parse::<i64>() {
                Ok(number) if (least..=most).contains(&number) => Ok(number.to_string()),
                _ => Err(format!("a whole number from {least} to {most}")),
            },
            Kind::OneOf(words) => words
                .iter()
                .find(|known| known.eq_ignore_ascii_case(word))
                .map(|known| (*known).to_owned())
                .ok_or_else(|| format!("one of {}", words.join(", "))),
            Kind::Zone => {
                zone(word).ok_or_else(|| "a name such as Europe/Berlin or an offset such as +02:00".to_owned())
            }
            Kind::DateStyle => date_style(self.date_style(), word)
                .ok_or_else(|| "ISO, SQL, German or Postgres, with MDY, DMY or YMD".to_owned()),
            Kind::Encoding => {
                let plain: String = word.chars().filter(char::is_ascii_alphanumeric).collect();
                let known = ["utf8", "unicode"].iter().any(|known| known.eq_ignore_ascii_case(&plain));
                if known { Ok("UTF8".to_owned()) } else { Err("this server speaks UTF8 only".to_owned()) }
            }
            Kind::Time => parse_milliseconds(word).map(|_| word.to_owned()).ok_or_else(time_expected),
            Kind::Timeout => {
                let milliseconds = parse_milliseconds(word).ok_or_else(time_expected)?;
                if Duration::from_millis(milliseconds) > self.longest_statement {
                    return Err(format!("the server allows {:?} at most", self.longest_statement));
                }
                Ok(if milliseconds == 0 { "0".to_owned() } else { format!("{milliseconds}ms") })
            }
            // Setting it to what it is already does no harm, and drivers do it.
            Kind::Fixed => {
                let now = self.value(parameter.name);
                let same = now.eq_ignore_ascii_case(word) || switch(word).is_some_and(|on| switch(now) == Some(on));
                if same { Ok(now.to_owned()) } else { Err(String::new()) }
            }
        }
    }
}

fn time_expected() -> String {
    "a length of time such as 500ms, 30s or 5min".to_owned()
}

fn find(name: &str) -> Option<&'static Parameter> {
    PARAMETERS.iter().find(|parameter| parameter.name.eq_ignore_ascii_case(name))
}

fn unknown(name: &str) -> SettingRefused {
    let shown: String = name.chars().take(100).collect();
    let engine = name.split_once('.').is_some_and(|(first, _)| first.eq_ignore_ascii_case("datafusion"));
    if engine { SettingRefused::Engine(shown) } else { SettingRefused::Unknown(shown) }
}

fn switch(word: &str) -> Option<bool> {
    match word.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => Some(true),
        "off" | "false" | "no" | "0" => Some(false),
        _ => None,
    }
}

/// A zone in the form that Arrow takes: a name of the IANA database, or an offset such as `+02:00`.
fn zone(word: &str) -> Option<String> {
    let lower = word.to_ascii_lowercase();
    if matches!(lower.as_str(), "local" | "z" | "utc" | "gmt" | "zulu" | "etc/utc") {
        return Some("UTC".to_owned());
    }
    // A bare number is an offset in hours, which may have a fraction.
    if let Ok(hours) = word.parse::<f64>() {
        if !(-15.0..=15.0).contains(&hours) {
            return None;
        }
        let minutes = (hours.abs() * 60.0).round();
        let sign = if hours < 0.0 { '-' } else { '+' };
        return Some(format!("{sign}{:02}:{:02}", (minutes / 60.0).floor(), minutes % 60.0));
    }
    Tz::from_str(word).ok().map(|_| word.to_owned())
}

/// The new date style when `given` is set over `now`: what it leaves out stays.
fn date_style(now: &str, given: &str) -> Option<String> {
    let (mut style, mut order) = now.split_once(", ").unwrap_or((now, "MDY"));
    for part in given.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        match part.to_ascii_lowercase().as_str() {
            "iso" => style = "ISO",
            "sql" => style = "SQL",
            "german" => style = "German",
            "postgres" => style = "Postgres",
            "mdy" | "us" | "noneuro" | "noneuropean" => order = "MDY",
            "dmy" | "euro" | "european" => order = "DMY",
            "ymd" => order = "YMD",
            _ => return None,
        }
    }
    Some(format!("{style}, {order}"))
}

/// A length of time in milliseconds, which is also the unit when none is given.
fn parse_milliseconds(word: &str) -> Option<u64> {
    let word = word.trim();
    let digits = word.len() - word.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = word.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let factor = match unit.trim() {
        "" | "ms" => 1,
        "us" => return Some(number / 1_000),
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// Where a session stands in its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionState {
    /// In none.
    Idle,
    /// In one.
    Open,
    /// In one in which a statement has failed; only its end is accepted.
    Failed,
}

#[derive(Debug)]
struct Transaction {
    on_commit: SessionSettings,
    on_rollback: SessionSettings,
    failed: bool,
}

/// The state of one connection: its settings, the values they return to, and its transaction.
#[derive(Debug)]
pub struct Session {
    settings: Arc<SessionSettings>,
    first: SessionSettings,
    transaction: Option<Transaction>,
}

impl Session {
    /// A session that begins with `settings`, to which `RESET` returns.
    pub fn new(settings: SessionSettings) -> Self {
        Session { settings: Arc::new(settings.clone()), first: settings, transaction: None }
    }

    /// The settings as they are now.
    pub fn settings(&self) -> &Arc<SessionSettings> {
        &self.settings
    }

    /// Where the session stands in its transaction.
    pub fn transaction(&self) -> TransactionState {
        match &self.transaction {
            None => TransactionState::Idle,
            Some(Transaction { failed: false, .. }) => TransactionState::Open,
            Some(Transaction { failed: true, .. }) => TransactionState::Failed,
        }
    }

    /// Sets a parameter; with no values, to what it was when the session began. `local` lets it end with the
    /// transaction.
    ///
    /// # Errors
    /// As [`SessionSettings::set`].
    pub fn set(&mut self, name: &str, values: Option<&[String]>, local: bool) -> Result<(), SettingRefused> {
        let values = match values {
            Some(values) => values.to_vec(),
            None => vec![self.first.get(name).ok_or_else(|| unknown(name))?],
        };
        if local && self.transaction.is_none() {
            // It ends with the transaction, and this statement is one of its own.
            return self.settings.as_ref().clone().set(name, &values);
        }
        Arc::make_mut(&mut self.settings).set(name, &values)?;
        if let Some(transaction) = &mut self.transaction
            && !local
        {
            transaction.on_commit.set(name, &values)?;
        }
        Ok(())
    }

    /// Returns every parameter to what it was when the session began.
    pub fn reset_all(&mut self) {
        self.settings = Arc::new(self.first.clone());
        if let Some(transaction) = &mut self.transaction {
            transaction.on_commit = self.first.clone();
        }
    }

    /// Begins a transaction; within one it changes nothing.
    pub fn begin(&mut self) {
        if self.transaction.is_none() {
            let now = self.settings.as_ref().clone();
            self.transaction = Some(Transaction { on_commit: now.clone(), on_rollback: now, failed: false });
        }
    }

    /// Ends the transaction and says whether it could be committed; without one there is nothing to do.
    pub fn commit(&mut self) -> bool {
        match self.transaction.take() {
            None => true,
            Some(transaction) if transaction.failed => {
                self.settings = Arc::new(transaction.on_rollback);
                false
            }
            Some(transaction) => {
                self.settings = Arc::new(transaction.on_commit);
                true
            }
        }
    }

    /// Ends the transaction and undoes what was set in it.
    pub fn rollback(&mut self) {
        if let Some(transaction) = self.transaction.take() {
            self.settings = Arc::new(transaction.on_rollback);
        }
    }

    /// Returns to a savepoint. Settings are not kept per savepoint; the transaction only becomes usable again.
    pub fn rollback_to_savepoint(&mut self) {
        if let Some(transaction) = &mut self.transaction {
            transaction.failed = false;
        }
    }

    /// Notes that a statement has failed.
    pub fn fail(&mut self) {
        if let Some(transaction) = &mut self.transaction {
            transaction.failed = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> SessionSettings {
        SessionSettings::new("ada", Duration::from_secs(60))
    }

    fn values(list: &[&str]) -> Vec<String> {
        list.iter().map(|value| (*value).to_owned()).collect()
    }

    #[test]
    fn accepted_values_are_kept_in_one_form() {
        for (name, given, kept) in [
            ("timezone", &["Europe/Berlin"][..], "Europe/Berlin"),
            ("TIMEZONE", &["utc"], "UTC"),
            ("TimeZone", &["-8"], "-08:00"),
            ("TimeZone", &["5.5"], "+05:30"),
            ("TimeZone", &["+02:00"], "+02:00"),
            ("datestyle", &["ISO", "DMY"], "ISO, DMY"),
            ("datestyle", &["german"], "German, MDY"),
            ("client_encoding", &["utf-8"], "UTF8"),
            ("client_encoding", &["'UNICODE'"], "UTF8"),
            ("extra_float_digits", &["3"], "3"),
            ("bytea_output", &["HEX"], "hex"),
            ("statement_timeout", &["5s"], "5000ms"),
            ("statement_timeout", &["0"], "0"),
            ("search_path", &["a", "b"], "a, b"),
            ("standard_conforming_strings", &["true"], "on"),
            ("jit", &["no"], "off"),
        ] {
            let mut settings = settings();
            settings.set(name, &values(given)).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(settings.get(name).as_deref(), Some(kept), "{name} = {given:?}");
        }
    }

    #[test]
    fn refused_values_change_nothing() {
        for (name, given, code) in [
            ("timezone", "Mars/Olympus", "22023"),
            ("timezone", "99", "22023"),
            ("datestyle", "stardate", "22023"),
            ("client_encoding", "LATIN1", "22023"),
            ("extra_float_digits", "9", "22023"),
            ("statement_timeout", "1h", "22023"),
            ("statement_timeout", "soon", "22023"),
            ("standard_conforming_strings", "off", "55P02"),
            ("default_transaction_read_only", "off", "55P02"),
            ("datafusion.execution.batch_size", "1", "42501"),
            ("work_of_art", "1", "42704"),
        ] {
            let mut settings = settings();
            let refused = settings.set(name, &values(&[given])).expect_err(name);
            assert_eq!(refused.code(), code, "{name} = {given}: {refused}");
            assert_eq!(settings, self::settings(), "{name}");
        }
    }

    #[test]
    fn a_client_may_lower_the_time_limit_but_not_raise_it() {
        let mut settings = settings();
        assert_eq!(settings.statement_timeout(), Duration::from_secs(60));
        settings.set("statement_timeout", &values(&["250"])).expect("lower");
        assert_eq!(settings.statement_timeout(), Duration::from_millis(250));
        settings.set("statement_timeout", &values(&["61000"])).expect_err("higher");
        assert_eq!(settings.statement_timeout(), Duration::from_millis(250));
        settings.set("statement_timeout", &values(&["0"])).expect("the server's");
        assert_eq!(settings.statement_timeout(), Duration::from_secs(60));
    }

    #[test]
    fn settings_end_with_their_transaction() {
        let mut session = Session::new(settings());
        let zone = |session: &Session| session.settings().time_zone().to_owned();
        session.begin();
        session.set("timezone", Some(&values(&["Asia/Tokyo"])), false).expect("set");
        session.rollback();
        assert_eq!(zone(&session), "UTC");

        session.begin();
        session.set("timezone", Some(&values(&["Asia/Tokyo"])), true).expect("set");
        assert_eq!(zone(&session), "Asia/Tokyo");
        assert!(session.commit());
        assert_eq!(zone(&session), "UTC");

        session.begin();
        session.set("timezone", Some(&values(&["Asia/Tokyo"])), false).expect("set");
        assert!(session.commit());
        assert_eq!(zone(&session), "Asia/Tokyo");
        session.set("timezone", None, false).expect("back to the first value");
        assert_eq!(zone(&session), "UTC");
    }

    #[test]
    fn a_local_setting_outside_a_transaction_is_checked_and_forgotten() {
        let mut session = Session::new(settings());
        session.set("timezone", Some(&values(&["Asia/Tokyo"])), true).expect("checked");
        assert_eq!(session.settings().time_zone(), "UTC");
        session.set("timezone", Some(&values(&["Mars"])), true).expect_err("checked");
    }

    #[test]
    fn a_failed_transaction_cannot_be_committed() {
        let mut session = Session::new(settings());
        session.fail();
        assert_eq!(session.transaction(), TransactionState::Idle);
        session.begin();
        assert_eq!(session.transaction(), TransactionState::Open);
        session.fail();
        assert_eq!(session.transaction(), TransactionState::Failed);
        assert!(!session.commit());
        assert_eq!(session.transaction(), TransactionState::Idle);
        assert!(session.commit());
    }

    #[test]
    fn reset_all_returns_to_what_the_client_asked_for_when_it_connected() {
        let mut first = settings();
        first.set("application_name", &values(&["psql"])).expect("set");
        let mut session = Session::new(first);
        session.set("application_name", Some(&values(&["other"])), false).expect("set");
        session.reset_all();
        assert_eq!(session.settings().application_name(), "psql");
        assert_eq!(session.settings().all().count(), PARAMETERS.len());
    }
}
