//! Numbers by the textbook, and the slow way: percentiles, intervals of counts, straight lines with their bands, and
//! growth day by day.
#![allow(dead_code, reason = "shared by tests, each of which uses some")]

/// What a share of values does not exceed, between two of them in proportion.
pub fn percentile(values: &[f64], share: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = share * (sorted.len().checked_sub(1)?) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    Some(below + (above - below) * place.fract())
}

/// The mean at which `count` or fewer events have this probability: by halving.
fn mean_where(count: u64, probability: f64) -> f64 {
    let at_most = |mean: f64| {
        let mut term = (-mean).exp();
        let mut sum = term;
        for k in 1..=count {
            term *= mean / k as f64;
            sum += term;
        }
        sum
    };
    let (mut low, mut high) = (0.0, 10.0 * (count as f64 + 5.0));
    for _ in 0..200 {
        let middle = (low + high) / 2.0;
        if at_most(middle) > probability { low = middle } else { high = middle }
    }
    low
}

/// The exact interval of 95 % for a count of Poisson's.
pub fn interval(count: u64) -> (f64, f64) {
    (if count == 0 { 0.0 } else { mean_where(count - 1, 0.975) }, mean_where(count, 0.025))
}

/// Student's t that 95 of 100 stay within: its density added up in small steps, and halving.
pub fn student(freedom: f64) -> f64 {
    let within = |t: f64| {
        let steps = 4_000;
        let width = t / f64::from(steps);
        let density = |x: f64| (1.0 + x * x / freedom).powf(-(freedom + 1.0) / 2.0);
        (0..steps).map(|n| density(width * (f64::from(n) + 0.5))).sum::<f64>() * width
    };
    let all = within(400.0);
    let (mut low, mut high) = (0.0, 100.0);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if within(middle) < 0.95 * all { low = middle } else { high = middle }
    }
    low
}

/// A straight line by least squares.
pub struct Line {
    pub n: f64,
    pub x: f64,
    pub y: f64,
    pub sxx: f64,
    pub slope: f64,
    /// Standard deviation of what is beside the line.
    pub beside: f64,
    pub r2: Option<f64>,
}

impl Line {
    pub fn through(points: &[(f64, f64)]) -> Self {
        let n = points.len() as f64;
        let (x, y) = (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n);
        let sxx: f64 = points.iter().map(|p| (p.0 - x).powi(2)).sum();
        let syy: f64 = points.iter().map(|p| (p.1 - y).powi(2)).sum();
        let slope = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum::<f64>() / sxx;
        let rest: f64 = points.iter().map(|p| (p.1 - y - slope * (p.0 - x)).powi(2)).sum();
        let beside = (rest / (n - 2.0)).sqrt();
        Self { n, x, y, sxx, slope, beside, r2: (syy > 1e-12).then(|| 1.0 - rest / syy) }
    }

    /// An edge of the band: so many deviations above the line.
    pub fn edge(&self, at: f64, deviations: f64) -> f64 {
        let wide = self.beside * (1.0 / self.n + (at - self.x).powi(2) / self.sxx).sqrt();
        self.y + self.slope * (at - self.x) + deviations * wide
    }

    /// First time after now at which an edge is at 1, within a thousand years.
    pub fn reaches(&self, deviations: f64) -> Option<f64> {
        if self.edge(0.0, deviations) >= 1.0 {
            return Some(0.0);
        }
        let (mut low, mut high) = (0.0, 52_000.0);
        if self.edge(high, deviations) < 1.0 {
            return None;
        }
        for _ in 0..200 {
            let middle = (low + high) / 2.0;
            if self.edge(middle, deviations) >= 1.0 { high = middle } else { low = middle }
        }
        Some(high)
    }

    /// Whether it rises for sure: by so many deviations of its slope.
    pub fn rises(&self, deviations: f64) -> bool {
        self.slope > deviations * self.beside / self.sxx.sqrt()
    }
}

/// What a counter grew by, hour by hour: in all, in the last day, and in the hours before that.
#[derive(Debug, Default, Clone, Copy)]
pub struct Growth {
    pub all: Option<f64>,
    pub last_day: Option<f64>,
    pub before: Option<f64>,
    pub hours_before: f64,
}

impl Growth {
    /// Adds an hour.
    pub fn add(&mut self, more: f64, is_last_day: bool) {
        *self.all.get_or_insert(0.0) += more;
        if is_last_day {
            *self.last_day.get_or_insert(0.0) += more;
        } else {
            *self.before.get_or_insert(0.0) += more;
            self.hours_before += 1.0;
        }
    }

    /// What a day was before the last.
    pub fn day_before(&self) -> Option<f64> {
        self.before.map(|before| before * 24.0 / self.hours_before)
    }

    /// Whether the last day is more than twice what a day was before.
    pub fn rises(&self) -> bool {
        self.last_day.zip(self.day_before()).is_some_and(|(day, before)| day > 2.0 * before)
    }
}
