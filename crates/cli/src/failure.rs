//! How a command ends when it fails: one error on stderr, in words or JSON, and a non-zero exit.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::error::{ContextKind, ErrorKind};
use meshara::api::{ApiError, ErrorCode, ErrorEnvelope};

use crate::output;
use crate::text;

/// Exit status of a wrong command line, as clap and most tools have it.
const USAGE_EXIT: u8 = 2;
/// Exit status of a command that failed.
const FAILURE_EXIT: u8 = 1;

/// Why a command did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Something to tell.
    Error(ApiError),
    /// The reader of the output has gone: nobody is left to tell, and nothing is wrong.
    BrokenPipe,
    /// All was told already; only the exit status is left to say.
    Told,
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self::Error(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::BrokenPipe,
            io::ErrorKind::StorageFull => ApiError::new(ErrorCode::DiskFull, error.to_string()).into(),
            _ => ApiError::new(ErrorCode::Io, error.to_string()).into(),
        }
    }
}

impl Failure {
    /// Tells the user and gives the exit status.
    pub(crate) fn report(self, json: bool) -> ExitCode {
        match self {
            Self::BrokenPipe => ExitCode::SUCCESS,
            Self::Told => ExitCode::from(FAILURE_EXIT),
            Self::Error(error) => {
                let exit = if error.code == ErrorCode::Usage { USAGE_EXIT } else { FAILURE_EXIT };
                print(error, json);
                ExitCode::from(exit)
            }
        }
    }
}

/// Ends a run whose command line did not parse; help and version end well.
pub(crate) fn usage(error: &clap::Error, args: impl Iterator<Item = OsString>) -> ExitCode {
    if !error.use_stderr() {
        // Nothing sensible can be done when help cannot be printed.
        return if error.print().is_ok() { ExitCode::SUCCESS } else { ExitCode::from(FAILURE_EXIT) };
    }
    let json = args.take_while(|arg| arg != "--").any(|arg| arg == "--json");
    if json {
        print(usage_error(error), true);
    } else if error.print().is_err() {
        return ExitCode::from(FAILURE_EXIT);
    }
    ExitCode::from(USAGE_EXIT)
}

fn usage_error(error: &clap::Error) -> ApiError {
    let rendered = error.render().to_string();
    let mut lines = rendered.lines().map(str::trim).filter(|line| !line.is_empty());
    let message = if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        "a command is missing".to_owned()
    } else {
        let first = lines.next().unwrap_or_default();
        let rest = lines.clone().take_while(|line| !line.starts_with("Usage:") && !line.starts_with("tip:"));
        let rest: Vec<&str> = rest.filter(|line| !line.starts_with("For more information")).collect();
        let first = first.strip_prefix("error: ").unwrap_or(first);
        if rest.is_empty() { first.to_owned() } else { format!("{first} {}", rest.join(" ")) }
    };
    let hint = lines
        .find_map(|line| line.strip_prefix("tip: "))
        .map(str::to_owned)
        .or_else(|| error.get(ContextKind::Usage).map(|usage| usage.to_string().trim().to_owned()))
        .unwrap_or_else(|| "see `meshara --help`".to_owned());
    ApiError::new(ErrorCode::Usage, message).hint(hint)
}

fn print(error: ApiError, json: bool) {
    let mut stderr = io::stderr().lock();
    let written = if json {
        serde_json::to_string(&ErrorEnvelope::from(error))
            .map_err(io::Error::from)
            .and_then(|line| writeln!(stderr, "{line}"))
    } else {
        let paint = output::stderr_paint();
        let message = text::printable(&error.message);
        writeln!(stderr, "{} {message}", paint.bad("error:")).and_then(|()| {
            if error.hint.is_empty() {
                return Ok(());
            }
            writeln!(stderr, "{} {}", paint.note("hint:"), text::printable(&error.hint))
        })
    };
    // Without a stderr there is nobody to tell; the exit status remains.
    drop(written);
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Cli;

    fn error(line: &[&str]) -> ApiError {
        usage_error(&Cli::try_parse_from(line).unwrap_err())
    }

    #[test]
    fn usage_errors_say_what_is_wrong() {
        let wrong = error(&["meshara", "ping", "bob", "--interval", "20"]);
        assert_eq!(wrong.code, ErrorCode::Usage);
        assert!(wrong.message.contains("'20'") && wrong.message.contains("--interval"), "{wrong:?}");
        let missing = error(&["meshara", "trace"]);
        assert!(missing.message.contains("<NODE>"), "{missing:?}");
        assert!(missing.hint.contains("Usage: meshara trace"), "{missing:?}");
        let unknown = error(&["meshara", "sttus"]);
        assert!(unknown.hint.contains("status"), "{unknown:?}");
        assert_eq!(error(&["meshara"]).message, "a command is missing");
    }

    #[test]
    fn a_broken_pipe_is_no_error() {
        assert!(matches!(Failure::from(io::Error::from(io::ErrorKind::BrokenPipe)), Failure::BrokenPipe));
    }
}
