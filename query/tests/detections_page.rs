//! `docs/detections.md` is what the rules and their scores say today.

use std::path::Path;

use nodescope_model::catalogue::Catalogue;
use nodescope_query::schedule::rules;
use nodescope_query::score::page::page;
use nodescope_query::score::{Kept, is_detection};

#[test]
fn the_page_is_fresh() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let all = rules::load(None, &Catalogue::built_in()).unwrap();
    let detections: Vec<_> = all.iter().filter(|r| is_detection(r)).collect();
    assert_eq!(detections.len(), 20);
    let kept = std::fs::read_to_string(root.join("rules/scores.toml")).unwrap();
    let kept: Kept = toml::from_str(&kept).unwrap();
    for score in kept.attacks.iter().chain(&kept.benign).flat_map(|measured| &measured.scores) {
        assert!(detections.iter().any(|rule| rule.name == score.rule), "there is no rule {}", score.rule);
    }
    let fresh = page(&detections, &kept);
    let path = root.join("docs/detections.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &fresh).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == fresh,
        "docs/detections.md is stale. Make it anew: UPDATE=1 cargo test -p nodescope-query --test detections_page"
    );
}
