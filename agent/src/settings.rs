//! Section `[agent]`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use nodescope_model::catalogue::Catalogue;
use nodescope_service::kafka::KafkaSettings;
use nodescope_service::node::NodeSettings;
use nodescope_service::settings::Settings;

use crate::accelerators::{AcceleratorOptions, WorkerCommand};
use crate::host_root::HostRoot;
use crate::probe::ProbeOptions;
use crate::spool::SpoolLimits;

/// What an agent needs to know.
#[derive(Debug, Clone)]
pub struct AgentSettings {
    /// How to reach Kafka.
    pub kafka: KafkaSettings,
    /// Identification code of the platform node.
    pub node: String,
    /// Name of this host in every row.
    pub host: String,
    /// Folder of the agent's identity and spool.
    pub data_dir: PathBuf,
    /// What the probes read.
    pub probes: ProbeOptions,
    /// Tables that are not sampled.
    pub without: Vec<String>,
    /// Tables are sampled no more often than this.
    pub interval: Duration,
    /// How much of one core the agent may use; 0 for as much as it needs.
    pub cpu_budget: f64,
    /// Bounds of the spool.
    pub spool: SpoolLimits,
    /// Records of the backlog sent in a second.
    pub backlog_rate: u32,
    /// The backlog waits for up to so long after an outage, each agent for a time of its own.
    pub backlog_jitter: Duration,
    /// Address of `/metrics`, `/healthz` and `/readyz`; `None` for none.
    pub metrics_address: Option<SocketAddr>,
}

impl AgentSettings {
    /// Reads the section, `[kafka]` and `[node]`.
    pub fn read(settings: &mut Settings, catalogue: &Catalogue) -> Self {
        let kafka = KafkaSettings::read(settings);
        let node = NodeSettings::read(settings).id;
        let root = HostRoot::new(settings.get::<PathBuf>(
            "agent.root",
            "/",
            "Where this host's file system is, seen from here: for agents in a container.",
        ));
        let host = settings
            .optional::<String>("agent.host", "Name of this host in every row; the kernel's host name without it.")
            .unwrap_or_else(|| host_name(&root));
        let without = settings.list("agent.without", "", "Tables that are not sampled.");
        for table in &without {
            if catalogue.get(table).is_none_or(|t| t.every.is_none()) {
                settings.mistake(format!("agent.without: the agent has no table `{table}`"));
            }
        }
        let interval = settings.duration(
            "agent.interval",
            "1s",
            "Nothing is sampled more often than this. What is slow by nature keeps its own interval.",
        );
        if ![1, 2, 5, 10, 30, 60].map(Duration::from_secs).contains(&interval) {
            settings.mistake("agent.interval: 1s, 2s, 5s, 10s, 30s or 1m, so that all intervals meet on the minute");
        }
        let per_cpu_every =
            settings.duration("agent.per_cpu_interval", "10s", "How often single CPUs are sampled beside their total.");
        let top_processes =
            settings.get("agent.top_processes", "10", "Processes listed: so many by CPU and so many by memory.");
        let spool = SpoolLimits {
            bytes: settings.bytes(
                "agent.spool_size",
                "512MiB",
                "Size of the spool at the most. Beyond it the oldest records go, and `loss` says which.",
            ),
            age: settings.duration("agent.spool_age", "7d", "Records older than this go as well."),
            queue_bytes: usize::try_from(settings.bytes(
                "agent.queue_size",
                "2MiB",
                "New records held in memory, ready to be sent.",
            ))
            .unwrap_or(usize::MAX),
        };
        if spool.bytes < 16 << 20 {
            settings.mistake("agent.spool_size: at least 16MiB");
        }
        let cpu_budget: f64 = settings.get(
            "agent.cpu_budget",
            "0.02",
            "How much of one core the agent may use: 0.02 is 2 %. Above it, it samples less often and says so. 0 for no limit.",
        );
        if !(0.0..=1024.0).contains(&cpu_budget) {
            settings.mistake("agent.cpu_budget: a share of one core, as in 0.02");
        }
        let backlog_rate: u32 = settings.get(
            "agent.backlog_rate",
            "500",
            "Records of the backlog sent in a second, after an outage, beside live ones.",
        );
        if backlog_rate == 0 {
            settings.mistake("agent.backlog_rate: at least 1");
        }
        Self {
            kafka,
            node,
            host,
            data_dir: settings.get("agent.data_dir", "/var/lib/nodescope/agent", "Folder of the agent's identity and spool."),
            probes: ProbeOptions {
                root,
                top_processes,
                per_cpu_every,
                accelerators: AcceleratorOptions::read(settings, worker()),
                numa: crate::probes::numa::NumaOptions::read(settings),
                edac: crate::probes::edac::EdacOptions::read(settings),
                rdma: crate::probes::rdma::RdmaOptions::read(settings),
                link: crate::probes::link::LinkOptions::read(settings),
                allocation: crate::probes::allocation::AllocationOptions::read(settings),
                container: crate::probes::container::ContainerOptions::read(settings),
                service: crate::probes::service::ServiceOptions::read(settings),
                sensor: crate::probes::sensor::SensorOptions::read(settings),
                power: crate::probes::power::PowerOptions::read(settings),
                listener: crate::probes::listener::ListenerOptions::read(settings),
                connection: crate::probes::connection::ConnectionOptions::read(settings),
                login: crate::probes::login::LoginOptions::read(settings),
                module: crate::probes::module::ModuleOptions::read(settings),
                executable: crate::probes::executable::ExecutableOptions::read(settings),
                config_change: crate::probes::config_change::ConfigChangeOptions::read(settings),
                scrape: crate::scrape::ScrapeOptions::read(settings),
            },
            without,
            interval,
            cpu_budget,
            spool,
            backlog_rate,
            backlog_jitter: settings.duration(
                "agent.backlog_jitter",
                "5s",
                "After an outage the backlog waits for a random part of this, so that not all agents send theirs at once.",
            ),
            metrics_address: {
                let text: String = settings.get("agent.metrics_address", "127.0.0.1:19100", "Address of the Prometheus endpoint, or `none`.");
                match text.as_str() {
                    "none" => None,
                    address => match address.parse() {
                        Ok(address) => Some(address),
                        Err(error) => {
                            settings.mistake(format!("agent.metrics_address: {error}, and not `none` either"));
                            None
                        }
                    },
                }
            },
        }
    }
}

/// This program as a worker. `nodescope` needs the word `agent` first.
fn worker() -> WorkerCommand {
    let is_agent_alone = std::env::current_exe()
        .is_ok_and(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains("agent")));
    WorkerCommand::of_this_program(if is_agent_alone { &[] } else { &["agent"] }).unwrap_or_else(|_| WorkerCommand {
        program: "nodescope-agent".into(),
        arguments: vec!["accelerator-worker".into()],
    })
}

fn host_name(root: &HostRoot) -> String {
    std::fs::read_to_string(root.proc("sys/kernel/hostname"))
        .map(|name| name.trim().to_owned())
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[(&str, &str)]) -> (AgentSettings, usize) {
        let mut settings = Settings::default();
        for (key, value) in values {
            settings.flag(key, Some(value));
        }
        let read = AgentSettings::read(&mut settings, &Catalogue::built_in());
        (read, settings.finish().map_or_else(|e| e.0.len(), |()| 0))
    }

    #[test]
    fn the_host_has_a_name_and_the_endpoint_an_address() {
        let (settings, mistakes) = read(&[]);
        assert_eq!(mistakes, 0);
        assert!(!settings.host.is_empty());
        assert!(settings.metrics_address.is_some_and(|a| a.ip().is_loopback()));
        assert_eq!(read(&[("agent.metrics_address", "none")]).0.metrics_address, None);
    }

    #[test]
    fn mistakes_are_told() {
        let wrong = [
            ("agent.without", "nosuch,quarantine"),
            ("agent.interval", "1500ms"),
            ("agent.spool_size", "1MiB"),
            ("agent.backlog_rate", "0"),
            ("agent.metrics_address", "here"),
        ];
        assert_eq!(read(&wrong).1, 6);
    }
}
