//! `filesystem`: how full the mounted file systems are.
//!
//! The kernel lists what is mounted in `mountinfo`; `statvfs(2)` then asks each file system for its sizes, and that
//! call goes to whoever serves it. A network file system whose server is gone may never answer, so the asking is done
//! by `ask`, in threads that can be left behind. Whether it is read only stands in the list itself and is known
//! even then.
//!
//! Left out, after `node_exporter`'s defaults: file systems that hold no data (proc, sysfs, cgroup, …), and the
//! layers and volumes that container runtimes mount by the hundred. `tmpfs` is kept, because it fills memory. The root
//! is always shown, for it is all that a container sees of its disk.

mod ask;

use std::collections::BTreeMap;
use std::fs;

use nodescope_model::rows::Rows;

use super::{MAX_ROWS, tell_omitted};
use crate::host_root::HostRoot;
use crate::probe::{Probe, ProbeError, ProbeOptions, Tick};
use ask::Asker;

/// File systems that hold no data of anybody's.
const HIDDEN_TYPES: &[&str] = &[
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "erofs",
    "fusectl",
    "hugetlbfs",
    "iso9660",
    "mqueue",
    "nsfs",
    "overlay",
    "proc",
    "procfs",
    "pstore",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "squashfs",
    "sysfs",
    "tracefs",
];

/// Places where nothing is shown: the directory itself and all below it.
const HIDDEN_TREES: &[&str] = &["/dev", "/proc", "/sys"];

/// Places below which nothing is shown.
const HIDDEN_BELOW: &[&str] =
    &["/run/containerd/", "/run/credentials/", "/var/lib/containers/storage/", "/var/lib/docker/", "/var/lib/kubelet/"];

/// Fills the table `filesystem`.
pub struct FilesystemProbe {
    root: HostRoot,
    asker: Asker,
}

impl FilesystemProbe {
    /// A probe of the mounts below `options.root`.
    pub fn new(options: &ProbeOptions) -> Self {
        Self { root: options.root.clone(), asker: Asker::new() }
    }

    /// The list of mounts of the host's first process, which is the host's even where the agent is in a container;
    /// where that may not be read, the agent's own.
    fn mountinfo(&self) -> Result<String, ProbeError> {
        let own = self.root.proc("self/mountinfo");
        let bytes = fs::read(self.root.proc("1/mountinfo"))
            .or_else(|_| fs::read(&own))
            .map_err(|source| ProbeError::Read { path: own.display().to_string(), source })?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl Probe for FilesystemProbe {
    fn table(&self) -> &'static str {
        "filesystem"
    }

    fn sample(&mut self, _tick: &Tick, rows: &mut Rows) -> Result<(), ProbeError> {
        let mut mounts = parse_mountinfo(&self.mountinfo()?);
        mounts.retain(|mountpoint, mount| is_shown(mountpoint, &mount.fstype));
        let omitted = mounts.len().saturating_sub(MAX_ROWS);
        if let Some(first) = mounts.keys().nth(MAX_ROWS).cloned() {
            mounts.split_off(&first);
        }
        let root = &self.root;
        let mut answers = self.asker.ask(mounts.keys().map(|m| (m.clone(), root.path(m.as_str()))));
        for (mountpoint, mount) in &mounts {
            let mut row = rows.begin();
            row.text("mountpoint", mountpoint.as_str())
                .text("device", mount.device.as_str())
                .text("fstype", mount.fstype.as_str())
                .bool("read_only", mount.read_only);
            match answers.remove(mountpoint) {
                Some(Ok(space)) => {
                    row.bool("device_error", false)
                        .count("size_bytes", space.size_bytes)
                        .count("free_bytes", space.free_bytes)
                        .count("available_bytes", space.available_bytes)
                        .count("files", space.files)
                        .count("files_free", space.files_free);
                }
                Some(Err(trouble)) => {
                    row.bool("device_error", true).text("error", &*trouble.as_text());
                }
                None => {}
            }
        }
        tell_omitted(rows, "mountpoint", omitted);
        Ok(())
    }
}

/// What `mountinfo` says of one mount.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    device: String,
    fstype: String,
    read_only: bool,
}

fn is_shown(mountpoint: &str, fstype: &str) -> bool {
    let below =
        |tree: &&str| mountpoint.strip_prefix(*tree).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    mountpoint == "/"
        || !(HIDDEN_TYPES.contains(&fstype)
            || HIDDEN_TREES.iter().any(below)
            || HIDDEN_BELOW.iter().any(|tree| mountpoint.starts_with(tree)))
}

/// Mounts by mount point. The last one on a directory hides the others, and so it does here.
fn parse_mountinfo(text: &str) -> BTreeMap<String, Mount> {
    text.lines().filter_map(parse_mount).collect()
}

/// One line, as in
/// `36 35 98:0 /below /mnt rw,noatime master:1 - ext3 /dev/root rw,errors=continue`: the fields before the dash vary
/// in number, and spaces within a field are written as `\040`.
fn parse_mount(line: &str) -> Option<(String, Mount)> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(4);
    let (mountpoint, options) = (mount.next()?, mount.next()?);
    let mut filesystem = filesystem.split(' ');
    let (fstype, device) = (filesystem.next()?, filesystem.next()?);
    // The mount may be read only while the file system is not, and the other way round.
    let more_options = filesystem.next().unwrap_or_default();
    let read_only = options.split(',').chain(more_options.split(',')).any(|option| option == "ro");
    Some((unescape(mountpoint), Mount { device: unescape(device), fstype: unescape(fstype), read_only }))
}

/// Undoes the kernel's `\ooo` for spaces, tabs, line ends and backslashes.
fn unescape(text: &str) -> String {
    let mut rest = text.as_bytes();
    let mut out = Vec::with_capacity(rest.len());
    while let [first, after @ ..] = rest {
        match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] => {
                out.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                rest = after;
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::probes::testing::{bools, fixture_options, ints, sample_once, texts};

    #[test]
    fn the_recorded_host_shows_its_data_and_nothing_else() {
        let batch = sample_once(&mut FilesystemProbe::new(&fixture_options()));
        let some = |names: &[&'static str]| names.iter().map(|name| Some(*name)).collect::<Vec<_>>();
        assert_eq!(
            texts(&batch, "mountpoint"),
            some(&["/", "/boot", "/data/model cache", "/mnt/shared", "/run", "/srv/reference"])
        );
        assert_eq!(
            texts(&batch, "device"),
            some(&[
                "/dev/mapper/vg0-root",
                "/dev/nvme0n1p2",
                "/dev/nvme1n1",
                "filer:/export/shared",
                "tmpfs",
                "/dev/sda1"
            ])
        );
        assert_eq!(texts(&batch, "fstype"), some(&["ext4", "ext4", "xfs", "nfs4", "tmpfs", "ext4"]));
        let read_only = bools(&batch, "read_only");
        assert_eq!(read_only, [Some(false), Some(true), Some(false), Some(false), Some(false), Some(true)]);
        // The root of the recording exists on the machine that runs this test; its other mount points do not.
        let sizes = ints(&batch, "size_bytes");
        assert!(sizes[0].is_some_and(|size| size > 0));
        assert!(sizes[1..].iter().all(Option::is_none));
        assert_eq!(texts(&batch, "error")[0], None);
        assert_eq!(texts(&batch, "error")[2], Some("gone"));
        let failed = bools(&batch, "device_error");
        assert_eq!(failed, [Some(false), Some(true), Some(true), Some(true), Some(true), Some(true)]);
    }

    #[test]
    fn a_line_is_read_with_and_without_optional_fields() {
        let cases = [
            ("1 0 8:1 / / rw,relatime - ext4 /dev/sda1 rw", "/", "ext4", "/dev/sda1", false),
            ("1 0 8:1 / / rw shared:1 master:2 - ext4 /dev/sda1 ro,data=ordered", "/", "ext4", "/dev/sda1", true),
            ("1 0 8:1 / /a\\040b\\134c ro - fuse.x x\\011y rw", "/a b\\c", "fuse.x", "x\ty", true),
            ("1 0 0:9 / /none rw,errors=remount-ro - tmpfs  rw", "/none", "tmpfs", "", false),
        ];
        for (line, mountpoint, fstype, device, read_only) in cases {
            let mount = Mount { device: device.to_owned(), fstype: fstype.to_owned(), read_only };
            assert_eq!(parse_mount(line), Some((mountpoint.to_owned(), mount)), "{line}");
        }
        for line in ["", "1 0 8:1 / / rw", " - ", "1 0 8:1 / - ext4 /dev/sda1 rw", "1 0 8:1 / / rw - ext4"] {
            assert_eq!(parse_mount(line), None, "{line}");
        }
    }

    #[test]
    fn the_last_mount_on_a_directory_hides_the_others() {
        let mounts = parse_mountinfo("1 0 8:1 / /a rw - ext4 /dev/sda1 rw\n2 1 8:2 / /a rw - xfs /dev/sdb1 rw\n");
        assert_eq!(mounts.len(), 1);
        assert_eq!(mounts["/a"].fstype, "xfs");
    }

    #[test]
    fn pseudo_file_systems_and_the_layers_of_containers_are_hidden() {
        let cases = [
            ("/", "overlay", true),
            ("/run", "tmpfs", true),
            ("/dev", "tmpfs", false),
            ("/dev/shm", "tmpfs", false),
            ("/devices", "ext4", true),
            ("/sys/fs/cgroup", "tmpfs", false),
            ("/var/lib/docker", "xfs", true),
            ("/var/lib/docker/overlay2/1/merged", "xfs", false),
            ("/var/lib/kubelet/pods/1/volumes/token", "tmpfs", false),
            ("/mnt", "autofs", false),
            ("/snap/core/1", "squashfs", false),
        ];
        for (mountpoint, fstype, shown) in cases {
            assert_eq!(is_shown(mountpoint, fstype), shown, "{fstype} on {mountpoint}");
        }
    }

    #[test]
    fn escapes_that_are_none_stay_as_they_are() {
        for text in ["\\", "\\04", "\\400", "\\089", "a\\", "ü\\x"] {
            assert_eq!(unescape(text), text);
        }
        assert_eq!(unescape("\\303\\274"), "ü");
    }

    proptest! {
        #[test]
        fn no_text_brings_it_down(text in any::<String>(), line in "[0-9a-z/:, \\\\\n-]{0,80}") {
            parse_mountinfo(&text);
            parse_mountinfo(&line);
            unescape(&text);
        }
    }
}
