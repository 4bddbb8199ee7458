//! Which package a file came with, and whether it is as it came.
//!
//! Debian's `dpkg` keeps plain text: `/var/lib/dpkg/info/PACKAGE.list` names the files of a package, one a line, and
//! `PACKAGE.md5sums` has their MD5. A host has a thousand packages with a hundred thousand files, which is more than an
//! agent should hold in memory. So the lists are read through for the few paths asked about, which takes some twenty
//! milliseconds, and only when there is something new to ask; [`Packages::has_changed`] tells when an earlier answer may
//! not hold any more.
//!
//! Three traps. `/bin` is a link to `/usr/bin` today, and packages older than that still list `/bin/…`. A file may be
//! *diverted*: another package has put its own in the place, and the original lies under another name
//! (`/var/lib/dpkg/diversions`, three lines each: from, to, by whom). And configuration files have no MD5.
//!
//! The database of `rpm` is a binary file that only `rpm`'s own library reads well; [`Database::Rpm`] says that there is
//! one, and every answer is unknown. A database is as trustworthy as the host it lies on: whoever is root there may have
//! written to it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::host_root::HostRoot;

/// A path is no longer than this.
const MAX_LINE: u64 = 8192;

/// Lists read in one search, far beyond any host's.
const MAX_LISTS: usize = 50_000;

/// Directories that moved below `/usr`.
const MERGED: &[&str] = &["bin", "sbin", "lib", "lib32", "lib64", "libx32"];

/// Packages never bring a program to these.
const NEVER: &[&str] = &["/home/", "/root/", "/tmp/", "/dev/", "/run/", "/var/tmp/", "/proc/", "/mnt/", "/media/"];

/// What keeps the packages of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Database {
    Dpkg,
    Rpm,
}

impl Database {
    /// As it is written in rows.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Dpkg => "dpkg",
            Self::Rpm => "rpm",
        }
    }
}

/// A package, found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    /// Its name, without the architecture.
    pub(crate) name: String,
    /// The MD5 it tells of the file.
    pub(crate) md5: Option<String>,
}

/// The packages of a host.
#[derive(Debug)]
pub(crate) struct Packages {
    root: HostRoot,
    /// Changes with every package installed or removed.
    stamp: Option<(i64, i64, u64)>,
}

impl Packages {
    /// Those of the host below `root`.
    pub(crate) fn new(root: &HostRoot) -> Self {
        Self { root: root.clone(), stamp: None }
    }

    /// What keeps them, where we know it.
    pub(crate) fn database(&self) -> Option<Database> {
        if self.root.path("/var/lib/dpkg/info").is_dir() && self.root.path("/var/lib/dpkg/status").is_file() {
            return Some(Database::Dpkg);
        }
        let rpm = ["/var/lib/rpm", "/usr/lib/sysimage/rpm"];
        rpm.iter().any(|directory| self.root.path(directory).is_dir()).then_some(Database::Rpm)
    }

    /// Whether packages have come or gone since the last call.
    pub(crate) fn has_changed(&mut self) -> bool {
        let metadata = fs::metadata(self.root.path("/var/lib/dpkg/status")).ok();
        let stamp = metadata.map(|metadata| (metadata.mtime(), metadata.mtime_nsec(), metadata.size()));
        std::mem::replace(&mut self.stamp, stamp) != stamp
    }

    /// The packages of these files, in their order. `None` for one that belongs to none.
    ///
    /// # Errors
    /// When the lists cannot be read, or not all of them: then nothing is known of any file.
    pub(crate) fn of(&self, paths: &[&str]) -> io::Result<Vec<Option<Package>>> {
        let mut wanted = self.spellings(paths);
        let mut found: Vec<Option<(String, String)>> = vec![None; paths.len()];
        let mut missing = wanted.values().map(|wanted| wanted.file).collect::<std::collections::BTreeSet<_>>().len();
        let directory = self.root.path("/var/lib/dpkg/info");
        for entry in fs::read_dir(&directory)?.take(MAX_LISTS) {
            if missing == 0 {
                break;
            }
            let name = entry?.file_name();
            let Some(stem) = name.to_str().and_then(|name| name.strip_suffix(".list")) else { continue };
            each_line(&directory.join(&name), |line| {
                if let Some(asked) = wanted.get_mut(line)
                    && asked.not_of.as_deref() != Some(package_name(stem))
                    && let Some(place) = found.get_mut(asked.file)
                    && place.is_none()
                {
                    *place = Some((stem.to_owned(), String::from_utf8_lossy(line).into_owned()));
                    missing = missing.saturating_sub(1);
                }
                missing > 0
            })?;
        }
        let with_md5 = |(stem, listed): (String, String)| Package {
            name: package_name(&stem).to_owned(),
            md5: self.md5(&directory, &stem, &listed),
        };
        Ok(found.into_iter().map(|found| found.map(with_md5)).collect())
    }

    fn md5(&self, directory: &Path, stem: &str, listed: &str) -> Option<String> {
        let mut md5 = None;
        let _ = each_line(&directory.join(format!("{stem}.md5sums")), |line| {
            md5 = std::str::from_utf8(line).ok().and_then(|line| parse_md5_line(line, listed)).map(str::to_owned);
            md5.is_none()
        });
        md5
    }

    /// All names under which lists may have these files.
    fn spellings(&self, paths: &[&str]) -> HashMap<Vec<u8>, Asked> {
        let mut wanted = HashMap::new();
        let diversions = fs::read_to_string(self.root.path("/var/lib/dpkg/diversions")).unwrap_or_default();
        for (file, path) in paths.iter().enumerate() {
            if NEVER.iter().any(|directory| path.starts_with(directory)) {
                continue;
            }
            let mut ask = |path: &str, not_of: Option<&str>| {
                let mut put = |path: &str| {
                    wanted.insert(path.as_bytes().to_vec(), Asked { file, not_of: not_of.map(str::to_owned) });
                };
                put(path);
                if let Some(old) = self.before_the_merge(path) {
                    put(old);
                }
            };
            ask(path, None);
            for (from, by) in
                parse_diversions(&diversions).filter(|(_, to, _)| to == path).map(|(from, _, by)| (from, by))
            {
                ask(from, Some(by));
            }
        }
        wanted
    }

    /// `/bin/sh` for `/usr/bin/sh`, on a host where both are one.
    fn before_the_merge<'p>(&self, path: &'p str) -> Option<&'p str> {
        let old = path.strip_prefix("/usr")?;
        let directory = old.strip_prefix('/')?.split('/').next()?;
        (MERGED.contains(&directory)
            && fs::symlink_metadata(self.root.path(directory)).is_ok_and(|metadata| metadata.is_symlink()))
        .then_some(old)
    }
}

/// A name that is looked for.
#[derive(Debug)]
struct Asked {
    /// Place of the file among those asked about.
    file: usize,
    /// The package that diverted it, whose list has the same name for another file.
    not_of: Option<String>,
}

/// `libc6` of `libc6:amd64`.
fn package_name(stem: &str) -> &str {
    stem.split(':').next().unwrap_or(stem)
}

/// From, to, by whom.
fn parse_diversions(text: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    let mut lines = text.lines();
    std::iter::from_fn(move || Some((lines.next()?, lines.next()?, lines.next()?)))
}

/// `MD5  usr/bin/cat`, if it is about that file.
fn parse_md5_line<'l>(line: &'l str, path: &str) -> Option<&'l str> {
    let (md5, listed) = line.split_once(' ')?;
    let is_md5 = md5.len() == 32 && md5.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_md5 && path.strip_prefix('/') == Some(listed.trim_start())).then_some(md5)
}

/// Gives out lines, without their end, for as long as they are wanted.
fn each_line(path: &Path, mut each: impl FnMut(&[u8]) -> bool) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(32 << 10, File::open(path)?);
    let mut line = Vec::with_capacity(256);
    loop {
        line.clear();
        if (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        if !each(line.strip_suffix(b"\n").unwrap_or(&line)) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::probes::testing::garbage;

    const MD5: &str = "900150983cd24fb0d6963f7d28e17f72";

    fn host() -> (tempfile::TempDir, Packages) {
        let directory = tempfile::tempdir().unwrap();
        let info = directory.path().join("var/lib/dpkg/info");
        fs::create_dir_all(&info).unwrap();
        fs::create_dir_all(directory.path().join("usr/bin")).unwrap();
        std::os::unix::fs::symlink("usr/bin", directory.path().join("bin")).unwrap();
        fs::write(directory.path().join("var/lib/dpkg/status"), "Package: a\n").unwrap();
        fs::write(info.join("coreutils.list"), "/.\n/bin\n/bin/cat\n/usr/bin/env\n").unwrap();
        fs::write(info.join("coreutils.md5sums"), format!("{MD5}  bin/cat\n")).unwrap();
        fs::write(info.join("libc6:amd64.list"), "/usr/lib/x/ld.so\n").unwrap();
        fs::write(info.join("tool.list"), "/usr/bin/tool\n").unwrap();
        fs::write(info.join("wrapper.list"), "/usr/bin/tool\n").unwrap();
        fs::write(directory.path().join("var/lib/dpkg/diversions"), "/usr/bin/tool\n/usr/bin/tool.real\nwrapper\n")
            .unwrap();
        let packages = Packages::new(&HostRoot::new(directory.path()));
        (directory, packages)
    }

    #[test]
    fn files_are_found_under_their_names_of_old() {
        let (_directory, packages) = host();
        assert_eq!(packages.database(), Some(Database::Dpkg));
        let paths = ["/usr/bin/cat", "/usr/lib/x/ld.so", "/opt/miner", "/tmp/x", "/usr/bin/tool.real", "/usr/bin/env"];
        let found = packages.of(&paths).unwrap();
        let names: Vec<Option<&str>> = found.iter().map(|p| p.as_ref().map(|p| p.name.as_str())).collect();
        assert_eq!(names, [Some("coreutils"), Some("libc6"), None, None, Some("tool"), Some("coreutils")]);
        assert_eq!(found[0].as_ref().unwrap().md5.as_deref(), Some(MD5));
        assert_eq!(found[5].as_ref().unwrap().md5, None);
    }

    #[test]
    fn on_a_host_with_two_directories_a_file_of_the_one_is_not_that_of_the_other() {
        let (directory, packages) = host();
        fs::remove_file(directory.path().join("bin")).unwrap();
        fs::create_dir(directory.path().join("bin")).unwrap();
        assert_eq!(packages.of(&["/usr/bin/cat"]).unwrap(), [None]);
        assert!(packages.of(&["/bin/cat"]).unwrap()[0].is_some());
    }

    #[test]
    fn changes_are_seen_and_other_databases_named() {
        let (directory, mut packages) = host();
        assert!(packages.has_changed());
        assert!(!packages.has_changed());
        fs::write(directory.path().join("var/lib/dpkg/status"), "Package: a\nPackage: b\n").unwrap();
        assert!(packages.has_changed());
        let other = tempfile::tempdir().unwrap();
        let packages = Packages::new(&HostRoot::new(other.path()));
        assert_eq!(packages.database(), None);
        assert!(packages.of(&["/usr/bin/cat"]).is_err());
        fs::create_dir_all(other.path().join("var/lib/rpm")).unwrap();
        assert_eq!(packages.database(), Some(Database::Rpm));
    }

    proptest! {
        #[test]
        fn garbage_is_no_answer(text in garbage(), path in "/[a-z/]{0,10}") {
            for line in text.lines() {
                let _ = parse_md5_line(line, &path);
            }
            prop_assert!(parse_diversions(&text).count() <= text.lines().count() / 3 + 1);
        }
    }
}
