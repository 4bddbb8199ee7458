use nodescope_model::catalogue::Catalogue;
use nodescope_model::rows::Stamp;

use super::*;
use crate::accelerators::VendorId;
use crate::probes::testing::{FIRST_TICK, fixture_options, texts};

fn read(values: &[(&str, &str)]) -> (ScrapeOptions, Vec<String>) {
    let mut settings = Settings::default();
    for (key, value) in values {
        settings.flag(key, Some(value));
    }
    let options = ScrapeOptions::read(&mut settings);
    (options, settings.finish().err().map(|e| e.0).unwrap_or_default())
}

#[test]
fn settings_name_exporters() {
    let (options, mistakes) = read(&[
        ("agent.scrape", "dcgm=http://127.0.0.1:9400/metrics, text=file:/var/lib/textfile"),
        ("agent.scrape_prefer", "dcgm"),
        ("agent.scrape_interval", "1m"),
    ]);
    assert!(mistakes.is_empty(), "{mistakes:?}");
    let names: Vec<_> = options.targets.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["dcgm", "text"]);
    assert_eq!(options.interval, Duration::from_secs(60));
    let (defaults, _) = read(&[]);
    let wanted = ScrapeOptions::default();
    assert_eq!(format!("{defaults:?}"), format!("{wanted:?}"), "tests use what is the default");
}

#[test]
fn mistakes_are_told() {
    let (_, mistakes) = read(&[
        (
            "agent.scrape",
            "a=https://h/?hunter2, nodescope=file:/x, A=file:/x, b, c=file:/x, c=file:/y, d=http://u:hunter2@h",
        ),
        ("agent.scrape_prefer", "nosuch"),
        ("agent.scrape_interval", "3s"),
        ("agent.scrape_timeout", "1m"),
        ("agent.scrape_body", "1"),
    ]);
    assert_eq!(mistakes.len(), 10, "{mistakes:?}");
    assert!(!mistakes.concat().contains("hunter2"), "{mistakes:?}");
}

/// The devices that have a row after this tick, and how many rows were left out.
fn devices(probe: &mut ScrapeProbe, ts_micros: i64) -> Vec<String> {
    let catalogue = Catalogue::built_in();
    let mut own = Rows::new(catalogue.get("sample").unwrap());
    let mut beside: Vec<Rows> = FILLED.iter().map(|name| Rows::new(catalogue.get(name).unwrap())).collect();
    let tick = Tick { ts_micros, ..FIRST_TICK };
    probe.sample(&tick, &mut own).unwrap();
    probe.sample_beside(&tick, &mut beside);
    let batch = beside[0].finish(&Stamp { ts_micros, node: "n", host: "h" });
    texts(&batch, "device").into_iter().flatten().map(str::to_owned).collect()
}

#[test]
fn a_card_has_one_row_at_a_tick() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.prom");
    std::fs::write(&path, "DCGM_FI_DEV_GPU_UTIL{UUID=\"GPU-1\"} 5\nix_gpu_utilization{uuid=\"GPU-2\"} 5\n").unwrap();
    let target = |name: &str| Target { name: name.to_owned(), source: Source::File(path.clone()) };
    let second = 1_000_000;
    // Two exporters of the same cards, and nobody else.
    let options = ScrapeOptions { targets: vec![target("one"), target("two")], ..ScrapeOptions::default() };
    let arbiter: &'static Arbiter = Box::leak(Box::new(Arbiter::new()));
    let mut probe = ScrapeProbe::with_arbiter(options.clone(), arbiter);
    assert_eq!(devices(&mut probe, 0), ["GPU-1", "GPU-2"]);
    // Our own reader reads one vendor, and stops.
    arbiter.own_reads(VendorId::Nvidia, 10 * second);
    assert_eq!(devices(&mut probe, 20 * second), ["GPU-2"]);
    assert_eq!(devices(&mut probe, 50 * second), ["GPU-1", "GPU-2"]);
    assert!(!arbiter.is_scraped(VendorId::Nvidia, 50 * second));
    // An exporter that goes before it.
    arbiter.own_reads(VendorId::Nvidia, 60 * second);
    let options = ScrapeOptions { prefer: ["two".to_owned()].into(), ..options };
    let mut probe = ScrapeProbe::with_arbiter(options, arbiter);
    let mut both = devices(&mut probe, 60 * second);
    both.sort();
    assert_eq!(both, ["GPU-1", "GPU-2"]);
    assert!(arbiter.is_scraped(VendorId::Nvidia, 60 * second));
    assert!(arbiter.is_scraped(VendorId::Nvidia, 70 * second));
    assert!(!arbiter.is_scraped(VendorId::Nvidia, 120 * second));
}

#[test]
fn no_exporter_is_an_absence() {
    let mut probe = ScrapeProbe::new(&fixture_options().root, ScrapeOptions::default());
    let mut rows = Rows::new(Catalogue::built_in().get("sample").unwrap());
    let error = probe.sample(&FIRST_TICK, &mut rows).unwrap_err();
    assert!(matches!(error, ProbeError::Absent(_)), "{error}");
    assert!(rows.is_empty());
}
