//! Iluvatar CoreX's accelerators, through IXML.
//!
//! IXML has the functions of NVIDIA's library under the same names, those of some years ago: so the reader is the same,
//! and what this library lacks (fields, GPM, events, rings of samples) is NULL or asked for by the older functions. It
//! comes with the CoreX toolkit and not with the driver, so a machine without the toolkit has only the PCI bus to tell.

use super::common::Reader;
use super::nvidia::{Flavour, Library};

/// The library of the CoreX toolkit.
pub(crate) struct Ixml;

impl Flavour for Ixml {
    const LIBRARY: &'static str = "IXML";
    const CANDIDATES: &'static [&'static str] =
        &["/usr/local/corex/lib64/libixml.so", "/usr/local/corex/lib/libixml.so", "libixml.so"];
    const DEVICE_FILE: &'static str = "iluvatar";
}

/// Reads Iluvatar's cards.
pub(crate) type Iluvatar = Reader<Library<Ixml>>;
