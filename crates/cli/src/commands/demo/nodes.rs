//! The demo's nodes: child processes of this program, each with a home of its own below one temporary directory.

use std::io;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use meshara::api::{ApiError, Client, ErrorCode, ErrorEnvelope, Invite};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::grid::{self, FAR, NEAR, NODES};
use super::view::{State, View};
use crate::failure::Failure;

/// Time between two looks at the nodes: unnoticeable to people and cheap for nine nodes.
const LOOK: Duration = Duration::from_millis(50);
/// What a node says, in its home beside what it keeps there.
const OUTPUT: &str = "output";
/// `up` promises to answer within this time.
const START: Duration = Duration::from_secs(15);
/// A child that ends in order needs no longer; then it is killed.
const END: Duration = Duration::from_secs(2);

/// The nodes. Fields are dropped in order: the children are killed before their homes are removed.
pub(super) struct Mesh {
    children: Vec<Option<Child>>,
    program: PathBuf,
    root: TempDir,
}

impl Mesh {
    pub(super) fn new() -> Result<Self, Failure> {
        let root = tempfile::Builder::new().prefix("meshara-demo-").tempdir()?;
        let children = (0..NODES).map(|_| None).collect();
        Ok(Self { children, program: std::env::current_exe()?, root })
    }

    fn home(&self, index: usize) -> PathBuf {
        self.root.path().join(grid::name(index))
    }

    /// A client of one node.
    pub(super) fn client(&self, index: usize) -> Client {
        Client::new(self.home(index))
    }

    /// Makes the mesh on the first node and lets the others join, wave by wave, each through its neighbours.
    pub(super) async fn start(&mut self, view: &mut View) -> Result<(), Failure> {
        let name = grid::name(NEAR);
        self.done(self.command(NEAR, &["init", "--mesh", "demo", "--name", name]).output().await?, NEAR)?;
        let mut listen: Vec<String> = vec![String::new(); NODES];
        let mut ticket = None;
        for wave in grid::waves() {
            if let Some(ticket) = &ticket {
                self.join(&wave, ticket, &listen, view).await?;
            }
            for index in &wave {
                self.up(*index, &listen)?;
            }
            for index in &wave {
                let addr = self.answers(*index).await?;
                if let Some(slot) = listen.get_mut(*index) {
                    *slot = addr;
                }
                view.state(*index, State::Up);
            }
            view.redraw()?;
            if ticket.is_none() {
                ticket = Some(self.ticket().await?);
            }
        }
        Ok(())
    }

    async fn ticket(&self) -> Result<Invite, Failure> {
        let uses = u32::try_from(NODES).unwrap_or(u32::MAX);
        Ok(self
            .client(NEAR)
            .invite(&meshara::api::InviteRequest {
                ttl_ms: 600_000,
                uses,
                roles: Vec::new(),
                attest: Vec::new(),
            })
            .await?)
    }

    async fn join(
        &self,
        wave: &[usize],
        ticket: &Invite,
        listen: &[String],
        view: &mut View,
    ) -> Result<(), Failure> {
        let mut joining = Vec::new();
        for index in wave {
            let mut args = vec!["join", ticket.ticket.as_str(), "--name", grid::name(*index)];
            args.extend(peers(*index, listen));
            joining.push((*index, self.command(*index, &args).spawn()?));
            view.state(*index, State::Joining);
        }
        view.redraw()?;
        for (index, child) in joining {
            self.done(child.wait_with_output().await?, index)?;
        }
        Ok(())
    }

    fn up(&mut self, index: usize, listen: &[String]) -> Result<(), Failure> {
        let parent = std::process::id().to_string();
        let mut args = vec![
            "up",
            "--listen",
            "127.0.0.1:0",
            "--no-auto",
            "--no-multicast",
            "--no-direct",
            "--with-parent",
            &parent,
        ];
        args.extend(peers(index, listen));
        let log = std::fs::File::create(self.home(index).join(OUTPUT))?;
        let child = self.command(index, &args).stdout(Stdio::null()).stderr(log).spawn()?;
        if let Some(slot) = self.children.get_mut(index) {
            *slot = Some(child);
        }
        Ok(())
    }

    /// Waits until a node answers and gives its UDP address.
    async fn answers(&mut self, index: usize) -> Result<String, Failure> {
        let client = self.client(index);
        let start = Instant::now();
        loop {
            let last = match client.status().await {
                Ok(status) => {
                    let none = || ApiError::new(ErrorCode::Internal, "the node listens on no address");
                    return Ok(status.listen.into_iter().next().ok_or_else(none)?);
                }
                Err(error) => error,
            };
            let child = self.children.get_mut(index).and_then(Option::as_mut);
            let ended = child.map_or(Ok(None), Child::try_wait)?;
            if ended.is_some() || start.elapsed() > START {
                return Err(self.failed(index, last).into());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until every node has a route to every other.
    pub(super) async fn routed(&self, view: &mut View, within: Duration) -> Result<(), Failure> {
        let start = Instant::now();
        let everyone = u64::try_from(NODES - 1).unwrap_or(u64::MAX);
        let mut shown = u64::MAX;
        loop {
            let mut fewest = u64::MAX;
            for index in 0..NODES {
                fewest = fewest.min(self.client(index).status().await?.nodes_known);
            }
            if fewest == everyone {
                return Ok(());
            }
            if fewest != shown {
                shown = fewest;
                view.note(&format!("the least informed node knows {fewest} of {everyone}"))?;
            }
            if start.elapsed() > within {
                let message =
                    format!("after {} s a node knows only {fewest} of {everyone}", within.as_secs());
                return Err(ApiError::new(ErrorCode::Timeout, message).into());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Nodes from the first corner to the other, without the first.
    pub(super) async fn path(&self) -> Result<Vec<usize>, ApiError> {
        let trace = self.client(NEAR).trace(grid::name(FAR)).await?;
        let hop = |hop: &meshara::api::TraceHop| {
            grid::index(&hop.name).ok_or_else(|| {
                ApiError::new(
                    ErrorCode::Internal,
                    format!("`{}` is on the path and not of the demo", hop.name),
                )
            })
        };
        trace.hops.iter().map(hop).collect()
    }

    pub(super) fn stop(&self, index: usize) -> Result<(), Failure> {
        self.signal(index, Signal::STOP)
    }

    pub(super) fn resume(&self, index: usize) -> Result<(), Failure> {
        self.signal(index, Signal::CONT)
    }

    fn signal(&self, index: usize, signal: Signal) -> Result<(), Failure> {
        let child = self.children.get(index).and_then(Option::as_ref);
        let id = child.and_then(Child::id).and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let gone = || ApiError::new(ErrorCode::Internal, format!("{} has ended", grid::name(index)));
        Ok(kill_process(id.ok_or_else(gone)?, signal).map_err(io::Error::from)?)
    }

    /// Ends all nodes, in order if they can, and removes their homes.
    pub(super) async fn close(mut self) {
        for index in 0..NODES {
            // One that has ended already needs no signal.
            drop(self.signal(index, Signal::CONT));
            drop(self.signal(index, Signal::TERM));
        }
        let deadline = tokio::time::Instant::now() + END;
        for child in self.children.iter_mut().filter_map(Option::as_mut) {
            if tokio::time::timeout_at(deadline, child.wait()).await.is_err() {
                drop(child.kill().await);
            }
        }
    }

    fn command(&self, index: usize, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).arg("--json").arg("--home").arg(self.home(index));
        command.env_remove("MESHARA_HOME").env_remove("MESHARA_PASSPHRASE_FILE");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true);
        command
    }

    fn done(&self, output: Output, index: usize) -> Result<(), Failure> {
        if output.status.success() {
            return Ok(());
        }
        let error = serde_json::from_slice::<ErrorEnvelope>(&output.stderr).map_or_else(
            |_| ApiError::new(ErrorCode::Internal, String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            |envelope| envelope.error,
        );
        Err(self.failed(index, error).into())
    }

    /// An error of one node, with the end of its log.
    fn failed(&self, index: usize, error: ApiError) -> ApiError {
        let log = std::fs::read_to_string(self.home(index).join(OUTPUT)).unwrap_or_default();
        let hint = log.trim().lines().last().map_or(error.hint, |line| format!("its log ends with: {line}"));
        ApiError::new(error.code, format!("node {}: {}", grid::name(index), error.message)).hint(hint)
    }
}

/// `--peer ADDR` for each neighbour that runs already.
fn peers(index: usize, listen: &[String]) -> Vec<&str> {
    grid::earlier(index)
        .into_iter()
        .filter_map(|peer| listen.get(peer))
        .flat_map(|addr| ["--peer", addr])
        .collect()
}
