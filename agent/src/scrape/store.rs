//! The mappings in force: ours, and those of the site, which are looked at before every scrape.
//!
//! A site's `NAME.toml` goes before ours of that name. A file that has changed is read and checked whole; when it is
//! right it is in force at once, and when it is not, what was in force before stays (ours, if the site's was never right)
//! and its mistakes are told: in the log once, in `agent.last_error` and as `nodescope_scrape_mapping_mistakes` as long as
//! it stands. A file that is removed gives its place back to ours.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nodescope_model::catalogue::Catalogue;

use super::mapping::{self, Mapping};

/// Files of a site.
const MAX_FILES: usize = 64;

/// Bytes of one.
const MAX_BYTES: u64 = 256 << 10;

/// A file written so recently is read again, because its time may not show that it was written twice.
const SETTLED: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct SiteFile {
    modified: Option<SystemTime>,
    content: Vec<u8>,
    /// In force.
    mapping: Option<Arc<Mapping>>,
    mistakes: Vec<String>,
}

/// All mappings.
#[derive(Debug)]
pub(crate) struct Store {
    directory: Option<PathBuf>,
    built_in: BTreeMap<String, Arc<Mapping>>,
    files: BTreeMap<String, SiteFile>,
    current: Arc<Vec<Arc<Mapping>>>,
    /// What is wrong with the directory itself.
    trouble: Option<String>,
}

impl Store {
    /// Ours alone, until the first look at the site's.
    pub(crate) fn new(directory: Option<PathBuf>) -> Self {
        let built_in = mapping::built_in(&Catalogue::sampled());
        let current = Arc::new(built_in.values().cloned().collect());
        Self { directory, built_in, files: BTreeMap::new(), current, trouble: None }
    }

    /// The mappings in force.
    pub(crate) fn current(&self) -> Arc<Vec<Arc<Mapping>>> {
        self.current.clone()
    }

    /// What is wrong with the site's files now: name and mistakes.
    pub(crate) fn mistakes(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.files.iter().filter(|(_, f)| !f.mistakes.is_empty()).map(|(name, f)| (name.as_str(), &f.mistakes[..]))
    }

    /// Why the site's directory cannot be read.
    pub(crate) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Looks whether files have come, changed or gone.
    pub(crate) fn look(&mut self) {
        let Some(directory) = self.directory.clone() else { return };
        let names = match list(&directory) {
            Ok(names) => names,
            Err(error) => {
                // What was in force stays.
                let text = format!("{}: {error}", directory.display());
                if self.trouble.as_ref() != Some(&text) {
                    tracing::warn!(error = text, "the directory of mappings cannot be read");
                }
                self.trouble = Some(text);
                return;
            }
        };
        self.trouble =
            (names.len() > MAX_FILES).then(|| format!("{}: {MAX_FILES} files are the most", directory.display()));
        let before = self.files.len();
        self.files.retain(|name, _| names.contains(name));
        let mut has_changed = before != self.files.len();
        let mut catalogue = None;
        for name in names.into_iter().take(MAX_FILES) {
            let file = self.files.entry(name.clone()).or_default();
            let path = directory.join(format!("{name}.toml"));
            has_changed |= file.look(&path, &name, || catalogue.get_or_insert_with(Catalogue::sampled).clone());
        }
        if has_changed {
            let mut all = self.built_in.clone();
            for (name, file) in &self.files {
                if let Some(mapping) = &file.mapping {
                    all.insert(name.clone(), mapping.clone());
                }
            }
            self.current = Arc::new(all.into_values().collect());
        }
    }
}

impl SiteFile {
    /// Reads the file if it may have changed. Whether another mapping is in force now.
    fn look(&mut self, path: &Path, name: &str, catalogue: impl FnOnce() -> Catalogue) -> bool {
        let modified = fs::metadata(path).and_then(|m| m.modified()).ok();
        let is_settled = modified.is_some_and(|m| m.elapsed().is_ok_and(|age| age > SETTLED));
        if is_settled && modified == self.modified {
            return false;
        }
        self.modified = modified;
        let mut content = Vec::new();
        let result = match File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut content)) {
            Err(error) => Err(vec![format!("{}: cannot be read: {error}", path.display())]),
            Ok(_) if content == self.content && !(self.mapping.is_none() && self.mistakes.is_empty()) => return false,
            Ok(_) => check(path, name, &content, catalogue),
        };
        self.content = content;
        match result {
            Ok(mapping) => {
                tracing::info!(file = %path.display(), "a mapping is in force");
                self.mapping = Some(Arc::new(mapping));
                self.mistakes.clear();
                true
            }
            Err(mistakes) => {
                if mistakes != self.mistakes {
                    let kept = if self.mapping.is_some() { "the version before" } else { "ours, if there is one" };
                    tracing::warn!(mistakes = mistakes.join("; "), in_force = kept, "a mapping is not taken");
                }
                self.mistakes = mistakes;
                false
            }
        }
    }
}

fn check(
    path: &Path,
    name: &str,
    content: &[u8],
    catalogue: impl FnOnce() -> Catalogue,
) -> Result<Mapping, Vec<String>> {
    let shown = path.display().to_string();
    if content.len() as u64 > MAX_BYTES {
        return Err(vec![format!("{shown}: longer than {MAX_BYTES} bytes")]);
    }
    if !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_') {
        return Err(vec![format!("{shown}: its name is of lower-case letters, digits, - and _")]);
    }
    let text = std::str::from_utf8(content).map_err(|_| vec![format!("{shown}: is not text")])?;
    mapping::parse(&shown, name, text, &catalogue())
}

/// The names of a directory's `*.toml` files, without that ending.
fn list(directory: &Path) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "toml")
            && let Some(name) = path.file_stem().and_then(|name| name.to_str())
            && !name.starts_with('.')
        {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scrape::mapping::apply;
    use crate::scrape::text::Exposition;

    const GOOD: &str = r#"
exporter = "mine"
match = ["my_*"]
[[table]]
name = "accelerator"
columns = { device = "{id}", vendor = "mine" }
metric = [{ name = "my_power", column = "power_watts", unit = "mW" }]
"#;

    /// The power that mappings in force make of an answer.
    fn power(store: &Store) -> Option<crate::scrape::mapping::Cell> {
        let mut exposition = Exposition::new(false);
        exposition.add_line(b"my_power{id=\"x\"} 1500", None);
        let mapped = apply(&store.current(), &exposition);
        let row = mapped.rows.first()?;
        row.cells.iter().find(|(column, _)| &**column == "power_watts").map(|(_, cell)| cell.clone())
    }

    #[test]
    fn a_version_that_is_wrong_leaves_the_one_before_in_force() {
        use crate::scrape::mapping::Cell::Float;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mine.toml");
        let mut store = Store::new(Some(directory.path().to_owned()));
        store.look();
        assert_eq!(power(&store), None);
        fs::write(&path, GOOD).unwrap();
        store.look();
        assert_eq!(power(&store), Some(Float(1.5)));
        // Wrong: the version before stays, and the mistake is told with its line.
        fs::write(&path, GOOD.replace("power_watts", "power_wotts")).unwrap();
        store.look();
        assert_eq!(power(&store), Some(Float(1.5)));
        let (name, mistakes) = store.mistakes().next().unwrap();
        assert_eq!(name, "mine");
        assert!(mistakes[0].contains("mine.toml:7: accelerator has no column `power_wotts`"), "{mistakes:?}");
        // Right again.
        fs::write(&path, GOOD.replace("\"mW\"", "\"watts\"")).unwrap();
        store.look();
        assert_eq!(power(&store), Some(Float(1500.0)));
        assert_eq!(store.mistakes().count(), 0);
        fs::remove_file(&path).unwrap();
        store.look();
        assert_eq!(power(&store), None);
    }

    #[test]
    fn a_site_replaces_one_of_ours() {
        let directory = tempfile::tempdir().unwrap();
        let text = "exporter = \"dcgm\"\nmatch = [\"DCGM_FI_*\"]\nignore = [\"*\"]\n";
        fs::write(directory.path().join("dcgm.toml"), text).unwrap();
        let mut store = Store::new(Some(directory.path().to_owned()));
        let ours = store.current().len();
        store.look();
        assert_eq!(store.current().len(), ours);
        let mut exposition = Exposition::new(false);
        exposition.add_line(b"DCGM_FI_DEV_GPU_UTIL{UUID=\"GPU-1\"} 5", None);
        let mapped = apply(&store.current(), &exposition);
        assert_eq!((mapped.rows.len(), mapped.used[0]), (0, true));
    }

    #[test]
    fn a_directory_that_is_not_there_is_trouble_and_not_the_end() {
        let mut store = Store::new(Some("/nowhere/mappings".into()));
        store.look();
        assert!(store.trouble().is_some_and(|t| t.contains("/nowhere/mappings")));
        assert!(!store.current().is_empty());
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("A b.toml"), GOOD).unwrap();
        fs::write(directory.path().join("bytes.toml"), b"\xff").unwrap();
        let mut store = Store::new(Some(directory.path().to_owned()));
        store.look();
        assert_eq!(store.mistakes().count(), 2);
    }
}
