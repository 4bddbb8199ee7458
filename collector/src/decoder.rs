//! From a Kafka message to rows, or to the reason why not.
//!
//! Everything here comes from strangers. There is one rule: whatever arrives has an outcome. Rows in the shape of
//! their table, or a reason of one word with a sentence, for `quarantine`.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use nodescope_model::catalogue::{Catalogue, Table};
use nodescope_model::conform::conform;
use nodescope_model::record::{Decoder, Envelope};

/// A message as it lies on Kafka, borrowed.
#[derive(Debug, Clone, Copy)]
pub struct Raw<'a> {
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its headers.
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
    /// Its value.
    pub value: Option<&'a [u8]>,
}

/// A record that could be read.
#[derive(Debug)]
pub struct Decoded {
    /// Which record.
    pub envelope: Envelope,
    /// Its table.
    pub table: Arc<Table>,
    /// Its rows, in the table's schema.
    pub batches: Vec<RecordBatch>,
    /// Columns that the table does not have, left out.
    pub unknown: Vec<String>,
}

/// Why a record is set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// One word: `headers`, `table`, `bytes` or `columns`.
    pub reason: &'static str,
    /// A sentence.
    pub detail: String,
}

/// Reads messages. Keeps the schemas it has seen.
pub struct MessageDecoder {
    catalogue: Arc<Catalogue>,
    decoder: Decoder,
}

impl MessageDecoder {
    /// A decoder for the tables of this catalogue.
    pub fn new(catalogue: Arc<Catalogue>) -> Self {
        Self { catalogue, decoder: Decoder::default() }
    }

    /// The headers alone, which is enough to know whether the record was taken before.
    ///
    /// # Errors
    /// Why the record is set aside.
    pub fn envelope(&self, raw: Raw<'_>) -> Result<Envelope, Refusal> {
        Envelope::from_headers(raw.headers.iter().copied())
            .map_err(|e| Refusal { reason: "headers", detail: e.to_string() })
    }

    /// The rows.
    ///
    /// # Errors
    /// Why the record is set aside.
    pub fn decode(&mut self, envelope: Envelope, raw: Raw<'_>) -> Result<Decoded, Refusal> {
        let table = self.catalogue.get(&envelope.table).cloned().ok_or_else(|| Refusal {
            reason: "table",
            detail: format!("there is no table `{}` in this collector's catalogue", shorten(&envelope.table)),
        })?;
        if table.own {
            let detail = format!("`{}` is written by Nodescope's own programs, and never taken from Kafka", table.name);
            return Err(Refusal { reason: "table", detail });
        }
        let value = raw
            .value
            .filter(|v| !v.is_empty())
            .ok_or_else(|| Refusal { reason: "bytes", detail: "the record has no value".into() })?;
        let found = self
            .decoder
            .decode(&Buffer::from(value))
            .map_err(|e| Refusal { reason: "bytes", detail: shorten(&e.to_string()) })?;
        let mut batches = Vec::with_capacity(found.len());
        let mut unknown = Vec::new();
        for batch in found {
            let conformed =
                conform(&batch, &table).map_err(|e| Refusal { reason: "columns", detail: shorten(&e.to_string()) })?;
            unknown = conformed.unknown;
            if conformed.batch.num_rows() > 0 {
                batches.push(conformed.batch);
            }
        }
        Ok(Decoded { envelope, table, batches, unknown })
    }
}

/// Messages may quote what came, and what came may be long.
fn shorten(text: &str) -> String {
    const MOST: usize = 500;
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use nodescope_model::identity::RecordId;
    use nodescope_model::record::encode;
    use nodescope_model::rows::{Rows, Stamp};
    use proptest::prelude::*;

    use super::*;

    fn decoder() -> MessageDecoder {
        MessageDecoder::new(Arc::new(Catalogue::built_in()))
    }

    fn value() -> Vec<u8> {
        let catalogue = Catalogue::built_in();
        let mut rows = Rows::new(catalogue.get("memory").unwrap());
        rows.begin().int("total_bytes", 1);
        encode(&rows.finish(&Stamp { ts_micros: 1, node: "n", host: "h" })).unwrap()
    }

    fn headers(table: &str) -> Vec<(&'static str, String)> {
        Envelope {
            table: table.into(),
            schema: 1,
            id: RecordId { agent: "a".into(), boot: 1, seq: 1 },
            clock_offset_us: None,
        }
        .to_headers()
    }

    fn decode(headers: &[(&'static str, String)], value: Option<&[u8]>) -> Result<Decoded, Refusal> {
        let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, Some(v.as_bytes()))).collect();
        let raw = Raw { key: None, headers: &headers, value };
        let mut decoder = decoder();
        let envelope = decoder.envelope(raw)?;
        decoder.decode(envelope, raw)
    }

    #[test]
    fn a_record_of_the_agent_s_is_read() {
        let decoded = decode(&headers("memory"), Some(&value())).unwrap();
        assert_eq!((decoded.table.name.as_str(), decoded.batches.len()), ("memory", 1));
    }

    #[test]
    fn each_way_to_be_wrong_has_its_reason() {
        let reason =
            |headers: &[(&'static str, String)], value: Option<&[u8]>| decode(headers, value).unwrap_err().reason;
        assert_eq!(reason(&headers("memory")[1..], Some(&value())), "headers");
        assert_eq!(reason(&headers("nosuch"), Some(&value())), "table");
        // What is approved, who is registered and which incidents there are is not for agents to say.
        for own in ["registry_approved", "alert", "schedule_run", "cpu_1m", "quarantine"] {
            assert_eq!(reason(&headers(own), Some(&value())), "table", "{own}");
        }
        assert_eq!(reason(&headers("memory"), None), "bytes");
        assert_eq!(reason(&headers("memory"), Some(b"")), "bytes");
        assert_eq!(reason(&headers("memory"), Some(b"hello")), "bytes");
        assert_eq!(reason(&headers("cpu"), Some(&value())), "columns");
    }

    proptest! {
        #[test]
        fn anything_has_an_outcome(
            headers in prop::collection::vec(("[a-z_]{0,12}", prop::option::of(prop::collection::vec(any::<u8>(), 0..20))), 0..8),
            value in prop::option::of(prop::collection::vec(any::<u8>(), 0..200)),
        ) {
            let headers: Vec<_> = headers.iter().map(|(n, v)| (n.as_str(), v.as_deref())).collect();
            let raw = Raw { key: None, headers: &headers, value: value.as_deref() };
            let mut decoder = decoder();
            if let Ok(envelope) = decoder.envelope(raw) {
                let _ = decoder.decode(envelope, raw);
            }
        }
    }
}
