//! Mean and maximum between two ticks, of what moves faster than ticks come.
//!
//! A card that works in bursts looks idle at one tick and full at the next. So load and power are looked at several
//! times between two ticks, and the row says what their mean and their maximum were. A window without a look has
//! neither.

use std::collections::HashMap;

use nodescope_model::rows::Row;

/// Sum, number and largest of some values.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Span {
    sum: f64,
    count: u32,
    max: f64,
}

impl Span {
    fn add(&mut self, value: f64) {
        self.max = if self.count == 0 { value } else { self.max.max(value) };
        self.sum += value;
        self.count += 1;
    }

    fn mean_and_max(self) -> Option<(f64, f64)> {
        (self.count > 0).then(|| (self.sum / f64::from(self.count), self.max))
    }
}

/// What has been seen of each device since its last row.
#[derive(Debug, Default)]
pub(crate) struct Window {
    devices: HashMap<String, (Span, Span)>,
}

impl Window {
    /// Takes one look at a device: its load, a share of one, and its power in watts.
    pub(crate) fn look(&mut self, device: &str, utilization_ratio: Option<f64>, power_watts: Option<f64>) {
        if !self.devices.contains_key(device) {
            self.devices.insert(device.to_owned(), Default::default());
        }
        if let Some((utilization, power)) = self.devices.get_mut(device) {
            utilization_ratio.filter(|v| v.is_finite()).inspect(|v| utilization.add(*v));
            power_watts.filter(|v| v.is_finite()).inspect(|v| power.add(*v));
        }
    }

    /// Fills the columns of one device's row, and begins its next window.
    pub(crate) fn fill(&mut self, device: &str, row: &mut Row<'_>) {
        let (utilization, power) = self.devices.remove(device).unwrap_or_default();
        let (utilization, power) = (utilization.mean_and_max(), power.mean_and_max());
        row.float("utilization_mean_ratio", utilization.map(|(mean, _)| mean))
            .float("utilization_max_ratio", utilization.map(|(_, max)| max))
            .float("power_mean_watts", power.map(|(mean, _)| mean))
            .float("power_max_watts", power.map(|(_, max)| max));
    }

    /// Forgets devices nobody made a row of at this tick: what is gone must not grow.
    pub(crate) fn end_of_tick(&mut self) {
        self.devices.clear();
    }
}

#[cfg(test)]
mod tests {
    use nodescope_model::catalogue::Catalogue;
    use nodescope_model::rows::{Rows, Stamp};

    use super::*;
    use crate::probes::testing::floats;

    #[test]
    fn bursts_between_ticks_are_seen() {
        let catalogue = Catalogue::built_in();
        let mut rows = Rows::new(catalogue.get("accelerator").unwrap());
        let mut window = Window::default();
        for (load, power) in [(0.0, Some(80.0)), (1.0, Some(400.0)), (0.5, None), (0.5, Some(f64::NAN))] {
            window.look("a", Some(load), power);
        }
        for device in ["a", "a", "b"] {
            window.fill(device, rows.begin().text("device", device));
        }
        let batch = rows.finish(&Stamp { ts_micros: 0, node: "n", host: "h" });
        assert_eq!(floats(&batch, "utilization_mean_ratio"), [Some(0.5), None, None]);
        assert_eq!(floats(&batch, "utilization_max_ratio"), [Some(1.0), None, None]);
        assert_eq!(floats(&batch, "power_mean_watts"), [Some(240.0), None, None]);
        assert_eq!(floats(&batch, "power_max_watts"), [Some(400.0), None, None]);
    }
}
