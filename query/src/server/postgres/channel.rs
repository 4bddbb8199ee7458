//! The bytes between a client and the server.
//!
//! A channel reads whole messages and writes whole messages, over a plain socket or over TLS. Reading can stop at
//! any byte and go on later, and so can writing: that is what lets the server watch for a client that goes away
//! while its query runs, and give up on a client that does not read, without ever cutting a message in two.

use std::io;

use bytes::{Bytes, BytesMut};
use pgwire::error::PgWireError;
use pgwire::messages::PgWireBackendMessage;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::wire::{self, Frontend, Opening, WireError};

/// Room for one read, in bytes.
const READ_SIZE: usize = 8 * 1024;
/// What a client may send ahead while its query runs, in bytes; beyond it the socket's own buffer must do.
const READ_AHEAD: usize = 64 * 1024;
/// How much is collected before it is written, in bytes.
pub(super) const WRITE_SIZE: usize = 64 * 1024;

/// A plain socket or TLS.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send + Sync {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync> Duplex for T {}

/// Why nothing more can be read or written.
#[derive(Debug, Error)]
pub(super) enum ChannelError {
    #[error("the connection failed")]
    Io(#[from] io::Error),
    #[error("the client does not keep to the protocol")]
    Wire(#[from] WireError),
}

/// One client's connection.
pub(super) struct Channel {
    stream: Box<dyn Duplex>,
    input: BytesMut,
    output: BytesMut,
}

impl Channel {
    pub(super) fn new(stream: Box<dyn Duplex>) -> Self {
        Channel { stream, input: BytesMut::new(), output: BytesMut::new() }
    }

    /// Reads the opening message and not a byte more, so that what follows can still be TLS. `None` if the client
    /// hangs up instead. It must not be dropped half-way.
    pub(super) async fn opening(&mut self) -> Result<Option<Opening>, ChannelError> {
        let mut prefix = [0; 4];
        if self.stream.read(&mut prefix[..1]).await? == 0 {
            return Ok(None);
        }
        self.stream.read_exact(&mut prefix[1..]).await?;
        let mut body = vec![0; wire::opening_length(prefix)?];
        self.stream.read_exact(&mut body).await?;
        Ok(Some(wire::opening(body.into())?))
    }

    /// Answers an opening message with a single byte.
    pub(super) async fn answer(&mut self, byte: u8) -> Result<(), ChannelError> {
        self.stream.write_all(&[byte]).await?;
        self.stream.flush().await?;
        Ok(())
    }

    /// The stream itself, when nothing has been read ahead or is waiting to be written.
    pub(super) fn into_stream(self) -> Box<dyn Duplex> {
        debug_assert!(self.input.is_empty() && self.output.is_empty(), "nothing may be lost");
        self.stream
    }

    /// The next message of at most `limit` bytes; `None` when the client has hung up. It may be dropped at any time.
    pub(super) async fn next(&mut self, limit: usize) -> Result<Option<Frontend>, ChannelError> {
        loop {
            if let Some((kind, body)) = self.take_frame(limit)? {
                return Ok(Some(wire::message(kind, body)?));
            }
            if self.fill().await? == 0 {
                return Ok(None);
            }
        }
    }

    fn take_frame(&mut self, limit: usize) -> Result<Option<(u8, Bytes)>, WireError> {
        let &[kind, a, b, c, d, ..] = &self.input[..] else { return Ok(None) };
        let length = wire::body_length([a, b, c, d], limit)?;
        if self.input.len() < 5 + length {
            return Ok(None);
        }
        let mut frame = self.input.split_to(5 + length).freeze();
        Ok(Some((kind, frame.split_off(5))))
    }

    async fn fill(&mut self) -> io::Result<usize> {
        self.input.reserve(READ_SIZE);
        self.stream.read_buf(&mut self.input).await
    }

    /// Waits until the client hangs up, and keeps what it sends until then. It may be dropped at any time.
    pub(super) async fn hang_up(&mut self) {
        while self.input.len() < READ_AHEAD {
            match self.fill().await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        // More is not read ahead, so a hang-up behind it is not seen; the time limit of the statement holds.
        std::future::pending::<()>().await;
    }

    /// Adds a message to what is to be written.
    ///
    /// # Errors
    /// When the message cannot be encoded; then nothing of it is kept.
    pub(super) fn put(&mut self, message: &PgWireBackendMessage) -> Result<(), PgWireError> {
        let before = self.output.len();
        message.encode(&mut self.output).inspect_err(|_| self.output.truncate(before))
    }

    /// Bytes that wait to be written.
    pub(super) fn waiting(&self) -> usize {
        self.output.len()
    }

    /// Writes everything that waits. Dropped half-way, it goes on where it stopped when it is called again.
    pub(super) async fn flush(&mut self) -> Result<(), ChannelError> {
        while !self.output.is_empty() {
            if self.stream.write_buf(&mut self.output).await? == 0 {
                return Err(ChannelError::Io(io::ErrorKind::WriteZero.into()));
            }
        }
        self.stream.flush().await?;
        Ok(())
    }

    /// Says good-bye to the other side, as TLS wants it.
    pub(super) async fn close(&mut self) {
        // Whoever has gone already need not be told.
        let _ = self.stream.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use pgwire::messages::response::CommandComplete;
    use tokio::io::duplex;

    use super::*;

    #[tokio::test]
    async fn messages_are_put_together_from_whatever_pieces_arrive() {
        let (mut client, server) = duplex(1);
        let mut channel = Channel::new(Box::new(server));
        let writer = tokio::spawn(async move {
            client.write_all(b"Q\0\0\0\x0dselect 1\0S\0\0\0\x04").await.expect("written");
            client
        });
        assert_eq!(channel.next(100).await.expect("read"), Some(Frontend::Query("select 1".to_owned())));
        assert_eq!(channel.next(100).await.expect("read"), Some(Frontend::Sync));
        drop(writer.await.expect("no panic"));
        assert_eq!(channel.next(100).await.expect("read"), None);
    }

    #[tokio::test]
    async fn a_message_that_is_too_long_is_refused_before_it_is_read() {
        let (mut client, server) = duplex(64);
        let mut channel = Channel::new(Box::new(server));
        client.write_all(b"Q\x3f\xff\xff\xff").await.expect("written");
        assert!(matches!(channel.next(1000).await, Err(ChannelError::Wire(WireError::TooLong { .. }))));
    }

    #[tokio::test]
    async fn the_opening_is_read_and_not_a_byte_more() {
        let (mut client, server) = duplex(64);
        let mut channel = Channel::new(Box::new(server));
        client.write_all(&[0, 0, 0, 8, 4, 210, 22, 47, 0x16, 3, 1]).await.expect("written");
        assert_eq!(channel.opening().await.expect("read"), Some(Opening::Ssl));
        let mut rest = [0; 3];
        channel.into_stream().read_exact(&mut rest).await.expect("still there");
        assert_eq!(rest, [0x16, 3, 1]);
    }

    #[tokio::test]
    async fn writing_goes_on_where_it_stopped() {
        let (mut client, server) = duplex(4);
        let mut channel = Channel::new(Box::new(server));
        let tag = "x".repeat(50);
        channel.put(&PgWireBackendMessage::CommandComplete(CommandComplete::new(tag.clone()))).expect("encoded");
        let whole = channel.waiting();
        {
            let mut flush = Box::pin(channel.flush());
            assert!(futures::poll!(&mut flush).is_pending());
        }
        assert!(channel.waiting() < whole);
        let reader = tokio::spawn(async move {
            let mut all = vec![0; whole];
            client.read_exact(&mut all).await.expect("read");
            all
        });
        channel.flush().await.expect("written");
        let all = reader.await.expect("no panic");
        assert_eq!(all[0], b'C');
        assert!(String::from_utf8_lossy(&all).contains(&tag));
    }

    #[tokio::test]
    async fn a_hang_up_is_noticed_and_what_came_before_it_is_kept() {
        let (mut client, server) = duplex(64);
        let mut channel = Channel::new(Box::new(server));
        client.write_all(b"S\0\0\0\x04").await.expect("written");
        drop(client);
        channel.hang_up().await;
        assert_eq!(channel.next(100).await.expect("kept"), Some(Frontend::Sync));
    }
}
