//! Numbered, chained, signed sets: revocation snapshots, and the frame that policy sets share with them.
