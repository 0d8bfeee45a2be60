//! The local trail of security events: a hash chain of JSON lines that `trust audit` verifies.
