//! Weighs what several members say: some answers end the search, others only count when nobody knows better.

use meshara_identity::{JoinClient, LeafError, MeshInfo, MeshInfoError, UnixMillis};

use super::{JoinError, MemberError};

/// What the members said so far.
#[derive(Default)]
pub(super) struct Heard {
    /// A refusal that no key proves: another member may know better.
    doubtful: Option<meshara_identity::JoinError>,
    /// A member whose certificate isn't valid by this machine's clock. One alone tells little: anybody may show an ended one.
    clock: Option<LeafError>,
    /// A member answered whose certificate is good, or that was not let finish: the clock isn't all that is wrong.
    others: bool,
    /// The last failure of any round.
    pub(super) last: Option<MemberError>,
}

impl Heard {
    /// Takes a reply; whether it ends the search.
    pub(super) fn replied(&mut self, client: &JoinClient, reply: &[u8], info: &MeshInfo) -> bool {
        use meshara_identity::JoinError as Reply;
        match client.open_reply_from(reply, info, UnixMillis::now()) {
            Err(
                error @ (Reply::Refused { authentic: false, .. } | Reply::NotAuthentic | Reply::OtherRequest),
            ) => {
                self.doubtful = Some(error);
                false
            }
            _ => true,
        }
    }

    pub(super) fn failed(&mut self, error: MemberError) {
        match error {
            MemberError::NotMember(
                _,
                MeshInfoError::Leaf(error @ (LeafError::Expired { .. } | LeafError::NotYetValid { .. })),
            ) => self.clock = Some(error),
            error => {
                self.others |= matches!(error, MemberError::NoIssuer(_) | MemberError::Read(..));
                // What a member said tells more than another's silence.
                if error.is_an_answer() || !answered(&self.last) {
                    self.last = Some(error);
                }
            }
        }
    }

    /// Ends a round over all members: why a further one would bring nothing else.
    pub(super) fn end_round(&mut self) -> Result<(), JoinError> {
        if let Some(error) = self.doubtful.take() {
            return Err(error.into());
        }
        match self.clock.take() {
            Some(error) if !std::mem::take(&mut self.others) => Err(JoinError::Clock(error)),
            _ => Ok(()),
        }
    }
}

fn answered(last: &Option<MemberError>) -> bool {
    last.as_ref().is_some_and(MemberError::is_an_answer)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use super::*;

    const MEMBER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

    fn ended() -> LeafError {
        LeafError::Expired { not_after: UnixMillis(1), now: UnixMillis(2) }
    }

    fn shows_an_ended_certificate() -> MemberError {
        MemberError::NotMember(MEMBER, MeshInfoError::Leaf(ended()))
    }

    #[test]
    fn an_ended_certificate_counts_only_when_no_other_member_answers() {
        let mut heard = Heard::default();
        heard.failed(shows_an_ended_certificate());
        heard.failed(MemberError::NoIssuer(MEMBER));
        assert!(heard.end_round().is_ok(), "the other member's certificate was good");

        heard.failed(shows_an_ended_certificate());
        heard.failed(MemberError::Silent(MEMBER));
        assert!(matches!(heard.end_round(), Err(JoinError::Clock(error)) if error == ended()));
    }

    #[test]
    fn a_members_refusal_outweighs_anothers_ended_certificate() {
        let mut heard = Heard::default();
        heard.failed(shows_an_ended_certificate());
        heard.doubtful = Some(meshara_identity::JoinError::NotAuthentic);
        assert!(matches!(heard.end_round(), Err(JoinError::Join(meshara_identity::JoinError::NotAuthentic))));
    }
}
