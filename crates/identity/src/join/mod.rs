//! Joining and renewing: messages, and the newcomer's side. The issuer's side is [`crate::issuer`].

mod client;
pub(crate) mod message;
#[cfg(test)]
mod tests;

pub use client::{JoinClient, JoinError, RenewClient};
pub use message::{REPLY_MAX, REQUEST_MAX, Refusal, refusal_in};

/// Entry for fuzzing: runs every decoder of this module over `bytes`; whether one of them accepted.
#[doc(hidden)]
pub fn decodes(bytes: &[u8]) -> bool {
    message::decode_join(bytes).is_ok()
        || message::decode_renew(bytes).is_ok()
        || message::decode_reply(bytes, &[], Some(&[0; 32])).is_ok()
}
