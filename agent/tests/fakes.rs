//! The harness itself: a library without a function leaves the agent well, and says so.

#[path = "support/fakes.rs"]
mod fakes;

use fakes::Fake;
use nodescope_agent::accelerators::VendorId;

#[test]
fn a_library_without_a_function_is_survived() {
    let mut fake = Fake::build("empty.c", VendorId::Iluvatar, &[]);
    fake.set_mode("normal");
    fake.until("an answer", |fake| fake.result.is_err());
    assert!(fake.devices().is_empty());
    assert_eq!(fake.count("crashed"), 0, "{:#?}", fake.events);
}
