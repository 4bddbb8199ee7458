//! The probe on hosts made up for it.

use std::io::Write;
use std::path::Path;

use nodescope_model::catalogue::Catalogue;

use super::utmp::tests::record;
use super::*;
use crate::probes::testing::{FIRST_TICK, bools, ints, sample_at, texts};

/// The first tick is at 2023-11-14T22:13:20Z.
const NEXT: Tick = Tick { ts_micros: FIRST_TICK.ts_micros + 10_000_000, first: false };

struct Host {
    directory: tempfile::TempDir,
    state: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let host = Self { directory: tempfile::tempdir().unwrap(), state: tempfile::tempdir().unwrap() };
        std::fs::create_dir_all(host.path("var/log")).unwrap();
        host
    }

    fn path(&self, file: &str) -> std::path::PathBuf {
        self.directory.path().join(file)
    }

    fn append(&self, file: &str, bytes: &[u8]) {
        let path = self.path(file);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).unwrap();
        std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(bytes).unwrap();
    }

    fn log(&self, time: &str, line: &str) {
        self.append("var/log/auth.log", format!("2023-11-14T{time}+00:00 busy {line}\n").as_bytes());
    }

    fn probe(&self) -> LoginProbe {
        LoginProbe::new(
            &HostRoot::new(self.directory.path()),
            LoginOptions { state: Some(self.state.path().to_owned()) },
        )
    }
}

#[test]
fn one_failure_is_told_once() {
    let host = Host::new();
    host.log("22:10:00", "sshd[1]: Failed password for root from 203.0.113.1 port 1 ssh2");
    host.log("22:13:00", "sshd[2]: Invalid user admin from 203.0.113.1 port 2");
    host.log("22:13:02", "sshd[2]: Failed password for invalid user admin from 203.0.113.1 port 2 ssh2");
    host.log("22:13:03", "sshd[2]: Connection closed by invalid user admin 203.0.113.1 port 2 [preauth]");
    host.log("22:13:04", "sshd[3]: Connection closed by authenticating user root 203.0.113.1 port 3 [preauth]");
    host.log("22:13:19", "sshd[4]: Invalid user ftp from 203.0.113.1 port 4");
    host.log("22:13:19", "CRON[5]: pam_unix(cron:session): session opened for user root(uid=0) by (uid=0)");
    let mut probe = host.probe();
    let batch = sample_at(&mut probe, &FIRST_TICK);
    assert_eq!(ints(&batch, "event"), [Some(1), Some(2)]);
    assert_eq!(ints(&batch, "source_port"), [Some(2), Some(3)]);
    assert_eq!(texts(&batch, "reason"), [Some("invalid user"), Some("closed before authentication")]);
    assert_eq!(texts(&batch, "method"), [Some("password"), None]);
    assert_eq!(texts(&batch, "source"), [Some("authlog"); 2]);
    assert_eq!(bools(&batch, "user_withheld"), [Some(false); 2]);
    assert_eq!(sample_at(&mut probe, &NEXT).num_rows(), 0);
    // Nothing followed.
    let later = Tick { ts_micros: FIRST_TICK.ts_micros + 40_000_000, first: false };
    assert_eq!(texts(&sample_at(&mut probe, &later), "user"), [Some("ftp")]);
}

#[test]
fn a_restart_neither_repeats_nor_misses() {
    let host = Host::new();
    host.log("22:13:10", "sshd[1]: Accepted publickey for alice from 10.0.0.5 port 5 ssh2: ED25519 SHA256:x");
    assert_eq!(sample_at(&mut host.probe(), &FIRST_TICK).num_rows(), 1);
    host.log("22:13:25", "sudo:    alice : TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND=/bin/sh");
    let batch = sample_at(&mut host.probe(), &NEXT);
    assert_eq!(texts(&batch, "kind"), [Some("privilege")]);
    assert_eq!(texts(&batch, "target_user"), [Some("root")]);
    assert_eq!(sample_at(&mut host.probe(), &NEXT).num_rows(), 0);
}

#[test]
fn a_clock_that_is_set_back_hides_nothing() {
    let host = Host::new();
    host.log("22:13:15", "sshd[1]: Invalid user ftp from 203.0.113.1 port 4");
    let mut probe = host.probe();
    assert_eq!(sample_at(&mut probe, &FIRST_TICK).num_rows(), 0);
    let eight_hours = 8 * 3_600_000_000;
    let at = |seconds: i64| Tick { ts_micros: FIRST_TICK.ts_micros - eight_hours + seconds * 1_000_000, first: false };
    assert_eq!(texts(&sample_at(&mut probe, &at(10)), "user"), [Some("ftp")], "nothing will follow");
    host.log("14:13:35", "sshd[2]: Failed password for root from 203.0.113.1 port 1 ssh2");
    assert_eq!(texts(&sample_at(&mut probe, &at(20)), "user"), [Some("root")]);
}

#[test]
fn the_journal_goes_before_the_text() {
    let host = Host::new();
    let id = "00112233445566778899aabbccddeeff";
    host.append("etc/machine-id", format!("{id}\n").as_bytes());
    let recorded = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/journal/compact-zstd.journal.zst");
    let bytes = zstd::decode_all(std::fs::File::open(recorded).unwrap()).unwrap();
    host.append(&format!("var/log/journal/{id}/system.journal"), &bytes);
    host.log("22:13:10", "sshd[1]: Accepted password for alice from 10.0.0.5 port 5 ssh2");
    // 403 messages, one a second, from 1,764,050,000 on.
    let tick = Tick { ts_micros: 1_764_050_000_000_000 + 404_000_000, first: true };
    let batch = sample_at(&mut host.probe(), &tick);
    assert!(texts(&batch, "source").iter().all(|source| *source == Some("journal")));
    assert_eq!(texts(&batch, "user").last(), Some(&Some("carol")));
    assert_eq!(texts(&batch, "key_type").last(), Some(&Some("ED25519-CERT")));
    let within_a_minute = batch.num_rows();
    assert!((10..30).contains(&within_a_minute), "{within_a_minute}");
    let next = Tick { ts_micros: tick.ts_micros + 10_000_000, first: true };
    assert_eq!(sample_at(&mut host.probe(), &next).num_rows(), 0);

    // Renamed by a rotation while the agent was stopped.
    let folder = host.path(&format!("var/log/journal/{id}"));
    std::fs::rename(folder.join("system.journal"), folder.join("system@x-1-2.journal")).unwrap();
    let mut before = host.probe();
    assert!(matches!(sample_at(&mut before, &next).num_rows(), 0));
}

#[test]
fn a_line_that_another_user_logged_is_not_believed() {
    assert!(is_genuine("sshd", Some(0), Some("/usr/sbin/sshd")));
    assert!(is_genuine("sshd", None, None));
    assert!(!is_genuine("sshd", Some(1000), Some("/usr/bin/logger")));
    assert!(is_genuine("sudo", Some(1000), Some("/usr/bin/sudo")));
    assert!(!is_genuine("sudo", Some(1000), Some("/home/mallory/sudo")));
}

#[test]
fn terminals_come_from_wtmp_with_the_session_that_logind_knows() {
    let host = Host::new();
    let seconds = 1_700_000_000;
    host.log("22:13:10", "sshd[812]: pam_unix(sshd:session): session opened for user alice(uid=1000) by (uid=0)");
    host.log("22:13:10", "systemd-logind[1]: New session 5 of user alice.");
    host.append("run/systemd/sessions/5", b"UID=1000\nUSER=alice\nSERVICE=sshd\nLEADER=812\nTTY=pts/0\nCLASS=user\n");
    let layout = Layout::HERE;
    host.append("var/log/wtmp", &record(layout, USER_PROCESS, 812, "pts/0", "alice", [10, 0, 0, 5], seconds - 10));
    host.append("var/log/wtmp", &record(layout, DEAD_PROCESS, 1, "tty9", "", [0; 4], seconds - 5));
    let mut probe = host.probe();
    let batch = sample_at(&mut probe, &FIRST_TICK);
    assert_eq!(texts(&batch, "kind"), [Some("session_opened")]);
    assert_eq!(texts(&batch, "session"), [Some("5")]);
    assert_eq!(texts(&batch, "service"), [Some("sshd")]);
    assert_eq!(texts(&batch, "source_address"), [Some("10.0.0.5")]);
    host.append("var/log/wtmp", &record(layout, DEAD_PROCESS, 812, "pts/0", "", [0; 4], seconds + 5));
    let batch = sample_at(&mut probe, &NEXT);
    assert_eq!(texts(&batch, "kind"), [Some("session_closed")]);
    assert_eq!(texts(&batch, "user"), [Some("alice")]);
}

#[test]
fn without_wtmp_sessions_come_from_logind_and_without_that_from_pam() {
    let host = Host::new();
    host.log("22:13:10", "sshd[812]: pam_unix(sshd:session): session opened for user alice(uid=1000) by (uid=0)");
    host.log("22:13:10", "systemd-logind[1]: New session 5 of user alice.");
    host.log("22:13:11", "systemd-logind[1]: New session 6 of user root.");
    host.log("22:13:12", "systemd-logind[1]: Removed session 6.");
    host.log("22:13:13", "sudo: pam_unix(sudo:session): session opened for user root(uid=0) by alice(uid=1000)");
    host.append("run/systemd/sessions/5", b"USER=alice\nSERVICE=sshd\nLEADER=812\nREMOTE_HOST=10.0.0.5\nCLASS=user\n");
    host.append("run/systemd/sessions/6", b"USER=root\nSERVICE=cron\nCLASS=background\n");
    let batch = sample_at(&mut host.probe(), &FIRST_TICK);
    assert_eq!(texts(&batch, "session"), [Some("5")]);
    assert_eq!(texts(&batch, "source_address"), [Some("10.0.0.5")]);
    assert_eq!(ints(&batch, "pid"), [Some(812)]);

    std::fs::remove_dir_all(host.path("run")).unwrap();
    std::fs::remove_file(host.state.path().join("login.json")).unwrap();
    let batch = sample_at(&mut host.probe(), &FIRST_TICK);
    assert_eq!(texts(&batch, "service"), [Some("sshd")]);
    assert_eq!(texts(&batch, "kind"), [Some("session_opened")]);
}

#[test]
fn failures_come_from_btmp_where_no_log_can_be_read() {
    let host = Host::new();
    let mut bytes = record(Layout::HERE, 6, 9, "ssh:notty", "root", [203, 0, 113, 1], 1_699_999_990);
    bytes.extend(record(Layout::HERE, 6, 9, "tty1", "My Passw0rd", [0; 4], 1_699_999_991));
    host.append("var/log/btmp", &bytes);
    let batch = sample_at(&mut host.probe(), &FIRST_TICK);
    assert_eq!(texts(&batch, "user"), [Some("root"), None]);
    assert_eq!(bools(&batch, "user_withheld"), [Some(false), Some(true)]);
    assert_eq!(texts(&batch, "service"), [Some("sshd"), None]);
    assert_eq!(texts(&batch, "source"), [Some("btmp"); 2]);
}

#[test]
fn a_flood_is_counted() {
    let host = Host::new();
    for port in 1..=1_200 {
        host.log("22:13:10", &format!("sshd[1]: Failed password for root from 203.0.113.1 port {port} ssh2"));
    }
    // All but what is looked back over at the first tick.
    std::fs::write(host.path("var/log/wtmp"), "").unwrap();
    let mut probe = host.probe();
    let first = sample_at(&mut probe, &FIRST_TICK).num_rows();
    assert!(first > 100 && first <= MAX_EVENTS);
    for port in 1..=1_200 {
        host.log("22:13:25", &format!("sshd[1]: Failed password for root from 203.0.113.1 port {port} ssh2"));
    }
    let batch = sample_at(&mut probe, &NEXT);
    assert_eq!(batch.num_rows(), MAX_EVENTS + 1);
    assert_eq!(texts(&batch, "kind").last(), Some(&Some("overflow")));
    assert_eq!(ints(&batch, "count").last(), Some(&Some(200)));
}

#[test]
fn a_host_without_any_of_them_is_no_fault() {
    let empty = tempfile::tempdir().unwrap();
    let mut probe = LoginProbe::new(&HostRoot::new(empty.path()), LoginOptions::default());
    let catalogue = Catalogue::built_in();
    let mut rows = Rows::new(catalogue.get("login").unwrap());
    assert!(matches!(probe.sample(&FIRST_TICK, &mut rows), Err(ProbeError::Absent(_))));
}
