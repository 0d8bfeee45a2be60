//! The digital twin of Meshara: the protocol cores in virtual time on simulated links.
