//! How long certificates and enrolments last: set when a mesh is made, signed with each grant, kept by every issuer.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Shortest life of a leaf that can be set: a renewal at half of it still has seconds for several tries at each of two issuers.
pub const LEAF_LIFE_MIN: Duration = Duration::from_secs(20);

/// Longest life of a leaf: what was revoked nowhere is over within a day.
pub const LEAF_LIFE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Below this a leaf's life deserves a warning: one restart of an issuer that takes minutes silences members.
pub const LEAF_LIFE_SHORT: Duration = Duration::from_secs(5 * 60);

/// Life of a leaf while several issuers can renew it, if none was set.
const LEAF_LIFE_SHARED: Duration = Duration::from_secs(3600);

/// Life of a leaf while one issuer alone can renew it, if none was set: it may be away for half a day.
const LEAF_LIFE_ALONE: Duration = LEAF_LIFE_MAX;

/// How long a node stays enrolled that is not heard of, if nothing else was set.
pub const ENROLMENT_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);

/// Shortest enrolment that can be set: as long as the longest leaf.
pub const ENROLMENT_LIFE_MIN: Duration = LEAF_LIFE_MAX;

/// Longest enrolment that can be set.
pub const ENROLMENT_LIFE_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Why lives can't be set so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LivesError {
    /// Outside [`LEAF_LIFE_MIN`] to [`LEAF_LIFE_MAX`].
    #[error("a certificate lives for 20 s to 24 h")]
    Leaf,
    /// Outside [`ENROLMENT_LIFE_MIN`] to [`ENROLMENT_LIFE_MAX`].
    #[error("an enrolment lasts for 1 day to 10 years")]
    Enrolment,
}

/// How long an issuer makes things last. Whole seconds, as certificates have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lives {
    leaf_s: Option<u32>,
    enrolment_s: u32,
}

impl Default for Lives {
    fn default() -> Self {
        Self { leaf_s: None, enrolment_s: seconds(ENROLMENT_LIFE) }
    }
}

/// All lives that can be set fit.
fn seconds(life: Duration) -> u32 {
    u32::try_from(life.as_secs()).unwrap_or(u32::MAX)
}

impl Lives {
    /// The life of leaves (`None`: the default, which depends on the number of issuers) and of enrolments.
    ///
    /// # Errors
    /// [`LivesError`]: too short or too long.
    pub fn new(leaf: Option<Duration>, enrolment: Duration) -> Result<Self, LivesError> {
        let lives = Self::unlimited(leaf, enrolment);
        lives.check()?;
        Ok(lives)
    }

    /// Whether they could be set: a statement may hold any.
    ///
    /// # Errors
    /// [`LivesError`]: too short or too long.
    pub fn check(&self) -> Result<(), LivesError> {
        let leaf = self.leaf_s.map(|leaf_s| Duration::from_secs(leaf_s.into()));
        if leaf.is_some_and(|leaf| !(LEAF_LIFE_MIN..=LEAF_LIFE_MAX).contains(&leaf)) {
            return Err(LivesError::Leaf);
        }
        if !(ENROLMENT_LIFE_MIN..=ENROLMENT_LIFE_MAX).contains(&self.enrolment()) {
            return Err(LivesError::Enrolment);
        }
        Ok(())
    }

    /// Also lives that nobody may set, for tests that can't wait as long.
    #[doc(hidden)]
    pub fn unlimited(leaf: Option<Duration>, enrolment: Duration) -> Self {
        Self { leaf_s: leaf.map(seconds), enrolment_s: seconds(enrolment) }
    }

    /// The life of a leaf in a mesh with so many issuers.
    pub fn leaf(&self, issuers: usize) -> Duration {
        match self.leaf_s {
            Some(set) => Duration::from_secs(set.into()),
            None if issuers > 1 => LEAF_LIFE_SHARED,
            None => LEAF_LIFE_ALONE,
        }
    }

    /// Whether the life of leaves was set.
    pub fn leaf_is_set(&self) -> bool {
        self.leaf_s.is_some()
    }

    /// How long an enrolment lasts.
    pub fn enrolment(&self) -> Duration {
        Duration::from_secs(self.enrolment_s.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_have_limits() {
        let new = |leaf, enrolment| Lives::new(leaf, Duration::from_secs(enrolment));
        let day = 24 * 3600;
        for leaf in [20, 3600, day] {
            let lives = new(Some(Duration::from_secs(leaf)), 90 * day).unwrap();
            assert_eq!(
                (lives.leaf(1), lives.leaf(5)),
                (Duration::from_secs(leaf), Duration::from_secs(leaf))
            );
        }
        for leaf in [19, day + 1] {
            assert_eq!(new(Some(Duration::from_secs(leaf)), 90 * day), Err(LivesError::Leaf));
        }
        let lives = Lives::unlimited(Some(Duration::from_secs(3 * 365 * day)), ENROLMENT_LIFE);
        assert_eq!(lives.check(), Err(LivesError::Leaf));
        assert_eq!(Lives { leaf_s: None, enrolment_s: u32::MAX }.check(), Err(LivesError::Enrolment));
        for enrolment in [day - 1, 3651 * day] {
            assert_eq!(new(None, enrolment), Err(LivesError::Enrolment));
        }
    }

    #[test]
    fn without_a_second_issuer_leaves_live_longer() {
        let lives = Lives::default();
        assert!(!lives.leaf_is_set());
        assert_eq!((lives.leaf(1), lives.leaf(2)), (LEAF_LIFE_ALONE, LEAF_LIFE_SHARED));
        assert_eq!(lives.enrolment(), ENROLMENT_LIFE);
    }
}
