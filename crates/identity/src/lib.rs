//! Node identities, keystore, mesh root, certificates and tickets of Meshara. No network.
