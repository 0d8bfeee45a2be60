//! Joining and renewing: messages, and the newcomer's side. The issuer's side is [`crate::issuer`].

mod client;
pub(crate) mod message;
#[cfg(test)]
mod tests;

pub use client::{JoinClient, JoinError, RenewClient};
pub use message::{REPLY_MAX, REQUEST_MAX, Refusal};
