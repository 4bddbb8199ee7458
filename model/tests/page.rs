//! `docs/catalogue.md` is what the catalogue says today.

use std::path::Path;

use nodescope_model::catalogue::Catalogue;
use nodescope_model::page::page;

#[test]
fn the_page_is_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/catalogue.md");
    let fresh = page(&Catalogue::built_in());
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &fresh).expect("docs/ can be written");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == fresh,
        "docs/catalogue.md is stale. Make it anew: UPDATE=1 cargo test -p nodescope-model --test page"
    );
}
