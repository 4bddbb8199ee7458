//! `nodescope registry`: what things are, in and out of the store.
//!
//! It works on the store itself, beside whatever else runs on it: an import is one conditional write, and query servers
//! see it a moment later.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arrow_array::{ArrayRef, RecordBatch, StringArray};
use arrow_cast::pretty::pretty_format_batches;
use nodescope_registry::entries::Registry;
use nodescope_registry::export::{self, What};
use nodescope_registry::kinds::{Kind, Kinds};
use nodescope_registry::parse::{self, Sheet};
use nodescope_registry::value::{parse_time, show_time};
use nodescope_registry::write::{self, Done, How};
use nodescope_registry::{Mistakes, RegistryError};
use nodescope_store::Store;

use crate::settings::{Common, finish, load};
use crate::up::default_folder;
use crate::{ConfigArgs, block_on, chain, say};

/// Says what things are: nodes, what they can do, which machines belong to them, what may run there.
///
/// Seven kinds of entries are kept with their history: node, resource, registration, peer, maintenance, approved, billed.
/// Write them into CSV (one kind a file, the first line names the fields) or JSON, and import them; SQL has a view of
/// each kind. docs/registry.md explains fields, corrections and changes.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Example: a site, and the host of it that this machine is.

  $ cat node.csv
  node,kind,name,region
  310101,site,Pudong,East
  $ cat registration.csv
  node,host,device,status
  310101,gpu-01,,in_service
  $ nodescope registry import node.csv registration.csv
  node          1 new
  registration  1 new
  $ nodescope registry list registration
  $ nodescope sql \"select * from registration\"

An import is examined whole: every mistake is told with its file and line, and nothing is applied unless all is right.
The same file once more changes nothing.")]
pub(crate) struct RegistryArgs {
    #[command(flatten)]
    place: PlaceArgs,
    #[command(subcommand)]
    what: RegistryCommand,
}

/// Where the registry is.
#[derive(Debug, clap::Args)]
struct PlaceArgs {
    /// Configuration file (TOML), as of the other programs.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The store: a folder, or s3://bucket/prefix. Without it the one of the configuration, or of `nodescope up`.
    #[arg(long, global = true, value_name = "URL")]
    store: Option<String>,
    /// The folder that `nodescope up --data` was given.
    #[arg(long, global = true, value_name = "FOLDER", conflicts_with = "store")]
    data: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
enum RegistryCommand {
    /// Takes entries from files: all of them, or none and every mistake.
    Import {
        /// CSV or JSON; `-` reads standard input.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Kind of the rows of CSV files and of JSON arrays. Without it a file's name says it: node.csv.
        #[arg(long, value_name = "KIND")]
        kind: Option<String>,
        /// From when entries are valid that have no `valid_from`; from now on without it.
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        from: Option<i64>,
        /// Examine, say what would be new, and write nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Writes entries as files that can be imported again.
    Export {
        /// Only this kind. CSV needs one.
        kind: Option<String>,
        #[arg(long, value_enum, default_value = "json")]
        format: Form,
        /// What stood at that time, as in 2026-01-01T00:00:00+08:00; now without it.
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        at: Option<i64>,
        /// Every entry that was not corrected, revocations among them.
        #[arg(long, conflicts_with = "at")]
        history: bool,
    },
    /// Shows entries, or how many there are of each kind.
    List {
        /// The kind.
        kind: Option<String>,
        /// What stood at that time; now without it.
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        at: Option<i64>,
    },
    /// Ends an entry. To end many, import rows of key, valid_from and `revoked` = true.
    Revoke {
        /// The kind.
        kind: String,
        /// The parts of its key in their order, as `list` shows them: `registration 310101 gpu-01 gpu0`. Write '' for
        /// one that is empty.
        #[arg(required = true, num_args = 1..)]
        key: Vec<String>,
        /// When it ends; now without it.
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        at: Option<i64>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// Comma-separated values, with a header.
    Csv,
    /// An array of objects, or an object of such arrays by kind.
    Json,
}

/// Runs the command.
pub(crate) fn main(args: &RegistryArgs) -> Result<(), String> {
    let common = args.place.read()?;
    let kinds = Kinds::new(&common.catalogue);
    match &args.what {
        RegistryCommand::Import { files, kind, from, dry_run } => {
            let named = kind.as_deref().map(|name| position(&kinds, name)).transpose()?;
            let sheets = sheets(&kinds, files, named)?;
            let how = How { from: *from, dry_run: *dry_run };
            let imported = block_on(async {
                let store = common.open_store()?;
                // A file whose form is wrong keeps nothing from being told about the others.
                match sheets {
                    (sheets, wrong) if wrong.0.is_empty() => {
                        write::import(&store, &kinds, &sheets, how).await.map_err(|e| told(&e))
                    }
                    (sheets, mut wrong) => {
                        let examine = How { dry_run: true, ..how };
                        if let Err(error) = write::import(&store, &kinds, &sheets, examine).await {
                            match error {
                                RegistryError::Mistakes(more) => wrong.0.extend(more.0),
                                other => return Err(told(&other)),
                            }
                        }
                        Err(told(&wrong.into()))
                    }
                }
            })?;
            report(&imported, *dry_run);
            Ok(())
        }
        RegistryCommand::Export { kind, format, at, history } => {
            let kind = kind.as_deref().map(|name| position(&kinds, name)).transpose()?;
            let what = if *history { What::History } else { What::At(at.unwrap_or_else(now_us)) };
            let registry = read(&common, &kinds)?;
            let text = match (format, kind) {
                (Form::Json, kind) => export::json(&kinds, &registry, kind, what),
                (Form::Csv, Some(kind)) => export::csv(&kinds, &registry, kind, what),
                (Form::Csv, None) => {
                    return Err(format!("a CSV file holds one kind; name it, or use --format json: {}", kinds.names()));
                }
            };
            put(&text.map_err(|e| chain(&e))?)
        }
        RegistryCommand::List { kind, at } => {
            let at = at.unwrap_or_else(now_us);
            let kind = kind.as_deref().map(|name| position(&kinds, name)).transpose()?;
            let registry = read(&common, &kinds)?;
            match kind {
                Some(kind) => list(&kinds.all()[kind], &registry, kind, at),
                None => {
                    summary(&kinds, &registry, at);
                    Ok(())
                }
            }
        }
        RegistryCommand::Revoke { kind, key, at } => {
            let kind = position(&kinds, kind)?;
            let done = block_on(async {
                let store = common.open_store()?;
                write::revoke(&store, &kinds, kind, key, *at).await.map_err(|e| told(&e))
            })?;
            report(&done, false);
            Ok(())
        }
    }
}

impl PlaceArgs {
    fn read(&self) -> Result<Common, String> {
        let config = ConfigArgs { config: self.config.clone() };
        let mut settings = load(config.config.as_deref());
        let data = self.data.clone().map(|data| data.join("store"));
        settings.flag("store.url", self.store.clone().or_else(|| data.map(|d| d.display().to_string())));
        // The store that `nodescope up` keeps on this machine, if it does.
        let usual = default_folder().join("store");
        if usual.is_dir() {
            settings.preset("store.url", usual.display());
        }
        settings.preset("log.filter", "warn");
        let common = Common::read(&mut settings);
        settings.tolerate(&["agent", "collector", "query", "kafka", "schedule", "alerts"]);
        finish(settings)?;
        common.logs.start();
        Ok(common)
    }
}

fn position(kinds: &Kinds, name: &str) -> Result<usize, String> {
    kinds.position(name).ok_or_else(|| format!("`{name}` is no kind; there are {}", kinds.names()))
}

/// Reads the files. What is wrong with their form comes beside what could be read.
fn sheets(kinds: &Kinds, files: &[PathBuf], named: Option<usize>) -> Result<(Vec<Sheet>, Mistakes), String> {
    let (mut sheets, mut mistakes) = (Vec::new(), Mistakes::default());
    for file in files {
        let shown = if is_stdin(file) { "standard input".to_owned() } else { file.display().to_string() };
        match bytes(file) {
            Ok(bytes) if bytes.len() as u64 > parse::MAX_BYTES => {
                mistakes.add(&shown, format!("is larger than {} MiB: divide it", parse::MAX_BYTES >> 20));
            }
            Ok(bytes) => sheets.extend(parse::parse(kinds, &shown, &bytes, named, &mut mistakes)),
            Err(error) => mistakes.add(&shown, format!("cannot be read: {error}")),
        }
    }
    Ok((sheets, mistakes))
}

fn is_stdin(file: &Path) -> bool {
    file == Path::new("-")
}

/// A file's bytes, and one more than may be: enough to see that there are too many.
fn bytes(file: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if is_stdin(file) {
        std::io::stdin().take(parse::MAX_BYTES + 1).read_to_end(&mut bytes)?;
    } else {
        std::fs::File::open(file)?.take(parse::MAX_BYTES + 1).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

fn read(common: &Common, kinds: &Kinds) -> Result<Registry, String> {
    block_on(async {
        let store: Store = common.open_store()?;
        write::read(&store, kinds).await.map_err(|e| chain(&e))
    })
}

/// The mistakes and how many they are, or what failed.
fn told(error: &RegistryError) -> String {
    match error {
        RegistryError::Mistakes(mistakes) => {
            let count = mistakes.0.len();
            let s = if count == 1 { "" } else { "s" };
            format!("{mistakes}\n{count} mistake{s}; nothing was changed")
        }
        other => chain(other),
    }
}

fn report(done: &Done, dry_run: bool) {
    let width = done.kinds.iter().map(|(name, _, _)| name.len()).max().unwrap_or(0);
    for (name, new, same) in &done.kinds {
        let same = match (new, same) {
            (_, 0) => String::new(),
            (0, same) => format!("nothing new; {same} there already"),
            (_, same) => format!(", {same} there already"),
        };
        let new = if *new == 0 { String::new() } else { format!("{new} new") };
        say(&format!("{name:width$}  {new}{same}"));
    }
    match &done.import {
        Some(import) => say(&format!("import {import}")),
        None if dry_run && done.added() > 0 => say("nothing was written: --dry-run"),
        None => say("nothing was changed: all of it is there already"),
    }
}

fn summary(kinds: &Kinds, registry: &Registry, at: i64) {
    if registry.newest == 0 {
        say("the registry is empty; `nodescope registry import FILE…` fills it");
        return;
    }
    for (position, kind) in kinds.all().iter().enumerate() {
        say(&format!("{:12}  {}", kind.name, registry.of(position).standing(at).count()));
    }
    say(&format!("last import at {}", show_time(registry.newest)));
}

/// A table of what stands, without the fields that nothing is said about.
fn list(kind: &Kind, registry: &Registry, position: usize, at: i64) -> Result<(), String> {
    let entries = export::entries(registry, position, What::At(at));
    let mut columns: Vec<(&str, Vec<String>)> = Vec::new();
    for (part, field) in kind.key_fields().iter().enumerate() {
        columns.push((&field.name, entries.iter().map(|(key, ..)| key[part].clone()).collect()));
    }
    columns.push(("valid_from", entries.iter().map(|(_, from, ..)| show_time(*from)).collect()));
    columns.push(("valid_to", entries.iter().map(|(_, _, to, _)| to.map(show_time).unwrap_or_default()).collect()));
    for (value, field) in kind.value_fields().iter().enumerate() {
        columns.push((&field.name, entries.iter().map(|(.., known)| known.values[value].to_string()).collect()));
    }
    columns.retain(|(name, cells)| *name == "node" || cells.iter().any(|cell| !cell.is_empty()));
    let columns = columns.into_iter().map(|(name, cells)| (name, Arc::new(StringArray::from(cells)) as ArrayRef));
    let batch = RecordBatch::try_from_iter(columns).map_err(|e| e.to_string())?;
    let table = pretty_format_batches(&[batch]).map_err(|e| e.to_string())?;
    let s = if entries.len() == 1 { "y" } else { "ies" };
    put(&format!("{table}\n{} entr{s}\n", entries.len()))
}

/// Writes to standard output; whoever reads no further is not an error of ours.
fn put(text: &str) -> Result<(), String> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(format!("cannot write: {error}")),
        _ => Ok(()),
    }
}

fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
