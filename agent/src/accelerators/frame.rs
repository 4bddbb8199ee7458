//! What the agent and its worker say to each other, over the worker's standard input and output.
//!
//! ```text
//! agent → worker   one line a tick:  `<ts_micros> <1 at the first tick, else 0>\n`
//! worker → agent   frames:           kind u8 | length u32, little-endian | body
//! ```
//!
//! A frame is a batch of one table (its number, then an Arrow IPC stream, the form of records on Kafka), or the end of
//! an answer: whether the library answered, and why not. The agent bounds what it takes: a library that overwrites the
//! worker's memory may make it say anything.

use std::io::{self, Read, Write};

use crate::probe::{ProbeError, Tick};

/// A frame is no longer than this; an answer of a thousand devices is a tenth of it.
const MAX_FRAME: usize = 16 << 20;

/// One thing the worker says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Rows of the table with that number, as an Arrow IPC stream.
    Rows(u8, Vec<u8>),
    /// The answer to a tick is complete.
    Done(Outcome),
}

/// How the tick went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The library answered.
    Well,
    /// There is nothing of this kind here.
    Absent(String),
    /// It is there and does not do its part.
    Failed(String),
}

impl Outcome {
    pub(crate) fn of(result: &Result<(), ProbeError>) -> Self {
        match result {
            Ok(()) => Self::Well,
            Err(ProbeError::Absent(reason)) => Self::Absent(reason.clone()),
            Err(error) => Self::Failed(nodescope_service::errors::chain(error)),
        }
    }
}

impl Frame {
    pub(crate) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let (kind, first, body): (u8, Option<u8>, &[u8]) = match self {
            Self::Rows(table, bytes) => (0, Some(*table), bytes),
            Self::Done(Outcome::Well) => (1, None, &[]),
            Self::Done(Outcome::Absent(text)) => (2, None, text.as_bytes()),
            Self::Done(Outcome::Failed(text)) => (3, None, text.as_bytes()),
        };
        let length = u32::try_from(body.len() + usize::from(first.is_some())).map_err(io::Error::other)?;
        out.write_all(&[kind])?;
        out.write_all(&length.to_le_bytes())?;
        out.write_all(first.as_slice())?;
        out.write_all(body)
    }

    /// The next frame; `None` at the end.
    ///
    /// # Errors
    /// When what comes is no frame.
    pub(crate) fn read(from: &mut dyn Read) -> io::Result<Option<Self>> {
        let mut head = [0u8; 5];
        match from.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        let [kind, length @ ..] = head;
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_FRAME {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is too long"));
        }
        let mut body = Vec::new();
        from.take(length as u64).read_to_end(&mut body)?;
        if body.len() < length {
            return Ok(None);
        }
        let text = |body: Vec<u8>| String::from_utf8_lossy(&body).into_owned();
        match (kind, body.first()) {
            (0, Some(&table)) => Ok(Some(Self::Rows(table, body.split_off(1)))),
            (1, None) => Ok(Some(Self::Done(Outcome::Well))),
            (2, _) => Ok(Some(Self::Done(Outcome::Absent(text(body))))),
            (3, _) => Ok(Some(Self::Done(Outcome::Failed(text(body))))),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a frame of no known kind")),
        }
    }
}

/// The request for a tick.
pub(crate) fn request(tick: &Tick) -> String {
    format!("{} {}\n", tick.ts_micros, u8::from(tick.first))
}

/// The tick of a request; `None` for a line that is none.
pub(crate) fn parse_request(line: &str) -> Option<Tick> {
    let (ts, first) = line.trim_end().split_once(' ')?;
    Some(Tick {
        ts_micros: ts.parse().ok()?,
        first: match first {
            "0" => false,
            "1" => true,
            _ => return None,
        },
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn frames_come_back_as_they_went() {
        let frames = [
            Frame::Rows(2, vec![1, 2, 3]),
            Frame::Rows(0, Vec::new()),
            Frame::Done(Outcome::Well),
            Frame::Done(Outcome::Absent("no card".to_owned())),
            Frame::Done(Outcome::Failed(String::new())),
        ];
        let mut bytes = Vec::new();
        for frame in &frames {
            frame.write(&mut bytes).unwrap();
        }
        let mut read = &bytes[..];
        for frame in frames {
            assert_eq!(Frame::read(&mut read).unwrap(), Some(frame));
        }
        assert_eq!(Frame::read(&mut read).unwrap(), None);
        assert_eq!(Frame::read(&mut &bytes[..7]).unwrap(), None, "cut short is the end, not an answer");
        assert!(Frame::read(&mut &[9, 0, 0, 0, 0][..]).is_err());
        assert!(Frame::read(&mut &[0, 255, 255, 255, 255][..]).is_err());
    }

    #[test]
    fn requests_are_ticks() {
        for tick in [Tick { ts_micros: 5, first: true }, Tick { ts_micros: -1, first: false }] {
            assert_eq!(parse_request(&request(&tick)), Some(tick));
        }
        for line in ["", "5", "5 2", "x 1"] {
            assert_eq!(parse_request(line), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200), line in any::<String>()) {
            let mut read = &bytes[..];
            while let Ok(Some(_)) = Frame::read(&mut read) {}
            parse_request(&line);
        }
    }
}
