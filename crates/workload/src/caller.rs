//! Who is at the other end of a connection: the kernel's word, not the caller's.
//!
//! The user id and the process are those that connected (`SO_PEERCRED`). A descriptor of that very process (`SO_PEERPIDFD`, Linux 6.5)
//! tells whether it still lives, so another process that gets its number later is never taken for it. The program is looked at anew for
//! each request. What this can and can't tell is in `docs/workload.md`.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};
use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::net::UnixStream;

/// Why nobody is known to be at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttestError {
    /// The process is of another PID namespace that this node doesn't see into.
    #[error("the caller's process is not visible to the node")]
    Invisible,
    /// The process that connected has ended.
    #[error("the process that connected has ended")]
    Gone,
    /// The system refused.
    #[error("the system does not tell who is calling: {0}")]
    Io(io::ErrorKind),
}

/// A file, whatever it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId {
    /// Device that holds it.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
}

impl FileId {
    /// The file at `path`, links followed.
    pub fn of(path: &Path) -> Option<Self> {
        let found = std::fs::metadata(path).ok()?;
        Some(Self { device: found.dev(), inode: found.ino() })
    }
}

/// What a caller is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attested {
    /// Effective user id when it connected.
    pub uid: u32,
    /// Process that connected.
    pub pid: i32,
    /// The file that it runs; `None` when the node may not see it.
    pub exe: Option<FileId>,
}

/// The process that opened a connection.
#[derive(Debug)]
pub struct Caller {
    uid: u32,
    pid: i32,
    process: OwnedFd,
}

impl Caller {
    /// Asks the kernel who connected.
    ///
    /// # Errors
    /// [`AttestError`].
    pub fn of(stream: &UnixStream) -> Result<Self, AttestError> {
        let peer = stream.peer_cred().map_err(|error| AttestError::Io(error.kind()))?;
        let pid = peer.pid().filter(|pid| *pid > 0).ok_or(AttestError::Invisible)?;
        let process = process_of(stream, pid)?;
        Ok(Self { uid: peer.uid(), pid, process })
    }

    /// The user id that connected.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// What the caller is now.
    ///
    /// # Errors
    /// [`AttestError::Gone`]: what was read may be another process's then.
    pub fn attest(&self) -> Result<Attested, AttestError> {
        let directory = format!("/proc/{}", self.pid);
        // A program that changed its user is not what that user runs.
        let owner = std::fs::metadata(&directory).ok().map(|process| process.uid());
        let exe = FileId::of(Path::new(&format!("{directory}/exe"))).filter(|_| owner == Some(self.uid));
        // Only now: as long as the process lives, nobody else has its number.
        if !is_alive(&self.process)? {
            return Err(AttestError::Gone);
        }
        Ok(Attested { uid: self.uid, pid: self.pid, exe })
    }
}

/// A descriptor of the process at the other end.
fn process_of(stream: &UnixStream, pid: i32) -> Result<OwnedFd, AttestError> {
    match getsockopt(stream, sockopt::PeerPidfd) {
        Ok(process) => return Ok(process),
        // Linux before 6.5.
        Err(Errno::ENOPROTOOPT) => {}
        Err(Errno::ESRCH | Errno::EINVAL | Errno::ENODATA) => return Err(AttestError::Gone),
        Err(error) => return Err(AttestError::Io(io::Error::from(error).kind())),
    }
    let pid = rustix::process::Pid::from_raw(pid).ok_or(AttestError::Invisible)?;
    match rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
        Ok(process) => Ok(process),
        Err(rustix::io::Errno::SRCH) => Err(AttestError::Gone),
        Err(error) => Err(AttestError::Io(io::Error::from(error).kind())),
    }
}

/// Whether the process lives: its descriptor becomes readable when it ends (pidfd_open(2)).
fn is_alive(process: &OwnedFd) -> Result<bool, AttestError> {
    let mut polled = [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let ended = rustix::event::poll(&mut polled, Some(&now))
        .map_err(|error| AttestError::Io(io::Error::from(error).kind()))?;
    Ok(ended == 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream as StdStream;
    use std::process::{Command, Stdio};

    use super::*;

    fn tokio_stream(stream: StdStream) -> UnixStream {
        stream.set_nonblocking(true).unwrap();
        UnixStream::from_std(stream).unwrap()
    }

    #[tokio::test]
    async fn a_caller_is_what_the_kernel_says() {
        let (_ours, theirs) = StdStream::pair().unwrap();
        let attested = Caller::of(&tokio_stream(theirs)).unwrap().attest().unwrap();
        assert_eq!(attested.uid, rustix::process::geteuid().as_raw());
        assert_eq!(attested.pid, i32::try_from(std::process::id()).unwrap());
        assert_eq!(attested.exe, FileId::of(&std::env::current_exe().unwrap()));
    }

    #[tokio::test]
    async fn a_process_that_has_ended_is_nobody() {
        // cat stands for any process; its descriptor is what a connection of its would hold.
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let process = rustix::process::pidfd_open(
            rustix::process::Pid::from_raw(pid).unwrap(),
            rustix::process::PidfdFlags::empty(),
        )
        .unwrap();
        let caller = Caller { uid: rustix::process::geteuid().as_raw(), pid, process };
        assert_eq!(caller.attest().unwrap().pid, pid);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(caller.attest(), Err(AttestError::Gone));
    }
}
