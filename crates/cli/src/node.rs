//! Where the command meets the library's node.

use std::io;
use std::path::Path;

use meshara::api::{ApiError, ErrorCode};
use meshara::config::Config;

use crate::commands::join::JoinArgs;
use crate::context::Context;
use crate::failure::Failure;

/// Runs the home's node until `stop` resolves.
pub(crate) async fn up(
    _context: &Context,
    _config: Config,
    _stop: impl Future<Output = io::Result<()>>,
) -> Result<(), Failure> {
    Err(ApiError::new(ErrorCode::Internal, "this build has no node yet").into())
}

/// Makes the home a member of the ticket's mesh.
pub(crate) async fn join(_context: &Context, _args: JoinArgs) -> Result<(), Failure> {
    Err(ApiError::new(ErrorCode::Internal, "this build cannot join yet").into())
}

/// Runs a scenario in the twin.
pub(crate) fn twin(_context: &Context, _file: &Path, _seed: Option<u64>) -> Result<(), Failure> {
    Err(ApiError::new(ErrorCode::Internal, "this build has no twin yet").into())
}
