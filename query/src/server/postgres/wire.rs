//! The messages of the PostgreSQL protocol as they come from a client.
//!
//! `pgwire` decodes them too, but it trusts the counts and lengths inside a message and panics where they lie, it
//! collects up to a gigabyte from somebody who has not logged in, and it passes on what was sent in clear before
//! TLS began. What strangers send must be read by code that expects the worst, so the frontend half of the
//! protocol, which is small, is read here: every field is checked against the bytes that are there, every text is
//! UTF-8, and no length is believed before it has been compared with a bound. What the server answers is encoded
//! by `pgwire`.

use bytes::{Buf, Bytes};
use thiserror::Error;

/// Longest message before a client has logged in, in bytes; PostgreSQL's own bound.
pub(super) const LONGEST_OPENING: usize = 10_000;

const SSL_REQUEST: i32 = 80_877_103;
const GSS_REQUEST: i32 = 80_877_104;
const CANCEL_REQUEST: i32 = 80_877_102;

/// What is wrong with a message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum WireError {
    #[error("a message of {length} bytes is longer than the {limit} bytes allowed here")]
    TooLong { length: i64, limit: usize },
    #[error("a message has an invalid length")]
    BadLength,
    #[error("unknown message type {0:#04x}")]
    UnknownMessage(u8),
    #[error("a {0} message ends too early or holds too much")]
    Malformed(&'static str),
    #[error("text is not valid UTF-8")]
    NotText,
    #[error("protocol {0}.{1} is not supported")]
    UnsupportedProtocol(u16, u16),
}

/// The first message of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Opening {
    Ssl,
    GssEncryption,
    Cancel { pid: i32, secret: Bytes },
    Startup { minor: u16, parameters: Vec<(String, String)> },
}

/// Which kind of object a message names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Statement,
    Portal,
}

/// The parameters of a portal.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bind {
    pub portal: String,
    pub statement: String,
    pub parameter_formats: Vec<i16>,
    pub parameters: Vec<Option<Bytes>>,
    pub result_formats: Vec<i16>,
}

/// A message of a client that is past the opening.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frontend {
    Query(String),
    Parse {
        name: String,
        sql: String,
        types: Vec<u32>,
    },
    Bind(Bind),
    Describe(Target, String),
    Execute {
        portal: String,
        max_rows: usize,
    },
    Close(Target, String),
    Flush,
    Sync,
    Terminate,
    /// A password or a step of SASL; which one depends on what was asked.
    Password(Bytes),
    /// A function call, which only very old clients make.
    FunctionCall,
    /// What belongs to COPY, which is never begun here and may be ignored.
    Copy,
}

/// The length of the opening message, from its first four bytes, without these four.
///
/// # Errors
/// When it is out of bounds.
pub(super) fn opening_length(prefix: [u8; 4]) -> Result<usize, WireError> {
    checked_length(i32::from_be_bytes(prefix), 8, LONGEST_OPENING)
}

/// The length of a message's body.
///
/// # Errors
/// When it is out of bounds.
pub(super) fn body_length(length: [u8; 4], limit: usize) -> Result<usize, WireError> {
    checked_length(i32::from_be_bytes(length), 4, limit)
}

fn checked_length(length: i32, least: usize, limit: usize) -> Result<usize, WireError> {
    let Ok(whole) = usize::try_from(length) else { return Err(WireError::BadLength) };
    if whole > limit {
        return Err(WireError::TooLong { length: i64::from(length), limit });
    }
    if whole < least {
        return Err(WireError::BadLength);
    }
    Ok(whole - 4)
}

/// Reads the opening message, without its length.
///
/// # Errors
/// When it is none of the four there are.
pub(super) fn opening(body: Bytes) -> Result<Opening, WireError> {
    let mut body = Body { bytes: body, name: "startup" };
    let code = body.i32()?;
    match code {
        SSL_REQUEST => body.end(Opening::Ssl),
        GSS_REQUEST => body.end(Opening::GssEncryption),
        CANCEL_REQUEST => {
            let pid = body.i32()?;
            let secret = body.rest();
            // Four bytes in protocol 3.0, up to 256 in 3.2.
            if !(4..=256).contains(&secret.len()) {
                return Err(WireError::Malformed("cancel"));
            }
            Ok(Opening::Cancel { pid, secret })
        }
        version => {
            let [a, b, c, d] = version.to_be_bytes();
            let (major, minor) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            if major != 3 {
                return Err(WireError::UnsupportedProtocol(major, minor));
            }
            let mut parameters = Vec::new();
            loop {
                let name = body.text()?;
                if name.is_empty() {
                    return body.end(Opening::Startup { minor, parameters });
                }
                parameters.push((name, body.text()?));
            }
        }
    }
}

/// Reads a message from its type and its body.
///
/// # Errors
/// When there is no such type or the body does not have its form.
pub(super) fn message(kind: u8, body: Bytes) -> Result<Frontend, WireError> {
    let mut body = Body { bytes: body, name: "" };
    match kind {
        b'Q' => {
            body.name = "query";
            let sql = body.text()?;
            body.end(Frontend::Query(sql))
        }
        b'P' => {
            body.name = "parse";
            let (name, sql) = (body.text()?, body.text()?);
            let types = body.counted(Body::u32)?;
            body.end(Frontend::Parse { name, sql, types })
        }
        b'B' => {
            body.name = "bind";
            let (portal, statement) = (body.text()?, body.text()?);
            let parameter_formats = body.counted(Body::i16)?;
            let parameters = body.counted(Body::value)?;
            let result_formats = body.counted(Body::i16)?;
            body.end(Frontend::Bind(Bind { portal, statement, parameter_formats, parameters, result_formats }))
        }
        b'D' => {
            body.name = "describe";
            let (target, name) = (body.target()?, body.text()?);
            body.end(Frontend::Describe(target, name))
        }
        b'E' => {
            body.name = "execute";
            let portal = body.text()?;
            // Zero means no limit, and so does whatever is below it.
            let max_rows = usize::try_from(body.i32()?).unwrap_or(0);
            body.end(Frontend::Execute { portal, max_rows })
        }
        b'C' => {
            body.name = "close";
            let (target, name) = (body.target()?, body.text()?);
            body.end(Frontend::Close(target, name))
        }
        b'H' => body.end(Frontend::Flush),
        b'S' => body.end(Frontend::Sync),
        b'X' => Ok(Frontend::Terminate),
        b'p' => Ok(Frontend::Password(body.rest())),
        b'F' => Ok(Frontend::FunctionCall),
        b'd' | b'c' | b'f' => Ok(Frontend::Copy),
        other => Err(WireError::UnknownMessage(other)),
    }
}

/// A step of SASL that begins with the mechanism's name.
///
/// # Errors
/// When it does not have that form.
pub(super) fn sasl_initial(body: Bytes) -> Result<(String, Bytes), WireError> {
    let mut body = Body { bytes: body, name: "SASL" };
    let mechanism = body.text()?;
    let data = body.value()?.unwrap_or_default();
    body.end((mechanism, data))
}

/// The body of a message, from which fields are taken one after the other.
struct Body {
    bytes: Bytes,
    name: &'static str,
}

impl Body {
    fn need(&self, bytes: usize) -> Result<(), WireError> {
        if self.bytes.remaining() < bytes { Err(WireError::Malformed(self.name)) } else { Ok(()) }
    }

    fn u8(&mut self) -> Result<u8, WireError> {
        self.need(1)?;
        Ok(self.bytes.get_u8())
    }

    fn i16(&mut self) -> Result<i16, WireError> {
        self.need(2)?;
        Ok(self.bytes.get_i16())
    }

    fn i32(&mut self) -> Result<i32, WireError> {
        self.need(4)?;
        Ok(self.bytes.get_i32())
    }

    fn u32(&mut self) -> Result<u32, WireError> {
        self.need(4)?;
        Ok(self.bytes.get_u32())
    }

    /// A text that ends with NUL.
    fn text(&mut self) -> Result<String, WireError> {
        let end = self.bytes.iter().position(|byte| *byte == 0).ok_or(WireError::Malformed(self.name))?;
        let text = self.bytes.split_to(end);
        self.bytes.advance(1);
        String::from_utf8(text.to_vec()).map_err(|_| WireError::NotText)
    }

    /// A value with its length before it; a negative length is NULL.
    fn value(&mut self) -> Result<Option<Bytes>, WireError> {
        match usize::try_from(self.i32()?) {
            Err(_) => Ok(None),
            Ok(length) => {
                self.need(length)?;
                Ok(Some(self.bytes.split_to(length)))
            }
        }
    }

    fn target(&mut self) -> Result<Target, WireError> {
        match self.u8()? {
            b'S' => Ok(Target::Statement),
            b'P' => Ok(Target::Portal),
            _ => Err(WireError::Malformed(self.name)),
        }
    }

    /// Fields with their number before them. Nothing is set aside for a number that the bytes do not bear out.
    fn counted<T>(&mut self, one: impl Fn(&mut Self) -> Result<T, WireError>) -> Result<Vec<T>, WireError> {
        self.need(2)?;
        let count = self.bytes.get_u16();
        (0..count).map(|_| one(self)).collect()
    }

    fn rest(&mut self) -> Bytes {
        self.bytes.split_to(self.bytes.len())
    }

    fn end<T>(&self, value: T) -> Result<T, WireError> {
        if self.bytes.is_empty() { Ok(value) } else { Err(WireError::Malformed(self.name)) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(parts: &[&[u8]]) -> Bytes {
        Bytes::from(parts.concat())
    }

    #[test]
    fn lengths_are_compared_with_their_bounds() {
        for (length, limit, expected) in [
            (4, 100, Ok(0)),
            (100, 100, Ok(96)),
            (101, 100, Err(WireError::TooLong { length: 101, limit: 100 })),
            (3, 100, Err(WireError::BadLength)),
            (0, 100, Err(WireError::BadLength)),
            (-1, 100, Err(WireError::BadLength)),
            (i32::MAX, 100, Err(WireError::TooLong { length: i64::from(i32::MAX), limit: 100 })),
        ] {
            assert_eq!(body_length(i32::to_be_bytes(length), limit), expected, "{length}");
        }
        assert_eq!(opening_length(i32::to_be_bytes(8)), Ok(4));
        assert_eq!(opening_length(i32::to_be_bytes(7)), Err(WireError::BadLength));
        assert!(opening_length(*b"GET ").is_err(), "a browser is not a client");
    }

    #[test]
    fn the_four_openings_are_told_apart() {
        assert_eq!(opening(Bytes::from_static(&[4, 210, 22, 47])), Ok(Opening::Ssl));
        assert_eq!(opening(Bytes::from_static(&[4, 210, 22, 48])), Ok(Opening::GssEncryption));
        let cancel = bytes(&[&[4, 210, 22, 46], &7i32.to_be_bytes(), b"abcd"]);
        assert_eq!(opening(cancel), Ok(Opening::Cancel { pid: 7, secret: Bytes::from_static(b"abcd") }));
        let startup = bytes(&[&[0, 3, 0, 0], b"user\0ada\0application_name\0\0\0"]);
        let parameters = vec![("user".to_owned(), "ada".to_owned()), ("application_name".to_owned(), String::new())];
        assert_eq!(opening(startup), Ok(Opening::Startup { minor: 0, parameters }));
        assert_eq!(opening(Bytes::from_static(&[0, 2, 0, 0, 0])), Err(WireError::UnsupportedProtocol(2, 0)));
    }

    #[test]
    fn messages_are_read_field_by_field() {
        assert_eq!(message(b'Q', Bytes::from_static(b"select 1\0")), Ok(Frontend::Query("select 1".to_owned())));
        let parse = bytes(&[b"s\0select $1\0", &[0, 1], &23u32.to_be_bytes()]);
        assert_eq!(
            message(b'P', parse),
            Ok(Frontend::Parse { name: "s".to_owned(), sql: "select $1".to_owned(), types: vec![23] })
        );
        let bind = bytes(&[b"\0s\0", &[0, 1, 0, 1], &[0, 2], &[255; 4], &[0, 0, 0, 1, 9], &[0, 0]]);
        let Ok(Frontend::Bind(bind)) = message(b'B', bind) else { panic!("a bind") };
        assert_eq!(bind.parameter_formats, [1]);
        assert_eq!(bind.parameters, [None, Some(Bytes::from_static(&[9]))]);
        assert_eq!(
            message(b'E', bytes(&[b"\0", &(-5i32).to_be_bytes()])),
            Ok(Frontend::Execute { portal: String::new(), max_rows: 0 })
        );
    }

    #[test]
    fn lies_are_found_out() {
        for (kind, body) in [
            (b'Q', &b"no end"[..]),
            (b'Q', b"two\0texts\0"),
            (b'Q', b"\xff\0"),
            (b'P', b"s\0select\0"),
            (b'P', b"s\0select\0\xff\xff"),
            (b'B', b"\0\0\0\0\0\x01\x7f\xff\xff\xff"),
            (b'D', b"X\0"),
            (b'E', b"\0\0"),
            (b'S', b"more"),
            (b'!', b""),
        ] {
            assert!(message(kind, Bytes::copy_from_slice(body)).is_err(), "{} {body:?}", char::from(kind));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_whatever_make_the_reader_panic(
            kind in any::<u8>(),
            body in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let body = Bytes::from(body);
            let _ = message(kind, body.clone());
            let _ = opening(body.clone());
            let _ = sasl_initial(body);
        }
    }
}
