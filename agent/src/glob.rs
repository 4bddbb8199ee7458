//! File names with wildcards, as a shell expands them: `*`, `?` and `[a-z]` within one part of a path, and `**` as the
//! last part for everything below.
//!
//! Expanding walks the host's folders, so it is bounded, and it keeps away from file systems of other machines: to
//! look into `/home` where homes are mounted on demand would mount every one of them, and a server that is away would
//! hold the caller for ever.

use std::path::{Path, PathBuf};

use crate::host_root::HostRoot;

/// `**` goes no deeper than this.
const MAX_DEPTH: usize = 8;

/// A folder of more entries than this is not looked through to its end.
const MAX_ENTRIES: usize = 20_000;

/// File systems whose files are on another machine, or come into being when one looks.
const REMOTE: &[&str] = &[
    "9p",
    "afs",
    "autofs",
    "beegfs",
    "ceph",
    "cifs",
    "fuse.ceph-fuse",
    "fuse.cvmfs2",
    "fuse.glusterfs",
    "fuse.juicefs",
    "fuse.rclone",
    "fuse.s3fs",
    "fuse.sshfs",
    "gfs2",
    "glusterfs",
    "gpfs",
    "lustre",
    "nfs",
    "nfs4",
    "ocfs2",
    "orangefs",
    "panfs",
    "pvfs2",
    "smb3",
    "smbfs",
    "wekafs",
];

/// Whether a text is of a pattern's form. Both are compared byte by byte; an upper-case letter is another letter.
pub(crate) fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where to go on when what follows the last star did not fit: the star takes one byte more.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        let step = match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, t));
                p += 1;
                continue;
            }
            Some(b'?') => Some(1),
            Some(b'[') => class(&pattern[p..], text[t]),
            Some(b) if *b == text[t] => Some(1),
            _ => None,
        };
        match (step, star) {
            (Some(step), _) => {
                p += step;
                t += 1;
            }
            (None, Some((after, from))) => {
                p = after;
                t = from + 1;
                star = Some((after, t));
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

/// Whether a byte is of the class a pattern begins with: how long the class is, if so.
fn class(pattern: &[u8], byte: u8) -> Option<usize> {
    let inverted = matches!(pattern.get(1), Some(b'!' | b'^'));
    let begin = if inverted { 2 } else { 1 };
    // A bracket that stands first means itself.
    let end = pattern.iter().skip(begin + 1).position(|b| *b == b']').map(|at| at + begin + 1);
    let Some(end) = end else { return (byte == b'[').then_some(1) };
    let set = pattern.get(begin..end)?;
    let mut found = false;
    let mut at = 0;
    while let Some(first) = set.get(at) {
        if let (Some(b'-'), Some(last)) = (set.get(at + 1), set.get(at + 2)) {
            found |= (*first..=*last).contains(&byte);
            at += 3;
        } else {
            found |= *first == byte;
            at += 1;
        }
    }
    (found != inverted).then_some(end + 1)
}

fn has_wildcard(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// Places where file systems of other machines are mounted.
#[derive(Debug, Clone, Default)]
pub(crate) struct RemoteMounts(Vec<PathBuf>);

impl RemoteMounts {
    /// As the host's first process sees them.
    pub(crate) fn read(root: &HostRoot) -> Self {
        let text = ["1/mountinfo", "self/mountinfo"]
            .iter()
            .find_map(|file| std::fs::read(root.proc(file)).ok())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default();
        Self::parse(&text)
    }

    /// `36 35 98:0 / /mnt rw,noatime master:1 - ext3 /dev/root rw`: the mount point is the fifth word, the type the
    /// first after the dash. A machine that runs from the network (`/` itself) is looked into all the same.
    pub(crate) fn parse(mountinfo: &str) -> Self {
        let of_line = |line: &str| {
            let (mount, kind) = line.split_once(" - ")?;
            let point = mount.split_ascii_whitespace().nth(4)?;
            let kind = kind.split_ascii_whitespace().next()?;
            (REMOTE.contains(&kind) && point != "/").then(|| PathBuf::from(point.replace("\\040", " ")))
        };
        Self(mountinfo.lines().filter_map(of_line).collect())
    }

    /// Whether a path, as the host knows it, lies on another machine.
    pub(crate) fn hold(&self, path: &Path) -> bool {
        self.0.iter().any(|point| path.starts_with(point))
    }
}

/// The files a pattern stands for, as the host knows them, in order. A pattern without wildcards stands for its file
/// whether that is there or not. More than `limit` are counted, not listed: the number left out comes back.
pub(crate) fn expand(
    root: &HostRoot,
    remote: &RemoteMounts,
    pattern: &str,
    limit: usize,
    found: &mut Vec<String>,
) -> usize {
    let parts: Vec<&str> = pattern.split('/').filter(|part| !part.is_empty()).collect();
    let mut walk = Walk { root, remote, limit, found, left_out: 0 };
    walk.below(&PathBuf::from("/"), &parts);
    walk.left_out
}

struct Walk<'a> {
    root: &'a HostRoot,
    remote: &'a RemoteMounts,
    limit: usize,
    found: &'a mut Vec<String>,
    left_out: usize,
}

impl Walk<'_> {
    fn below(&mut self, folder: &Path, parts: &[&str]) {
        let Some((part, rest)) = parts.split_first() else { return };
        if self.remote.hold(folder) {
            return;
        }
        if *part == "**" && rest.is_empty() {
            self.everything(folder, 0);
        } else if has_wildcard(part) {
            for name in self.names(folder) {
                // As in a shell: hidden files are only meant by patterns that begin with a dot.
                if (part.starts_with('.') || !name.starts_with('.')) && matches(part, &name) {
                    self.one(&folder.join(&name), rest, true);
                }
            }
        } else {
            self.one(&folder.join(part), rest, false);
        }
    }

    fn one(&mut self, path: &Path, rest: &[&str], must_be_file: bool) {
        if !rest.is_empty() {
            self.below(path, rest);
        } else if !(self.remote.hold(path) || must_be_file && self.root.path(path).is_dir()) {
            self.add(path);
        }
    }

    fn everything(&mut self, folder: &Path, depth: usize) {
        if depth >= MAX_DEPTH || self.remote.hold(folder) {
            return;
        }
        for name in self.names(folder) {
            let path = folder.join(&name);
            match std::fs::symlink_metadata(self.root.path(&path)) {
                Ok(meta) if meta.is_dir() => self.everything(&path, depth + 1),
                Ok(_) => self.add(&path),
                Err(_) => {}
            }
        }
    }

    /// Names that are UTF-8, sorted. Others are not looked at.
    fn names(&self, folder: &Path) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.root.path(folder)) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.take(MAX_ENTRIES).filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
        names.sort_unstable();
        names
    }

    fn add(&mut self, path: &Path) {
        let Some(path) = path.to_str() else { return };
        if self.found.len() < self.limit {
            self.found.push(path.to_owned());
        } else {
            self.left_out += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_of_the_form_or_not() {
        for (pattern, text, expected) in [
            ("*.service", "sshd.service", true),
            ("*.service", "sshd.socket", false),
            ("*", "", true),
            ("a*b*c", "aXXbYYc", true),
            ("a*b*c", "aXXbYYcd", false),
            ("user@*.service", "user@1000.service", true),
            ("?.conf", "a.conf", true),
            ("?.conf", "ab.conf", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[]]x", "]x", true),
            ("[x", "[x", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn patterns_become_files_of_the_host_and_not_of_others() {
        let directory = tempfile::tempdir().unwrap();
        let root = HostRoot::new(directory.path());
        for file in ["etc/a.d/1.conf", "etc/a.d/2.conf", "etc/a.d/.hidden", "etc/a.d/sub/3.conf", "home/u/.ssh/keys"] {
            let path = directory.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        let expand = |pattern: &str, limit, mounts: &str| {
            let mut found = Vec::new();
            let left_out = expand(&root, &RemoteMounts::parse(mounts), pattern, limit, &mut found);
            (found, left_out)
        };
        assert_eq!(expand("/etc/a.d/*", 9, "").0, ["/etc/a.d/1.conf", "/etc/a.d/2.conf"]);
        assert_eq!(expand("/etc/a.d/**", 9, "").0.len(), 4);
        assert_eq!(expand("/etc/none", 9, "").0, ["/etc/none"]);
        assert_eq!(expand("/etc/a.d/**", 1, "").1, 3);
        assert_eq!(expand("/home/*/.ssh/keys", 9, "").0, ["/home/u/.ssh/keys"]);
        let mounts = "36 35 0:40 / /home rw shared:1 - autofs auto.home rw\n20 1 0:3 / / rw - nfs4 s:/ rw\n";
        assert!(expand("/home/*/.ssh/keys", 9, mounts).0.is_empty());
        assert_eq!(expand("/etc/a.d/*", 9, mounts).0.len(), 2);
    }

    proptest! {
        #[test]
        fn any_pattern_can_be_asked_for(pattern in "[a-c*?\\[\\]!-]{0,12}", text in any::<String>()) {
            matches(&pattern, &text);
            prop_assert!(matches("*", &text));
        }

        #[test]
        fn any_mountinfo_can_be_read(text in crate::probes::testing::garbage()) {
            RemoteMounts::parse(&text);
        }
    }
}
