//! The overlay core between two neighbours that say anything, with every signature accepted.

#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use meshara_overlay::{
    Authenticator, Config, Core, HeadError, HeadId, Identity, JudgedHead, Known, LinkDownReason, LinkId,
    LinkKind, LinkPeer, Member, MemberError, MeshAddress, NodeId,
};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// Believes everything: what is behind the signatures is reached at once.
struct Credulous;

impl Authenticator for Credulous {
    fn sign(&self, _: &[u8]) -> [u8; 64] {
        [1; 64]
    }
    fn verify(&self, _: &[u8; 32], _: &[u8], _: &[u8; 64]) -> bool {
        true
    }
    fn member(&self, origin: &NodeId, body: &[u8], known: &Known<'_>) -> Result<Member, MemberError> {
        let name = format!("n{}", origin.0[0]);
        let head = body.first().filter(|first| **first < 64).map(|first| head(*first));
        if let Some(head) = head.filter(|head| known.root(head).is_none()) {
            return Err(MemberError::UnknownHead { head, routing_key: [2; 32] });
        }
        let expires_in = Duration::from_secs(3600);
        Ok(Member { name, routing_key: [2; 32], expires_in, proved: head.is_some() })
    }
    fn wants_head(&self, _: &HeadId) -> bool {
        true
    }
    fn head(&self, _: &HeadId, body: &[u8], known: &Known<'_>) -> Result<JudgedHead, HeadError> {
        let first = body.first().copied().filter(|first| *first < 128).ok_or(HeadError::Untrusted)?;
        // Some have a witness of their own each, who may be known by now, and whose line may be wrong.
        let witness = (first >= 64).then(|| format!("n{}", first & 15));
        let is_known = witness.iter().any(|witness| known.members().any(|(_, name, _)| name == witness));
        if is_known && first & 16 > 0 {
            return Err(HeadError::Untrusted);
        }
        Ok(JudgedHead { root: [5; 32], unknown: witness.filter(|_| !is_known).into_iter().collect() })
    }
    fn address(&self, node: &NodeId) -> MeshAddress {
        address(node)
    }
}

/// Under which head a member record with this first byte is proved.
fn head(first: u8) -> HeadId {
    HeadId { issuer: NodeId([first >> 4; 32]), size: u64::from(first & 15) }
}

fn address(node: &NodeId) -> MeshAddress {
    let mut address = [0xfd; 16];
    address[1..].copy_from_slice(&node.0[..15]);
    MeshAddress(address)
}

fn up(core: &mut Core, now: Duration, link: u32) {
    let node = NodeId([link as u8; 32]);
    let peer = LinkPeer {
        node,
        address: address(&node),
        dialled_by_us: true,
        kind: LinkKind::Routing,
        mtu: 1400,
        rtt: Some(Duration::from_millis(4)),
        remote: None,
    };
    core.link_up(now, LinkId(link), peer);
}

// Steps: `what u8 | length u16 | bytes`.
fuzz_target!(|data: &[u8]| {
    let us = NodeId([9; 32]);
    let identity = Identity { node: us, address: address(&us) };
    let mut now = Duration::from_secs(1);
    let rng = ChaCha8Rng::from_seed([3; 32]);
    let mut core = Core::new(Config::default(), identity, Box::new(Credulous), rng, now, 1000);
    core.set_member(now, vec![99; 40]).unwrap();
    up(&mut core, now, 1);
    up(&mut core, now, 2);
    let mut rest = data;
    for _ in 0..200 {
        let Some(([what, high, low], tail)) = rest.split_first_chunk() else { break };
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(tail.len());
        let (bytes, tail) = tail.split_at(length);
        rest = tail;
        let link = LinkId(1 + u32::from(what >> 7));
        match what & 7 {
            0..=2 => drop(core.handle_control(now, link, bytes)),
            3 | 4 => drop(core.handle_probe(now, link, bytes)),
            5 => {
                now += Duration::from_millis(u64::try_from(length).unwrap());
                core.handle_timeout(now);
            }
            6 => core.link_down(now, link, LinkDownReason::TimedOut),
            _ => up(&mut core, now, link.0),
        }
        while core.poll_output().is_some() {}
        // Work that is due now and stays due would spin the driver.
        for _ in 0..100 {
            match core.poll_timeout() {
                Some(at) if at <= now => core.handle_timeout(now),
                _ => break,
            }
            while core.poll_output().is_some() {}
        }
        assert!(core.poll_timeout().is_none_or(|at| at > now), "a timer that is due does not go away");
    }
});
