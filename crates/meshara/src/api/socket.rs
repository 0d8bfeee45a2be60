//! The control socket: where it is, how it is made and how it is reached.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use tokio::net::{UnixListener, UnixStream};

use super::SOCKET_NAME;

/// Longest path that fits a Unix socket address (`sun_path` is 108 bytes with its NUL, unix(7)).
const MAX_SOCKET_PATH: usize = 107;

/// Where the control socket of a home is.
#[must_use]
pub fn socket_path(home: &Path) -> PathBuf {
    home.join(SOCKET_NAME)
}

/// Makes the control socket of a home with mode 0600, replacing one that a killed node left behind. The caller holds the
/// home's lock, so no living node's socket can be replaced.
///
/// # Errors
/// Something that is no socket bears its name, or the operating system refuses.
pub fn bind(home: &Path) -> io::Result<UnixListener> {
    bind_socket(home, SOCKET_NAME, 0o600)
}

/// Makes a socket of a home, as [`bind`] does, with another name and mode.
pub(crate) fn bind_socket(home: &Path, name: &str, mode: u32) -> io::Result<UnixListener> {
    let path = home.join(name);
    match std::fs::symlink_metadata(&path) {
        Ok(found) if found.file_type().is_socket() => std::fs::remove_file(&path)?,
        Ok(_) => {
            let reason = format!("{} is not a socket; move it away", path.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, reason));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let short = ShortPath::new(home, name)?;
    let listener = UnixListener::bind(&short.path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
    Ok(listener)
}

/// Opens a connection to the node that runs on a home.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` when none does, `PermissionDenied` when it is another user's.
pub(super) async fn connect(home: &Path) -> io::Result<UnixStream> {
    let short = ShortPath::new(home, SOCKET_NAME)?;
    UnixStream::connect(&short.path).await
}

/// A path to the socket that fits a socket address, however deep the home is: through an open directory if need be.
struct ShortPath {
    path: PathBuf,
    /// Keeps `/proc/self/fd/N` valid.
    _home: Option<OwnedFd>,
}

impl ShortPath {
    fn new(home: &Path, name: &str) -> io::Result<Self> {
        let path = home.join(name);
        if path.as_os_str().len() <= MAX_SOCKET_PATH {
            return Ok(Self { path, _home: None });
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(home, flags, Mode::empty())?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/{name}", fd.as_raw_fd()));
        Ok(Self { path, _home: Some(fd) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_the_mode_is_private() {
        let home = tempfile::tempdir().unwrap();
        drop(bind(home.path()).unwrap());
        assert_eq!(connect(home.path()).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let _listener = bind(home.path()).unwrap();
        connect(home.path()).await.unwrap();
        let mode = std::fs::metadata(socket_path(home.path())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_file_in_its_place_is_left_alone() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(socket_path(home.path()), "precious").unwrap();
        assert_eq!(bind(home.path()).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(socket_path(home.path())).unwrap(), b"precious");
    }

    #[tokio::test]
    async fn a_deep_home_works() {
        let root = tempfile::tempdir().unwrap();
        let home = root.path().join("d".repeat(120));
        std::fs::create_dir(&home).unwrap();
        let _listener = bind(&home).unwrap();
        connect(&home).await.unwrap();
    }
}
