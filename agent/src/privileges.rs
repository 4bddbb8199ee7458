//! What each privilege adds, and whether this process has it.
//!
//! The agent starts with none and never fails for want of one: what it may not read is NULL, or a table without rows.
//! This list is the one place that says what that costs. `nodescope-agent check` shows it for the machine at hand, and
//! `docs/privileges.md` is made from it.

use std::fmt::Write;
use std::path::Path;

use crate::host_root::HostRoot;

/// Something that a process may be allowed.
#[derive(Debug, Clone, Copy)]
pub struct Privilege {
    /// Its name: a capability, or a file that must be readable.
    pub name: &'static str,
    /// How to give it, and what else that allows.
    pub how: &'static str,
    /// What it adds: table, and what of it.
    pub adds: &'static [(&'static str, &'static str)],
    what: What,
}

#[derive(Debug, Clone, Copy)]
enum What {
    /// A bit of the effective capabilities.
    Capability(u32),
    /// A file below the host's root.
    Readable(&'static str),
}

/// All that add something, the most useful first.
pub const PRIVILEGES: &[Privilege] = &[
    Privilege {
        name: "CAP_SYS_PTRACE",
        how: "AmbientCapabilities=CAP_SYS_PTRACE. It also allows to look into other processes' memory.",
        adds: &[
            ("accelerator_process", "processes of other users that draw on AMD's cards"),
            ("process", "bytes read and written, open files and proportional memory of other users' processes"),
            ("listener", "which process listens, its executable and its hash, where it is another user's"),
            ("connection", "which process and unit the connections of other users' processes belong to"),
            ("executable", "executables of other users' processes, and deleted ones"),
            ("allocation", "which other users' processes hold an accelerator, where no scheduler tells"),
        ],
        what: What::Capability(19),
    },
    Privilege {
        name: "CAP_DAC_READ_SEARCH",
        how: "AmbientCapabilities=CAP_DAC_READ_SEARCH. It allows to read every file.",
        adds: &[
            ("power", "energy counters of the processors (RAPL), which the kernel shows to root alone since 5.10"),
            ("host", "serial numbers of the machine and its board"),
            ("login", "failures from btmp, and the journal or the authentication log"),
            ("config_change", "hashes of files that only root may read: shadow, sudoers, keys"),
            ("executable", "hashes of executables that only their owner may read"),
        ],
        what: What::Capability(2),
    },
    Privilege {
        name: "CAP_SYSLOG",
        how: "AmbientCapabilities=CAP_SYSLOG, and ProtectKernelLogs=no.",
        adds: &[(
            "accelerator_event",
            "faults that drivers write to the kernel's log (XID), also when the library hangs",
        )],
        what: What::Capability(34),
    },
    Privilege {
        name: "CAP_NET_ADMIN",
        how: "AmbientCapabilities=CAP_NET_ADMIN. It allows to change the network's configuration.",
        adds: &[("nic", "optical power and temperature, where the driver asks for it")],
        what: What::Capability(12),
    },
    Privilege {
        name: "/var/log/journal",
        how: "SupplementaryGroups=systemd-journal",
        adds: &[("login", "successes and failures of sshd, sudo, su and login from the journal")],
        what: What::Readable("/var/log/journal"),
    },
    Privilege {
        name: "/var/log/btmp",
        how: "SupplementaryGroups=utmp",
        adds: &[("login", "failed logins, where there is no journal")],
        what: What::Readable("/var/log/btmp"),
    },
    Privilege {
        name: "/dev/ipmi0",
        how: "a udev rule that gives the device to the agent's group. It also allows to switch the machine off.",
        adds: &[("power", "what the whole machine draws, from its management controller (IPMI DCMI)")],
        what: What::Readable("/dev/ipmi0"),
    },
    Privilege {
        name: "/dev/davinci_manager",
        how: "SupplementaryGroups=HwHiAiUser",
        adds: &[("accelerator", "Huawei's Ascend: its library opens the driver's devices")],
        what: What::Readable("/dev/davinci_manager"),
    },
    Privilege {
        name: "/dev/kfd",
        how: "SupplementaryGroups=render video",
        adds: &[("accelerator", "AMD's and Hygon's libraries; without them AMD is read from sysfs")],
        what: What::Readable("/dev/kfd"),
    },
];

/// Whether a privilege is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// It is.
    Yes,
    /// It is not.
    No,
    /// This machine has no such thing.
    NotHere,
}

/// What this process may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Powers {
    effective: u64,
}

impl Powers {
    /// Those of this process.
    pub fn own() -> Self {
        // Of this process, so below the real `/proc`, whatever the host's root is.
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self { effective: parse_effective(&status).unwrap_or(0) }
    }

    /// Whether the capability of that number is in effect.
    pub fn has(self, number: u32) -> bool {
        self.effective.checked_shr(number).is_some_and(|bits| bits & 1 == 1)
    }
}

impl Privilege {
    /// Whether it is held.
    pub fn held(&self, powers: Powers, root: &HostRoot) -> Held {
        match self.what {
            What::Capability(number) if powers.has(number) => Held::Yes,
            What::Capability(_) => Held::No,
            What::Readable(path) => match readable(&root.path(path)) {
                Ok(()) => Held::Yes,
                Err(std::io::ErrorKind::PermissionDenied) => Held::No,
                Err(_) => Held::NotHere,
            },
        }
    }
}

fn readable(path: &Path) -> Result<(), std::io::ErrorKind> {
    let tried = if path.is_dir() { std::fs::read_dir(path).map(|_| ()) } else { std::fs::File::open(path).map(|_| ()) };
    tried.map_err(|error| error.kind())
}

/// `CapEff:\t000001ffffffffff` of `/proc/self/status`.
fn parse_effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// The page `docs/privileges.md`.
pub fn page() -> String {
    let mut page = String::from(
        "# What each privilege adds\n\n\
         <!-- Generated from agent/src/privileges.rs. Do not edit: UPDATE=1 cargo test -p nodescope-agent privileges -->\n\n\
         The agent needs none of these, and never fails for want of one: what it may not read is NULL, or a table \
         without rows.\n`nodescope-agent check` says which it has on the machine at hand.\n\n\
         | Privilege | Table | What it adds | How to give it |\n|---|---|---|---|\n",
    );
    for privilege in PRIVILEGES {
        for (at, (table, what)) in privilege.adds.iter().enumerate() {
            let (name, how) =
                if at == 0 { (format!("`{}`", privilege.name), privilege.how) } else { Default::default() };
            // Writing to a string does not fail.
            let _ = writeln!(page, "| {name} | `{table}` | {what} | {how} |");
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use nodescope_model::catalogue::Catalogue;
    use proptest::prelude::*;

    use super::*;
    use crate::probes::testing::garbage;

    #[test]
    fn the_page_is_up_to_date() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/privileges.md");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, page()).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(written == page(), "docs/privileges.md is stale: UPDATE=1 cargo test -p nodescope-agent privileges");
    }

    #[test]
    fn every_table_named_is_in_the_catalogue() {
        let catalogue = Catalogue::built_in();
        for (table, _) in PRIVILEGES.iter().flat_map(|privilege| privilege.adds) {
            assert!(catalogue.get(table).is_some(), "{table}");
        }
    }

    #[test]
    fn capabilities_are_bits() {
        let powers = Powers { effective: parse_effective("Name:\ta\nCapEff:\t0000000000080004\n").unwrap() };
        assert!(powers.has(19) && powers.has(2));
        assert!(!powers.has(34) && !powers.has(64) && !powers.has(200));
        assert_eq!(parse_effective("CapEff:\tnone"), None);
    }

    #[test]
    fn a_file_that_is_not_there_is_no_lack_of_privilege() {
        let folder = tempfile::tempdir().unwrap();
        let root = HostRoot::new(folder.path());
        let ipmi = PRIVILEGES.iter().find(|p| p.name == "/dev/ipmi0").unwrap();
        let none = Powers { effective: 0 };
        assert_eq!(ipmi.held(none, &root), Held::NotHere);
        std::fs::create_dir_all(folder.path().join("dev")).unwrap();
        std::fs::write(folder.path().join("dev/ipmi0"), "").unwrap();
        assert_eq!(ipmi.held(none, &root), Held::Yes);
        assert_eq!(PRIVILEGES[0].held(none, &root), Held::No);
    }

    proptest! {
        #[test]
        fn garbage_is_survived(text in garbage()) {
            parse_effective(&text);
            parse_effective(&format!("CapEff:{text}"));
        }
    }
}
