//! The identity files of the home, with their errors in the command's form.

use std::io::ErrorKind;
use std::path::Path;

use meshara::api::{ApiError, ErrorCode};
use meshara_identity::home::{self, HomeError, Identity};
use meshara_identity::issuer::StoreError;
use meshara_identity::{FileError, IssuerError, Passphrase};

use crate::context::Context;

/// The passphrase of `--passphrase-file`, if one was given.
pub(crate) fn passphrase(context: &Context) -> Result<Option<Passphrase>, ApiError> {
    let file = context.passphrase_file.as_deref();
    file.map(passphrase_of).transpose()
}

/// The passphrase that a file holds.
pub(crate) fn passphrase_of(file: &Path) -> Result<Passphrase, ApiError> {
    Passphrase::from_file(file).map_err(|error| match error {
        FileError::Missing { path } => {
            let shown = path.display();
            ApiError::new(ErrorCode::Passphrase, format!("{shown}: no such passphrase file"))
                .hint(format!("write the passphrase into {shown}, or name the file that holds it"))
        }
        other => file_error(&other),
    })
}

/// This home's identity.
pub(crate) fn load(context: &Context) -> Result<Identity, ApiError> {
    let passphrase = passphrase(context)?;
    home::load(&context.home, passphrase.as_ref()).map_err(|error| home_error(&error))
}

/// An error of the identity files for people and programs.
pub(crate) fn home_error(error: &HomeError) -> ApiError {
    match error {
        HomeError::File(error) => file_error(error),
        HomeError::Content { .. } | HomeError::OtherNode { .. } => {
            split(ErrorCode::DamagedFile, &error.to_string())
        }
        HomeError::OtherMesh { .. } => split(ErrorCode::AlreadyInitialised, &error.to_string()),
        HomeError::Trust(_) => ApiError::new(ErrorCode::DamagedFile, error.to_string()).hint(
            "root.key, issuer.key and membership do not belong together: restore all from the same backup",
        ),
        HomeError::Issuer(IssuerError::Store(StoreError::File(error))) => file_error(error),
        HomeError::Issuer(IssuerError::Store(error)) => store_error(error),
        HomeError::Issuer(IssuerError::NameTaken) => ApiError::new(ErrorCode::NameTaken, error.to_string())
            .hint("an unfinished init has given this node another name: use that one, or another --home"),
        HomeError::Issuer(IssuerError::Issue(_)) => {
            split_at(ErrorCode::JoinRefused, &error.to_string(), ": ")
        }
        HomeError::Issuer(IssuerError::WrongGrant) => {
            split_at(ErrorCode::DamagedFile, &error.to_string(), ": ")
        }
        _ => split(ErrorCode::Internal, &error.to_string()),
    }
}

/// An error of one file for people and programs.
pub(crate) fn file_error(error: &FileError) -> ApiError {
    let code = match error {
        FileError::Missing { path } => match path.file_name().and_then(|name| name.to_str()) {
            Some(home::MEMBERSHIP) => ErrorCode::NotInitialised,
            Some(home::KEYSTORE | home::ISSUER_KEY | home::ISSUER_STATE) => ErrorCode::DamagedFile,
            _ => ErrorCode::Io,
        },
        FileError::AlreadyExists { .. } => ErrorCode::AlreadyInitialised,
        FileError::Permissions { .. } => ErrorCode::PermissionDenied,
        FileError::WrongPassphrase { .. }
        | FileError::PassphraseRequired { .. }
        | FileError::NotSealed { .. }
        | FileError::EmptyPassphrase { .. } => ErrorCode::Passphrase,
        FileError::Damaged { .. } | FileError::WrongKind { .. } => ErrorCode::DamagedFile,
        FileError::UnknownVersion { .. } => ErrorCode::NewerVersion,
        FileError::Io { kind, .. } => return io_error(*kind, error.to_string()),
        _ => ErrorCode::Internal,
    };
    split(code, &error.to_string())
}

/// What the operating system refused.
pub(crate) fn io_error(kind: ErrorKind, text: String) -> ApiError {
    match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            ApiError::new(ErrorCode::DiskFull, text).hint("free some space and try again")
        }
        ErrorKind::PermissionDenied => ApiError::new(ErrorCode::PermissionDenied, text)
            .hint("run it as the user that the home belongs to"),
        ErrorKind::ReadOnlyFilesystem => {
            ApiError::new(ErrorCode::Io, text).hint("choose a --home that can be written")
        }
        _ => ApiError::new(ErrorCode::Io, text).hint("`meshara doctor` looks at files, disk and ports"),
    }
}

fn store_error(error: &StoreError) -> ApiError {
    let code = match error {
        StoreError::InUse { .. } => ErrorCode::AlreadyRunning,
        StoreError::OtherMesh { .. } | StoreError::DamagedRecord => ErrorCode::DamagedFile,
        _ => ErrorCode::Io,
    };
    split(code, &error.to_string())
}

/// The errors of the identity files say what is wrong, then after a semicolon what to do.
pub(crate) fn split(code: ErrorCode, text: &str) -> ApiError {
    split_at(code, text, "; ")
}

fn split_at(code: ErrorCode, text: &str, separator: &str) -> ApiError {
    match text.rsplit_once(separator) {
        Some((message, hint)) => ApiError::new(code, message).hint(hint),
        None => ApiError::new(code, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_becomes_the_hint() {
        let error = file_error(&FileError::Missing { path: "/h/membership".into() });
        assert_eq!(error.code, ErrorCode::NotInitialised);
        assert_eq!(error.message, "/h/membership: no such file");
        assert!(error.hint.starts_with("run `meshara init`"), "{error:?}");
    }
}
