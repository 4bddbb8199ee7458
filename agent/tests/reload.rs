//! Other settings while the agent runs: right ones come into force, wrong ones leave everything as it is.

mod support {
    pub(crate) mod agent;
}

use std::path::Path;
use std::process::Command;

use support::agent::Agent;

fn write(path: &Path, agent_section: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, format!("[kafka]\nbrokers = \"127.0.0.1:1\"\n[agent]\n{agent_section}\n"))
        .expect("it is written");
    std::fs::rename(&new, path).expect("it is put in place");
}

#[test]
fn right_settings_come_into_force_and_wrong_ones_do_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("nodescope.toml");
    write(&file, "without = [\"disk\"]");
    let mut command = Command::new(env!("CARGO_BIN_EXE_nodescope-agent"));
    command.args(["--metrics", "127.0.0.1:0", "--host", "tested"]);
    command.arg("--config").arg(&file).arg("--data").arg(folder.path().join("data"));
    let mut agent = Agent::run(&mut command);
    agent.until("it samples", |series| series.contains_key("node_load1"));
    let probe = |name: &str| format!("nodescope_agent_samples_total{{probe=\"{name}\"}}");
    agent.until("probes are counted", |series| series.contains_key(&probe("memory")));
    assert!(!agent.series().contains_key(&probe("disk")));

    // By itself, when the file has changed.
    write(&file, "without = []\ncpu_budget = 0.5");
    agent.says("other settings are in force");
    agent.until("the new probe is there", |series| series.contains_key(&probe("disk")));
    agent.until("it is counted", |series| {
        series.get(r#"nodescope_agent_config_loads_total{probe="all"}"#) == Some(&1.0)
            && series.get(r#"nodescope_agent_cpu_budget_ratio{probe="all"}"#) == Some(&0.5)
    });

    // All mistakes at once, and nothing is changed.
    write(&file, "cpu_budget = \"much\"\ninterval = \"7s\"\nnosuch = 1");
    agent.signal("HUP");
    agent.says("the settings have mistakes");
    for mistake in ["agent.interval", "agent.cpu_budget", "agent.nosuch"] {
        agent.says(mistake);
    }
    agent.until("the refusal is counted", |series| {
        // Twice, where the file was looked at between its writing and the signal.
        series.get(r#"nodescope_agent_config_refusals_total{probe="all"}"#).is_some_and(|n| *n >= 1.0)
            && series.get(r#"nodescope_agent_cpu_budget_ratio{probe="all"}"#) == Some(&0.5)
    });

    // And right again.
    write(&file, "cpu_budget = 0.25");
    agent.signal("HUP");
    agent.until("the last ones are in force", |series| {
        series.get(r#"nodescope_agent_cpu_budget_ratio{probe="all"}"#) == Some(&0.25)
    });

    // Right as far as can be read, and refused by Kafka's client library: the former come back, and no secret is told.
    let text =
        "[kafka]\nbrokers = \"127.0.0.1:1\"\nproperties = [\"sasl.pasword=hunter2\"]\n[agent]\ncpu_budget = 0.125\n";
    std::fs::write(file.with_extension("new"), text).expect("it is written");
    std::fs::rename(file.with_extension("new"), &file).expect("it is put in place");
    agent.signal("HUP");
    let line = agent.says("sasl.pasword");
    assert!(!line.contains("hunter2"), "{line}");
    let before = agent.value(&probe("memory")).unwrap_or(0.0);
    agent.until("the former ones are in force", |series| {
        series.get(r#"nodescope_agent_cpu_budget_ratio{probe="all"}"#) == Some(&0.25)
            && series.get(&probe("memory")).is_some_and(|n| *n > 0.0 && *n != before)
    });
}
