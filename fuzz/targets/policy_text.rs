//! Policy files: whatever parses is a policy that travels, compiles, and explains itself as it decides.

#![no_main]

use libfuzzer_sys::fuzz_target;
use meshara_identity::UnixMillis;
use meshara_trust::policy::{Asked, Caller, Policy, TargetKind, parse};

fuzz_target!(|text: &str| {
    match parse(text) {
        Err(error) => {
            assert!(error.line >= 1 && error.line <= 1 + text.matches('\n').count());
            assert!(!error.to_string().is_empty());
        }
        Ok(compiled) => {
            let body = compiled.policy().encode().unwrap();
            assert_eq!(&Policy::decode(&body).unwrap(), compiled.policy());
            // Names that the patterns are made of are the likeliest to match.
            let name =
                text.split('"').find(|word| word.len() < 64 && word.contains(['a', 'b'])).unwrap_or("alice");
            let spiffe_id = format!("spiffe://lab/node/{name}");
            let caller = Caller { name, spiffe_id: &spiffe_id, roles: &[] };
            for (at, kind) in TargetKind::ALL.into_iter().enumerate() {
                let asked = Asked { kind, name, port: at as u16 };
                let now = UnixMillis(text.len() as u64 * 3_600_000);
                let decision = compiled.decide(&caller, &asked, now);
                assert_eq!(compiled.policy().explain(&caller, &asked, now).decision, decision);
            }
        }
    }
});
