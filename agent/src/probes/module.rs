//! `module`: what code runs inside the kernel besides its own.
//!
//! Two lists are kept by the kernel, and both are read: `/proc/modules`, a line each, and `/sys/module`, a directory each
//! (also for what is built in, which then has no file `initstate`). A module that wants not to be seen takes itself off
//! the first and often forgets the second, so a module that only one of them has is worth a row, in `hidden_from`.
//! Between reading the two a module may come or go; therefore a difference counts only when it is still there after both
//! were read again.
//!
//! A module's *taint* says in letters what is unusual about it. `E` means that it carries no signature the kernel
//! accepts; only kernels built to check signatures set it (those have the parameter `sig_enforce`), on others nothing is
//! known. The kernel's own taint collects the letters of all modules that were ever loaded, and of accidents; it is a
//! number with one bit for each and survives until the next boot.
//!
//! Reference counts change all the time and are no change here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;

use nodescope_model::rows::Rows;
use nodescope_service::settings::Settings;

use crate::host_root::{FileReader, HostRoot, read_bool, read_text};
use crate::probe::{Probe, ProbeError, Tick};

/// Modules listed. The largest distribution kernels load some 300.
const MAX_MODULES: usize = 2_000;

/// Names and lists longer than this are cut.
const MAX_TEXT: usize = 1024;

/// All of them are written once in an hour of the wall clock.
const HOUR_MICROS: i64 = 3_600_000_000;

/// The row of the kernel as a whole. No module can be called so.
const KERNEL: &str = "(kernel)";

/// The letters of the kernel's taint, from bit 0 up.
const TAINT_LETTERS: &str = "PFSRMBUDAWCIOELKXTNJ";

/// What the probe needs to know.
#[derive(Debug, Clone, Default)]
pub struct ModuleOptions {}

impl ModuleOptions {
    /// Reads the settings.
    pub fn read(_settings: &mut Settings) -> Self {
        Self {}
    }
}

/// Fills the table `module`.
pub struct ModuleProbe {
    root: HostRoot,
    list: FileReader,
    modules: BTreeMap<String, Known>,
    kernel: Option<Kernel>,
    hour: i64,
}

/// A module, as it was written last.
#[derive(Debug)]
struct Known {
    module: Module,
    facts: Facts,
    since: Option<i64>,
}

/// What the lists say of a module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Module {
    size_bytes: Option<u64>,
    references: Option<u64>,
    used_by: String,
    load_state: Option<String>,
    taint: String,
    hidden_from: Option<&'static str>,
}

impl Module {
    /// Whether something differs that is worth a row.
    fn differs(&self, other: &Self) -> bool {
        let of = |module: &Self| Self { references: None, used_by: String::new(), ..module.clone() };
        of(self) != of(other)
    }
}

/// What does not change while it is loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Facts {
    version: Option<String>,
    srcversion: Option<String>,
}

/// The kernel as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kernel {
    taint: Option<u64>,
    signature_enforced: Option<bool>,
    loading_disabled: Option<bool>,
    lockdown: Option<String>,
}

impl ModuleProbe {
    /// A probe of the kernel below `root`.
    pub fn new(root: &HostRoot, _options: ModuleOptions) -> Self {
        Self {
            root: root.clone(),
            list: FileReader::new(root.proc("modules")),
            modules: BTreeMap::new(),
            kernel: None,
            hour: i64::MIN,
        }
    }

    /// The modules now, with those that only one list has.
    fn look(&mut self) -> Result<BTreeMap<String, Module>, ProbeError> {
        let (mut modules, difference) = self.lists()?;
        if difference.is_empty() {
            return Ok(modules);
        }
        let (again, still) = self.lists()?;
        let hidden = difference.into_iter().filter(|found| still.contains(found));
        for (name, from) in hidden.collect::<Vec<_>>() {
            modules.entry(name).or_default().hidden_from = Some(from);
        }
        // One that has gone between the two readings is gone.
        modules.retain(|name, module| module.hidden_from.is_some() || again.contains_key(name));
        for (name, module) in modules.iter_mut().filter(|(_, module)| module.hidden_from == Some("proc")) {
            let file = |file: &str| read_text(&self.root.sys(format!("module/{name}/{file}")));
            module.size_bytes = file("coresize").and_then(|text| text.parse().ok());
            module.references = file("refcnt").and_then(|text| text.parse().ok());
            module.load_state = file("initstate");
            module.taint = file("taint").unwrap_or_default();
        }
        Ok(modules)
    }

    /// What `/proc/modules` lists, and what differs from it in `/sys/module`.
    fn lists(&mut self) -> Result<(BTreeMap<String, Module>, BTreeSet<(String, &'static str)>), ProbeError> {
        let listed = match self.list.read() {
            Ok(text) => parse_modules(text),
            // Kernels without modules have no such file.
            Err(ProbeError::Read { source, .. }) if source.kind() == ErrorKind::NotFound => BTreeMap::new(),
            // A list that cannot be read hides nothing.
            Err(error) => return Err(error),
        };
        let mut difference = BTreeSet::new();
        let Ok(entries) = fs::read_dir(self.root.sys("module")) else { return Ok((listed, difference)) };
        let shown: BTreeSet<String> =
            entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        for name in shown.iter().filter(|name| !listed.contains_key(*name)).take(MAX_MODULES) {
            let state = read_text(&self.root.sys(format!("module/{name}/initstate")));
            if state.is_some_and(|state| state == "live") {
                difference.insert((name.clone(), "proc"));
            }
        }
        let is_live = |module: &Module| module.load_state.as_deref() == Some("live");
        for (name, _) in listed.iter().filter(|(name, module)| is_live(module) && !shown.contains(*name)) {
            difference.insert((name.clone(), "sysfs"));
        }
        Ok((listed, difference))
    }

    fn facts(&self, name: &str) -> Facts {
        let file = |file: &str| read_text(&self.root.sys(format!("module/{name}/{file}"))).map(|text| cut(&text));
        Facts { version: file("version"), srcversion: file("srcversion") }
    }

    fn kernel(&self) -> Kernel {
        let enforced = read_text(&self.root.sys("module/module/parameters/sig_enforce"));
        let lockdown = read_text(&self.root.sys("kernel/security/lockdown"));
        Kernel {
            taint: read_text(&self.root.proc("sys/kernel/tainted")).and_then(|text| text.parse().ok()),
            signature_enforced: enforced.and_then(|text| match text.as_str() {
                "Y" => Some(true),
                "N" => Some(false),
                _ => None,
            }),
            loading_disabled: read_bool(&self.root.proc("sys/kernel/modules_disabled")),
            lockdown: lockdown.and_then(|text| parse_choice(&text).map(str::to_owned)),
        }
    }
}

impl Kernel {
    fn append(&self, state: &str, rows: &mut Rows) {
        let letters = self.taint.map(taint_letters);
        rows.begin()
            .text("module", KERNEL)
            .text("state", state)
            .text("taint", letters.as_deref().filter(|letters| !letters.is_empty()))
            .count("kernel_taint", self.taint)
            .bool("signature_enforced", self.signature_enforced)
            .bool("loading_disabled", self.loading_disabled)
            .text("lockdown", self.lockdown.as_deref());
    }

    /// Whether a module without a signature would be marked.
    fn checks_signatures(&self) -> bool {
        self.signature_enforced.is_some()
    }
}

impl Known {
    fn append(&self, name: &str, state: &str, checks_signatures: bool, rows: &mut Rows) {
        let module = &self.module;
        rows.begin()
            .text("module", name)
            .text("state", state)
            .text("load_state", module.load_state.as_deref())
            .text("hidden_from", module.hidden_from)
            .count("size_bytes", module.size_bytes)
            .count("references", module.references)
            .text("used_by", Some(module.used_by.as_str()).filter(|text| !text.is_empty()))
            .text("version", self.facts.version.as_deref())
            .text("srcversion", self.facts.srcversion.as_deref())
            .text("taint", Some(module.taint.as_str()).filter(|text| !text.is_empty()))
            .bool("signed", checks_signatures.then(|| !module.taint.contains('E')))
            .bool("out_of_tree", module.taint.contains('O'))
            .bool("proprietary", module.taint.contains('P'))
            .timestamp("since", self.since);
    }
}

impl Probe for ModuleProbe {
    fn table(&self) -> &'static str {
        "module"
    }

    fn sample(&mut self, tick: &Tick, rows: &mut Rows) -> Result<(), ProbeError> {
        let kernel = self.kernel();
        if kernel.taint.is_none() && !self.root.proc("modules").exists() {
            return Err(ProbeError::Absent("this kernel says nothing about modules".to_owned()));
        }
        let hour = tick.ts_micros.div_euclid(HOUR_MICROS);
        let is_hourly = std::mem::replace(&mut self.hour, hour) != hour;
        let checks = kernel.checks_signatures();
        match &self.kernel {
            Some(before) if *before != kernel => kernel.append("changed", rows),
            _ if is_hourly || tick.first => kernel.append("present", rows),
            _ => {}
        }
        self.kernel = Some(kernel);
        let now = self.look()?;
        let gone: Vec<String> = self.modules.keys().filter(|name| !now.contains_key(*name)).cloned().collect();
        for name in gone {
            if let Some(known) = self.modules.remove(&name) {
                known.append(&name, "removed", checks, rows);
            }
        }
        for (name, module) in now {
            if let Some(known) = self.modules.get_mut(&name) {
                let differs = known.module.differs(&module);
                known.module = module;
                if differs || is_hourly {
                    known.append(&name, if differs { "changed" } else { "present" }, checks, rows);
                }
            } else {
                let since = (!tick.first).then_some(tick.ts_micros);
                let known = Known { module, facts: self.facts(&name), since };
                known.append(&name, if tick.first { "present" } else { "added" }, checks, rows);
                self.modules.insert(name, known);
            }
        }
        Ok(())
    }
}

/// `name size references used_by, state address (taint)`
fn parse_modules(text: &str) -> BTreeMap<String, Module> {
    let line = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let name = cut(words.next()?);
        let size_bytes = Some(words.next()?.parse().ok()?);
        let references = words.next()?.parse().ok();
        let used_by = words.next()?.trim_end_matches(',');
        let load_state = words.next().map(|word| cut(&word.to_ascii_lowercase()));
        // The address, which is 0 to all but root, is passed over.
        let taint = words.find_map(|word| word.strip_prefix('(')?.strip_suffix(')')).unwrap_or_default();
        let used_by = if used_by == "-" { String::new() } else { cut(used_by) };
        Some((name, Module { size_bytes, references, used_by, load_state, taint: cut(taint), hidden_from: None }))
    };
    text.lines().filter_map(line).take(MAX_MODULES).collect()
}

/// `none [integrity] confidentiality`
fn parse_choice(text: &str) -> Option<&str> {
    text.split_ascii_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'))
}

/// The letters of the bits that are set; `?` for one that is newer than this list.
fn taint_letters(taint: u64) -> String {
    let letter = |bit: usize| TAINT_LETTERS.chars().nth(bit).unwrap_or('?');
    (0..64).filter(|bit| taint & (1 << bit) != 0).map(letter).collect()
}

fn cut(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::probes::testing::{
        FIRST_TICK, bools, fixture_options, garbage, ints, row_of, sample_at, sample_once, texts,
    };

    fn write(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn at(seconds: i64) -> Tick {
        Tick { ts_micros: FIRST_TICK.ts_micros + seconds * 1_000_000, first: seconds == 0 }
    }

    fn told(batch: &arrow_array::RecordBatch) -> Vec<String> {
        let names = texts(batch, "module").into_iter().zip(texts(batch, "state"));
        names.map(|(name, state)| format!("{} {}", state.unwrap(), name.unwrap())).collect()
    }

    #[test]
    fn the_recorded_modules_are_read() {
        let batch = sample_once(&mut ModuleProbe::new(&fixture_options().root, ModuleOptions {}));
        let nvidia = row_of(&batch, "module", "nvidia");
        assert_eq!(texts(&batch, "version")[nvidia], Some("550.127.08"));
        assert_eq!(texts(&batch, "srcversion")[nvidia], Some("E2C4D1F4A1E2B1A0C0FFEE0"));
        assert_eq!(texts(&batch, "taint")[nvidia], Some("POE"));
        assert_eq!(texts(&batch, "used_by")[nvidia], Some("nvidia_uvm,nvidia_modeset"));
        assert_eq!(ints(&batch, "size_bytes")[nvidia], Some(56_627_200));
        assert_eq!(ints(&batch, "references")[nvidia], Some(88));
        let of = |column: &str, row: usize| bools(&batch, column)[row];
        assert_eq!(
            (of("signed", nvidia), of("out_of_tree", nvidia), of("proprietary", nvidia)),
            (Some(false), Some(true), Some(true))
        );
        let mlx5 = row_of(&batch, "module", "mlx5_core");
        assert_eq!(
            (of("signed", mlx5), of("out_of_tree", mlx5), of("proprietary", mlx5)),
            (Some(true), Some(false), Some(false))
        );
        assert_eq!(texts(&batch, "taint")[mlx5], None);
        let hidden = row_of(&batch, "module", "diamorphine");
        assert_eq!(texts(&batch, "hidden_from")[hidden], Some("proc"));
        assert_eq!(texts(&batch, "taint")[hidden], Some("OE"));
        assert_eq!(ints(&batch, "size_bytes")[hidden], Some(16_384));
        assert_eq!(texts(&batch, "hidden_from").iter().flatten().count(), 1);
        assert!(!texts(&batch, "module").contains(&Some("tcp_cubic")), "it is built in");
        let kernel = row_of(&batch, "module", KERNEL);
        assert_eq!(ints(&batch, "kernel_taint")[kernel], Some(12_289));
        assert_eq!(texts(&batch, "taint")[kernel], Some("POE"));
        assert_eq!(texts(&batch, "lockdown")[kernel], Some("none"));
        assert_eq!((of("signature_enforced", kernel), of("loading_disabled", kernel)), (Some(false), Some(false)));
        assert!(texts(&batch, "state").iter().all(|state| *state == Some("present")));
    }

    #[test]
    fn what_comes_goes_and_changes_is_told_once() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        write(root, "proc/sys/kernel/tainted", "0\n");
        write(root, "proc/modules", "a 100 0 - Live 0x0\nb 200 1 c, Live 0x0\n");
        let mut probe = ModuleProbe::new(&HostRoot::new(root), ModuleOptions {});
        let first = sample_at(&mut probe, &at(0));
        assert_eq!(told(&first), ["present (kernel)", "present a", "present b"]);
        assert_eq!(bools(&first, "signed"), [None, None, None], "this kernel does not check");
        write(root, "proc/modules", "a 100 7 - Live 0x0\nb 200 2 c,d, Live 0x0\n");
        assert!(told(&sample_at(&mut probe, &at(60))).is_empty(), "counts and users are no change");
        write(root, "proc/modules", "b 200 1 - Live 0x0 (OE)\nd 5 - - Loading 0x0\n");
        write(root, "proc/sys/kernel/tainted", "12288\n");
        let batch = sample_at(&mut probe, &at(120));
        assert_eq!(told(&batch), ["changed (kernel)", "removed a", "changed b", "added d"]);
        assert_eq!(texts(&batch, "load_state")[3], Some("loading"));
        assert_eq!(ints(&batch, "references")[3], None);
        assert_eq!(told(&sample_at(&mut probe, &at(3600))).len(), 3);
    }

    #[test]
    fn a_module_without_its_directory_is_hidden_too() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        write(root, "proc/modules", "a 100 0 - Live 0x0\nb 1 0 - Unloading 0x0\n");
        write(root, "sys/module/printk/parameters/time", "Y\n");
        let batch = sample_once(&mut ModuleProbe::new(&HostRoot::new(root), ModuleOptions {}));
        assert_eq!(texts(&batch, "hidden_from"), [None, Some("sysfs"), None]);
    }

    #[test]
    fn a_list_that_cannot_be_read_hides_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::create_dir_all(root.join("proc/modules")).unwrap();
        write(root, "sys/module/a/initstate", "live\n");
        let mut probe = ModuleProbe::new(&HostRoot::new(root), ModuleOptions {});
        let table = nodescope_model::catalogue::Catalogue::built_in();
        let mut rows = Rows::new(table.get("module").unwrap());
        assert!(matches!(probe.sample(&at(0), &mut rows), Err(ProbeError::Read { .. })));
        assert_eq!(rows.len(), 1, "the kernel's row alone");
        fs::remove_dir(root.join("proc/modules")).unwrap();
        write(root, "proc/modules", "a 100 0 - Live 0x0\n");
        assert_eq!(texts(&sample_at(&mut probe, &at(60)), "hidden_from"), [None]);
    }

    #[test]
    fn a_kernel_without_modules_has_its_taint_and_no_kernel_is_absent() {
        let directory = tempfile::tempdir().unwrap();
        let mut probe = ModuleProbe::new(&HostRoot::new(directory.path()), ModuleOptions {});
        let table = nodescope_model::catalogue::Catalogue::built_in();
        let mut rows = Rows::new(table.get("module").unwrap());
        assert!(matches!(probe.sample(&at(0), &mut rows), Err(ProbeError::Absent(_))));
        write(directory.path(), "proc/sys/kernel/tainted", "512\n");
        assert_eq!(texts(&sample_at(&mut probe, &at(0)), "taint"), [Some("W")]);
    }

    proptest! {
        #[test]
        fn garbage_brings_nothing_down(text in garbage(), taint: u64) {
            prop_assert!(parse_modules(&text).len() <= text.lines().count());
            let _ = parse_choice(&text);
            prop_assert_eq!(taint_letters(taint).chars().count(), taint.count_ones() as usize);
        }
    }
}
