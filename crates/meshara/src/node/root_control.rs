//! Publishing what signers approved, and phases, behind the control API.

use meshara_trust::gossip::GossipError;
use meshara_trust::root::{DetachedSignature, JournalError, OfflineError, StatementFile};
use meshara_trust::sets::ApprovalError;

use super::control::NodeControl;
use super::trust::root::gates::{self, AdvanceError};
use super::trust::root::publish::{self, Published};
use super::trust::root::signing::SigningError;
use super::trust::sets::PublishError;
use crate::api::root::{AdvanceRequest, PhaseInfo, PublishRequest, PublishedInfo, RootControl};
use crate::api::{ApiError, ErrorCode, Result};

impl RootControl for NodeControl {
    async fn trust_publish(&self, request: PublishRequest) -> Result<PublishedInfo> {
        let (statement, signatures) = request.files()?;
        let statement = StatementFile::decode(&statement).map_err(PublishError::from)?;
        let signatures: std::result::Result<Vec<_>, OfflineError> =
            signatures.iter().map(|bytes| DetachedSignature::decode(bytes)).collect();
        let published = publish::publish(&self.0, statement, signatures.map_err(PublishError::from)?).await?;
        Ok(info(published))
    }

    async fn trust_phase(&self) -> Result<PhaseInfo> {
        Ok(gates::measure(&self.0).await?)
    }

    async fn trust_phase_advance(&self, request: AdvanceRequest) -> Result<PublishedInfo> {
        match gates::advance(&self.0, request.instead).await {
            Ok(published) => Ok(info(published)),
            Err(AdvanceError::Publish(error)) => Err(error.into()),
            Err(error @ AdvanceError::Closed { .. }) => {
                Err(ApiError::new(ErrorCode::GateClosed, error.to_string())
                    .hint("`meshara trust phase` shows every predicate as it is now"))
            }
            Err(error @ AdvanceError::Changed { .. }) => {
                Err(ApiError::new(ErrorCode::InvalidArgument, error.to_string())
                    .hint("ask again: it is measured anew"))
            }
            Err(error) => Err(ApiError::new(ErrorCode::InvalidArgument, error.to_string())),
        }
    }
}

fn info(published: Published) -> PublishedInfo {
    let Published { kind, number, known } = published;
    PublishedInfo { kind: kind.to_owned(), number, known }
}

/// What is missing or wrong with statements and signatures.
pub(super) fn refused(error: &PublishError) -> ApiError {
    let text = error.to_string();
    match error {
        PublishError::Proposed(proposed) => {
            let file = proposed.file.display();
            ApiError::new(ErrorCode::NeedsApprovals, text).hint(format!(
                "other signers sign it with `meshara trust sign FILE`; then `meshara trust publish {file}` with their signatures beside it"
            ))
        }
        PublishError::Offline(OfflineError::Approval(ApprovalError::NotEnough { .. })) => {
            ApiError::new(ErrorCode::NeedsApprovals, text)
                .hint("collect more signatures; one signer counts once, whatever it signs with")
        }
        PublishError::Gossip(GossipError::Root(error)) => {
            use meshara_trust::root::RootError::{NewQuorum, OldQuorum};
            match error {
                OldQuorum(ApprovalError::NotEnough { .. }) | NewQuorum(ApprovalError::NotEnough { .. }) => {
                    ApiError::new(ErrorCode::NeedsApprovals, text).hint(
                        "a version needs the signers of the one before and its own; one signer counts once",
                    )
                }
                _ => ApiError::new(ErrorCode::InvalidArgument, text)
                    .hint("`meshara trust root show` says what the mesh goes by"),
            }
        }
        PublishError::Signing(SigningError::Journal(JournalError::Contradiction { word: "root", .. })) => {
            ApiError::new(ErrorCode::InvalidArgument, text).hint(
                "publish what was signed, or, only if that was never published and never will be, sign this one with --instead",
            )
        }
        _ => ApiError::new(ErrorCode::InvalidArgument, text)
            .hint("`meshara trust sign --show FILE` says what a statement holds"),
    }
}
