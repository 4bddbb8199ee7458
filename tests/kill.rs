//! Agent, collector and the embedded broker are killed at random moments, and every row is there once.

mod support;

use support::embedded;
use support::killing::{self, KILLS, Ours, RESTLESS};

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_every_row_is_there_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let address = embedded::free_port();
    let path = folder.path().to_owned();
    let start = move || embedded::start(&path, address);
    let mut broker = Ours(start(), start);
    let site = support::Site::new(folder, address.to_string(), &RESTLESS);
    killing::run(&site, &mut broker, KILLS, 10).await;
}
