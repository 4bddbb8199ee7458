//! Which fleet a store's history is of.
//!
//! A fleet follows from a few numbers, so a store remembers those, in an object beside its tables. It is the last that a
//! history writes: a store with tables and without it holds a history that was interrupted.

use nodescope_store::{Store, StoreError};
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutMode, PutOptions};
use serde_json::{Value, json};

use crate::SimulateError;
use crate::world::Options;

/// Name of the object.
const NAME: &str = "simulate.json";

/// A fleet and what was written of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// What the fleet is made from.
    pub options: Options,
    /// Second at which the history ends.
    pub until: i64,
    /// Seconds of raw rows before that.
    pub raw: i64,
    /// Whether attacks, or what looks like them, were laid over it.
    pub has_overlays: bool,
}

impl Kept {
    /// What a store remembers; `None` where no history was written, or not to its end.
    ///
    /// # Errors
    /// When the store fails, or says something else than what was written.
    pub async fn read(store: &Store) -> Result<Option<Self>, SimulateError> {
        let path = Path::from(NAME);
        let failed = |source| StoreError::Objects { action: "read", path: path.to_string(), source };
        let bytes = match store.objects().get(&path).await {
            Ok(object) => object.bytes().await.map_err(failed)?,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(source) => return Err(failed(source).into()),
        };
        let what = || StoreError::Damaged { path: path.to_string(), what: "it is not what was written".to_owned() };
        let kept = serde_json::from_slice(&bytes).ok().and_then(|value| Self::parse(&value));
        Ok(Some(kept.ok_or_else(what)?))
    }

    /// Has a store remember it.
    pub(crate) async fn write(&self, store: &Store) -> Result<(), SimulateError> {
        let path = Path::from(NAME);
        let create = PutOptions::from(PutMode::Create);
        match store.objects().put_opts(&path, self.json().to_string().into(), create).await {
            Ok(_) => Ok(()),
            Err(source) => Err(StoreError::Objects { action: "write", path: path.to_string(), source }.into()),
        }
    }

    fn json(&self) -> Value {
        let Options { seed, hosts, accelerators, start, horizon, failures, interval } = &self.options;
        json!({
            "seed": seed, "hosts": hosts, "accelerators": accelerators, "start": start, "horizon": horizon,
            "failures": failures, "interval": interval, "until": self.until, "raw": self.raw, "has_overlays": self.has_overlays,
        })
    }

    fn parse(value: &Value) -> Option<Self> {
        let options = Options {
            seed: value["seed"].as_u64()?,
            hosts: usize::try_from(value["hosts"].as_u64()?).ok()?,
            accelerators: usize::try_from(value["accelerators"].as_u64()?).ok()?,
            start: value["start"].as_i64()?,
            horizon: value["horizon"].as_i64()?,
            failures: value["failures"].as_f64()?,
            interval: value["interval"].as_i64()?,
        };
        Some(Self {
            options,
            until: value["until"].as_i64()?,
            raw: value["raw"].as_i64()?,
            has_overlays: value["has_overlays"].as_bool()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_that_is_kept_is_the_same_fleet() {
        let options = Options { failures: 6.5, interval: 10, ..Options::around(3, 24, 8, 1_790_000_000, 30) };
        let kept = Kept { options, until: 1_789_999_980, raw: 600, has_overlays: true };
        assert_eq!(Kept::parse(&kept.json()), Some(kept));
        assert_eq!(Kept::parse(&json!({})), None);
    }
}
