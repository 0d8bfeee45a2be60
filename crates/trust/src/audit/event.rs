//! What is written down. Every field has a type that no secret fits: ids, names, numbers, and short words.

use std::fmt;

use meshara_identity::{NodeId, NodeName, UnixMillis};
use serde::{Deserialize, Serialize};

use crate::revocation::Reason;

/// Most characters of [`Words`]: a name of a rule, a service, an error's name.
const WORDS_MAX: usize = 256;

/// A text that doesn't fit a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("at most {WORDS_MAX} characters, and no control characters")]
pub struct WordsError;

/// A short text of one line: what was asked for, a rule, the name of an error. What others chose is shortened and cleaned by
/// [`Words::clean`], so that nobody can write lines of their own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Words(String);

impl Words {
    /// As much of `text` as fits, with `?` for control characters.
    pub fn clean(text: &str) -> Self {
        Self(text.chars().take(WORDS_MAX).map(|c| if c.is_control() { '?' } else { c }).collect())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Words {
    type Error = WordsError;

    fn try_from(text: String) -> Result<Self, WordsError> {
        let bad = text.chars().any(char::is_control) || text.chars().nth(WORDS_MAX).is_some();
        if bad { Err(WordsError) } else { Ok(Self(text)) }
    }
}

impl From<Words> for String {
    fn from(words: Words) -> Self {
        words.0
    }
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was done.
    Done,
    /// It was refused, with the name of the refusal.
    Refused(Words),
}

/// A security event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Event {
    /// A node asked to join. Never its ticket.
    Join {
        /// The node.
        node: NodeId,
        /// The name that it asked for.
        name: NodeName,
        /// How it ended.
        outcome: Outcome,
    },
    /// Policy, revocation or evidence denied something.
    Denial {
        /// Who asked.
        node: NodeId,
        /// For what: kind and name.
        target: Words,
        /// The rule that denied.
        rule: Words,
        /// How often, since the last line about it.
        count: u64,
    },
    /// A certificate was renewed, the own or, on an issuer, a member's.
    Renewal {
        /// Whose.
        node: NodeId,
        /// How it ended.
        outcome: Outcome,
        /// End of the newest certificate.
        not_after: UnixMillis,
    },
    /// A node was revoked or reinstated.
    Revocation {
        /// Number of the snapshot.
        number: u64,
        /// The node.
        node: NodeId,
        /// Revoked, or reinstated.
        revoked: bool,
        /// Why.
        reason: Reason,
    },
    /// A policy set was taken, or refused.
    PolicyChange {
        /// Number of the set.
        number: u64,
        /// Rules in it.
        rules: u64,
        /// How it ended.
        outcome: Outcome,
    },
    /// The mesh entered a phase, or didn't.
    Phase {
        /// Version of the root document.
        version: u64,
        /// The phase.
        phase: u8,
        /// How it ended.
        outcome: Outcome,
    },
    /// This node goes by another version of the root document.
    Root {
        /// The version.
        version: u64,
        /// The phase that it says.
        phase: u8,
    },
    /// A grant counts from now on, or does no more since the mesh's root dropped it.
    Grant {
        /// The issuer.
        issuer: NodeId,
        /// The grant's number.
        number: u64,
        /// Done: it counts.
        outcome: Outcome,
    },
    /// An operator gave a member roles, or took some.
    Roles {
        /// The member.
        node: NodeId,
        /// Given.
        added: Vec<Words>,
        /// Taken.
        removed: Vec<Words>,
        /// How it ended.
        outcome: Outcome,
    },
    /// An operator decided about a node that waits to join, or put one on the issuer's list of nodes or took it off.
    Decision {
        /// The node.
        node: NodeId,
        /// `approved`, `declined`, `listed` or `unlisted`.
        decision: Words,
    },
    /// A ticket was made here. Never which.
    Ticket {
        /// How many nodes may join with it.
        uses: u32,
        /// Its end.
        until: UnixMillis,
        /// Roles that it gives.
        roles: Vec<Words>,
    },
    /// A program was registered for an identity of its own, or is no more; or another trust domain is trusted, or no more.
    Workload {
        /// Name of the entry, or of the trust domain.
        name: Words,
        /// `registered`, `unregistered`, `federated` or `unfederated`.
        change: Words,
    },
    /// A statement that was handed to this node to be published was refused.
    Publication {
        /// `root`, `grant`, `revocations` or `policy`.
        statement: Words,
        /// Its number.
        number: u64,
        /// How it ended.
        outcome: Outcome,
    },
    /// Evidence against a node or a signer.
    Evidence {
        /// Against whom: a node's or a signer's name or id.
        against: Words,
        /// Of what.
        what: Words,
    },
    /// The trail was found damaged and begins anew here.
    Damage {
        /// The file.
        file: Words,
        /// The first line of it that is bad, from 1.
        line: u64,
        /// What is wrong.
        what: Words,
    },
}

impl Event {
    /// Whether the event must be on the disk before the work goes on. Denials alone can come by the thousand, and a lost one
    /// has done no harm.
    pub(super) fn is_urgent(&self) -> bool {
        !matches!(self, Self::Denial { .. })
    }
}
