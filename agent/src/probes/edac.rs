//! EDAC: errors in memory, counted by the memory controller.
//!
//! A controller with ECC corrects small errors and reports large ones. The kernel's EDAC drivers (Error Detection And
//! Correction) count them below `/sys/devices/system/edac/mc`: a directory `mcN` for each controller, with two views of
//! the same memory.
//!
//! - The old one goes by how chips are selected: `csrowN` (chip-select row) with channels `chN_…` in it. Kernels built
//!   without `EDAC_LEGACY_SYSFS` lack it.
//! - The new one goes by what can be pulled out: `dimmN`, or `rankN` where the controller cannot tell DIMMs apart. Its
//!   counts came with Linux 4.12.
//!
//! An error is counted at the controller, at its row, at its channel and at its DIMM: the sum over one level is the
//! whole, the sum over all is four times that. So each level has columns of its own here. Errors whose place the
//! controller did not tell are in the controller's count alone, and counted as such (`noinfo`).
//!
//! Counts are since the driver was loaded, and anyone with the right may set them to zero. Without a driver for this
//! controller (many firmwares keep errors to themselves: "firmware first") there is nothing here, or a driver
//! `ghes_edac` that passes on what the firmware tells. Files are read once a minute, each by itself, by everybody.

use std::fs;
use std::path::{Path, PathBuf};

use nodescope_model::rows::Rows;
use nodescope_service::settings::Settings;

use crate::host_root::{HostRoot, numbered, parse_numbered, read_text, read_u64};
use crate::probe::{Probe, ProbeError, Tick};

/// More parts than any machine has: 16 sockets of 8 controllers of 2 DIMMs, in both views.
const MAX_PARTS: usize = 2048;

/// Sizes are in mebibytes here.
const MEBIBYTE: u64 = 1 << 20;

/// What the probe needs to know: nothing.
#[derive(Debug, Clone, Default)]
pub struct EdacOptions {}

impl EdacOptions {
    /// Reads the settings.
    pub fn read(_settings: &mut Settings) -> Self {
        Self {}
    }
}

/// Fills the table `edac`.
pub struct EdacProbe {
    directory: PathBuf,
}

impl EdacProbe {
    /// Reads nothing yet.
    pub fn new(root: &HostRoot, _options: EdacOptions) -> Self {
        Self { directory: root.sys("devices/system/edac/mc") }
    }
}

impl Probe for EdacProbe {
    fn table(&self) -> &'static str {
        "edac"
    }

    fn sample(&mut self, _tick: &Tick, rows: &mut Rows) -> Result<(), ProbeError> {
        let controllers = numbered(&self.directory, "mc");
        if controllers.is_empty() {
            return Err(ProbeError::Absent(
                "no EDAC driver has found a memory controller: there is no ECC, no driver for this machine is loaded, or \
                 the firmware keeps memory errors to itself"
                    .to_owned(),
            ));
        }
        let mut parts = Parts { rows, omitted: 0 };
        for number in controllers {
            parts.controller(&self.directory.join(format!("mc{number}")), &number.to_string());
        }
        if parts.omitted > 0 {
            let omitted = parts.omitted;
            rows.begin()
                .text("controller", "omitted")
                .text("location", "omitted")
                .text("level", "omitted")
                .int("omitted", omitted);
        }
        Ok(())
    }
}

/// Rows, and how many there is no room for.
struct Parts<'a> {
    rows: &'a mut Rows,
    omitted: i64,
}

impl Parts<'_> {
    fn controller(&mut self, directory: &Path, controller: &str) {
        let count = |file: &str| read_u64(&directory.join(file));
        if self.has_room() {
            self.rows
                .begin()
                .text("controller", controller)
                .text("location", "all")
                .text("level", "controller")
                .text("driver", read_text(&directory.join("mc_name")).as_deref())
                .count("size_bytes", mebibytes(&directory.join("size_mb")))
                .count("since_reset_seconds", count("seconds_since_reset"))
                .count("scrub_bytes_per_second", count("sdram_scrub_rate"))
                .count("correctable_errors", count("ce_count"))
                .count("uncorrectable_errors", count("ue_count"))
                .count("correctable_errors_nowhere", count("ce_noinfo_count"))
                .count("uncorrectable_errors_nowhere", count("ue_noinfo_count"));
        }
        for row in numbered(directory, "csrow") {
            self.csrow(&directory.join(format!("csrow{row}")), controller, &row.to_string());
        }
        for kind in ["dimm", "rank"] {
            for number in numbered(directory, kind) {
                let name = format!("{kind}{number}");
                self.dimm(&directory.join(&name), controller, &name);
            }
        }
    }

    fn csrow(&mut self, directory: &Path, controller: &str, csrow: &str) {
        let text = |file: &str| read_text(&directory.join(file));
        let location = format!("csrow{csrow}");
        let (memory_type, device_type, ecc_mode) = (text("mem_type"), text("dev_type"), text("edac_mode"));
        if self.has_room() {
            self.rows
                .begin()
                .text("controller", controller)
                .text("location", location.as_str())
                .text("level", "csrow")
                .text("csrow", csrow)
                .text("memory_type", memory_type.as_deref())
                .text("device_type", device_type.as_deref())
                .text("ecc_mode", ecc_mode.as_deref())
                .count("size_bytes", mebibytes(&directory.join("size_mb")))
                .count("csrow_correctable_errors", read_u64(&directory.join("ce_count")))
                .count("csrow_uncorrectable_errors", read_u64(&directory.join("ue_count")));
        }
        for channel in channels(directory) {
            if !self.has_room() {
                continue;
            }
            self.rows
                .begin()
                .text("controller", controller)
                .text("location", format!("{location}/ch{channel}").as_str())
                .text("level", "channel")
                .text("csrow", csrow)
                .text("channel", channel.to_string().as_str())
                .text("dimm_label", text(&format!("ch{channel}_dimm_label")).as_deref())
                .text("memory_type", memory_type.as_deref())
                .text("device_type", device_type.as_deref())
                .text("ecc_mode", ecc_mode.as_deref())
                .count("channel_correctable_errors", read_u64(&directory.join(format!("ch{channel}_ce_count"))));
        }
    }

    fn dimm(&mut self, directory: &Path, controller: &str, name: &str) {
        if !self.has_room() {
            return;
        }
        let text = |file: &str| read_text(&directory.join(file));
        self.rows
            .begin()
            .text("controller", controller)
            .text("location", name)
            .text("level", "dimm")
            .text("dimm", name)
            .text("dimm_label", text("dimm_label").as_deref())
            .text("dimm_position", text("dimm_location").as_deref())
            .text("memory_type", text("dimm_mem_type").as_deref())
            .text("device_type", text("dimm_dev_type").as_deref())
            .text("ecc_mode", text("dimm_edac_mode").as_deref())
            .count("size_bytes", mebibytes(&directory.join("size")))
            .count("dimm_correctable_errors", read_u64(&directory.join("dimm_ce_count")))
            .count("dimm_uncorrectable_errors", read_u64(&directory.join("dimm_ue_count")));
    }

    fn has_room(&mut self) -> bool {
        let room = self.rows.len() < MAX_PARTS;
        self.omitted += i64::from(!room);
        room
    }
}

/// The size a file gives, in bytes.
fn mebibytes(path: &Path) -> Option<u64> {
    read_u64(path)?.checked_mul(MEBIBYTE)
}

/// Numbers of the channels of a chip-select row, in order.
fn channels(csrow: &Path) -> Vec<u32> {
    let entries = fs::read_dir(csrow).into_iter().flatten().flatten();
    let mut channels: Vec<u32> =
        entries.filter_map(|entry| parse_channel(entry.file_name().to_str().unwrap_or_default())).collect();
    channels.sort_unstable();
    channels
}

/// The number of the channel whose count a file holds: 1 of `ch1_ce_count`.
fn parse_channel(file: &str) -> Option<u32> {
    parse_numbered(file.strip_suffix("_ce_count")?, "ch")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::probes::testing::{FIRST_TICK, fixture_options, garbage, ints, row_of, sample_once, texts};

    fn probe(root: &HostRoot) -> EdacProbe {
        EdacProbe::new(root, EdacOptions::default())
    }

    /// A host whose `mc0` has these files.
    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, HostRoot) {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = directory.path().join("sys/devices/system/edac/mc/mc0").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let root = HostRoot::new(directory.path());
        (directory, root)
    }

    #[test]
    fn the_recorded_machine_has_both_views_and_counts_nothing_twice() {
        let batch = sample_once(&mut probe(&fixture_options().root));
        let locations = ["all", "csrow0", "csrow0/ch0", "csrow0/ch1", "dimm0", "dimm3", "all", "dimm0"];
        assert_eq!(texts(&batch, "location"), locations.map(Some));
        let sum = |column: &str| ints(&batch, column).iter().flatten().sum::<i64>();
        assert_eq!(sum("correctable_errors"), 45);
        assert_eq!(sum("correctable_errors_nowhere"), 3);
        assert_eq!(sum("csrow_correctable_errors"), 42);
        assert_eq!(sum("channel_correctable_errors"), 42);
        assert_eq!(sum("dimm_correctable_errors"), 42);
        assert_eq!(sum("uncorrectable_errors"), 1);
        let dimm = row_of(&batch, "location", "dimm3");
        assert_eq!(texts(&batch, "dimm_label")[dimm], Some("CPU_SrcID#0_MC#0_Chan#1_DIMM#0"));
        assert_eq!(texts(&batch, "dimm_position")[dimm], Some("channel 1 slot 0"));
        assert_eq!(texts(&batch, "memory_type")[dimm], Some("Registered-DDR5"));
        assert_eq!(ints(&batch, "size_bytes")[dimm], Some(64 << 30));
        assert_eq!(ints(&batch, "dimm_correctable_errors")[dimm], Some(40));
        assert_eq!(texts(&batch, "driver")[0], Some("Intel_10nm Socket#0 IMC#0"));
        assert_eq!(ints(&batch, "since_reset_seconds")[0], Some(863_112));
        let channel = row_of(&batch, "location", "csrow0/ch1");
        assert_eq!((texts(&batch, "csrow")[channel], texts(&batch, "channel")[channel]), (Some("0"), Some("1")));
        assert_eq!(ints(&batch, "channel_correctable_errors")[channel], Some(40));
    }

    #[test]
    fn ranks_stand_where_dimms_cannot_be_told_and_old_kernels_count_none() {
        let (_directory, root) = host(&[
            ("ce_count", "7\n"),
            ("sdram_scrub_rate", "-1\n"),
            ("rank0/dimm_label", "mc#0csrow#0channel#0 \n"),
            ("rank0/size", "8192\n"),
            ("csrow3/ue_count", "2\n"),
            ("csrow3/ch0_dimm_label", "\n"),
            ("csrow3/ch0_ce_count", "5\n"),
        ]);
        let batch = sample_once(&mut probe(&root));
        assert_eq!(texts(&batch, "location"), ["all", "csrow3", "csrow3/ch0", "rank0"].map(Some));
        assert_eq!(ints(&batch, "correctable_errors"), [Some(7), None, None, None]);
        assert_eq!(ints(&batch, "uncorrectable_errors"), [None; 4]);
        assert_eq!(ints(&batch, "scrub_bytes_per_second"), [None; 4]);
        assert_eq!(ints(&batch, "csrow_uncorrectable_errors")[1], Some(2));
        assert_eq!(texts(&batch, "dimm_label"), [None, None, None, Some("mc#0csrow#0channel#0")]);
        assert_eq!(ints(&batch, "dimm_correctable_errors"), [None; 4]);
    }

    #[test]
    fn parts_beyond_the_limit_are_counted() {
        let files: Vec<(String, &str)> = (0..MAX_PARTS + 4).map(|at| (format!("dimm{at}/size"), "1")).collect();
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
        let (_directory, root) = host(&files);
        let batch = sample_once(&mut probe(&root));
        assert_eq!(batch.num_rows(), MAX_PARTS + 1);
        assert_eq!(ints(&batch, "omitted")[MAX_PARTS], Some(5));
        assert_eq!(texts(&batch, "level")[MAX_PARTS], Some("omitted"));
    }

    #[test]
    fn a_machine_without_edac_has_nothing_to_sample() {
        let directory = tempfile::tempdir().unwrap();
        let catalogue = nodescope_model::catalogue::Catalogue::built_in();
        let mut rows = Rows::new(catalogue.get("edac").unwrap());
        let error = probe(&HostRoot::new(directory.path())).sample(&FIRST_TICK, &mut rows).unwrap_err();
        assert!(matches!(error, ProbeError::Absent(_)), "{error}");
    }

    #[test]
    fn this_machine_is_read_or_has_nothing() {
        let catalogue = nodescope_model::catalogue::Catalogue::built_in();
        let mut rows = Rows::new(catalogue.get("edac").unwrap());
        let result = EdacProbe::new(&HostRoot::new("/"), EdacOptions::default()).sample(&FIRST_TICK, &mut rows);
        assert!(matches!(result, Ok(()) | Err(ProbeError::Absent(_))), "{result:?}");
        rows.finish(&nodescope_model::rows::Stamp { ts_micros: 0, node: "", host: "" });
    }

    proptest! {
        #[test]
        fn garbage_is_survived(text in garbage()) {
            parse_channel(&text);
            parse_channel(&format!("ch{text}_ce_count"));
        }
    }
}
