//! Finds the patterns that match a name without trying each: exact names by hash, beginnings and ends by binary search.

use std::collections::HashMap;

use super::glob::Glob;
use super::target::NAME_MAX;

/// Values by pattern.
#[derive(Debug)]
pub(super) struct Index<T> {
    exact: HashMap<Box<str>, T>,
    /// By what stands before the first `*`.
    heads: Literals<T>,
    /// By what stands behind the last `*`, spelt backwards.
    tails: Literals<T>,
}

impl<T> Default for Index<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), heads: Literals(Vec::new()), tails: Literals(Vec::new()) }
    }
}

/// Sorted. The entries that begin a text are the last one not above it, if it begins the text, and its parents that do.
#[derive(Debug)]
struct Literals<T>(Vec<Entry<T>>);

#[derive(Debug)]
struct Entry<T> {
    literal: Vec<u8>,
    /// The longest other literal that begins this one.
    parent: Option<usize>,
    /// Value of the pattern that is this literal and one `*`.
    whole: Option<T>,
    /// Patterns that have more, which must be tried.
    partly: Vec<(Glob, T)>,
}

impl<T> Index<T> {
    /// An index of different patterns. No name may have more than `broad_max` patterns of one side to try; else the beginning or
    /// end that has them is the error.
    pub(super) fn build(
        patterns: impl IntoIterator<Item = (Glob, T)>,
        broad_max: usize,
    ) -> Result<Self, String> {
        let mut index = Self::default();
        for (glob, value) in patterns {
            let Some((head, tail, stars)) = glob.ends() else {
                index.exact.insert(glob.as_str().into(), value);
                continue;
            };
            let whole = stars == 1 && (head.is_empty() || tail.is_empty());
            let (literals, literal) = if head.len() >= tail.len() {
                (&mut index.heads, head.as_bytes().to_vec())
            } else {
                (&mut index.tails, tail.bytes().rev().collect())
            };
            literals.0.push(if whole {
                Entry { literal, parent: None, whole: Some(value), partly: Vec::new() }
            } else {
                Entry { literal, parent: None, whole: None, partly: vec![(glob, value)] }
            });
        }
        for (literals, backwards) in [(&mut index.heads, false), (&mut index.tails, true)] {
            if let Some(mut literal) = literals.finish(broad_max) {
                if backwards {
                    literal.reverse();
                }
                return Err(String::from_utf8_lossy(&literal).into_owned());
            }
        }
        Ok(index)
    }

    /// Calls `found` with the value of each pattern that matches `name`.
    pub(super) fn visit<'a>(&'a self, name: &str, found: &mut impl FnMut(&'a T)) {
        if let Some(value) = self.exact.get(name) {
            found(value);
        }
        self.heads.visit(name.as_bytes(), name, found);
        if !self.tails.0.is_empty() {
            let mut buffer = [0; NAME_MAX];
            let backwards = buffer.get_mut(..name.len()).unwrap_or_default();
            backwards.iter_mut().zip(name.bytes().rev()).for_each(|(to, from)| *to = from);
            self.tails.visit(backwards, name, found);
        }
    }
}

impl<T> Literals<T> {
    /// Sorts, merges entries of one literal, and links each to its parent. Gives a literal that has, with its parents, more than
    /// `broad_max` patterns to try.
    fn finish(&mut self, broad_max: usize) -> Option<Vec<u8>> {
        self.0.sort_by(|a, b| a.literal.cmp(&b.literal));
        self.0.dedup_by(|from, into| {
            let same = from.literal == into.literal;
            if same {
                into.whole = into.whole.take().or_else(|| from.whole.take());
                into.partly.append(&mut from.partly);
            }
            same
        });
        // The entries that begin the current one: in sorted order they are a stack.
        let mut begun: Vec<(usize, usize, Vec<u8>)> = Vec::new();
        for (at, entry) in self.0.iter_mut().enumerate() {
            while begun.last().is_some_and(|(.., literal)| !entry.literal.starts_with(literal)) {
                begun.pop();
            }
            entry.parent = begun.last().map(|(parent, ..)| *parent);
            let tries = entry.partly.len() + begun.last().map_or(0, |(_, tries, _)| *tries);
            if tries > broad_max {
                return Some(entry.literal.clone());
            }
            begun.push((at, tries, entry.literal.clone()));
        }
        None
    }

    fn visit<'a>(&'a self, text: &[u8], name: &str, found: &mut impl FnMut(&'a T)) {
        let mut at = self.0.partition_point(|entry| entry.literal.as_slice() <= text).checked_sub(1);
        while let Some(entry) = at.and_then(|at| self.0.get(at)) {
            if text.starts_with(&entry.literal) {
                entry.whole.iter().for_each(&mut *found);
                entry
                    .partly
                    .iter()
                    .filter(|(glob, _)| glob.matches(name))
                    .for_each(|(_, value)| found(value));
            }
            at = entry.parent;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The index finds exactly the patterns that match one by one.
        #[test]
        fn finds_what_matches(
            patterns in proptest::collection::btree_set("[ab*]{1,6}", 1..30),
            name in "[ab]{0,8}",
        ) {
            let globs: Vec<Glob> = patterns.iter().filter_map(|text| text.parse().ok()).collect();
            let mut expected: Vec<&Glob> = globs.iter().filter(|glob| glob.matches(&name)).collect();
            let index = Index::build(globs.iter().map(|glob| (glob.clone(), glob)), 100).unwrap();
            let mut found = Vec::new();
            index.visit(&name, &mut |glob| found.push(*glob));
            expected.sort();
            found.sort();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn patterns_that_must_all_be_tried_are_bounded() {
        let globs = |count: usize| (0..count).map(|n| (format!("*x{n}*").parse::<Glob>().unwrap(), n));
        assert!(Index::build(globs(8), 8).is_ok());
        assert_eq!(Index::build(globs(9), 8).unwrap_err(), "");
        let longer = (0..2).map(|n| (format!("a*y{n}*").parse::<Glob>().unwrap(), n));
        assert_eq!(Index::build(globs(7).chain(longer), 8).unwrap_err(), "a");
        let webs = (0..9).map(|n| (format!("*{n}*-web").parse::<Glob>().unwrap(), n));
        assert_eq!(Index::build(webs, 8).unwrap_err(), "-web");
    }
}
