//! Keeps this node's certificate fresh: asks an issuer at half of its life, and again and again until one answers. When it ends first, the
//! node stops talking, and asks for another over the channel that newcomers use.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use meshara_identity::join::REPLY_MAX;
use meshara_identity::{Issuer, JoinError, Member, NodeId, RenewClient, UnixMillis};

use super::standing::{self, AdoptError, LOOK};
use super::streams::Opening;
use super::{Inner, rejoin};
use crate::frames::{read_frame, write_frame};

/// An issuer answers within a session's handshake and a disk write, or the next one is asked.
const ISSUER_TIMEOUT: Duration = Duration::from_secs(2);
/// Shortest time between rounds over all issuers.
const MIN_PAUSE: Duration = Duration::from_millis(500);
/// And the longest.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// Between rounds over all known addresses while the certificate has ended. It doubles up to [`MAX_PAUSE`].
const FIRST_RETURN: Duration = Duration::from_secs(1);
/// Close code of all connections of a node whose certificate has ended: 0x100 and certificate_expired (RFC 8446, 6.2), as a handshake would say.
pub(super) const CLOSE_ENDED: u32 = 0x12d;

/// Why the certificate was not renewed.
#[derive(Debug, thiserror::Error)]
pub(super) enum RenewalError {
    #[error("no request could be made: {0}")]
    Request(JoinError),
    #[error("{issuer}: {error}")]
    Reply { issuer: String, error: JoinError },
    #[error("{0}: no answer")]
    Silent(String),
    #[error("no other node issues")]
    NoIssuer,
    #[error("{0}: its certificate is from an issuer that the mesh revoked")]
    RevokedIssuer(String),
    #[error(transparent)]
    Adopt(#[from] AdoptError),
    #[error("this node's certificate has ended; it asks for another by itself")]
    Ended,
    #[error("the runtime is stopping")]
    Interrupted,
}

/// Renews for ever.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut round = 0;
    let mut back = FIRST_RETURN;
    let mut revocations = inner.standing.revoked().changes();
    loop {
        let (now, member) = (UnixMillis::now(), inner.standing.member());
        let disowned = inner.standing.is_disowned();
        if disowned && now <= member.not_after && !inner.standing.is_silent() {
            tracing::warn!(issuer = %member.issuer, "the issuer of this node's certificate was revoked; another one is asked");
            round += 1;
            // Over sessions that were open before, while peers still wait for another certificate.
            let _alone = inner.standing.renewing.lock().await;
            match renew(&inner, round).await {
                Ok(_) => continue,
                Err(error) => tracing::info!(%error, "no other issuer was reached over the mesh"),
            }
        }
        if now > member.not_after || disowned {
            fall_silent(&inner, &member);
            match rejoin::renew(&inner).await {
                Ok(renewed) => {
                    speak(&inner);
                    tracing::info!(until = %renewed.not_after, "this node has a certificate again");
                    back = FIRST_RETURN;
                }
                Err(error) => {
                    tracing::warn!(%error, ended = %member.not_after, "this node's certificate counts no more, and no member gives it another yet");
                    // Reinstated, perhaps.
                    let _ = tokio::time::timeout(back, revocations.changed()).await;
                    back = (back * 2).min(MAX_PAUSE);
                }
            }
            continue;
        }
        // The clock was set back, perhaps.
        speak(&inner);
        let due = standing::renews_at(&member);
        if now < due || now < member.not_before {
            let _ = tokio::time::timeout(due.distance(now).min(LOOK), revocations.changed()).await;
            continue;
        }
        round += 1;
        let alone = inner.standing.renewing.lock().await;
        if standing::renews_at(&inner.standing.member()) > due {
            // Somebody asked for it meanwhile.
            continue;
        }
        let renewed = renew(&inner, round).await;
        drop(alone);
        match renewed {
            Ok(renewed) => {
                tracing::info!(until = %renewed.not_after, "this node's certificate was renewed");
            }
            Err(error) => {
                inner.standing.counts.not_renewed.fetch_add(1, Relaxed);
                let now = UnixMillis::now();
                inner.audit.not_renewed(&member, &error.to_string());
                if now >= standing::warns_at(&member) {
                    tracing::warn!(%error, ends = %member.not_after, "this node's certificate was not renewed; its end is near");
                } else {
                    tracing::info!(%error, ends = %member.not_after, "this node's certificate was not renewed yet");
                }
                let left = member.not_after.plus(Duration::from_millis(1)).distance(now);
                let pause = (member.life() / 20).clamp(MIN_PAUSE, MAX_PAUSE).min(left);
                let _ = tokio::time::timeout(pause, revocations.changed()).await;
            }
        }
    }
}

/// Renews before it is due, because somebody asked; the certificate in use from now on. Issuers are asked first in turn.
pub(super) async fn renew_now(inner: &Arc<Inner>) -> Result<Member, RenewalError> {
    let _alone = inner.standing.renewing.lock().await;
    if UnixMillis::now() > inner.standing.member().not_after {
        return Err(RenewalError::Ended);
    }
    let round = inner.standing.counts.renewed.load(Relaxed);
    renew(inner, usize::try_from(round).unwrap_or_default()).await
}

/// Ends everything that speaks with this node's certificate, which has ended or whose issuer was revoked. Nothing is dialled from then on.
fn fall_silent(inner: &Inner, member: &Member) {
    if inner.standing.set_silent(true) {
        tracing::error!(ended = %member.not_after, issuer = %member.issuer, "this node's certificate counts no more; it talks to nobody until it has another");
    }
    inner.workload.reconsider(inner);
    // Also those that were under way a moment ago.
    inner.sessions.close_all(CLOSE_ENDED, b"certificate expired");
    for link in inner.overlay.links() {
        inner.overlay.close_link(link.hop.id(), CLOSE_ENDED, "this node's certificate has ended");
    }
}

fn speak(inner: &Inner) {
    if inner.standing.set_silent(false) {
        inner.workload.reconsider(inner);
        inner.overlay.input(|core, now| core.network_changed(now));
    }
}

/// Asks the issuers in turn; each round begins with another one.
async fn renew(inner: &Arc<Inner>, round: usize) -> Result<Member, RenewalError> {
    let client = request(inner).await?;
    let now = UnixMillis::now();
    let mut last = match of_itself(inner, &client, now).await {
        Some(Ok(member)) => return Ok(member),
        Some(Err(error)) => error,
        None => RenewalError::NoIssuer,
    };
    let mut issuers = inner.standing.other_issuers(now);
    let first = round.checked_rem(issuers.len()).unwrap_or_default();
    issuers.rotate_left(first);
    for issuer in issuers {
        let name = inner.name_of(&issuer);
        let asked = tokio::time::timeout(ISSUER_TIMEOUT, ask(inner, issuer, client.request()));
        last = match asked.await {
            Ok(Some(reply)) => match taken(inner, &client, &reply, &name).await {
                Ok(member) => return Ok(member),
                Err(error) => error,
            },
            _ => RenewalError::Silent(if name.is_empty() { issuer.short() } else { name }),
        };
        tracing::debug!(error = %last, "an issuer did not renew");
    }
    Err(last)
}

/// A fresh request. Key and signatures take milliseconds: not on the network's thread.
pub(super) async fn request(inner: &Arc<Inner>) -> Result<RenewClient, RenewalError> {
    let task = inner.clone();
    let made = tokio::task::spawn_blocking(move || task.standing.request(UnixMillis::now()));
    made.await.map_err(|_| RenewalError::Interrupted)?.map_err(RenewalError::Request)
}

/// The certificate that this node's own issuer gives it, if it issues. When that fails (its log is damaged, its grant has ended) others are to
/// be asked.
pub(super) async fn of_itself(
    inner: &Arc<Inner>,
    client: &RenewClient,
    now: UnixMillis,
) -> Option<Result<Member, RenewalError>> {
    let issuer = inner.standing.issuer()?;
    let reply = own_reply(inner, issuer, client, now).await;
    let given = match reply {
        Ok(reply) => taken(inner, client, &reply, "this node itself").await,
        Err(error) => Err(error),
    };
    if let Err(error) = &given {
        tracing::warn!(%error, "this node's own issuer gives it no certificate; others are asked");
    }
    Some(given)
}

async fn own_reply(
    inner: &Inner,
    issuer: Arc<Issuer>,
    client: &RenewClient,
    now: UnixMillis,
) -> Result<Vec<u8>, RenewalError> {
    let (request, me) = (client.request().to_vec(), inner.member.node_id);
    let asked = tokio::task::spawn_blocking(move || issuer.renew(&request, Some(me), now));
    let answer = asked.await.map_err(|_| RenewalError::Interrupted)?;
    if let Some(fault) = answer.fault {
        tracing::error!(%fault, "this node's issuer failed");
    }
    Ok(answer.reply)
}

/// Checks a reply and takes its certificate into use.
pub(super) async fn taken(
    inner: &Arc<Inner>,
    client: &RenewClient,
    reply: &[u8],
    issuer: &str,
) -> Result<Member, RenewalError> {
    let renewed = client
        .open_reply(reply, UnixMillis::now())
        .map_err(|error| RenewalError::Reply { issuer: issuer.to_owned(), error })?;
    // Not whether this node is revoked: what it knows of that may be old, and members judge it themselves.
    if inner.standing.revoked().contains(&renewed.member().issuer) {
        return Err(RenewalError::RevokedIssuer(issuer.to_owned()));
    }
    let member = standing::renew(inner, renewed).await?;
    inner.audit.renewed(&member);
    Ok(member)
}

async fn ask(inner: &Inner, issuer: NodeId, request: &[u8]) -> Option<Vec<u8>> {
    let (mut send, mut receive) = inner.sessions.open_stream(issuer, &Opening::Renew).await.ok()?;
    write_frame(&mut send, request).await.ok()?;
    send.finish().ok()?;
    read_frame(&mut receive, REPLY_MAX).await.ok()
}

#[cfg(test)]
mod tests {
    use meshara_identity::{Lives, create_mesh_with};

    use super::*;

    #[test]
    fn renewals_are_due_around_half_of_the_life() {
        let dir = tempfile::tempdir().unwrap();
        let (mesh, name) = ("lab".parse().unwrap(), "alice".parse().unwrap());
        let day = Duration::from_secs(24 * 3600);
        for seconds in [20, 3600, 24 * 3600] {
            let life = Duration::from_secs(seconds);
            let lives = Lives::new(Some(life), 90 * day).unwrap();
            let made = UnixMillis(1_795_000_000_000);
            let home = dir.path().join(seconds.to_string());
            let member = create_mesh_with(&home, &mesh, &name, lives, None, made).unwrap().membership;
            let mut member = member.member().clone();
            for end in [[0, 0], [0xff, 0xff], [0x80, 0]] {
                let length = member.serial.len();
                member.serial[length - 2..].copy_from_slice(&end);
                let due = standing::renews_at(&member).distance(made);
                let (early, late) = (life * 9 / 20, life * 11 / 20);
                assert!(early <= due && due <= late, "{due:?} of {life:?}");
                match end {
                    [0, 0] => assert_eq!(due, early),
                    [0xff, 0xff] => assert_eq!(due, late),
                    _ => assert!(due.abs_diff(life / 2) < life / 1000, "{due:?}"),
                }
            }
            assert_eq!(standing::warns_at(&member), made.plus(life * 3 / 4));
        }
    }
}
