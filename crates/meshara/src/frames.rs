//! Length-prefixed frames on a stream: four bytes of length, big-endian, then the body.

use quinn::{ReadExactError, RecvStream, SendStream, WriteError};

/// Why a frame could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameReadError {
    /// Longer than the reader allows.
    #[error("a frame of {length} bytes exceeds {limit}")]
    TooLong {
        /// Announced length.
        length: usize,
        /// The reader's limit.
        limit: usize,
    },
    /// The stream ended or broke.
    #[error("the stream ended: {0}")]
    Stream(#[from] ReadExactError),
}

/// Writes one frame.
pub(crate) async fn write_frame(send: &mut SendStream, body: &[u8]) -> Result<(), WriteError> {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    send.write_all(&length.to_be_bytes()).await?;
    send.write_all(body).await
}

/// Appends one frame to bytes that will be written together.
pub(crate) fn append_frame(bytes: &mut Vec<u8>, body: &[u8]) {
    bytes.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(body);
}

/// Reads one frame of at most `limit` bytes.
pub(crate) async fn read_frame(receive: &mut RecvStream, limit: usize) -> Result<Vec<u8>, FrameReadError> {
    let mut length = [0; 4];
    receive.read_exact(&mut length).await?;
    let length = u32::from_be_bytes(length) as usize;
    if length > limit {
        return Err(FrameReadError::TooLong { length, limit });
    }
    let mut body = vec![0; length];
    receive.read_exact(&mut body).await?;
    Ok(body)
}
