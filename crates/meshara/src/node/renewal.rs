//! Renews the certificate of the node that issues while it runs: at half of its life, as at a start. Nobody else can.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use meshara_identity::home::{self, HomeError};
use meshara_identity::{Issuer, LEAF_LIFE, Membership, Passphrase, UnixMillis};
use meshara_transport::tls::{TlsError, TlsMaterial};

use super::Inner;

/// Looks at the clock at least this often, since clocks are set and machines sleep. After a failure (a full disk) this is when it is tried
/// again: half of a life has room for 84 tries.
const LOOK: Duration = Duration::from_secs(3600);

/// Where the certificate is kept, and who makes a new one.
pub(super) struct Renewal {
    pub(super) home: PathBuf,
    /// Opens the home's files if they are sealed.
    pub(super) passphrase: Option<Passphrase>,
    pub(super) issuer: Arc<Issuer>,
}

/// Why the certificate was not renewed.
#[derive(Debug, thiserror::Error)]
enum RenewalError {
    #[error(transparent)]
    Home(#[from] HomeError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the overlay doesn't accept the new certificate: {0}")]
    Member(#[from] meshara_overlay::MemberError),
    #[error("the runtime is stopping")]
    Interrupted,
}

impl Renewal {
    /// A membership with a certificate that lasts longer than `in_use`, kept on disk already; `None` when it isn't time.
    fn renew(&self, in_use: UnixMillis, now: UnixMillis) -> Result<Option<Membership>, HomeError> {
        let passphrase = self.passphrase.as_ref();
        let mut identity = home::load(&self.home, passphrase)?;
        home::renew_issuer(&self.home, &mut identity, &self.issuer, passphrase, now)?;
        // Also one that was kept earlier and could not be used.
        Ok((identity.membership.member().not_after > in_use).then_some(identity.membership))
    }
}

/// Renews for ever.
pub(super) async fn run(inner: Arc<Inner>, renewal: Renewal) {
    let renewal = Arc::new(renewal);
    loop {
        // A moment later than half, so that it is less than half that is left.
        let due = inner.certificate_end().minus(LEAF_LIFE / 2).plus(Duration::from_millis(1));
        let left = Duration::from_millis(due.0.saturating_sub(UnixMillis::now().0));
        if !left.is_zero() {
            tokio::time::sleep(left.min(LOOK)).await;
            continue;
        }
        match renew(&inner, &renewal).await {
            Ok(true) => {
                tracing::info!(until = %inner.certificate_end(), "this node's own certificate was renewed");
                continue;
            }
            // The clock is behind, or the issuer itself ends before long.
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%error, "this node's own certificate was not renewed; tried again in an hour")
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Renews if it is time, and uses the new certificate from then on. Links and sessions that live keep theirs.
async fn renew(inner: &Inner, renewal: &Arc<Renewal>) -> Result<bool, RenewalError> {
    let (work, in_use) = (renewal.clone(), inner.certificate_end());
    let renewed = tokio::task::spawn_blocking(move || work.renew(in_use, UnixMillis::now()));
    let Some(membership) = renewed.await.map_err(|_| RenewalError::Interrupted)?? else { return Ok(false) };
    let material = TlsMaterial::new(&membership).map_err(TlsError::from)?;
    inner.endpoints.tls().replace(&material)?;
    inner.overlay.input(|core, now| core.set_member(now, membership.leaf_der().to_vec()))?;
    inner.set_certificate_end(membership.member().not_after);
    Ok(true)
}
