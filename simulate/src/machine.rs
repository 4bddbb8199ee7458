//! The rest of a host: memory, kernel, disks, network, power, sensors.
//!
//! Each of these follows from what the host's accelerators do together ([`Sum`]): data has to be loaded for them, steps
//! have to be exchanged, and what they draw the power supplies deliver.

use std::sync::Arc;

use crate::chance::{exact, mix, unit};
use crate::cpus::threads_busy;
use crate::failures::{Ailment, Standing};
use crate::load::{Exact, Turning, Whole, device_load};
use crate::series::{Cell, Label, Layout, Series};
use crate::world::HOUR;
use crate::{Fleet, cpus, meters};

/// What a host's accelerators do together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sum {
    /// Watts.
    pub watts: f64,
    /// Devices that are busy, in whole ones.
    pub busy: f64,
    /// Devices that a job holds.
    pub held: f64,
    /// Devices that talk to other hosts, times the share of what the network carries.
    pub traffic: f64,
    /// Hottest device, degrees.
    pub celsius: f64,
}

/// The sum at a moment, and until the host's next turn or hour.
pub fn sum(fleet: &Fleet, host: usize, at: i64) -> Sum {
    let life = &fleet.lives[host];
    let mut sum = Sum::default();
    for (device, its) in life.devices.iter().enumerate() {
        if its.ails(Ailment::Lost, at).is_some() {
            continue;
        }
        let load = device_load(fleet, host, device, at);
        sum.watts += load.watts;
        sum.celsius = sum.celsius.max(load.celsius);
        if !load.is_forged {
            sum.busy += load.busy;
        }
        if let Some(job) = load.job {
            sum.held += 1.0;
            if fleet.schedule.jobs[job].grants.len() > 1 {
                sum.traffic += load.traffic;
            }
        }
    }
    sum
}

/// Watts of the whole machine without its accelerators: more when they work.
fn base_watts(busy: f64) -> f64 {
    exact(780.0 + 95.0 * busy)
}

/// Every second at which something of a host turns.
pub(crate) fn turns(fleet: &Fleet, host: usize) -> Vec<i64> {
    let life = &fleet.lives[host];
    let mut turns = life.turns();
    for (device, its) in life.devices.iter().enumerate() {
        turns.extend(fleet.schedule.uses[host][device].iter().flat_map(|u| [u.from, u.to]));
        turns.extend(its.troubles.iter().filter(|t| t.ailment == Ailment::Lost).flat_map(|t| [t.at, t.until]));
        turns.extend(fleet.attacks.on(host, device).flat_map(|o| [o.from, o.to]));
    }
    turns.extend(fleet.attacks.of_host(host).flat_map(|o| [o.from, o.to]));
    turns
}

/// Watts that the whole machine draws at a moment, and until the host's next turn or hour.
pub(crate) fn watts(fleet: &Fleet, host: usize, at: i64) -> f64 {
    if fleet.lives[host].standing(at) == Standing::Down {
        return 0.0;
    }
    let sum = sum(fleet, host, at);
    sum.watts + base_watts(sum.busy)
}

/// A number in [0, 1) that is the same for a whole hour of a host.
fn hourly(fleet: &Fleet, host: usize, at: i64, salt: u64) -> f64 {
    unit(mix(&[fleet.world.hosts[host].key, 50, salt, (at / HOUR) as u64]))
}

/// Where a host's course stands at the begin of a piece.
pub(crate) struct Now<'a> {
    fleet: &'a Fleet,
    host: usize,
    from: i64,
    pub(crate) seconds: i64,
    pub(crate) sum: Sum,
    is_down: bool,
    /// Changed with every reboot.
    boot: i64,
    shift: u8,
}

impl Now<'_> {
    /// A number in [0, 1) that is the same for the whole hour.
    pub(crate) fn hourly(&self, salt: u64) -> f64 {
        hourly(self.fleet, self.host, self.from, salt)
    }

    /// A rate, or nothing while it is down.
    pub(crate) fn rate(&self, rate: f64) -> f64 {
        if self.is_down { 0.0 } else { exact(rate) }
    }
}

/// A series of a host, whose counters begin anew with its kernel.
pub(crate) fn series<C: Default + Send + 'static>(
    fleet: &Arc<Fleet>,
    host: usize,
    layout: &'static Layout,
    labels: Vec<Label>,
    every: i64,
    mut cells: impl FnMut(&Now<'_>, &mut C) -> Vec<Cell> + Send + 'static,
) -> Series {
    let (mut counters, mut boot) = (C::default(), fleet.lives[host].boot(fleet.world.options.start));
    let owner = fleet.clone();
    let make = move |from: i64, to: i64| {
        let life = &owner.lives[host];
        let standing = life.standing(from);
        let runs = life.boot(from);
        if runs != boot {
            (counters, boot) = (C::default(), runs);
        }
        let now = Now {
            fleet: &owner,
            host,
            from,
            seconds: to - from,
            sum: sum(&owner, host, from),
            is_down: standing == Standing::Down,
            boot: runs,
            shift: (owner.world.hosts[host].key % 60) as u8,
        };
        (standing == Standing::Up, cells(&now, &mut counters))
    };
    Series::new(layout, host, labels, every, Box::new(Turning::new(fleet, turns(fleet, host), make)))
}

/// Main memory.
pub static MEMORY: Layout = Layout {
    table: "memory",
    labels: &[],
    cells: &[
        "total_bytes",
        "free_bytes",
        "available_bytes",
        "buffers_bytes",
        "cached_bytes",
        "dirty_bytes",
        "writeback_bytes",
        "anon_pages_bytes",
        "shmem_bytes",
        "slab_bytes",
        "kernel_stack_bytes",
        "page_tables_bytes",
        "swap_total_bytes",
        "swap_free_bytes",
        "page_faults",
        "major_page_faults",
        "swapped_in_pages",
        "swapped_out_pages",
        "oom_kills",
    ],
};

fn memory(fleet: &Arc<Fleet>, host: usize, every: i64) -> Series {
    let total = fleet.world.hosts[host].memory;
    series(fleet, host, &MEMORY, vec![], every, move |now, c: &mut [Whole; 5]| {
        let used = ((0.03 + 0.08 * now.sum.held + 0.01 * now.hourly(3)) * total as f64) as i64;
        let used = used.min(total * 7 / 10);
        let cached = total / 20 + (total / 100) * now.sum.held as i64;
        let free = (total - used - cached).max(1 << 30);
        // What is used and no cache is the programs', but for what the kernel keeps for itself.
        let (buffers, slab, stacks, tables): (i64, i64, i64, i64) = (1 << 30, total / 128, 1 << 26, total / 1024);
        vec![
            Cell::whole(total),
            Cell::Whole { base: free, swing: 1 << 24, shift: now.shift },
            Cell::Whole { base: free + cached * 9 / 10, swing: 1 << 24, shift: now.shift },
            Cell::whole(buffers),
            Cell::whole(cached),
            Cell::Whole { base: 1 << 28, swing: 1 << 22, shift: now.shift },
            Cell::Whole { base: 1 << 24, swing: 1 << 20, shift: now.shift },
            Cell::whole(used - buffers - slab - stacks - tables),
            Cell::whole(cached / 4),
            Cell::whole(slab),
            Cell::whole(stacks),
            Cell::whole(tables),
            Cell::whole(0),
            Cell::whole(0),
            c[0].run(now.rate(4_000.0 + 30_000.0 * now.sum.busy), now.seconds),
            c[1].run(now.rate(0.2), now.seconds),
            c[2].jump(0),
            c[3].jump(0),
            c[4].jump(0),
        ]
    })
}

/// The kernel as a whole.
pub static SYSTEM: Layout = Layout {
    table: "system",
    labels: &[],
    cells: &[
        "load1",
        "load5",
        "load15",
        "procs_running",
        "procs_blocked",
        "threads",
        "context_switches",
        "forks",
        "interrupts",
        "pressure_cpu_some_seconds",
        "pressure_memory_some_seconds",
        "pressure_memory_full_seconds",
        "pressure_io_some_seconds",
        "pressure_io_full_seconds",
        "pressure_irq_full_seconds",
        "boot_time_seconds",
        "uptime_seconds",
        "clock_synchronised",
        "clock_offset_seconds",
        "clock_max_error_seconds",
        "clock_tick_seconds",
        "clock_source",
    ],
};

fn system(fleet: &Arc<Fleet>, host: usize, every: i64) -> Series {
    series(fleet, host, &SYSTEM, vec![], every, |now, c: &mut ([Whole; 3], [Exact; 6])| {
        let (user, system, wait, soft) = threads_busy(now);
        let run = exact(user + system + soft);
        vec![
            Cell::Level { base: run, swing: exact(run * 0.01), shift: now.shift },
            Cell::Level { base: run, swing: exact(run * 0.004), shift: now.shift },
            Cell::level(run),
            Cell::Whole { base: run as i64 + 8, swing: 1, shift: now.shift },
            Cell::whole(wait.round() as i64),
            Cell::whole(2_400 + (60.0 * now.sum.held) as i64),
            c.0[0].run(now.rate(9_000.0 + 40_000.0 * now.sum.busy), now.seconds),
            c.0[1].run(now.rate(12.0), now.seconds),
            c.0[2].run(now.rate(15_000.0 + 30_000.0 * now.sum.busy), now.seconds),
            c.1[0].run(now.rate(0.004), now.seconds),
            c.1[1].run(now.rate(0.0), now.seconds),
            c.1[2].run(now.rate(0.0), now.seconds),
            c.1[3].run(now.rate(0.006 * now.sum.busy), now.seconds),
            c.1[4].run(now.rate(0.002 * now.sum.busy), now.seconds),
            c.1[5].run(now.rate(0.001), now.seconds),
            Cell::whole(now.boot + now.fleet.attacks.clock(now.host, now.from).round() as i64),
            // A clock that is set moves the time of rows, and not how long the kernel has run.
            Cell::Rising {
                start: (now.from - now.boot) as f64 - now.fleet.attacks.clock(now.host, now.from),
                rate: 1.0,
            },
            Cell::Bool(true),
            Cell::level(now.fleet.attacks.skew(now.host, now.from)),
            Cell::level(exact(0.01)),
            Cell::level(now.fleet.attacks.tick(now.host, now.from)),
            Cell::Text("tsc"),
        ]
    })
}

/// Network interfaces: `eth0` to the outside, `eth1` to the storage.
pub static INTERFACE: Layout = Layout {
    table: "interface",
    labels: &["interface", "driver", "speed_bits_per_second", "mtu_bytes"],
    cells: &[
        "operstate",
        "duplex",
        "up",
        "carrier",
        "rx_bytes",
        "tx_bytes",
        "rx_packets",
        "tx_packets",
        "rx_errors",
        "tx_errors",
        "rx_drops",
        "tx_drops",
        "carrier_changes",
        "carrier_down_changes",
    ],
};

/// Bytes a second an interface of a host receives and sends, at a moment and until the host's next turn or hour.
pub(crate) fn interface_rates(fleet: &Fleet, host: usize, at: i64, sum: &Sum, is_storage: bool) -> (f64, f64) {
    let (attacks, hourly) = (&fleet.attacks, |salt| hourly(fleet, host, at, salt));
    if is_storage {
        (2.0e6 + 1.6e8 * sum.busy + attacks.padding(host, at), 1.0e6 + 4.0e7 * sum.busy * hourly(5))
    } else {
        let (had, sent) = (attacks.downlink(host, at), attacks.uplink(host, at));
        (3.0e5 + 2.0e6 * sum.held * hourly(6) + had, 2.5e5 + 1.2e6 * sum.held * hourly(7) + sent)
    }
}

/// Segments that the host's TCP sends again, a second, where so many bytes go to the storage.
pub(crate) fn resent(sent: f64) -> f64 {
    sent / 4_000.0 * 0.0002
}

fn interface(fleet: &Arc<Fleet>, host: usize, every: i64, is_storage: bool) -> Series {
    let (name, speed) = if is_storage { ("eth1", 200_000_000_000_i64) } else { ("eth0", 25_000_000_000) };
    let labels =
        vec![name.into(), "mlx5_core".into(), speed.into(), (if is_storage { 9_000_i64 } else { 1_500 }).into()];
    series(fleet, host, &INTERFACE, labels, every, move |now, c: &mut [Whole; 10]| {
        let (received, sent) = interface_rates(now.fleet, now.host, now.from, &now.sum, is_storage);
        let size = if is_storage { 4_000.0 } else { 700.0 };
        vec![
            Cell::Text("up"),
            Cell::Text("full"),
            Cell::Bool(true),
            Cell::Bool(true),
            c[0].run(now.rate(received), now.seconds),
            c[1].run(now.rate(sent), now.seconds),
            c[2].run(now.rate(received / size), now.seconds),
            c[3].run(now.rate(sent / size), now.seconds),
            c[4].jump(0),
            c[5].jump(0),
            c[6].run(now.rate(0.01), now.seconds),
            c[7].jump(0),
            c[8].jump(0),
            c[9].jump(0),
        ]
    })
}

/// Cards behind the interfaces. The storage's packets have a priority that may not lose any: there the network pauses
/// who sends too fast.
pub static NIC: Layout = Layout {
    table: "nic",
    labels: &["interface", "driver", "firmware", "module", "module_vendor"],
    cells: &[
        "rx_discards_phy",
        "tx_discards_phy",
        "rx_out_of_buffer",
        "rx_pause_frames",
        "tx_pause_frames",
        "rx_pfc_frames",
        "tx_pfc_frames",
        "link_down_events_phy",
        "rx_crc_errors_phy",
        "rx_symbol_errors_phy",
        "rx_corrected_bits_phy",
        "module_celsius",
        "rx_power_dbm",
        "tx_power_dbm",
    ],
};

fn nic(fleet: &Arc<Fleet>, host: usize, every: i64, is_storage: bool) -> Series {
    let name = if is_storage { "eth1" } else { "eth0" };
    let labels = vec![name.into(), "mlx5_core".into(), "28.39.1002".into(), "QSFP56".into(), "Innolight".into()];
    series(fleet, host, &NIC, labels, every, move |now, c: &mut [Whole; 11]| {
        let pauses = if is_storage { 0.02 + 0.2 * now.sum.busy * now.hourly(14) } else { 0.0 };
        vec![
            c[0].jump(0),
            c[1].jump(0),
            c[2].run(now.rate(0.002), now.seconds),
            c[3].jump(0),
            c[4].jump(0),
            c[5].run(now.rate(pauses), now.seconds).lane("3"),
            c[6].run(now.rate(pauses / 8.0), now.seconds).lane("3"),
            c[7].jump(0),
            c[8].jump(0),
            c[9].jump(0),
            c[10].run(now.rate(3.0), now.seconds),
            Cell::Level { base: exact(41.0 + 2.0 * now.sum.traffic), swing: 0.125, shift: now.shift },
            Cell::level(exact(-1.5 - now.hourly(8))),
            Cell::level(exact(0.8)),
        ]
    })
}

/// Ports of the network that carries the jobs.
pub static RDMA: Layout = Layout {
    table: "rdma",
    labels: &["device", "port", "link_layer", "netdev", "firmware", "hca_type", "driver", "numa_node"],
    cells: &[
        "state",
        "state_id",
        "physical_state",
        "up",
        "rate_bits_per_second",
        "rx_bytes",
        "tx_bytes",
        "rx_packets",
        "tx_packets",
        "rx_errors",
        "tx_discards",
        "tx_wait_ticks",
        "symbol_errors",
        "link_error_recoveries",
        "link_downs",
        "np_cnp_sent",
        "np_ecn_marked_roce_packets",
        "rp_cnp_handled",
        "out_of_sequence",
        "packet_sequence_errors",
        "local_ack_timeouts",
        "rx_icrc_errors",
        "rnr_nak_retries",
    ],
};

/// Bits a second of a port.
pub const PORT_BITS: i64 = 400_000_000_000;

/// Ports of a host: one for two accelerators, and at least one.
pub fn ports(fleet: &Fleet, host: usize) -> usize {
    (fleet.world.hosts[host].devices.len() / 2).max(1)
}

/// Symbols that arrive damaged in a second, over a line that is not good yet.
pub(crate) const DAMAGED: f64 = 0.4;

/// What a port carries, marks and loses: each a second, at a moment and until the host's next turn or hour.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct PortRates {
    /// Whether its line is down.
    pub is_flat: bool,
    /// Bytes each way.
    pub bytes: f64,
    /// Packets that are marked on their way, since it is full; half are told of here, half by the other side.
    pub marked: f64,
    /// Packets that do not come in their order; half of them are asked for again.
    pub lost: f64,
    /// Those that nobody is ready for.
    pub unready: f64,
    /// Whether the line came back a short while ago, and is not good yet.
    pub is_lossy: bool,
}

/// What a port carries, marks and loses, with what the host's accelerators do together.
pub(crate) fn port_rates(fleet: &Fleet, host: usize, port: usize, at: i64, sum: &Sum) -> PortRates {
    let is_ib = fleet.world.fabrics[fleet.world.hosts[host].fabric].infiniband;
    let flaps = &fleet.lives[host].flaps;
    let is_flat = port == 0 && flaps.iter().any(|(from, to)| *from <= at && at < *to);
    let share = 1.0 / ports(fleet, host) as f64;
    let bytes = if is_flat { 0.0 } else { sum.traffic * share * PORT_BITS as f64 / 8.0 + 40.0 };
    // Congestion grows with what is sent; a line that has just come back loses packets.
    let full = 0.5 + hourly(fleet, host, at, 20 + port as u64);
    let is_lossy = flaps.iter().any(|(_, to)| port == 0 && *to <= at && at < to + 2 * HOUR);
    PortRates {
        is_flat,
        bytes,
        marked: if is_ib { 0.0 } else { bytes / 4096.0 * 0.00002 * full },
        lost: if is_lossy { 1.5 } else { 0.01 * sum.traffic },
        unready: 0.02 * sum.traffic,
        is_lossy,
    }
}

fn rdma(fleet: &Arc<Fleet>, host: usize, every: i64, port: usize) -> Series {
    let row = &fleet.world.hosts[host];
    let is_ib = fleet.world.fabrics[row.fabric].infiniband;
    let labels = vec![
        format!("mlx5_{port}").into(),
        1_i64.into(),
        (if is_ib { "InfiniBand" } else { "Ethernet" }).into(),
        format!("{}{port}", if is_ib { "ib" } else { "rdma" }).into(),
        "28.39.1002".into(),
        "MT4129".into(),
        "mlx5_core".into(),
        (if port * 2 < ports(fleet, host) { 0_i64 } else { 1 }).into(),
    ];
    series(fleet, host, &RDMA, labels, every, move |now, c: &mut [Whole; 18]| {
        let flaps = &now.fleet.lives[now.host].flaps;
        let downs = if port == 0 { flaps.iter().filter(|(from, _)| *from == now.from).count() as i64 } else { 0 };
        let PortRates { is_flat, bytes, marked, lost, unready, is_lossy } =
            port_rates(now.fleet, now.host, port, now.from, &now.sum);
        vec![
            Cell::Text(if is_flat { "DOWN" } else { "ACTIVE" }),
            Cell::State(if is_flat { 1 } else { 4 }),
            Cell::Text(if is_flat { "Polling" } else { "LinkUp" }),
            Cell::Bool(!is_flat),
            Cell::whole(PORT_BITS),
            c[0].run(now.rate(bytes), now.seconds),
            c[1].run(now.rate(bytes), now.seconds),
            c[2].run(now.rate(bytes / 4096.0), now.seconds),
            c[3].run(now.rate(bytes / 4096.0), now.seconds),
            c[4].run(now.rate(if is_lossy { 0.1 } else { 0.0 }), now.seconds),
            c[5].jump(0),
            c[6].run(now.rate(if is_ib { bytes / 1e6 } else { 0.0 }), now.seconds).told(is_ib),
            c[7].run(now.rate(if is_lossy { DAMAGED } else { 0.0 }), now.seconds).told(is_ib),
            c[8].jump(downs).told(is_ib),
            c[9].jump(downs),
            c[10].run(now.rate(marked / 2.0), now.seconds).told(!is_ib),
            c[11].run(now.rate(marked), now.seconds).told(!is_ib),
            c[12].run(now.rate(marked / 2.0), now.seconds).told(!is_ib),
            c[13].run(now.rate(lost), now.seconds),
            c[14].run(now.rate(lost / 2.0), now.seconds),
            c[15].run(now.rate(lost / 20.0), now.seconds),
            c[16].jump(0).told(!is_ib),
            c[17].run(now.rate(unready), now.seconds),
        ]
    })
}

/// What the machine draws.
pub static POWER: Layout = Layout {
    table: "power",
    labels: &["source", "domain", "zone", "package"],
    cells: &["package_joules", "dram_joules", "power_watts", "measuring"],
};

fn power(fleet: &Arc<Fleet>, host: usize, every: i64) -> Series {
    let labels = vec!["dcmi".into(), "system".into(), Label::Null, Label::Null];
    series(fleet, host, &POWER, labels, every, |now, (): &mut ()| {
        let watts = now.sum.watts + base_watts(now.sum.busy);
        vec![
            Cell::Null,
            Cell::Null,
            Cell::Level { base: watts, swing: exact(watts * 0.002), shift: now.shift },
            Cell::Bool(true),
        ]
    })
}

fn package_power(fleet: &Arc<Fleet>, host: usize, every: i64, package: i64) -> Series {
    let labels = vec![
        "rapl".into(),
        format!("intel-rapl:{package}").into(),
        format!("package-{package}").into(),
        package.into(),
    ];
    series(fleet, host, &POWER, labels, every, |now, c: &mut [Exact; 2]| {
        vec![
            c[0].run(now.rate(115.0 + 20.0 * now.sum.busy), now.seconds),
            c[1].run(now.rate(28.0 + 2.0 * now.sum.busy), now.seconds),
            Cell::Null,
            Cell::Null,
        ]
    })
}

/// Temperature of the air that a host takes in.
pub fn inlet(fleet: &Fleet, host: usize, at: i64) -> f64 {
    let warmer = if fleet.lives[host].is_hot(at) { 14.0 } else { 0.0 };
    fleet.world.hosts[host].inlet + warmer + fleet.attacks.warmer(host, at)
}

/// Sensors.
pub static SENSOR: Layout = Layout {
    table: "sensor",
    labels: &["name", "kind", "chip", "chip_name", "sensor", "label"],
    cells: &["temp_celsius", "temp_max_celsius", "temp_crit_celsius", "fan_rpm", "power_watts", "energy_joules"],
};

fn sensor(fleet: &Arc<Fleet>, host: usize, every: i64, which: usize) -> Series {
    let labels: Vec<Label> = match which {
        0 => ["acpi_inlet/temp1", "temp", "acpi_inlet", "inlet", "temp1", "Inlet"],
        1 => ["platform_coretemp_0/temp1", "temp", "platform_coretemp_0", "coretemp", "temp1", "Package id 0"],
        _ => ["platform_chassis/fan1", "fan", "platform_chassis", "chassis", "fan1", "Fan 1"],
    }
    .into_iter()
    .map(Label::from)
    .collect();
    series(fleet, host, &SENSOR, labels, every, move |now, (): &mut ()| {
        let inlet = inlet(now.fleet, now.host, now.from);
        let temp = |base: f64, swing: f64, max: f64| {
            vec![
                Cell::Level { base: exact(base), swing, shift: now.shift },
                Cell::level(max),
                Cell::level(max + 10.0),
                Cell::Null,
                Cell::Null,
                Cell::Null,
            ]
        };
        match which {
            0 => temp(inlet, 0.03125, 40.0),
            1 => temp(inlet + 22.0 + 3.0 * now.sum.busy, 0.125, 85.0),
            _ => {
                let rpm = exact(4_200.0 + 110.0 * (now.sum.celsius - 30.0).max(0.0));
                let fan = Cell::Level { base: rpm, swing: 8.0, shift: now.shift };
                vec![Cell::Null, Cell::Null, Cell::Null, fan, Cell::Null, Cell::Null]
            }
        }
    })
}

/// Connections and packets of the whole host.
pub static PROTOCOL: Layout = Layout {
    table: "protocol",
    labels: &[],
    cells: &[
        "tcp_established",
        "tcp_sockets_time_wait",
        "tcp_sockets_orphaned",
        "udp_sockets",
        "sockets",
        "tcp_active_opens",
        "tcp_passive_opens",
        "tcp_attempt_failures",
        "tcp_established_resets",
        "tcp_in_segments",
        "tcp_out_segments",
        "tcp_retransmitted_segments",
        "tcp_out_resets",
        "tcp_listen_drops",
        "udp_in_datagrams",
        "udp_out_datagrams",
        "udp_receive_buffer_errors",
        "softnet_dropped",
    ],
};

fn protocol(fleet: &Arc<Fleet>, host: usize, every: i64) -> Series {
    series(fleet, host, &PROTOCOL, vec![], every, |now, c: &mut [Whole; 13]| {
        let (received, sent) = interface_rates(now.fleet, now.host, now.from, &now.sum, true);
        let scan = now.fleet.attacks.scan(now.host, now.from);
        let opens = 1.5 + 2.0 * now.sum.held + now.hourly(9) + now.fleet.attacks.opens(now.host, now.from);
        let established = 60 + (20.0 * now.sum.held) as i64;
        let closed = (30.0 * opens) as i64;
        vec![
            Cell::Whole { base: established, swing: 1, shift: now.shift },
            Cell::whole(closed),
            Cell::whole(0),
            Cell::whole(12),
            Cell::whole(established + closed + 240),
            c[0].run(now.rate(opens + scan), now.seconds),
            c[1].run(now.rate(opens / 2.0), now.seconds),
            c[2].run(now.rate(0.02 * opens + 0.9 * scan), now.seconds),
            c[3].run(now.rate(0.05), now.seconds),
            c[4].run(now.rate(received / 4_000.0), now.seconds),
            c[5].run(now.rate(sent / 4_000.0 + scan), now.seconds),
            c[6].run(now.rate(resent(sent)), now.seconds),
            c[7].run(now.rate(0.1), now.seconds),
            c[8].jump(0),
            c[9].run(now.rate(30.0), now.seconds),
            c[10].run(now.rate(30.0), now.seconds),
            c[11].jump(0),
            c[12].jump(0),
        ]
    })
}

/// File systems.
pub static FILESYSTEM: Layout = Layout {
    table: "filesystem",
    labels: &["mountpoint", "device", "fstype"],
    cells: &["size_bytes", "free_bytes", "available_bytes", "files", "files_free", "read_only", "device_error"],
};

fn filesystem(fleet: &Arc<Fleet>, host: usize, every: i64, is_root: bool) -> Series {
    let labels: Vec<Label> = if is_root { ["/", "/dev/nvme0n1p2", "ext4"] } else { ["/data", "/dev/nvme1n1", "xfs"] }
        .into_iter()
        .map(Label::from)
        .collect();
    let size: i64 = if is_root { 890 << 30 } else { 14_000 << 30 };
    series(fleet, host, &FILESYSTEM, labels, every, move |now, (): &mut ()| {
        let part =
            if is_root { 0.32 + 0.02 * now.hourly(10) } else { 0.45 + 0.03 * now.sum.held + 0.02 * now.hourly(11) };
        let free = ((1.0 - part) * size as f64) as i64 / 4096 * 4096;
        vec![
            Cell::whole(size),
            Cell::whole(free),
            Cell::whole(free - size / 20),
            Cell::whole(58_000_000),
            Cell::whole(55_000_000),
            Cell::Bool(false),
            Cell::Bool(false),
        ]
    })
}

/// Disks.
pub static DISK: Layout = Layout {
    table: "disk",
    labels: &["device", "model", "rotational", "size_bytes"],
    cells: &[
        "reads",
        "read_bytes",
        "read_seconds",
        "writes",
        "written_bytes",
        "write_seconds",
        "flushes",
        "io_seconds",
        "io_now",
    ],
};

fn disk(fleet: &Arc<Fleet>, host: usize, every: i64) -> Series {
    let labels =
        vec!["nvme1n1".into(), "SAMSUNG MZQL215THBLA".into(), Label::Bool(false), 15_360_950_534_144_i64.into()];
    series(fleet, host, &DISK, labels, every, |now, c: &mut ([Whole; 5], [Exact; 3])| {
        let (read, written) =
            (5.0e5 + 6.0e7 * now.sum.busy * now.hourly(12), 2.0e5 + 2.0e7 * now.sum.busy * now.hourly(13));
        vec![
            c.0[0].run(now.rate(read / 131_072.0), now.seconds),
            c.0[1].run(now.rate(read), now.seconds),
            c.1[0].run(now.rate(read / 131_072.0 * 0.0002), now.seconds),
            c.0[2].run(now.rate(written / 131_072.0), now.seconds),
            c.0[3].run(now.rate(written), now.seconds),
            c.1[1].run(now.rate(written / 131_072.0 * 0.0001), now.seconds),
            c.0[4].run(now.rate(0.2), now.seconds),
            c.1[2].run(now.rate((read + written) / 1.0e9), now.seconds),
            Cell::whole(0),
        ]
    })
}

/// Which tables of the machine are made.
pub const TABLES: [&str; 11] =
    ["cpu", "memory", "system", "interface", "nic", "rdma", "power", "sensor", "protocol", "filesystem", "disk"];

/// The series of one table of a host's machine.
pub fn machine(fleet: &Arc<Fleet>, host: usize, table: &str, every: i64) -> Vec<Series> {
    match table {
        "cpu" => cpus::cpus(fleet, host, every),
        "memory" => vec![memory(fleet, host, every)],
        "system" => vec![system(fleet, host, every)],
        "interface" => [false, true].map(|storage| interface(fleet, host, every, storage)).into(),
        "nic" => [false, true].map(|storage| nic(fleet, host, every, storage)).into(),
        "rdma" => (0..ports(fleet, host)).map(|port| rdma(fleet, host, every, port)).collect(),
        // In the order of the entity: dcmi before rapl.
        "power" => {
            let mut all = vec![power(fleet, host, every)];
            all.extend([0, 1].map(|package| package_power(fleet, host, every, package)));
            all
        }
        // In the order of their names: inlet, meters, fan, processor.
        "sensor" => {
            let [inlet, fan, processor] = [0, 2, 1].map(|which| sensor(fleet, host, every, which));
            std::iter::once(inlet).chain(meters::meters(fleet, host, every)).chain([fan, processor]).collect()
        }
        "protocol" => vec![protocol(fleet, host, every)],
        "filesystem" => [true, false].map(|root| filesystem(fleet, host, every, root)).into(),
        "disk" => vec![disk(fleet, host, every)],
        _ => Vec::new(),
    }
}
