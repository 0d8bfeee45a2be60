//! Who may do what: rules, their text, their compiled form, decisions, and what evidence takes away. It knows nothing of connections.
//!
//! Default deny; any matching deny wins, then the first matching allow. See `docs/trust.md`, "Policy".

mod compiled;
mod evidence;
mod explain;
mod glob;
mod index;
mod rate;
mod rule;
mod target;
mod text;
mod window;

pub use compiled::{BROAD_MAX, Compiled, DEFAULT_RULE, Decision, PORT_RANGES_MAX, WINDOWS_MAX};
pub use evidence::{EVIDENCE_RULE, Evidence, Ladder, Restriction, STALE_RULE, Step};
pub use explain::{Explanation, Looked, Why};
pub use glob::{GLOB_MAX, Glob, GlobError, STARS_MAX};
pub use rate::{BUCKETS_MAX, Rate, RateError, RateTable};
pub use rule::{Effect, PATTERNS_MAX, Policy, PolicyError, RULES_MAX, Rule};
pub use target::{Asked, Caller, NAME_MAX, Ports, Target, TargetError, TargetKind, Who};
pub use text::{PolicyTextError, Problem, STARTER, parse, write};
pub use window::{Window, WindowError};
