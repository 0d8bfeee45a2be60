//! Files of a home: the frame of every kind, and what is inside.

#![no_main]

use libfuzzer_sys::fuzz_target;
use meshara_identity::home;
use meshara_identity::sealed::{self, FileKind};

const KINDS: [FileKind; 6] = [
    FileKind::Keystore,
    FileKind::Membership,
    FileKind::Issuer,
    FileKind::Root,
    FileKind::RootBackup,
    FileKind::Log,
];

fuzz_target!(|data: &[u8]| {
    for kind in KINDS {
        let _ = sealed::decodes(kind, data);
    }
    // With the checksum made good, what it guards is reached.
    let checked = [data, blake3::hash(data).as_bytes()].concat();
    let accepted = KINDS.into_iter().filter(|kind| sealed::decodes(*kind, &checked)).count();
    assert!(accepted <= 1, "one file passes for two kinds");
    let _ = home::decodes(data);
});
