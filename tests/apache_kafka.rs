//! The same promises with Apache Kafka. Runs where `NODESCOPE_TEST_KAFKA` is set; `.ci/run` sets it, after
//! `tests/kafka/broker.sh fetch`.

mod support;

use std::path::PathBuf;
use std::process::Command;

use support::embedded::free_port;
use support::killing::{self, KILLS, RESTLESS, Victim};

/// Apache Kafka, started and killed by its script.
struct Apache {
    folder: PathBuf,
    port: u16,
}

impl Apache {
    fn script(&self, what: &str) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kafka/broker.sh");
        let mut command = Command::new(script);
        command.arg(what).arg(&self.folder);
        if what == "start" {
            command.arg(self.port.to_string());
        }
        assert!(command.status().expect("the script runs").success(), "broker.sh {what}");
    }
}

impl Victim for Apache {
    fn kill(&mut self) {
        self.script("kill");
    }

    fn start(&mut self) {
        self.script("start");
    }
}

impl Drop for Apache {
    fn drop(&mut self) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kafka/broker.sh");
        let _ = Command::new(script).arg("kill").arg(&self.folder).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_every_row_is_there_once() {
    if std::env::var_os("NODESCOPE_TEST_KAFKA").is_none() {
        println!("NODESCOPE_TEST_KAFKA is not set: nothing was tested");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let port = free_port().port();
    // Dropped in the opposite order: the broker must be gone before its folder is.
    let site = support::Site::new(folder, format!("127.0.0.1:{port}"), &RESTLESS);
    let mut apache = Apache { folder: site.folder.path().join("apache"), port };
    apache.start();
    killing::run(&site, &mut apache, KILLS, 12).await;
}
