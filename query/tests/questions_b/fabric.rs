//! `fabric_health`: growth summed by hand, beside the bytes of the same time.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::store::{HOUR, MINUTE, Row, Rows, START, assert_same, row, time};

const HOURS: i64 = 6;

/// A sum that is unknown as long as nothing is known.
fn plus(sum: &mut Option<f64>, value: Option<i64>) {
    if let Some(value) = value {
        *sum = Some(sum.unwrap_or(0.0) + value as f64);
    }
}

fn both(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    (a.is_some() || b.is_some()).then(|| a.unwrap_or(0.0) + b.unwrap_or(0.0))
}

fn per_terabyte(count: Option<f64>, bytes: Option<f64>) -> Option<f64> {
    let bytes = bytes.filter(|bytes| *bytes > 0.0)?;
    count.map(|count| 1e12 * count / bytes)
}

#[derive(Default, Clone, Copy)]
struct Port {
    bytes: Option<f64>,
    recent_bytes: Option<f64>,
    retransmits: Option<f64>,
    pauses: Option<f64>,
    pfc: Option<f64>,
    notifications: Option<f64>,
    flaps: Option<f64>,
    crc: Option<f64>,
}

impl Port {
    fn row(&self, host: &str, kind: &str, port: &str) -> Row {
        row(json!({
            "node": "n", "host": host, "kind": kind, "port": port, "bytes": self.bytes,
            "retransmits": self.retransmits, "pauses": self.pauses, "pfc_pauses": self.pfc,
            "congestion_notifications": self.notifications, "flaps": self.flaps, "crc_errors": self.crc,
            "retransmits_per_terabyte": per_terabyte(self.retransmits, self.bytes),
            "pauses_per_terabyte": per_terabyte(self.pauses, self.bytes),
            "pfc_pauses_per_terabyte": per_terabyte(self.pfc, self.recent_bytes),
            "congestion_notifications_per_terabyte": per_terabyte(self.notifications, self.bytes),
            "flaps_per_terabyte": per_terabyte(self.flaps, self.bytes),
            "crc_errors_per_terabyte": per_terabyte(self.crc, self.bytes),
        }))
    }
}

/// Samples of counters by priority, with a reset, and what they grew by.
fn pfc(random: &mut StdRng, rows: &mut Rows, host: &str) -> Option<f64> {
    let mut grown: Option<f64> = None;
    for name in ["rx_pfc_frames", "tx_pfc_frames"] {
        if random.random_bool(0.2) {
            continue;
        }
        let mut before: Option<i64> = None;
        let mut counters = [random.random_range(0..1_000_i64), random.random_range(0..1_000)];
        for sample in 0..30 {
            if sample == 17 {
                counters = [0, 0];
            }
            counters[0] += random.random_range(0..50);
            counters[1] += random.random_range(0..50);
            let mut told = json!({ "ts": time(START + (HOURS - 1) * HOUR + sample * MINUTE), "node": "n", "host": host,
                "interface": "eth0" });
            told[name] = json!({ "0": counters[0], "3": counters[1] });
            // Both directions are columns of one row; apart they are two rows of the same time.
            rows.add("nic", told);
            let total = counters[0] + counters[1];
            if let Some(before) = before {
                let growth = if total < before { total } else { total - before };
                grown = Some(grown.unwrap_or(0.0) + growth as f64);
            }
            before = Some(total);
        }
    }
    grown
}

#[tokio::test]
async fn ports_beside_their_bytes() {
    for seed in 80..88 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut rows = Rows::default();
        let mut expected = Vec::new();
        for host in ["a", "b"] {
            let (mut wire, mut rdma, mut tcp) = (Port::default(), Port::default(), Port::default());
            let frozen = random.random_bool(0.2);
            for hour in 0..HOURS {
                let mut some = |most: i64| random.random_bool(0.8).then(|| random.random_range(0..most));
                let stamp = |table: &str, more: Value| {
                    let mut row = json!({ "ts": time(START + hour * HOUR), "node": "n", "host": host, "revision": 0,
                        "samples": 60 });
                    for (name, value) in more.as_object().unwrap() {
                        row[name] = value.clone();
                    }
                    (table.to_owned(), row)
                };
                let (rx, tx) = if frozen { (0, 0) } else { (some(1 << 40).unwrap_or(1), some(1 << 40).unwrap_or(2)) };
                let (crc, flaps, pause) = (some(9), some(3), [some(99), some(99)]);
                let (phy_down, phy_crc) = (some(5), some(5));
                let sent = [some(9), some(9), some(9), some(9), some(9)];
                let notified = [some(99), some(99), some(99)];
                let (downs, icrc, symbols) = (some(2), some(4), some(4));
                let again = some(1_000);
                let told = [
                    stamp(
                        "interface_1h",
                        json!({ "interface": "eth0", "driver": "mlx5_core", "rx_bytes_increase": rx,
                        "tx_bytes_increase": tx, "rx_crc_errors_increase": crc,
                        "carrier_down_changes_increase": flaps }),
                    ),
                    // What is only software has no line.
                    stamp(
                        "interface_1h",
                        json!({ "interface": "veth0", "rx_bytes_increase": 5, "tx_bytes_increase": 5 }),
                    ),
                    stamp(
                        "nic_1h",
                        json!({ "interface": "eth0", "rx_pause_frames_increase": pause[0],
                        "tx_pause_frames_increase": pause[1], "link_down_events_phy_increase": phy_down,
                        "rx_crc_errors_phy_increase": phy_crc }),
                    ),
                    stamp(
                        "rdma_1h",
                        json!({ "device": "mlx5_0", "port": 1, "netdev": "eth0", "rx_bytes_increase": rx,
                        "tx_bytes_increase": tx, "packet_sequence_errors_increase": sent[0],
                        "local_ack_timeouts_increase": sent[1], "rnr_nak_retries_increase": sent[2],
                        "implied_nak_sequence_errors_increase": sent[3],
                        "roce_adaptive_retransmissions_increase": sent[4], "np_cnp_sent_increase": notified[0],
                        "rp_cnp_handled_increase": notified[1], "rp_cnp_ignored_increase": notified[2],
                        "link_downs_increase": downs, "rx_icrc_errors_increase": icrc,
                        "symbol_errors_increase": symbols }),
                    ),
                    stamp("protocol_1h", json!({ "tcp_retransmitted_segments_increase": again })),
                ];
                for (table, row) in told {
                    rows.add(&table, row);
                }
                for port in [&mut wire, &mut rdma, &mut tcp] {
                    plus(&mut port.bytes, Some(rx + tx));
                }
                plus(&mut wire.crc, crc);
                plus(&mut wire.flaps, flaps);
                for pause in pause {
                    plus(&mut wire.pauses, pause);
                    plus(&mut rdma.pauses, pause);
                }
                for count in sent {
                    plus(&mut rdma.retransmits, count);
                }
                for count in notified {
                    plus(&mut rdma.notifications, count);
                }
                plus(&mut rdma.flaps, downs);
                plus(&mut rdma.crc, icrc);
                plus(&mut rdma.crc, symbols);
                plus(&mut tcp.retransmits, again);
            }
            for minute in 0..60 {
                let (rx, tx) = (random.random_range(0..1 << 30_i64), random.random_range(0..1 << 30_i64));
                let ts = time(START + (HOURS - 1) * HOUR + minute * MINUTE);
                rows.add("interface_1m", json!({ "ts": ts, "node": "n", "host": host, "interface": "eth0",
                    "driver": "mlx5_core", "revision": 0, "samples": 6, "rx_bytes_increase": rx, "tx_bytes_increase": tx }));
                rows.add(
                    "rdma_1m",
                    json!({ "ts": ts, "node": "n", "host": host, "device": "mlx5_0", "port": 1,
                    "revision": 0, "samples": 6, "rx_bytes_increase": rx, "tx_bytes_increase": tx }),
                );
                plus(&mut wire.recent_bytes, Some(rx + tx));
                plus(&mut rdma.recent_bytes, Some(rx + tx));
            }
            let grown = pfc(&mut random, &mut rows, host);
            (wire.pfc, rdma.pfc) = (both(None, grown), both(grown, None));
            expected.push(wire.row(host, "interface", "eth0"));
            expected.push(rdma.row(host, "rdma", "mlx5_0/1"));
            expected.push(tcp.row(host, "tcp", ""));
        }
        let asked = rows.open().await;
        let sql = format!("SELECT * FROM fabric_health('{}', '{}')", time(START), time(START + HOURS * HOUR));
        assert_same(&format!("seed {seed}"), &["host", "kind", "port"], &asked.ask(&sql).await, &expected);
    }
    assert!(Rows::default().open().await.ask("SELECT * FROM fabric_health").await.is_empty());
}
