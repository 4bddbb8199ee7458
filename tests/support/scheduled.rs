//! A site without a broker: a test writes rows of the table `known` into the store itself, and a schedule of its own
//! rules runs over them.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use nodescope_model::catalogue::{Catalogue, Table};
use nodescope_model::rows::{Rows, Stamp};
use nodescope_store::Store;
use nodescope_store::journal::Journal;
use nodescope_store::location::Location;

use super::{Process, Site};

/// Now, microseconds since 1970.
pub fn now_us() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later").as_micros()).expect("not so late")
}

/// The site, with these rules and no built-in ones, and its store. `tables` are files of its catalogue beside `known`.
pub fn site(own: &[(&str, &str)], tables: &[(&str, &str)], settings: &[(&str, String)]) -> (Site, Store) {
    let folder = tempfile::tempdir().expect("a folder");
    let rules = folder.path().join("rules");
    std::fs::create_dir(&rules).expect("a folder");
    for (file, text) in own {
        std::fs::write(rules.join(file), text).expect("a file");
    }
    let shown = rules.display().to_string();
    let mut all = vec![
        ("NODESCOPE_SCHEDULE_RULES_FOLDER", shown.as_str()),
        ("NODESCOPE_SCHEDULE_HTTP_ADDRESS", "127.0.0.1:0"),
        // Nothing but what the test knows beforehand.
        ("NODESCOPE_SCHEDULE_BUILT_IN", "false"),
    ];
    all.extend(settings.iter().map(|(name, value)| (*name, value.as_str())));
    let site = Site::new(folder, "127.0.0.1:1".to_owned(), &all);
    let catalogue = site.folder.path().join("catalogue.d");
    for (file, text) in tables {
        std::fs::write(catalogue.join(file), text).expect("a file");
    }
    let catalogue = Catalogue::load(Some(&catalogue)).expect("tables");
    let location: Location = site.folder.path().join("store").display().to_string().parse().expect("a place");
    let store = location.open(Arc::new(catalogue)).expect("a store");
    (site, store)
}

/// A schedule that runs.
pub fn schedule(site: &Site) -> Process {
    let mut process = site.start(&["schedule"]);
    process.says("the schedule begins");
    process
}

/// Writes rows of `known` into the store, numbered from 0.
pub struct Known {
    journal: Journal,
    table: Arc<Table>,
    /// The next number.
    pub next: i64,
}

impl Known {
    /// None written yet.
    pub async fn new(store: &Store) -> Self {
        let table = store.catalogue().get("known").expect("the table").clone();
        let journal = Journal::open(store, "journal.source").await.expect("a journal");
        Self { journal, table, next: 0 }
    }

    /// Writes a row for each host, in one append.
    pub async fn write(&mut self, ts_micros: i64, hosts: &[&str], content: &str) {
        let mut batches = Vec::new();
        for host in hosts {
            let mut rows = Rows::new(&self.table);
            rows.begin().text("source", "s").int("number", self.next).text("content", content);
            batches.push(rows.finish(&Stamp { ts_micros, node: "n", host }));
            self.next += 1;
        }
        self.journal.append(vec![(self.table.clone(), batches)]).await.expect("it is written");
    }
}
