//! The control socket: where it is, how it is made and how it is reached.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use tokio::net::{UnixListener, UnixStream};

use super::SOCKET_NAME;

/// Longest path that fits a Unix socket address (`sun_path` is 108 bytes with its NUL, unix(7)).
const MAX_SOCKET_PATH: usize = 107;

/// Ends the name of the directory in which a socket is made.
const MAKING: &str = ".making";
/// Its name there.
const MADE: &str = "s";

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

/// Makes a socket of a home, as [`bind`] does, with another name and mode. It has that mode before anybody can reach it: it is bound in a directory
/// that is this user's alone, and moved into its place.
pub(crate) fn bind_socket(home: &Path, name: &str, mode: u32) -> io::Result<UnixListener> {
    let path = home.join(name);
    match std::fs::symlink_metadata(&path) {
        Ok(found) if found.file_type().is_socket() => {}
        Ok(_) => {
            let reason = format!("{} is not a socket; move it away", path.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, reason));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let closed = home.join(format!("{name}{MAKING}"));
    remove_directory(&closed)?;
    std::fs::DirBuilder::new().mode(0o700).create(&closed)?;
    let bound = bind_in(&closed, mode, &path);
    remove_directory(&closed)?;
    bound
}

fn bind_in(closed: &Path, mode: u32, path: &Path) -> io::Result<UnixListener> {
    let made = closed.join(MADE);
    let listener = UnixListener::bind(&ShortPath::new(closed, MADE)?.path)?;
    std::fs::set_permissions(&made, std::fs::Permissions::from_mode(mode))?;
    // Replaces the one that a killed node left.
    std::fs::rename(&made, path)?;
    Ok(listener)
}

/// Removes the directory that a killed node may have left, with nothing but a socket in it.
fn remove_directory(closed: &Path) -> io::Result<()> {
    let there = |done: io::Result<()>| match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    };
    there(std::fs::remove_file(closed.join(MADE)))?;
    there(std::fs::remove_dir(closed))
}

/// Whether who opened this connection to the control socket may: the node's own user, and root, who may do anything in any case. The socket's mode
/// says the same; a home on a file system without modes, or one that somebody opened, does not.
pub(super) fn is_allowed(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
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

    /// Looks at the home again and again while sockets are made: nobody finds one in it that is open to others, and none is ever missing.
    #[tokio::test]
    async fn a_socket_is_private_before_it_can_be_reached_and_replaced_in_one_step() {
        let home = tempfile::tempdir().unwrap();
        let _first = bind(home.path()).unwrap();
        let (place, done) = (home.path().to_owned(), std::sync::atomic::AtomicBool::new(false));
        std::thread::scope(|scope| {
            let looking = scope.spawn(|| {
                let (mut looks, mut open) = (0_u64, Vec::new());
                while !done.load(std::sync::atomic::Ordering::Relaxed) || looks < 1000 {
                    let mode =
                        std::fs::metadata(place.join(SOCKET_NAME)).map(|found| found.permissions().mode());
                    if !mode.as_ref().is_ok_and(|mode| mode & 0o777 == 0o600) {
                        open.push(mode.map_err(|error| error.kind()));
                    }
                    looks += 1;
                }
                open
            });
            for _ in 0..200 {
                drop(bind(home.path()).unwrap());
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            assert_eq!(looking.join().unwrap(), []);
        });
        let left = std::fs::read_dir(home.path()).unwrap().count();
        assert_eq!(left, 1, "nothing but the socket");
        // What a killed node left half made does not stop the next one.
        let closed = home.path().join(format!("{SOCKET_NAME}{MAKING}"));
        std::fs::create_dir(&closed).unwrap();
        drop(UnixListener::bind(closed.join(MADE)).unwrap());
        let listener = bind(home.path()).unwrap();
        let (_client, (served, _)) = (connect(home.path()).await.unwrap(), listener.accept().await.unwrap());
        assert!(is_allowed(&served), "this user");
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
