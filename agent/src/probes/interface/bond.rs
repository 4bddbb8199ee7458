//! Bonds: several interfaces that are one to the rest of the host.
//!
//! `/sys/class/net/bonding_masters` names them; below `/sys/class/net/BOND/bonding` is a file for each setting, and below
//! `/sys/class/net/SLAVE/bonding_slave` what the bond thinks of each part. A bond with one dead part still is up, at half
//! the speed and without a reserve: that is what to look for, and what `operstate` does not say.

use nodescope_model::rows::Rows;

use crate::host_root::{HostRoot, read_text, read_u64};

/// Bonds of a host, and parts of a bond, at the most.
const MAX: usize = 64;

/// A row for each bond; none where there are none.
pub(super) fn fill(root: &HostRoot, rows: &mut Rows) {
    let class = root.sys("class/net");
    let Some(masters) = read_text(&class.join("bonding_masters")) else { return };
    for bond in parse_names(&masters) {
        let directory = class.join(bond).join("bonding");
        let text = |file: &str| read_text(&directory.join(file));
        let slaves = text("slaves").unwrap_or_default();
        let slaves: Vec<Slave<'_>> = parse_names(&slaves)
            .map(|name| {
                let directory = class.join(name).join("bonding_slave");
                Slave {
                    name,
                    up: read_text(&directory.join("mii_status")).map(|status| status == "up"),
                    failures: read_u64(&directory.join("link_failure_count")),
                }
            })
            .collect();
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let mode = text("mode");
        let policy = text("xmit_hash_policy");
        let status = text("mii_status");
        rows.begin()
            .text("bond", bond)
            .text("mode", mode.as_deref().and_then(first))
            .text("transmit_hash_policy", policy.as_deref().and_then(first))
            .bool("up", status.map(|status| status == "up"))
            .text("active_slave", text("active_slave").as_deref())
            .int("slaves", number(slaves.len()))
            .int("slaves_up", number(slaves.iter().filter(|slave| slave.up == Some(true)).count()))
            .count("aggregated_ports", read_u64(&directory.join("ad_num_ports")))
            .text("partner_address", text("ad_partner_mac").filter(|mac| mac != "00:00:00:00:00:00").as_deref())
            .int_map("slave_up", slaves.iter().filter_map(|slave| Some((slave.name, i64::from(slave.up?)))))
            .int_map(
                "slave_link_failures",
                slaves.iter().filter_map(|slave| Some((slave.name, i64::try_from(slave.failures?).ok()?))),
            );
    }
}

/// A part of a bond.
struct Slave<'a> {
    name: &'a str,
    up: Option<bool>,
    failures: Option<u64>,
}

/// Names in a row, each once. They become parts of paths.
fn parse_names(text: &str) -> impl Iterator<Item = &str> {
    let mut seen = Vec::new();
    text.split_ascii_whitespace()
        .filter(|name| !name.contains('/') && *name != "." && *name != "..")
        .filter(move |name| {
            let is_new = !seen.contains(name);
            seen.push(*name);
            is_new
        })
        .take(MAX)
}

/// Settings are told as name and number: `802.3ad 4`.
fn first(text: &str) -> Option<&str> {
    text.split_ascii_whitespace().next()
}

#[cfg(test)]
mod tests {
    use nodescope_model::catalogue::Catalogue;
    use nodescope_model::rows::Stamp;
    use proptest::prelude::*;

    use super::*;
    use crate::probes::testing::{bools, fixture_options, garbage, ints, texts};

    #[test]
    fn a_bond_with_a_dead_part_is_up_and_says_so() {
        let mut rows = Rows::new(Catalogue::built_in().get("bond").unwrap());
        fill(&fixture_options().root, &mut rows);
        let batch = rows.finish(&Stamp { ts_micros: 0, node: "", host: "" });
        assert_eq!(texts(&batch, "bond"), [Some("bond0")]);
        assert_eq!(texts(&batch, "mode"), [Some("802.3ad")]);
        assert_eq!(texts(&batch, "transmit_hash_policy"), [Some("layer3+4")]);
        assert_eq!(texts(&batch, "active_slave"), [None]);
        assert_eq!(texts(&batch, "partner_address"), [Some("0c:42:a1:00:11:22")]);
        assert_eq!(bools(&batch, "up"), [Some(true)]);
        for (column, expected) in [("slaves", 2), ("slaves_up", 1), ("aggregated_ports", 1)] {
            assert_eq!(ints(&batch, column), [Some(expected)], "{column}");
        }
        let failures = format!("{:?}", batch.column_by_name("slave_link_failures").unwrap());
        assert!(failures.contains("eth1") && failures.contains('5'), "{failures}");
    }

    #[test]
    fn a_host_without_bonds_has_no_rows() {
        let directory = tempfile::tempdir().unwrap();
        let mut rows = Rows::new(Catalogue::built_in().get("bond").unwrap());
        fill(&HostRoot::new(directory.path()), &mut rows);
        assert!(rows.is_empty());
    }

    #[test]
    fn names_come_once_and_stay_in_their_folder() {
        assert_eq!(parse_names("a b a ../x .. c\n").collect::<Vec<_>>(), ["a", "b", "c"]);
        let many: Vec<String> = (0..1000).map(|n| format!("b{n}")).collect();
        assert_eq!(parse_names(&many.join(" ")).count(), MAX);
    }

    proptest! {
        #[test]
        fn garbage_is_survived(text in garbage()) {
            parse_names(&text).count();
            first(&text);
        }
    }
}
