//! What a visitor is told: a member without a link, since its certificate is refused for a revocation that it hasn't heard of. It is answered, and
//! nothing is taken from it.

use std::collections::BTreeSet;
use std::sync::Arc;

use meshara_identity::wire::WireError;

use super::{Gossip, Peer};
use crate::gossip::message::{Have, Item, Message};
use crate::sets::HeadRef;

/// What a visitor is told of: who is revoked, and what proves it. The policy is for those who are let in.
const TOLD: [Item; 2] = [Item::Root, Item::Revocations];

/// What one visitor was given: each item once.
#[derive(Debug, Default)]
pub struct Visit {
    given: BTreeSet<Item>,
}

impl Gossip {
    /// The first messages to a visitor: the signers' words, and last what it can ask for.
    ///
    /// # Errors
    /// What is held does not encode.
    pub fn greet(&self) -> Result<Vec<Vec<u8>>, WireError> {
        let words = self.revocations.statements();
        let mut messages: Vec<Message> =
            words.map(|signed| Message::Freshness(Box::new(signed.clone()))).collect();
        messages.push(Message::Have(Have { policy: HeadRef::NONE, ..self.have() }));
        messages.iter().map(Message::encode).collect()
    }

    /// The answer to a visitor's message: what it asks for, once. Nothing else that it says counts.
    ///
    /// # Errors
    /// It is no message.
    pub fn answer(&mut self, visit: &mut Visit, message: &[u8]) -> Result<Vec<Arc<[u8]>>, WireError> {
        let Message::Want { item, above } = Message::decode(message)? else { return Ok(Vec::new()) };
        if !TOLD.contains(&item) || !visit.given.insert(item) {
            return Ok(Vec::new());
        }
        if item == Item::Root {
            let versions = self.versions.iter().filter(|signed| signed.document.version > above);
            let encode = |signed: &crate::root::SignedRoot| Message::Root(Box::new(signed.clone())).encode();
            return versions.map(|signed| Ok(encode(signed)?.into())).collect();
        }
        let held = self.have().item(item);
        let newer = held.number >= above && held.number > 0;
        Ok(if newer { self.message(item, held) } else { None }.into_iter().collect())
    }

    /// Whether a peer that was visited has told what it holds, and nothing of it is missing here or still to come.
    #[must_use]
    pub fn has_all_of(&self, peer: Peer) -> bool {
        self.neighbours.get(&peer).is_some_and(|neighbour| {
            neighbour.told != Have::NOTHING
                && TOLD.into_iter().all(|item| {
                    !neighbour.asked.contains_key(&item)
                        && !neighbour.offers(item, self.have().item(item), false)
                })
        })
    }
}
