//! `nodescope-agent check`: what this agent can read here, what it cannot, and why.
//!
//! Every probe samples once, as it would at its first tick. A column is called filled when any row of its table has a
//! value in it; what stays empty is either not there on this machine or not allowed, and the privileges at the end tell
//! the one from the other. The broker and the spool's folder are tried as well: an agent that can read everything and
//! send nothing is of no use.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use arrow_array::Array;
use nodescope_model::catalogue::{COMMON_COLUMNS, Catalogue};
use nodescope_service::errors::chain;
use nodescope_service::topic::without_value;
use rdkafka::producer::{BaseProducer, Producer};
use rustix::fs::statvfs;

use crate::accelerators::pci;
use crate::once::{self, Sampled};
use crate::privileges::{Held, PRIVILEGES, Powers};
use crate::publisher::producer_config;
use crate::settings::AgentSettings;

/// Longest wait for the broker.
const BROKER_PATIENCE: Duration = Duration::from_secs(5);

/// Names of columns shown before the rest is counted.
const NAMES_SHOWN: usize = 8;

/// Checks everything and writes what was found. `false` when the agent could not do its work as it is set up.
///
/// # Errors
/// When nothing can be written.
pub fn check(settings: &AgentSettings, catalogue: &Catalogue, out: &mut dyn Write) -> io::Result<bool> {
    let root = &settings.probes.root;
    let powers = Powers::own();
    let kernel = std::fs::read_to_string(root.proc("sys/kernel/osrelease")).unwrap_or_default();
    writeln!(
        out,
        "nodescope-agent {} on {}, Linux {}, as user {}\n",
        env!("CARGO_PKG_VERSION"),
        settings.host,
        kernel.trim(),
        rustix::process::geteuid().as_raw()
    )?;
    let sampled = once::sample(settings, catalogue)?;
    tables(&sampled, catalogue, out)?;
    accelerators(settings, out)?;
    writeln!(out, "\nPrivileges")?;
    for privilege in PRIVILEGES {
        let held = match privilege.held(powers, root) {
            Held::Yes => "has it",
            Held::No => "lacks it",
            Held::NotHere => "not here",
        };
        writeln!(out, "  {:<22} {held}", privilege.name)?;
        if held == "lacks it" {
            for (table, what) in privilege.adds {
                writeln!(out, "  {:<22}   {table}: {what}", "")?;
            }
            writeln!(out, "  {:<22}   to give it: {}", "", privilege.how)?;
        }
    }
    writeln!(out)?;
    let spool = spool(settings, out)?;
    let broker = broker(settings, out)?;
    Ok(spool && broker)
}

fn tables(sampled: &Sampled, catalogue: &Catalogue, out: &mut dyn Write) -> io::Result<()> {
    // A table may come from two probes.
    let mut filled: BTreeMap<&str, (usize, Vec<bool>)> = BTreeMap::new();
    for (table, batch) in &sampled.batches {
        let (rows, columns) =
            filled.entry(&table.name).or_insert_with(|| (0, vec![false; batch.num_columns() - COMMON_COLUMNS.len()]));
        *rows += batch.num_rows();
        for (column, array) in columns.iter_mut().zip(&batch.columns()[COMMON_COLUMNS.len()..]) {
            *column |= array.null_count() < array.len();
        }
    }
    writeln!(out, "{:<20} {:>6} {:>9}  empty, or why there is nothing", "TABLE", "ROWS", "COLUMNS")?;
    for table in catalogue.tables().filter(|table| table.every.is_some()) {
        if table.name == crate::ticker::OWN {
            continue;
        }
        let trouble = sampled.troubles.iter().find(|(name, _)| *name == table.name);
        let late = sampled.late.contains(&table.name.as_str());
        let (rows, columns) = filled.get(table.name.as_str()).map_or((0, &[][..]), |(rows, c)| (*rows, c.as_slice()));
        let note = match trouble {
            Some((_, error)) => chain(error),
            None if late => format!("no answer within {} s", once::PATIENCE.as_secs()),
            None if rows == 0 => "nothing to tell now".to_owned(),
            None => {
                let empty: Vec<&str> = table
                    .columns
                    .iter()
                    .zip(columns)
                    .filter(|(_, filled)| !**filled)
                    .map(|(column, _)| column.name.as_str())
                    .collect();
                let more = empty.len().saturating_sub(NAMES_SHOWN);
                let shown = empty.iter().take(NAMES_SHOWN).copied().collect::<Vec<_>>().join(", ");
                if more > 0 { format!("{shown} and {more} more") } else { shown }
            }
        };
        let with_values = columns.iter().filter(|filled| **filled).count();
        writeln!(out, "{:<20} {rows:>6} {with_values:>4}/{:<4}  {note}", table.name, table.columns.len())?;
    }
    Ok(())
}

fn accelerators(settings: &AgentSettings, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "\nAccelerators")?;
    let cards = pci::scan(&settings.probes.root).unwrap_or_default();
    if cards.is_empty() {
        writeln!(out, "  none of a known vendor is on the PCI bus")?;
    }
    for card in cards {
        writeln!(out, "  {} {}", card.address, card.vendor.as_str())?;
    }
    for (vendor, library) in &settings.probes.accelerators.libraries {
        writeln!(out, "  {} is read with {}", vendor.as_str(), library.display())?;
    }
    Ok(())
}

fn spool(settings: &AgentSettings, out: &mut dyn Write) -> io::Result<bool> {
    let folder = &settings.data_dir;
    let tried = std::fs::create_dir_all(folder).and_then(|()| {
        let probe = folder.join("check.new");
        std::fs::write(&probe, b"ok")?;
        std::fs::remove_file(probe)
    });
    if let Err(error) = tried {
        writeln!(
            out,
            "Spool:  {} cannot be written: {error}; name another folder with agent.data_dir",
            folder.display()
        )?;
        return Ok(false);
    }
    let free = statvfs(folder).map(|s| s.f_bavail.saturating_mul(s.f_frsize)).unwrap_or(0);
    let enough = free >= settings.spool.bytes;
    let remark = if enough { "" } else { ", less than agent.spool_size" };
    writeln!(
        out,
        "Spool:  {}, {} MiB free of {} MiB it may take{remark}",
        folder.display(),
        free >> 20,
        settings.spool.bytes >> 20
    )?;
    Ok(true)
}

fn broker(settings: &AgentSettings, out: &mut dyn Write) -> io::Result<bool> {
    let kafka = &settings.kafka;
    let asked = producer_config(kafka)
        .set("log_level", "0")
        .create::<BaseProducer>()
        .and_then(|producer| producer.client().fetch_metadata(Some(&kafka.topic), BROKER_PATIENCE));
    match asked {
        Ok(metadata) => {
            let partitions = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
            if partitions == 0 {
                writeln!(out, "Broker: {} answers; it has no topic {} that we may see", kafka.brokers, kafka.topic)?;
            } else {
                writeln!(out, "Broker: {} answers; topic {} has {partitions} partitions", kafka.brokers, kafka.topic)?;
            }
            Ok(partitions > 0)
        }
        Err(error) => {
            writeln!(
                out,
                "Broker: {} does not answer: {}; the agent would keep its records in the spool",
                kafka.brokers,
                without_value(&error)
            )?;
            Ok(false)
        }
    }
}
