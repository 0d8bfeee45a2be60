//! Files on the disk: for their owner alone, whole or not there, durable.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;

use super::FileError;
use crate::keys::random;

/// Gives a finished file its name. A hard link, unlike a rename, fails when the name exists: nothing is ever overwritten, not
/// even in a race.
pub(crate) fn link(temporary: &Path, path: &Path) -> Result<(), FileError> {
    fs::hard_link(temporary, path).map_err(|error| FileError::io(path, "create", &error))
}

/// A new file beside `path`, open for reading and writing.
pub(crate) fn temporary(path: &Path) -> Result<(PathBuf, File), FileError> {
    let suffix = random::<8>().map_err(|error| FileError::key(path, error))?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".new-{}", HEXLOWER.encode(suffix.as_slice())));
    let temporary = path.with_file_name(name);
    let file = private_options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&temporary)
        .map_err(|error| FileError::io(path, "write", &error))?;
    Ok((temporary, file))
}

/// Writes a new file beside `path`, durably.
pub(super) fn write_temporary(path: &Path, bytes: &[u8]) -> Result<PathBuf, FileError> {
    let (temporary, mut file) = temporary(path)?;
    match file.write_all(bytes).and_then(|()| file.sync_all()) {
        Ok(()) => Ok(temporary),
        Err(error) => {
            // Best effort: what could not be written is of no use, and the first error is the one to tell.
            let _ = fs::remove_file(&temporary);
            Err(FileError::io(path, "write", &error))
        }
    }
}

/// Options that make new files readable by their owner alone.
pub fn private_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Makes a directory (and its parents) for its owner alone; one that exists stays as it is.
pub fn private_directory(path: &Path) -> Result<(), FileError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(|error| FileError::io(path, "make the directory", &error))
}

#[cfg(unix)]
pub(crate) fn check_mode(path: &Path, file: &File) -> Result<(), FileError> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = file.metadata().map_err(|error| FileError::io(path, "examine", &error))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 == 0 { Ok(()) } else { Err(FileError::Permissions { path: path.to_owned(), mode }) }
}

#[cfg(not(unix))]
pub(crate) fn check_mode(_: &Path, _: &File) -> Result<(), FileError> {
    Ok(())
}

/// Makes a new or replaced name durable.
pub fn sync_directory(path: &Path) -> Result<(), FileError> {
    #[cfg(unix)]
    {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or_else(|| Path::new("."));
        File::open(directory)
            .and_then(|file| file.sync_all())
            .map_err(|error| FileError::io(directory, "sync", &error))?;
    }
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}
