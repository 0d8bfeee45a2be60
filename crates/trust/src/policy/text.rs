//! Policy files: TOML to rules, with errors that name line and rule.

use std::ops::Range;

use meshara_identity::NameError;
use serde::Deserialize;
use toml::{Spanned, Value};

use super::compiled::Compiled;
use super::rate::{Rate, RateError};
use super::rule::{Effect, Policy, PolicyError, RULES_MAX, Rule, check_rule};
use super::target::TargetError;
use super::window::{Window, WindowError};

/// The policy of a new mesh, as a file.
pub const STARTER: &str = include_str!("starter.toml");

/// Version of the files.
const VERSION: u32 = 1;

/// Longest file: 10,000 rules of 800 bytes.
const TEXT_MAX: usize = 8 * 1024 * 1024;

/// What is wrong, where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}{}: {problem}", .rule.as_ref().map(|rule| format!(", rule {rule:?}")).unwrap_or_default())]
pub struct PolicyTextError {
    /// From 1.
    pub line: usize,
    /// Name of the rule, as written, when the problem is in one that has a name.
    pub rule: Option<String>,
    /// The problem.
    pub problem: Problem,
}

/// What is wrong with a policy file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// Too long.
    #[error("the file has more than {TEXT_MAX} bytes")]
    TooLong,
    /// Not TOML, an unknown key, a missing key, or a value of another type.
    #[error("{0}")]
    Toml(String),
    /// Another version.
    #[error("version {0}, this program knows {VERSION}")]
    Version(u32),
    /// The rule's name.
    #[error("{0}")]
    Name(NameError),
    /// Neither allow nor deny.
    #[error("effect is \"allow\" or \"deny\", found {0:?}")]
    Effect(String),
    /// Neither a text nor a list of texts.
    #[error("`{0}` is a text or a list of texts")]
    NotTexts(&'static str),
    /// A caller or target.
    #[error("`{key}`: {error}")]
    Target {
        /// `from` or `to`.
        key: &'static str,
        /// What is wrong.
        error: TargetError,
    },
    /// Days or hours.
    #[error(transparent)]
    Window(#[from] WindowError),
    /// A rate.
    #[error(transparent)]
    Rate(#[from] RateError),
    /// A burst without a rate.
    #[error("`burst` needs a `rate`")]
    BurstAlone,
    /// The rule as a whole, or all of them together.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPolicy {
    version: Spanned<u32>,
    #[serde(default)]
    rule: Vec<RawRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    name: Spanned<String>,
    effect: Spanned<String>,
    from: Spanned<Value>,
    to: Spanned<Value>,
    days: Option<Spanned<Vec<String>>>,
    hours: Option<Spanned<String>>,
    rate: Option<Spanned<String>>,
    burst: Option<Spanned<u32>>,
}

/// Parses and compiles a policy file.
pub fn parse(text: &str) -> Result<Compiled, PolicyTextError> {
    let at = |span: Range<usize>, problem| error(text, span.start, None, problem);
    if text.len() > TEXT_MAX {
        return Err(at(0..0, Problem::TooLong));
    }
    let raw: RawPolicy = toml::from_str(text).map_err(|found| {
        let start = found.span().map_or(0, |span| span.start);
        error(text, start, rule_at(text, start), Problem::Toml(found.message().to_owned()))
    })?;
    if *raw.version.get_ref() != VERSION {
        return Err(at(raw.version.span(), Problem::Version(*raw.version.get_ref())));
    }
    if raw.rule.len() > RULES_MAX {
        return Err(at(0..0, PolicyError::TooMany(raw.rule.len()).into()));
    }
    let starts: Vec<_> = raw.rule.iter().map(|rule| rule.name.span().start).collect();
    let mut rules = Vec::with_capacity(raw.rule.len());
    for raw in raw.rule {
        let (name, start) = (raw.name.get_ref().clone(), raw.name.span().start);
        let named = |(start, problem)| error(text, start, Some(name.clone()), problem);
        let rule = rule(raw).map_err(named)?;
        check_rule(&rule).map_err(|problem| named((start, problem.into())))?;
        rules.push(rule);
    }
    let names: Vec<_> = rules.iter().map(|rule| rule.name.clone()).collect();
    Policy::new(rules).and_then(Compiled::new).map_err(|problem| {
        // The second of two rules with one name is the one to change; what is wrong with all together is nowhere.
        let twice = match &problem {
            PolicyError::NameTaken(name) => names.iter().rposition(|other| other == name),
            _ => None,
        };
        let (start, rule) = twice.map_or((0, None), |at| {
            (starts.get(at).copied().unwrap_or(0), names.get(at).map(ToString::to_string))
        });
        error(text, start, rule, problem.into())
    })
}

/// A policy as a file that [`parse`] reads to the same rules.
pub fn write(policy: &Policy) -> String {
    let mut text = format!("version = {VERSION}\n");
    for rule in policy.rules() {
        let effect = if rule.effect == Effect::Allow { "allow" } else { "deny" };
        text.push_str(&format!("\n[[rule]]\nname = \"{}\"\neffect = \"{effect}\"\n", rule.name));
        text.push_str(&line("from", list(rule.from.iter().map(ToString::to_string).collect())));
        text.push_str(&line("to", list(rule.to.iter().map(ToString::to_string).collect())));
        let (days, hours) = rule.when.map_or((None, None), |when| when.words());
        let days = days.map(|days| Value::from(days.into_iter().map(str::to_owned).collect::<Vec<_>>()));
        let (rate, burst) = rule.rate.map_or((None, None), |rate| (Some(rate.words().0), rate.words().1));
        let optional = [
            ("days", days),
            ("hours", hours.map(Value::from)),
            ("rate", rate.map(Value::from)),
            ("burst", burst.map(Value::from)),
        ];
        for (key, value) in optional {
            text.extend(value.map(|value| line(key, value)));
        }
    }
    text
}

fn line(key: &str, value: Value) -> String {
    format!("{key} = {value}\n")
}

/// One text, or a list of several.
fn list(mut texts: Vec<String>) -> Value {
    match texts.len() {
        1 => Value::from(texts.remove(0)),
        _ => Value::from(texts),
    }
}

/// One rule; an error comes with its place.
fn rule(raw: RawRule) -> Result<Rule, (usize, Problem)> {
    let name = raw.name.get_ref().parse().map_err(|error| (raw.name.span().start, Problem::Name(error)))?;
    let effect = match raw.effect.get_ref().as_str() {
        "allow" => Effect::Allow,
        "deny" => Effect::Deny,
        other => return Err((raw.effect.span().start, Problem::Effect(other.to_owned()))),
    };
    let window_at = raw.hours.as_ref().map(Spanned::span).or_else(|| raw.days.as_ref().map(Spanned::span));
    let when = match window_at {
        None => None,
        Some(span) => {
            let (days, hours) = (raw.days.as_ref(), raw.hours.as_ref());
            let window = Window::parse(
                days.map(|days| days.get_ref().as_slice()),
                hours.map(|hours| hours.get_ref().as_str()),
            );
            let day_start = days.map_or(span.start, |days| days.span().start);
            Some(window.map_err(|error| match error {
                WindowError::BadDay(_) => (day_start, error.into()),
                _ => (span.start, error.into()),
            })?)
        }
    };
    let rate = match (&raw.rate, &raw.burst) {
        (None, None) => None,
        (None, Some(burst)) => return Err((burst.span().start, Problem::BurstAlone)),
        (Some(rate), burst) => {
            let count = burst.as_ref().map(|burst| *burst.get_ref());
            let burst_at = burst.as_ref().map_or(0, |burst| burst.span().start);
            Some(Rate::parse(rate.get_ref(), count).map_err(|error| match error {
                RateError::BadBurst if count.is_some() => (burst_at, error.into()),
                _ => (rate.span().start, error.into()),
            })?)
        }
    };
    Ok(Rule { name, effect, from: texts("from", &raw.from)?, to: texts("to", &raw.to)?, when, rate })
}

/// The texts of a key that takes one or a list.
fn texts<T>(key: &'static str, value: &Spanned<Value>) -> Result<Vec<T>, (usize, Problem)>
where
    T: std::str::FromStr<Err = TargetError>,
{
    let start = value.span().start;
    let list = match value.get_ref() {
        Value::Array(list) => list.as_slice(),
        one => std::slice::from_ref(one),
    };
    list.iter()
        .map(|text| {
            let text = text.as_str().ok_or((start, Problem::NotTexts(key)))?;
            text.parse().map_err(|error| (start, Problem::Target { key, error }))
        })
        .collect()
}

fn error(text: &str, start: usize, rule: Option<String>, problem: Problem) -> PolicyTextError {
    PolicyTextError { line: line_of(text, start), rule, problem }
}

fn line_of(text: &str, start: usize) -> usize {
    1 + text.bytes().take(start).filter(|byte| *byte == b'\n').count()
}

/// Name of the rule around a place in a file that doesn't parse as a policy, as far as it is written there.
fn rule_at(text: &str, start: usize) -> Option<String> {
    let is_header = |line: &&str| line.trim().starts_with("[[rule]]");
    let line = line_of(text, start);
    let header = text.lines().take(line).collect::<Vec<_>>().iter().rposition(is_header)?;
    let body = text.lines().skip(header + 1).take_while(|line| !line.trim().starts_with('['));
    let mut names = body.filter_map(|line| {
        let value = line.trim().strip_prefix("name")?.trim_start().strip_prefix('=')?;
        let quoted = value.trim().strip_prefix(['"', '\''])?;
        quoted.split(['"', '\'']).next().map(str::to_owned)
    });
    names.next()
}
