//! Keys of hop frames: derived from a link's TLS exporter (as DTLS-SRTP does, RFC 5764), one per direction and
//! epoch, and the sealing of one frame in place.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use meshara_overlay::header::{HEADER_LEN, TAG_LEN};
use zeroize::Zeroizing;

use crate::fragment::FRAGMENT_HEADER_LEN;

/// Bytes of a frame that are authenticated but readable: kind, TTL, class, epoch, link index, counter.
const CLEAR_LEN: usize = 16;
/// End of what a bulk frame encrypts: both addresses and the fragment header.
const BULK_SEALED_END: usize = HEADER_LEN + FRAGMENT_HEADER_LEN;
/// Bytes in front of the payload of a bulk frame.
pub const BULK_OVERHEAD: usize = BULK_SEALED_END + TAG_LEN;
/// Frames of one epoch. AES-256-GCM with counter nonces is safe for far more (RFC 9001 §6.6 allows 2^23 full-size
/// records under random multi-user attack models); with 56 encrypted bytes a frame, 2^32 keeps the forgery and
/// distinguishing advantage under 2^-57 and lasts a quarter of an hour at 5 million frames a second.
pub(crate) const EPOCH_FRAMES: u64 = 1 << 32;

const KEY_LEN: usize = 32;
const SALT_LEN: usize = 4;
const EXPORT_LABEL: &[u8] = b"EXPORTER-meshara-hop-v1";

/// Which end of the link's QUIC connection sends with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    FromDialler,
    FromListener,
}

/// One direction's key in one epoch.
pub(crate) struct HopKey {
    key: LessSafeKey,
    salt: [u8; SALT_LEN],
    epoch: u32,
}

impl HopKey {
    /// Derives the key from the connection's exporter. Fails only when the handshake isn't complete.
    pub(crate) fn export(connection: &quinn::Connection, direction: Direction, epoch: u32) -> Option<Self> {
        let mut secret = Zeroizing::new([0_u8; KEY_LEN + SALT_LEN]);
        let mut context = [0_u8; 5];
        let (side, number) = context.split_at_mut(1);
        side.fill(match direction {
            Direction::FromDialler => 0,
            Direction::FromListener => 1,
        });
        number.copy_from_slice(&epoch.to_be_bytes());
        connection.export_keying_material(secret.as_mut_slice(), EXPORT_LABEL, &context).ok()?;
        Self::new(&secret, epoch)
    }

    fn new(secret: &[u8; KEY_LEN + SALT_LEN], epoch: u32) -> Option<Self> {
        let (key, salt) = secret.split_at(KEY_LEN);
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).ok()?);
        Some(Self { key, salt: salt.try_into().ok()?, epoch })
    }

    pub(crate) fn epoch(&self) -> u32 {
        self.epoch
    }

    fn nonce(&self, frame: &[u8]) -> Option<Nonce> {
        let mut nonce = [0_u8; 12];
        let (salt, counter) = nonce.split_at_mut(SALT_LEN);
        salt.copy_from_slice(&self.salt);
        counter.copy_from_slice(frame.get(8..CLEAR_LEN)?);
        Some(Nonce::assume_unique_for_key(nonce))
    }

    /// Seals a bulk frame: encrypts addresses and fragment header, writes the tag behind them. The payload, session
    /// ciphertext already, is left as it is. `None` when the frame is too short.
    pub(crate) fn seal_bulk(&self, frame: &mut [u8]) -> Option<()> {
        let nonce = self.nonce(frame)?;
        let (clear, rest) = frame.split_at_mut_checked(CLEAR_LEN)?;
        let (sealed, rest) = rest.split_at_mut_checked(BULK_SEALED_END - CLEAR_LEN)?;
        let tag = self.key.seal_in_place_separate_tag(nonce, Aad::from(&*clear), sealed).ok()?;
        rest.get_mut(..TAG_LEN)?.copy_from_slice(tag.as_ref());
        Some(())
    }

    /// Opens a bulk frame in place; `None` when the tag is wrong.
    pub(crate) fn open_bulk(&self, frame: &mut [u8]) -> Option<()> {
        let nonce = self.nonce(frame)?;
        let (clear, rest) = frame.split_at_mut_checked(CLEAR_LEN)?;
        let (sealed, rest) = rest.split_at_mut_checked(BULK_SEALED_END - CLEAR_LEN)?;
        let tag = rest.get(..TAG_LEN)?;
        self.key.open_in_place_separate_tag(nonce, Aad::from(&*clear), tag, sealed).ok().map(|_| ())
    }

    /// Seals a whole frame but for its readable front; the last [`TAG_LEN`] bytes of `frame` receive the tag.
    pub(crate) fn seal_whole(&self, frame: &mut [u8]) -> Option<()> {
        let nonce = self.nonce(frame)?;
        let (clear, rest) = frame.split_at_mut_checked(CLEAR_LEN)?;
        let (sealed, end) = rest.split_at_mut_checked(rest.len().checked_sub(TAG_LEN)?)?;
        let tag = self.key.seal_in_place_separate_tag(nonce, Aad::from(&*clear), sealed).ok()?;
        end.copy_from_slice(tag.as_ref());
        Some(())
    }

    /// Opens a whole frame in place; `None` when the tag is wrong.
    pub(crate) fn open_whole(&self, frame: &mut [u8]) -> Option<()> {
        let nonce = self.nonce(frame)?;
        let (clear, rest) = frame.split_at_mut_checked(CLEAR_LEN)?;
        self.key.open_in_place(nonce, Aad::from(&*clear), rest).ok().map(|_| ())
    }
}

impl std::fmt::Debug for HopKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HopKey").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}
