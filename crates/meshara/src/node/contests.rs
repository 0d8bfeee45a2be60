//! Two nodes with certificates for one name: says so, names both certificates and who issued them, and ends what the refused one has open.

use std::sync::Arc;

use meshara_transport::tls::Contest;
use meshara_trust::audit::{Event, Words};

use super::Inner;

/// Close code of a session whose peer has another node's name: as the TLS alert `access_denied`, with which its handshakes fail.
const CLOSE_NAME: u32 = 0x100 + 49;

/// For ever.
pub(super) async fn run(inner: Arc<Inner>) {
    loop {
        let contest = inner.endpoints.tls().names().contested().await;
        let Contest { name, kept, refused } = &contest;
        tracing::error!(
            %name, node = %refused.node, issuer = %refused.issuer, holder = %kept.node, holders_issuer = %kept.issuer,
            "a certificate is for the name of another node, and is refused; revoke whoever is wrong: the node, and its issuer if that was stolen"
        );
        // Against who signed it: the node shows what it was given.
        let what = format!(
            "certified {name} for {}; it is {}'s, by {}",
            refused.node,
            kept.node,
            kept.issuer.short()
        );
        inner.audit.record(Event::Evidence {
            against: Words::clean(&refused.issuer.to_string()),
            what: Words::clean(&what),
        });
        // Both had it, where the earlier one was seen later.
        inner.sessions.end(&refused.node, CLOSE_NAME, b"the name is another node's");
        let node = refused.node;
        inner.overlay.input(|core, now| core.revoke(now, &node));
    }
}
