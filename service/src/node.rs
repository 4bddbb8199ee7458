//! Section `[node]`: what this machine belongs to, and which tables there are.

use std::path::PathBuf;

use crate::settings::Settings;

/// Section `[node]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSettings {
    /// Identification code of the platform node.
    pub id: String,
    /// Folder of a site's own tables, one TOML file each.
    pub catalogue_folder: Option<PathBuf>,
}

impl NodeSettings {
    /// Reads the section.
    pub fn read(settings: &mut Settings) -> Self {
        Self {
            id: settings.get(
                "node.id",
                "local",
                "Identification code of the platform node this machine belongs to. Opaque text.",
            ),
            catalogue_folder: settings.optional(
                "node.catalogue_folder",
                "Folder of TOML files (`catalogue.d`) that define tables of this site's own. All programs need the same.",
            ),
        }
    }
}
