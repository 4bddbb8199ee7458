//! The SQL functions a time series needs and DataFusion lacks.
//!
//! | Function | Answers |
//! |---|---|
//! | `time_bucket(width, ts [, origin])` | the start of the bucket a time falls into |
//! | `increase(counter, ts)` | how much a counter grew, resets included |
//! | `rate(counter, ts)` | the same per second |
//! | `first(value, ts)`, `last(value, ts)` | the value at the earliest, the latest time |
//! | `rollup_latest`, `rollup_levels`, `rollup_growths` | many columns at once, for minutes (see `rollup`) |
//! | `date_bin(stride, ts [, origin])` | DataFusion's own, with the type of `ts` kept |
//!
//! Where a function says the same as something DataFusion already does well, it only rewrites itself into that, so
//! that ordering, fast paths and statistics keep working; only the counters are computed here.

mod bounded;
mod counter;
mod date_bin;
mod newest;
mod rollup;
mod time_bucket;
mod width;

use datafusion::logical_expr::{AggregateUDF, ScalarUDF};
use datafusion::prelude::SessionContext;

pub use bounded::bound;
pub(crate) use date_bin::date_bin;

/// Makes every function of this module known to `ctx`. DataFusion's `date_bin` is replaced under its own name.
pub fn install(ctx: &SessionContext) {
    ctx.register_udf(date_bin().as_ref().clone());
    ctx.register_udf(ScalarUDF::new_from_impl(time_bucket::TimeBucket::new()));
    for measure in [counter::Measure::Increase, counter::Measure::Rate] {
        ctx.register_udaf(AggregateUDF::new_from_impl(counter::CounterFunction::new(measure)));
    }
    for fold in rollup::Fold::ALL {
        ctx.register_udaf(AggregateUDF::new_from_impl(rollup::RollupFunction::new(fold)));
    }
    for end in [newest::End::First, newest::End::Last] {
        ctx.register_udaf(AggregateUDF::new_from_impl(newest::AtEnd::new(end)));
    }
}
