//! Length-prefixed frames on a QUIC stream: 4 bytes little-endian, then that many bytes.
//!
//! Leaves what the bytes mean to [`crate::relay`] and [`crate::peer`].

use quinn::{RecvStream, SendStream};

/// Why no frame could be read.
#[derive(Debug, thiserror::Error)]
pub enum PrefixedError {
    /// The sender announced more than the format allows.
    #[error("frame of {len} bytes is over the limit of {limit}")]
    TooLong {
        /// Length announced, in bytes.
        len: usize,
        /// Length allowed, in bytes.
        limit: usize,
    },
    /// The stream ended inside a frame, or before one, or with the connection.
    #[error("the stream ended: {0}")]
    Ended(#[from] quinn::ReadExactError),
}

/// Reads one frame. Its length is checked against `limit`, in bytes, before memory is taken for it.
pub async fn read(stream: &mut RecvStream, limit: usize) -> Result<Vec<u8>, PrefixedError> {
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix).await?;
    let len = usize::try_from(u32::from_le_bytes(prefix)).unwrap_or(usize::MAX);
    if len > limit {
        return Err(PrefixedError::TooLong { len, limit });
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body).await?;
    Ok(body)
}

/// Writes one frame.
pub async fn write(stream: &mut SendStream, body: &[u8]) -> Result<(), quinn::WriteError> {
    let len = u32::try_from(body.len()).expect("frames are limited to far less than 4 GiB where they are made");
    let mut frame = Vec::with_capacity(4 + body.len());
    frame.extend_from_slice(&len.to_le_bytes());
    frame.extend_from_slice(body);
    stream.write_all(&frame).await
}
