//! Reads and writes the frames of device-to-device streams: lengths checked before anything is allocated.
//!
//! The layout is `schemas/src/wire.rs`'s; this module meets it with QUIC streams and zstd.

use hearth_schemas::codec;
use hearth_schemas::wire::{Carrier, MAX_MESSAGE};
use quinn::{ReadExactError, RecvStream, SendStream};

/// Longest stream head, in bytes.
const MAX_HEAD: usize = 64 << 10;
/// Bodies shorter than this are not worth compressing, in bytes.
const COMPRESS_FROM: usize = 512;

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The connection or stream is gone.
    #[error("the stream ended: {0}")]
    Ended(String),
    /// The peer sent what cannot be.
    #[error("the peer sent {0}")]
    Nonsense(&'static str),
}

impl From<quinn::WriteError> for FrameError {
    fn from(error: quinn::WriteError) -> Self {
        Self::Ended(error.to_string())
    }
}

/// Writes the head of a stream.
pub async fn write_head(stream: &mut SendStream, carrier: &Carrier) -> Result<(), FrameError> {
    let body = codec::encode(carrier);
    let mut bytes = u32::try_from(body.len()).expect("a head is short").to_le_bytes().to_vec();
    bytes.extend_from_slice(&body);
    Ok(stream.write_all(&bytes).await?)
}

/// Reads the head of a stream.
pub async fn read_head(stream: &mut RecvStream) -> Result<Carrier, FrameError> {
    let len = read_u32(stream).await?.ok_or(FrameError::Nonsense("a stream without a head"))?;
    let body = read_body(stream, len, MAX_HEAD).await?;
    codec::decode(&body, MAX_HEAD).map_err(|_| FrameError::Nonsense("a malformed stream head"))
}

/// Makes a frame of a body, compressed where that helps.
pub fn pack(body: &[u8]) -> Vec<u8> {
    let packed = if body.len() >= COMPRESS_FROM { zstd::bulk::compress(body, 1).ok() } else { None };
    let (raw_len, content) = match &packed {
        Some(packed) if packed.len() + packed.len() / 16 < body.len() => (body.len(), packed.as_slice()),
        _ => (0, body),
    };
    let mut out = Vec::with_capacity(8 + content.len());
    out.extend_from_slice(&u32::try_from(content.len() + 4).expect("a frame is bounded").to_le_bytes());
    out.extend_from_slice(&u32::try_from(raw_len).expect("a frame is bounded").to_le_bytes());
    out.extend_from_slice(content);
    out
}

/// Reads one frame's body; `None` at the end of the stream.
pub async fn read_frame(stream: &mut RecvStream) -> Result<Option<Vec<u8>>, FrameError> {
    let Some(len) = read_u32(stream).await? else { return Ok(None) };
    let content = read_body(stream, len, MAX_MESSAGE + 4).await?;
    let (raw_len, content) = content.split_first_chunk::<4>().ok_or(FrameError::Nonsense("a frame too short"))?;
    let raw_len = u32::from_le_bytes(*raw_len) as usize;
    if raw_len == 0 {
        return Ok(Some(content.to_vec()));
    }
    if raw_len > MAX_MESSAGE {
        return Err(FrameError::Nonsense("a frame too long"));
    }
    let raw = unpack(content, raw_len).map_err(|_| FrameError::Nonsense("a frame that does not decompress"))?;
    if raw.len() != raw_len {
        return Err(FrameError::Nonsense("a frame of another length than it says"));
    }
    Ok(Some(raw))
}

/// Decompresses into at most `raw_len` bytes, with a window of at most 8 MiB.
pub fn unpack(content: &[u8], raw_len: usize) -> std::io::Result<Vec<u8>> {
    let mut decompressor = zstd::bulk::Decompressor::new()?;
    decompressor.window_log_max(23)?;
    decompressor.decompress(content, raw_len)
}

async fn read_u32(stream: &mut RecvStream) -> Result<Option<usize>, FrameError> {
    let mut bytes = [0; 4];
    match stream.read_exact(&mut bytes).await {
        Ok(()) => Ok(Some(u32::from_le_bytes(bytes) as usize)),
        Err(ReadExactError::FinishedEarly(0)) => Ok(None),
        Err(error) => Err(FrameError::Ended(error.to_string())),
    }
}

async fn read_body(stream: &mut RecvStream, len: usize, limit: usize) -> Result<Vec<u8>, FrameError> {
    if len > limit {
        return Err(FrameError::Nonsense("a frame too long"));
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body).await.map_err(|error| FrameError::Ended(error.to_string()))?;
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bomb_is_refused_at_its_declared_length() {
        let bomb = zstd::bulk::compress(&vec![0u8; 64 << 20], 19).expect("compresses");
        assert!(unpack(&bomb, MAX_MESSAGE).is_err());
    }

    #[test]
    fn what_does_not_shrink_goes_as_it_is() {
        let mut noise = vec![0; 4096];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        assert_eq!(pack(&noise)[4..8], [0; 4]);
        assert!(pack(&[7; 4096]).len() < 100);
    }
}
