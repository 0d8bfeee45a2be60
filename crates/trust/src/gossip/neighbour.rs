//! What is known of one neighbour.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use meshara_identity::UnixMillis;

use super::message::{Have, Item};
use crate::sets::{HeadRef, KeyId, SIGNERS_MAX, SignedFreshness};

/// What a neighbour told, was told, was asked and was sent. Bounded: one entry an item, and one a signer.
#[derive(Debug)]
pub(super) struct Neighbour {
    pub(super) told: Have,
    pub(super) said: Option<Have>,
    /// Since when it is asked for an item.
    pub(super) asked: BTreeMap<Item, Duration>,
    /// What it offers and is of no use: it isn't asked for that again.
    pub(super) refused: BTreeMap<Item, HeadRef>,
    /// What was sent to it when it asked. The stream is reliable: nothing is sent twice.
    pub(super) served: BTreeMap<Item, HeadRef>,
    /// Sets of which it told, since it was last asked, that it holds what this node holds: perhaps with other approvals.
    pub(super) told_again: BTreeSet<Item>,
    /// When its statements were sent to it.
    pub(super) statements_at: Option<Duration>,
    /// The statements that it has, by key.
    statements: BTreeMap<KeyId, UnixMillis>,
}

impl Neighbour {
    pub(super) fn new() -> Self {
        Self {
            told: Have::NOTHING,
            said: None,
            asked: BTreeMap::new(),
            refused: BTreeMap::new(),
            served: BTreeMap::new(),
            told_again: BTreeSet::new(),
            statements_at: None,
            statements: BTreeMap::new(),
        }
    }

    /// Whether it has something of use: a higher number, or other content for the same one, which is evidence. Where `unapproved`, also the
    /// set held itself: the neighbour may have the approvals of the present signers.
    pub(super) fn offers(&self, item: Item, held: HeadRef, unapproved: bool) -> bool {
        let told = self.told.item(item);
        let again = unapproved && told == held && self.told_again.contains(&item);
        told.number > 0
            && told.number >= held.number
            && (told != held || again)
            && self.refused.get(&item) != Some(&told)
    }

    /// It told what it holds.
    pub(super) fn tells(&mut self, have: Have, ours: Have) {
        for item in [Item::Revocations, Item::Policy] {
            if have.item(item) == ours.item(item) {
                self.told_again.insert(item);
                self.refused.remove(&item);
            }
        }
        self.told = have;
    }

    /// What it told of an item is of no use.
    pub(super) fn refuse(&mut self, item: Item) {
        self.asked.remove(&item);
        self.refused.insert(item, self.told.item(item));
    }

    /// Whether it lacks a statement; from now on it has it.
    pub(super) fn lacks(&mut self, signed: &SignedFreshness) -> bool {
        let at = signed.statement.at;
        let lacks = self.statements.get(&signed.key()).is_none_or(|known| *known < at);
        if lacks {
            self.has(signed);
        }
        lacks
    }

    /// It has this statement of a key, or a later one.
    pub(super) fn has(&mut self, signed: &SignedFreshness) {
        // Keys that sign no more make room; who forgets sends a statement once more at most.
        if self.statements.len() >= 2 * SIGNERS_MAX {
            self.statements.clear();
        }
        let known = self.statements.entry(signed.key()).or_insert(signed.statement.at);
        *known = (*known).max(signed.statement.at);
    }
}
