//! Meshara: one private, post-quantum, self-healing network as a library.
