//! Where a node lives when `--home` does not say.

use std::path::PathBuf;

use meshara::api::{ApiError, ErrorCode};

/// The platform's data directory: `$XDG_DATA_HOME/meshara`, `~/.local/share/meshara`, or on macOS
/// `~/Library/Application Support/meshara`.
pub(crate) fn default_home() -> Result<PathBuf, ApiError> {
    let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let below = if cfg!(target_os = "macos") { "Library/Application Support" } else { ".local/share" };
    data.or_else(|| Some(std::env::home_dir().filter(|home| home.is_absolute())?.join(below)))
        .map(|data| data.join("meshara"))
        .ok_or_else(|| {
            ApiError::new(ErrorCode::Usage, "this user has no home directory")
                .hint("say where the node lives: --home DIR or MESHARA_HOME")
        })
}
