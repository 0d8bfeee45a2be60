//! Whose each name is, as certificates show it. Two nodes with one name mean that an issuer gave away what another had given: one of the two is
//! refused, and both certificates are named. See `docs/trust.md`, "When something goes wrong".

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use meshara_identity::{BACKDATE, Member, NodeId, NodeName, UnixMillis};
use tokio::sync::Notify;

use super::Revoked;

/// Names remembered; more than a mesh is made for (10,000). 4 MB. Of those above none is compared.
const NAMES: usize = 16_384;
/// A node that has been seen for so long keeps its name whatever another certificate says: its beginning is what a rogue issuer wrote there. It
/// is as far as clocks may be apart.
const SETTLED: Duration = BACKDATE;
/// Contests that wait to be told of. Each is told once as long as it is among as many of late: whoever tries again and again is one.
const CONTESTS: usize = 64;

/// By which certificate a node has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The node.
    pub node: NodeId,
    /// Who issued the certificate.
    pub issuer: NodeId,
    /// Beginning of the enrolment, as the certificate says.
    pub from: UnixMillis,
    /// End of the enrolment.
    pub until: UnixMillis,
}

impl Claim {
    fn of(member: &Member) -> Self {
        let Member { node_id, issuer, enrolled, .. } = member;
        Self { node: *node_id, issuer: *issuer, from: enrolled.from, until: enrolled.until }
    }

    fn is_earlier(&self, other: &Self) -> bool {
        (self.from, self.node) < (other.from, other.node)
    }
}

/// Two nodes with certificates for one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contest {
    /// The name.
    pub name: NodeName,
    /// Whose it is, for this node.
    pub kept: Claim,
    /// Who is refused.
    pub refused: Claim,
}

#[derive(Debug)]
struct Held {
    claim: Claim,
    /// Since when this node has seen it.
    since: UnixMillis,
}

#[derive(Debug, Default)]
struct State {
    names: HashMap<NodeName, Held>,
    /// The newest contests, and how many of them, at the end, nobody was told of yet.
    contests: VecDeque<Contest>,
    untold: usize,
}

/// The names of the nodes that this one has seen since it started.
#[derive(Debug, Default)]
pub struct Names {
    state: Mutex<State>,
    news: Notify,
}

impl Names {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This node's own name, which nobody else has.
    pub(super) fn own(&self, member: &Member) {
        let held = Held { claim: Claim::of(member), since: UnixMillis(0) };
        self.lock().names.insert(member.name.clone(), held);
    }

    /// Whether a node with a verified certificate may go by its name: it is free, or its own. Of two that were first seen within ten minutes the
    /// one that was enrolled earlier has it.
    ///
    /// # Errors
    /// Whose name it is.
    pub fn admit(&self, member: &Member, revoked: &Revoked, now: UnixMillis) -> Result<(), NodeId> {
        let new = Claim::of(member);
        let mut state = self.lock();
        let full = state.names.len() >= NAMES;
        let Some(held) = state.names.get_mut(&member.name) else {
            if full {
                state.names.retain(|_, held| held.claim.until > now);
            }
            if state.names.len() < NAMES {
                state.names.insert(member.name.clone(), Held { claim: new, since: now });
            }
            return Ok(());
        };
        if held.claim.node == new.node {
            let until = held.claim.until.max(new.until);
            held.claim = Claim { until, ..new };
            return Ok(());
        }
        let before = held.claim;
        if before.until <= now || revoked.contains(&before.node) || revoked.contains(&before.issuer) {
            *held = Held { claim: new, since: now };
            return Ok(());
        }
        let settled = held.since.plus(SETTLED) <= now;
        let replaced = !settled && new.is_earlier(&before);
        let (kept, refused) = if replaced { (new, before) } else { (before, new) };
        if replaced {
            *held = Held { claim: new, since: now };
        }
        let contest = Contest { name: member.name.clone(), kept, refused };
        let known = |told: &Contest| {
            told.name == contest.name
                && (told.kept.node, told.refused.node, told.refused.issuer)
                    == (kept.node, refused.node, refused.issuer)
        };
        if !state.contests.iter().any(known) {
            if state.contests.len() >= CONTESTS {
                state.contests.pop_front();
            }
            state.contests.push_back(contest);
            state.untold = (state.untold + 1).min(state.contests.len());
            self.news.notify_one();
        }
        if replaced { Ok(()) } else { Err(kept.node) }
    }

    /// The next contest that nobody was told of. For one task.
    pub async fn contested(&self) -> Contest {
        loop {
            {
                let mut state = self.lock();
                let next = state.contests.len().saturating_sub(state.untold);
                if state.untold > 0
                    && let Some(contest) = state.contests.get(next).cloned()
                {
                    state.untold -= 1;
                    return contest;
                }
            }
            self.news.notified().await;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use std::collections::HashSet;

    use meshara_identity::create_mesh;
    use meshara_identity::issuer::Enrolled;

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_795_000_000_000);
    const HOUR: Duration = Duration::from_secs(3600);

    /// A member called bob, of whom only these matter.
    fn bobs() -> impl Fn(u8, u8, u64) -> Member {
        let dir = tempfile::tempdir().unwrap();
        let (mesh, name) = ("lab".parse().unwrap(), "bob".parse().unwrap());
        let bob = create_mesh(dir.path(), &mesh, &name, None, NOW).unwrap().membership.member().clone();
        move |node, issuer, from| Member {
            node_id: NodeId([node; 32]),
            issuer: NodeId([issuer; 32]),
            enrolled: Enrolled {
                roles: Vec::new(),
                from: NOW.plus(Duration::from_millis(from)),
                until: NOW.plus(HOUR),
            },
            ..bob.clone()
        }
    }

    #[tokio::test]
    async fn of_two_nodes_with_one_name_the_earlier_has_it_and_one_that_settled_keeps_it() {
        let (bob, names, revoked) = (bobs(), Names::default(), Revoked::default());
        let admit =
            |member: &Member, after| names.admit(member, &revoked, NOW.plus(after)).map_err(|held| held.0[0]);
        assert_eq!(admit(&bob(2, 1, 20), Duration::ZERO), Ok(()));
        // Later: refused, however often; told once.
        for _ in 0..3 {
            assert_eq!(admit(&bob(3, 9, 30), Duration::ZERO), Err(2));
        }
        let contest = names.contested().await;
        assert_eq!(
            (contest.kept.node.0[0], contest.refused.node.0[0], contest.refused.issuer.0[0]),
            (2, 3, 9)
        );
        // Earlier: it has it from now on.
        assert_eq!(admit(&bob(4, 9, 10), Duration::ZERO), Ok(()));
        assert_eq!(admit(&bob(2, 1, 20), Duration::ZERO), Err(4));
        let contest = names.contested().await;
        assert_eq!((contest.kept.node.0[0], contest.refused.node.0[0]), (4, 2));
        // Ten minutes later no certificate begins early enough.
        assert_eq!(admit(&bob(5, 9, 0), SETTLED), Err(4));
        assert_eq!(names.contested().await.refused.node.0[0], 5);
        assert_eq!(names.lock().untold, 0);
        // The name of a revoked node is free, also where its certificate's issuer is revoked; so is one whose enrolment is over.
        revoked.replace(HashSet::from([NodeId([4; 32])]));
        assert_eq!(admit(&bob(5, 9, 40), SETTLED), Ok(()));
        revoked.replace(HashSet::from([NodeId([9; 32])]));
        assert_eq!(admit(&bob(2, 1, 50), SETTLED), Ok(()));
        assert_eq!(admit(&bob(6, 1, 60), HOUR), Ok(()));
    }

    #[test]
    fn nobody_else_has_this_nodes_name() {
        let (bob, names, revoked) = (bobs(), Names::default(), Revoked::default());
        names.own(&bob(1, 1, 50));
        assert_eq!(names.admit(&bob(2, 9, 0), &revoked, NOW), Err(NodeId([1; 32])));
        assert_eq!(names.admit(&bob(1, 9, 0), &revoked, NOW), Ok(()), "renewed by another issuer");
    }

    #[test]
    fn contests_are_bounded() {
        let (bob, names, revoked) = (bobs(), Names::default(), Revoked::default());
        names.own(&bob(1, 1, 0));
        for issuer in 2..=255 {
            assert!(names.admit(&bob(2, issuer, 0), &revoked, NOW).is_err());
        }
        let state = names.lock();
        assert_eq!((state.contests.len(), state.untold), (CONTESTS, CONTESTS));
        assert_eq!(state.contests.back().unwrap().refused.issuer, NodeId([255; 32]));
    }
}
