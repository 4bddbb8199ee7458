//! What goes wrong on a server, done to the real agent: it goes on with the rest, and says what it lost.

mod support {
    pub(crate) mod agent;
}

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use nodescope_agent::spool::{Spool, SpoolLimits};

use support::agent::Agent;

const LIMITS: SpoolLimits = SpoolLimits { bytes: 1 << 30, age: Duration::from_secs(86_400), queue_bytes: 1 << 20 };

/// Numbers of the records in a spool, by boot, as an agent would send them.
fn spooled(folder: &Path) -> (BTreeMap<u64, Vec<u64>>, usize) {
    let mut spool = Spool::open(folder.join("spool"), "a", LIMITS).expect("the spool opens");
    let (mut found, mut lost) = (BTreeMap::<u64, Vec<u64>>::new(), 0);
    while let Some((_, record)) = spool.next_old() {
        lost += usize::from(record.envelope.table == "loss");
        found.entry(record.envelope.id.boot).or_default().push(record.envelope.id.seq);
    }
    for numbers in found.values_mut() {
        numbers.sort_unstable();
    }
    (found, lost)
}

#[test]
fn an_agent_that_is_killed_again_and_again_loses_nothing_it_had_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut rows = 0.0;
    const KILLS: usize = 6;
    for _ in 0..KILLS {
        let mut agent = Agent::start(folder.path(), &[("agent.without", "executable,config_change")]);
        // Killed at another moment each time, and never before it has written something.
        agent.until("rows are in the spool", |series| {
            series.get("nodescope_agent_publisher_rows_total").is_some_and(|n| *n > rows)
        });
        rows = (rows + 7.0) % 40.0;
        agent.kill();
    }
    let (found, lost) = spooled(folder.path());
    assert_eq!(lost, 0, "nothing was lost, so nothing is declared lost");
    assert_eq!(found.len(), KILLS, "each start is a boot of its own: {:?}", found.keys());
    for (boot, numbers) in found {
        let whole: Vec<u64> = (0..numbers.len() as u64).collect();
        assert_eq!(numbers, whole, "boot {boot} has all its records, without a hole and once");
    }
}

#[test]
fn an_agent_that_was_suspended_goes_on_where_the_clock_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let agent = Agent::start(folder.path(), &[]);
    let ticks = r#"nodescope_agent_samples_total{probe="cpu"}"#;
    agent.until("it ticks", |series| series.contains_key("node_load1"));
    agent.signal("STOP");
    std::thread::sleep(Duration::from_secs(3));
    agent.signal("CONT");
    let before = agent.value("nodescope_agent_publisher_rows_total").unwrap_or(0.0);
    agent.until("it samples again", |series| series["nodescope_agent_publisher_rows_total"] > before);
    agent.until("the clock's ticks are counted", |series| series.contains_key(ticks));
    // The ticks it slept through are not caught up with.
    agent.until("more ticks", |series| series.get(ticks).is_some_and(|n| *n >= 2.0));
}

#[test]
fn a_file_system_that_hangs_costs_only_its_own_row() {
    let folder = tempfile::tempdir().expect("a folder");
    let mountpoint = folder.path().join("hung");
    std::fs::create_dir_all(&mountpoint).expect("a place to mount");
    let Some(_mounted) = hung::Mounted::at(&mountpoint) else {
        eprintln!("skipped: mounting needs root and /dev/fuse");
        return;
    };
    let data = folder.path().join("data");
    let agent = Agent::start(&data, &[]);
    let error = format!(
        r#"node_filesystem_device_error{{device="hung",device_error="timeout",fstype="fuse",mountpoint="{}"}}"#,
        mountpoint.display()
    );
    let without_reason = error.replace(r#"device_error="timeout","#, "");
    agent.until("its row says that it does not answer", |series| {
        series.iter().any(|(name, value)| {
            name.starts_with("node_filesystem_device_error{")
                && name.contains(mountpoint.to_str().unwrap_or_default())
                && *value == 1.0
        }) || series.get(&without_reason) == Some(&1.0)
    });
    // Others have their ticks, and other file systems their sizes.
    let ticks = r#"nodescope_agent_samples_total{probe="cpu"}"#;
    agent.until("ten seconds of ticks", |series| series.get(ticks).is_some_and(|n| *n >= 8.0));
    let series = agent.series();
    assert!(series.keys().any(|name| name.starts_with("node_filesystem_size_bytes{")), "others have theirs");
    // A busy machine may cost one or two.
    let skipped = series.get(r#"nodescope_agent_skipped_total{probe="cpu"}"#);
    assert!(skipped.is_some_and(|skipped| *skipped <= 2.0), "{skipped:?}");
}

#[test]
fn a_full_disk_costs_cadence_and_is_survived() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = folder.path().join("disk");
    std::fs::create_dir_all(&disk).expect("a place to mount");
    let Some(_mounted) = small::Mounted::at(&disk, "size=1m") else {
        eprintln!("skipped: mounting needs root");
        return;
    };
    // Somebody else fills it: what is left takes the agent's identity and a few records.
    std::fs::write(disk.join("hog"), vec![0; 900 << 10]).expect("it fits");
    let agent = Agent::start(&disk.join("data"), &[("agent.queue_size", "256KiB")]);
    let refused = |series: &BTreeMap<String, f64>| series.get("nodescope_agent_publisher_spool_refused").copied();
    agent.until("the disk refuses", |series| refused(series).is_some_and(|n| n > 0.0));
    let rows = agent.series()["nodescope_agent_publisher_rows_total"];
    agent.until("it goes on in memory", |series| series["nodescope_agent_publisher_rows_total"] > rows + 100.0);
    // Room again: what memory held is written down, and nothing more is refused.
    std::fs::remove_file(disk.join("hog")).expect("it goes");
    let mut last = f64::NAN;
    let mut still = 0;
    agent.until("the disk takes records again", |series| {
        let now = refused(series).unwrap_or(0.0);
        still = if now.to_bits() == last.to_bits() { still + 1 } else { 0 };
        last = now;
        still > 60
    });
}

#[test]
fn a_clock_that_is_set_makes_no_gap_and_no_flood() {
    let libraries =
        ["/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1", "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1"];
    let Some(library) = libraries.into_iter().find(|path| Path::new(path).exists()) else {
        eprintln!("skipped: libfaketime is not installed");
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let clock = folder.path().join("clock");
    std::fs::write(&clock, "+0\n").expect("it is written");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_nodescope-agent"));
    command.args(["--brokers", "127.0.0.1:1", "--metrics", "127.0.0.1:0", "--host", "tested", "--data"]);
    command.arg(folder.path().join("data"));
    command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", &clock);
    command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let agent = Agent::run(&mut command);
    let rows =
        |series: &BTreeMap<String, f64>| series.get("nodescope_agent_publisher_rows_total").copied().unwrap_or(0.0);
    agent.until("it samples", |series| rows(series) > 20.0);
    // An hour forward, and then two back.
    for step in ["+3600\n", "-3600\n"] {
        std::fs::write(&clock, step).expect("it is written");
        let before = rows(&agent.series());
        let began = std::time::Instant::now();
        agent.until("it goes on sampling", |series| rows(series) > before + 40.0);
        assert!(began.elapsed() < Duration::from_secs(30), "the ticks went on by the clock as it is now");
    }
    let skipped = agent
        .series()
        .iter()
        .filter(|(name, _)| name.starts_with("nodescope_agent_skipped_total"))
        .map(|(_, n)| n)
        .sum::<f64>();
    assert!(skipped < 20.0, "an hour's ticks are not caught up with: {skipped}");
}

/// A small file system in memory.
mod small {
    use std::path::{Path, PathBuf};
    use std::process::Command;

    pub(crate) struct Mounted(PathBuf);

    impl Mounted {
        pub(crate) fn at(path: &Path, options: &str) -> Option<Self> {
            let options = std::ffi::CString::new(options).ok()?;
            rustix::mount::mount("small", path, "tmpfs", rustix::mount::MountFlags::empty(), options.as_c_str())
                .ok()?;
            Some(Self(path.to_owned()))
        }
    }

    impl Drop for Mounted {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        }
    }
}

/// A file system in user space that never answers: what a dead NFS server looks like to the kernel's callers.
mod hung {
    use std::fs::{File, OpenOptions};
    use std::os::fd::AsRawFd;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    pub(crate) struct Mounted {
        at: PathBuf,
        /// Closing it ends the connection: whoever waits gets an error.
        device: Option<File>,
    }

    impl Mounted {
        pub(crate) fn at(path: &Path) -> Option<Self> {
            let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").ok()?;
            let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
            let options = std::ffi::CString::new(options).ok()?;
            rustix::mount::mount("hung", path, "fuse", rustix::mount::MountFlags::empty(), options.as_c_str()).ok()?;
            Some(Self { at: path.to_owned(), device: Some(device) })
        }
    }

    impl Drop for Mounted {
        fn drop(&mut self) {
            drop(self.device.take());
            let _ = Command::new("umount").arg("-l").arg(&self.at).status();
        }
    }
}
