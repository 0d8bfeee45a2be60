//! `meshara trust audit --trail`: verifies and exports this node's trail of security events. It needs the files alone.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use meshara::api::{ApiError, ErrorCode};
use meshara::{TrailError, TrailReport};
use serde_json::json;

use crate::context::Context;
use crate::failure::Failure;
use crate::output;

/// The name of a file that stands for standard output.
const STDOUT: &str = "-";

pub(super) fn run(export: Option<&Path>, context: &Context) -> Result<(), Failure> {
    let to_stdout = export.is_some_and(|to| to == Path::new(STDOUT));
    let report = match export {
        None => meshara::verify_trail(&context.home).map_err(|error| told(&error))?,
        Some(_) if to_stdout => {
            let mut out = BufWriter::new(io::stdout().lock());
            written(&context.home, &mut out)?
        }
        Some(to) => {
            let failed = |error: io::Error| {
                ApiError::new(ErrorCode::Io, format!("{}: {error}", to.display()))
                    .hint("name a file that is not there yet")
            };
            let mut out = BufWriter::new(File::create_new(to).map_err(failed)?);
            let report = written(&context.home, &mut out)?;
            out.into_inner()
                .map_err(io::IntoInnerError::into_error)
                .and_then(|file| file.sync_all())
                .map_err(failed)?;
            report
        }
    };
    if !to_stdout {
        show(&report, context)?;
    }
    match report.bad {
        None => Ok(()),
        Some(bad) if to_stdout => Err(ApiError::new(ErrorCode::DamagedFile, bad.to_string()).into()),
        Some(_) => Err(Failure::Told),
    }
}

fn written(home: &Path, out: &mut impl Write) -> Result<TrailReport, ApiError> {
    let report = meshara::export_trail(home, 1, out).map_err(|error| told(&error))?;
    out.flush().map_err(|error| ApiError::new(ErrorCode::Io, error.to_string()))?;
    Ok(report)
}

fn told(error: &TrailError) -> ApiError {
    ApiError::new(ErrorCode::Io, error.to_string())
}

fn show(report: &TrailReport, context: &Context) -> Result<(), Failure> {
    let problems: Vec<String> = report.bad.iter().map(ToString::to_string).collect();
    if context.json {
        let head = json!({ "seq": report.head.seq, "hash": report.head.hash.to_string() });
        let ok = problems.is_empty();
        return Ok(output::json(
            &json!({ "ok": ok, "files": report.files, "lines": report.lines, "first": report.first, "head": head, "problems": problems }),
        )?);
    }
    let paint = output::stdout_paint();
    for problem in &problems {
        output::line(format!("{} {problem}", paint.bad("problem:")))?;
    }
    let verdict = if problems.is_empty() { paint.good("ok") } else { paint.bad("not ok") };
    output::line(format!(
        "{verdict}: {} lines in {} files, from {} to {}",
        report.lines, report.files, report.first, report.head.seq
    ))?;
    Ok(output::line(paint.dim(&format!(
        "note elsewhere, to see later that no line was cut off: {} {}",
        report.head.seq, report.head.hash
    )))?)
}
