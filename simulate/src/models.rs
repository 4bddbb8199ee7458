//! Data sheets of accelerators: what each model can do, and what its driver tells.
//!
//! Dense and sparse figures are kept apart, because a sum of both is wrong by up to two. The figures are those that
//! the makers publish (the source of each stands beside it); where a maker publishes none, they are those commonly
//! reported. They feed the registry's nominal capacity and the physics of [`crate::load`], nothing else.

/// What a vendor's driver tells. What it does not is NULL in every row, never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tells {
    /// A counter of energy.
    pub energy: bool,
    /// Shares of time in which cores and tensor units were active.
    pub activity: bool,
    /// How busy the memory is.
    pub memory_load: bool,
    /// Why clocks are not higher, and for how long.
    pub throttling: bool,
    /// Rows of memory that were replaced.
    pub remapped_rows: bool,
    /// Pages of memory that were retired.
    pub retired_pages: bool,
    /// Corrected and uncorrected memory errors.
    pub ecc: bool,
    /// Traffic over PCIe, as a rate.
    pub pcie_rate: bool,
    /// Traffic between accelerators, as counters.
    pub links: bool,
    /// A word about its health.
    pub health: bool,
    /// The chip's voltage.
    pub voltage: bool,
}

/// A model of accelerator.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Model {
    /// As in `accelerator.vendor`.
    pub vendor: &'static str,
    /// As in `accelerator.model`.
    pub name: &'static str,
    /// Begins the identity of each device.
    pub prefix: &'static str,
    /// File below /dev, before the number.
    pub file: &'static str,
    /// Kernel module of the driver.
    pub module: &'static str,
    /// Versions of the driver in the field: approved, and older.
    pub drivers: [&'static str; 2],
    /// Version of the firmware.
    pub firmware: &'static str,
    /// Name of the log or word by which a fault is told.
    pub fault_source: &'static str,
    /// Operations a second: dense FP16, sparse FP16 where the maker names it, dense BF16, FP32 (not on tensor units), FP8
    /// and INT8 where it has them.
    pub fp16: f64,
    /// Sparse FP16: a figure that counts zeros nobody computes.
    pub fp16_sparse: Option<f64>,
    /// FP32.
    pub fp32: f64,
    /// Dense INT8.
    pub int8: Option<f64>,
    /// Bytes of memory.
    pub memory: i64,
    /// Power limit, watts.
    pub limit_watts: f64,
    /// Power at rest, watts.
    pub idle_watts: f64,
    /// Highest clock, hertz.
    pub clock: i64,
    /// Clock of the memory, hertz.
    pub memory_clock: i64,
    /// Links to other accelerators.
    pub links: i64,
    /// What a link carries each way, bytes a second.
    pub link_bytes: i64,
    /// What the driver tells.
    pub tells: Tells,
}

const GIB: i64 = 1 << 30;
const ALL: Tells = Tells {
    energy: true,
    activity: true,
    memory_load: true,
    throttling: true,
    remapped_rows: true,
    retired_pages: false,
    ecc: true,
    pcie_rate: true,
    links: true,
    health: false,
    voltage: false,
};

/// The models of the fleet, with a weight each in [`SHARES`].
pub const MODELS: [Model; 9] = [
    // NVIDIA H100 data sheet (SXM): FP16 1,979 TFLOPS "with sparsity", half of it dense; 700 W; 80 GB; NVLink 900 GB/s.
    Model {
        vendor: "nvidia",
        name: "NVIDIA H100 80GB HBM3",
        prefix: "GPU",
        file: "nvidia",
        module: "nvidia",
        drivers: ["550.90.07", "535.183.06"],
        firmware: "96.00.99.00.01",
        fault_source: "nvml",
        fp16: 989e12,
        fp16_sparse: Some(1979e12),
        fp32: 67e12,
        int8: Some(1979e12),
        memory: 80 * GIB,
        limit_watts: 700.0,
        idle_watts: 72.0,
        clock: 1_980_000_000,
        memory_clock: 2_619_000_000,
        links: 18,
        link_bytes: 25_000_000_000,
        tells: ALL,
    },
    // NVIDIA A100 data sheet (SXM): FP16 312 TFLOPS dense, 624 sparse; 400 W; 80 GB; NVLink 600 GB/s.
    Model {
        vendor: "nvidia",
        name: "NVIDIA A100-SXM4-80GB",
        prefix: "GPU",
        file: "nvidia",
        module: "nvidia",
        drivers: ["550.90.07", "535.183.06"],
        firmware: "92.00.9e.00.05",
        fault_source: "nvml",
        fp16: 312e12,
        fp16_sparse: Some(624e12),
        fp32: 19.5e12,
        int8: Some(624e12),
        memory: 80 * GIB,
        limit_watts: 400.0,
        idle_watts: 55.0,
        clock: 1_410_000_000,
        memory_clock: 1_593_000_000,
        links: 12,
        link_bytes: 25_000_000_000,
        tells: ALL,
    },
    // NVIDIA H20, as widely reported: FP16 148 TFLOPS dense, 296 sparse; 96 GB; 400 W; NVLink 900 GB/s.
    Model {
        vendor: "nvidia",
        name: "NVIDIA H20",
        prefix: "GPU",
        file: "nvidia",
        module: "nvidia",
        drivers: ["550.90.07", "535.183.06"],
        firmware: "96.00.a5.00.03",
        fault_source: "nvml",
        fp16: 148e12,
        fp16_sparse: Some(296e12),
        fp32: 44e12,
        int8: Some(296e12),
        memory: 96 * GIB,
        limit_watts: 400.0,
        idle_watts: 60.0,
        clock: 1_980_000_000,
        memory_clock: 2_619_000_000,
        links: 18,
        link_bytes: 25_000_000_000,
        tells: ALL,
    },
    // Ascend 910B, as widely reported: FP16 320 TFLOPS, INT8 640 TOPS, 64 GB, 392 W. npu-smi tells no energy counter.
    Model {
        vendor: "ascend",
        name: "910B3",
        prefix: "NPU",
        file: "davinci",
        module: "drv_davinci_intf_host",
        drivers: ["24.1.rc3", "23.0.7"],
        firmware: "7.5.0.1.129",
        fault_source: "dcmi",
        fp16: 320e12,
        fp16_sparse: None,
        fp32: 80e12,
        int8: Some(640e12),
        memory: 64 * GIB,
        limit_watts: 392.0,
        idle_watts: 90.0,
        clock: 1_800_000_000,
        memory_clock: 1_600_000_000,
        links: 7,
        link_bytes: 28_000_000_000,
        tells: Tells {
            energy: false,
            activity: true,
            memory_load: true,
            throttling: false,
            remapped_rows: false,
            retired_pages: true,
            ecc: true,
            pcie_rate: true,
            links: true,
            health: true,
            voltage: true,
        },
    },
    // Hygon DCU K100_AI, as its makers' sellers publish: FP16 192 TFLOPS, FP32 49 TFLOPS, INT8 392 TOPS, 64 GB, 350 W.
    Model {
        vendor: "hygon",
        name: "K100_AI",
        prefix: "DCU",
        file: "dri/renderD",
        module: "hydcu",
        drivers: ["6.2.26", "5.16.29"],
        firmware: "113-D1631700",
        fault_source: "kernel",
        fp16: 192e12,
        fp16_sparse: None,
        fp32: 49e12,
        int8: Some(392e12),
        memory: 64 * GIB,
        limit_watts: 350.0,
        idle_watts: 65.0,
        clock: 1_500_000_000,
        memory_clock: 1_750_000_000,
        links: 4,
        link_bytes: 23_000_000_000,
        tells: Tells {
            energy: true,
            activity: false,
            memory_load: true,
            throttling: false,
            remapped_rows: false,
            retired_pages: false,
            ecc: true,
            pcie_rate: false,
            links: false,
            health: false,
            voltage: true,
        },
    },
    // Cambricon MLU370-X8 data sheet: FP16 96 TFLOPS, FP32 24 TFLOPS, INT8 256 TOPS, 48 GB, 250 W.
    Model {
        vendor: "cambricon",
        name: "MLU370-X8",
        prefix: "MLU",
        file: "cambricon_dev",
        module: "cambricon_drv",
        drivers: ["5.10.29", "5.10.22"],
        firmware: "1.1.6",
        fault_source: "cndev",
        fp16: 96e12,
        fp16_sparse: None,
        fp32: 24e12,
        int8: Some(256e12),
        memory: 48 * GIB,
        limit_watts: 250.0,
        idle_watts: 48.0,
        clock: 1_300_000_000,
        memory_clock: 3_200_000_000,
        links: 6,
        link_bytes: 12_500_000_000,
        tells: Tells {
            energy: true,
            activity: true,
            memory_load: true,
            throttling: true,
            remapped_rows: true,
            retired_pages: true,
            ecc: true,
            pcie_rate: true,
            links: true,
            health: true,
            voltage: true,
        },
    },
    // MetaX C500, as its makers' sellers publish: FP16 240 TFLOPS, FP32 15 TFLOPS, INT8 480 TOPS, 64 GB, 350 W.
    Model {
        vendor: "metax",
        name: "MXC500",
        prefix: "GPU-MX",
        file: "dri/renderD",
        module: "metax",
        drivers: ["2.14.6", "2.12.13"],
        firmware: "1.21.3.0",
        fault_source: "mxsml",
        fp16: 240e12,
        fp16_sparse: None,
        fp32: 15e12,
        int8: Some(480e12),
        memory: 64 * GIB,
        limit_watts: 350.0,
        idle_watts: 58.0,
        clock: 1_600_000_000,
        memory_clock: 1_800_000_000,
        links: 7,
        link_bytes: 32_000_000_000,
        tells: Tells {
            energy: false,
            activity: false,
            memory_load: false,
            throttling: true,
            remapped_rows: false,
            retired_pages: true,
            ecc: true,
            pcie_rate: true,
            links: true,
            health: true,
            voltage: false,
        },
    },
    // Moore Threads MTT S4000 data sheet: FP16 100 TFLOPS, FP32 25 TFLOPS, INT8 200 TOPS, 48 GB, 450 W.
    Model {
        vendor: "moore-threads",
        name: "MTT S4000",
        prefix: "MTGPU",
        file: "mtgpu.",
        module: "mtgpu",
        drivers: ["2.7.0", "2.6.1"],
        firmware: "3.4.4",
        fault_source: "mtml",
        fp16: 100e12,
        fp16_sparse: None,
        fp32: 25e12,
        int8: Some(200e12),
        memory: 48 * GIB,
        limit_watts: 450.0,
        idle_watts: 62.0,
        clock: 1_750_000_000,
        memory_clock: 2_000_000_000,
        links: 0,
        link_bytes: 0,
        tells: Tells {
            energy: false,
            activity: false,
            memory_load: true,
            throttling: false,
            remapped_rows: false,
            retired_pages: false,
            ecc: true,
            pcie_rate: true,
            links: false,
            health: false,
            voltage: false,
        },
    },
    // Iluvatar BI-V150, as its maker publishes: FP16 192 TFLOPS, FP32 48 TFLOPS, INT8 384 TOPS, 64 GB, 350 W.
    Model {
        vendor: "iluvatar",
        name: "Iluvatar BI-V150",
        prefix: "GPU-BI",
        file: "iluvatar",
        module: "bi_driver",
        drivers: ["4.2.0", "4.1.2"],
        firmware: "3.1.1",
        fault_source: "ixml",
        fp16: 192e12,
        fp16_sparse: None,
        fp32: 48e12,
        int8: Some(384e12),
        memory: 64 * GIB,
        limit_watts: 350.0,
        idle_watts: 55.0,
        clock: 1_500_000_000,
        memory_clock: 1_600_000_000,
        links: 0,
        link_bytes: 0,
        tells: Tells {
            energy: false,
            activity: false,
            memory_load: true,
            throttling: true,
            remapped_rows: false,
            retired_pages: false,
            ecc: true,
            pcie_rate: true,
            links: false,
            health: false,
            voltage: false,
        },
    },
];

/// How much of the fleet each model is, in the order of [`MODELS`].
pub const SHARES: [f64; 9] = [0.26, 0.14, 0.12, 0.22, 0.09, 0.05, 0.06, 0.03, 0.03];

impl Model {
    /// Nominal capacity by precision and sparsity: the rows of the registry.
    pub fn capacities(&self) -> Vec<(&'static str, &'static str, f64)> {
        let mut all = vec![("fp16", "dense", self.fp16), ("fp32", "dense", self.fp32)];
        all.extend(self.fp16_sparse.map(|flops| ("fp16", "sparse", flops)));
        all.extend(self.int8.map(|flops| ("int8", "dense", flops)));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_the_models_and_sparse_is_never_dense() {
        assert!((SHARES.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        for model in &MODELS {
            assert!(model.fp16_sparse.is_none_or(|sparse| sparse > 1.5 * model.fp16), "{}", model.name);
            assert!(model.idle_watts < model.limit_watts / 2.0, "{}", model.name);
        }
    }
}
