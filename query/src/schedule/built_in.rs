//! The list of the built-in rules: every file of `rules/`, compiled in.

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$((concat!("rules/", $name, ".sql"), include_str!(concat!("../../../rules/", $name, ".sql")))),*]
    };
}

/// Path and text of each file, by name.
pub(crate) const BUILT_IN: &[(&str, &str)] = files![
    "accelerator_lost",
    "accelerator_unhealthy",
    "agent_spool_growing",
    "availability_1h",
    "availability_1m",
    "clock_off",
    "d01_accelerator_busy_without_job",
    "d02_miner_shape",
    "d03_miner_or_pool",
    "d04_claimed_but_idle",
    "d05_unregistered_reporter",
    "d06_cloned_identity",
    "d07_physics",
    "d08_agent_silenced",
    "d09_selective_blinding",
    "d10_clock_tampering",
    "d11_scan_from_inside",
    "d12_lateral_ssh",
    "d13_brute_force",
    "d14_exfiltration",
    "d15_new_listener",
    "d16_unlisted_accelerator_process",
    "d17_kernel_or_persistence",
    "d18_firmware_drift",
    "d19_power_or_heat_sabotage",
    "d20_monitoring_abuse",
    "disk_filling",
    "host_silent",
    "link_breach",
    "pipeline_silent",
    "records_lost",
];

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn every_file_of_the_folder_is_listed() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../rules");
        let mut found: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| format!("rules/{}", entry.unwrap().file_name().into_string().unwrap()))
            .filter(|file| file.ends_with(".sql"))
            .collect();
        found.sort();
        let listed: Vec<&str> = super::BUILT_IN.iter().map(|(file, _)| *file).collect();
        assert_eq!(listed, found, "in the order of their names");
    }
}
