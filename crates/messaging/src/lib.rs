//! Reliable messages of Meshara: envelopes, outbox and inbox state machines. No IO.
