//! The list of the built-in views: every file of `query/views`, compiled in.

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../views/", $name, ".sql")))),*]
    };
}

/// Name and text of each file, by name.
pub(crate) const BUILT_IN: &[(&str, &str)] = files![
    "accelerator_alias",
    "accelerator_failure",
    "accelerator_failures",
    "accelerator_now",
    "accelerator_risk",
    "alert_now",
    "allocation_now",
    "allocation_span",
    "approved",
    "availability",
    "availability_30d",
    "billed",
    "capacity_measured",
    "capacity_now",
    "capacity_stranded",
    "demand_gap",
    "energy_efficiency",
    "fabric_health",
    "failure_code",
    "held_by_project",
    "held_span",
    "host_fit",
    "host_now",
    "hosts_for",
    "link_matrix",
    "link_now",
    "maintenance",
    "metering",
    "node",
    "nodes_idle_online",
    "peer",
    "poisson_interval",
    "pool_forecast",
    "registration",
    "resource",
    "service_hour",
    "stragglers",
    "telemetry_health",
    "throttled_hours",
    "utilization_hourly",
    "vendor_comparison",
    "version_drift",
];

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn every_file_of_the_folder_is_listed() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("views");
        let mut found: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .map(|name| name.strip_suffix(".sql").expect("only .sql files").to_owned())
            .collect();
        found.sort();
        let listed: Vec<&str> = super::BUILT_IN.iter().map(|(name, _)| *name).collect();
        assert_eq!(listed, found, "in the order of their names");
    }
}
