//! Answers what other members ask about logs.

use std::sync::Arc;

use meshara_identity::{NodeId, UnixMillis};
use meshara_trust::log::exchange::ASK_MAX;
use meshara_trust::log::{Answer, Ask, Cosigner, Hash, Head, LogError, Note, SeenError, Tiles};
use quinn::{RecvStream, SendStream};

use super::{Logs, ask, follow};
use crate::frames::{read_frame, write_frame};
use crate::node::Inner;

/// Serves one question of `asker`.
pub(crate) async fn serve(
    inner: &Arc<Inner>,
    asker: NodeId,
    mut send: SendStream,
    mut receive: RecvStream,
) -> Option<()> {
    let question = read_frame(&mut receive, ASK_MAX).await.ok()?;
    let answer = match Ask::decode(&question) {
        Ok(question) => answer(inner, asker, question).await.unwrap_or(Answer::Unknown),
        Err(error) => {
            tracing::debug!(%error, %asker, "a question about a log does not read");
            Answer::Unknown
        }
    };
    write_frame(&mut send, &answer.encode().ok()?).await.ok()?;
    send.finish().ok()?;
    let _ = send.stopped().await;
    Some(())
}

async fn answer(inner: &Arc<Inner>, asker: NodeId, question: Ask) -> Option<Answer> {
    match question {
        Ask::Path { issuer, first, second, relay } => {
            let known = blocking(inner, move |logs| logs.path(issuer, first, second)).await;
            if known.is_some() || !relay || issuer == inner.logs.me || issuer == asker {
                return known.map(Answer::Path);
            }
            ask::path(&inner.sessions, issuer, issuer, (first, second), false).await.map(Answer::Path)
        }
        Ask::Cosign { issuer, note, path } => {
            // Only the issuer itself asks for cosignatures.
            if issuer != asker {
                return None;
            }
            let other = inner.log_of(issuer, issuer).await?;
            let note = Note::parse(note.as_bytes()).ok()?;
            let known = other.clone();
            let before = known.shown().fork.is_some();
            let answer = blocking(inner, move |logs| {
                let cosigner = Cosigner::new(&logs.mesh, &logs.name, &logs.routing).ok()?;
                other.mirror(|mirror| {
                    match mirror.cosign(&cosigner, &note, &path, UnixMillis::now()) {
                        Ok(line) => {
                            let mut alone = note.clone();
                            alone.signatures = vec![line];
                            return Some(Answer::Cosigned(alone.encode()));
                        }
                        Err(error) if error.wants_another_path() => {}
                        Err(error @ (SeenError::Growth(_) | SeenError::Forked)) => {
                            tracing::error!(%issuer, %error, "a checkpoint was not cosigned");
                        }
                        Err(error) => tracing::warn!(%issuer, %error, "a checkpoint was not cosigned"),
                    }
                    Some(Answer::Seen(mirror.seen()?.encode()))
                })
            })
            .await;
            if !before && known.shown().fork.is_some() {
                follow::distrust(inner, issuer, follow::TWO_HEADS);
            }
            answer
        }
        // In memory: also while all places are taken.
        Ask::Heads => Some(Answer::Heads(inner.logs.heads())),
        Ask::Entries { issuer, first, size } => {
            blocking(inner, move |logs| logs.entries(issuer, first, size).map(Answer::Entries)).await
        }
        Ask::Proof { issuer, leaf } => {
            blocking(inner, move |logs| {
                logs.own().filter(|_| issuer == logs.me)?.proof(&leaf).map(Answer::Proof)
            })
            .await
        }
        Ask::Inclusion { issuer, leaf, size } => {
            blocking(inner, move |logs| {
                let (index, path) = logs.own().filter(|_| issuer == logs.me)?.inclusion(&leaf, size)?;
                Some(Answer::Inclusion { index, path })
            })
            .await
        }
        Ask::Attestation => inner.logs.attestations.shown(),
        _ => None,
    }
}

/// Works on files off the network's threads, a few at a time.
async fn blocking<T: Send + 'static>(
    inner: &Arc<Inner>,
    work: impl FnOnce(&Logs) -> Option<T> + Send + 'static,
) -> Option<T> {
    let _place = inner.logs.places.acquire().await.ok()?;
    let inner = inner.clone();
    tokio::task::spawn_blocking(move || work(&inner.logs)).await.ok()?
}

impl Logs {
    fn heads(&self) -> Vec<Head> {
        let own = self.own().map(|own| Head {
            statement: own.statement().clone(),
            note: Some(own.checkpoint().encode()),
            fork: None,
        });
        let others = self.others.all().into_iter().map(|other| {
            let shown = other.shown();
            let note = shown.note.as_ref().map(Note::encode);
            Head { statement: other.statement.clone(), note, fork: shown.fork.clone() }
        });
        own.into_iter().chain(others).take(meshara_identity::grant::GRANTS_MAX).collect()
    }

    fn path(&self, issuer: NodeId, first: u64, second: u64) -> Option<Vec<Hash>> {
        if first > second {
            return None;
        }
        if let Some(own) = self.own().filter(|_| issuer == self.me) {
            let path = own.with(|log| {
                let size = log.size();
                let outside = LogError::OutOfRange { index: second, size };
                if second > size { Err(outside) } else { Tiles::new(log.files(), second).consistency(first) }
            });
            return path.ok();
        }
        self.others.get(&issuer)?.mirror(|mirror| mirror.path(first, second)).ok()
    }

    fn entries(&self, issuer: NodeId, first: u64, size: u64) -> Option<Vec<Vec<u8>>> {
        if let Some(own) = self.own().filter(|_| issuer == self.me) {
            let entries = own.with(|log| {
                let outside = LogError::OutOfRange { index: size, size: log.size() };
                if size > log.size() { Err(outside) } else { Tiles::new(log.files(), size).entries(first) }
            });
            return entries.ok();
        }
        self.others.get(&issuer)?.mirror(|mirror| {
            (size <= mirror.copied()).then(|| Tiles::new(mirror.files(), size).entries(first).ok()).flatten()
        })
    }
}
