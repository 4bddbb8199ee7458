//! `docs/questions.md` is what the heads of the views say today.

use std::path::Path;

#[test]
fn the_page_is_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/questions.md");
    let fresh = nodescope_query::views::page().unwrap_or_else(|mistakes| panic!("{mistakes}"));
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &fresh).expect("docs/ can be written");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == fresh,
        "docs/questions.md is stale. Make it anew: UPDATE=1 cargo test -p nodescope-query --test page"
    );
}
