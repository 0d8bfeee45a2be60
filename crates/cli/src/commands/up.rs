//! `meshara up`: runs the node in the foreground.

use std::io;
use std::net::SocketAddr;

use clap::{Args, ValueEnum};
use meshara::api::{ApiError, ErrorCode};
use meshara::config::{Config, ConfigError, DeviceName, LogForm, PeerAddr, TunSetting};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::context::Context;
use crate::failure::Failure;
use crate::{identity, node};

/// Run this node in the foreground
///
/// Listens on all interfaces on one UDP port. config.toml in the home holds what the flags can set; flags override it, and
/// --peer adds to it. Ends within five seconds of SIGTERM or Ctrl-C.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara up
  meshara up --listen 192.0.2.7:6374 --peer gateway.example:6374
  meshara up --log json
  meshara up --tun --dns 127.0.0.1:5353

Environment:
  MESHARA_LOG  what to log, such as debug or meshara=debug,warn [default: info]")]
pub(crate) struct UpArgs {
    /// UDP address to listen on, IP:PORT [default: all interfaces, port 6374]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Neighbour to keep a link with, HOST:PORT; repeatable
    #[arg(long, value_name = "ADDR")]
    peer: Vec<PeerAddr>,
    /// Neither look for neighbours by LAN multicast nor be found
    #[arg(long)]
    no_multicast: bool,
    /// Dial configured neighbours only (links that others dial are taken)
    #[arg(long)]
    no_auto: bool,
    /// Make no direct paths: sessions go over the overlay
    #[arg(long)]
    no_direct: bool,
    /// Make a TUN interface: programs of this machine reach other nodes by their mesh addresses (needs CAP_NET_ADMIN)
    #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true)]
    tun: Option<Option<DeviceName>>,
    /// Answer DNS queries for NODE.MESH.mesh on this address, IP:PORT, by UDP and TCP
    #[arg(long, value_name = "ADDR")]
    dns: Option<SocketAddr>,
    /// Serve the mesh's SPIFFE bundle to other trust domains by HTTPS on this TCP address, IP:PORT
    #[arg(long, value_name = "ADDR")]
    bundle_endpoint: Option<SocketAddr>,
    /// Form of the log on stderr [default: human]
    #[arg(long, value_enum)]
    log: Option<LogArg>,
    /// End when the process with this id, our parent, ends
    #[arg(long, hide = true)]
    with_parent: Option<i32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogArg {
    Human,
    Json,
}

impl From<LogArg> for LogForm {
    fn from(arg: LogArg) -> Self {
        match arg {
            LogArg::Human => Self::Human,
            LogArg::Json => Self::Json,
        }
    }
}

pub(crate) async fn run(args: UpArgs, context: &Context) -> Result<(), Failure> {
    // From here on a signal ends the node in order, not in the middle of a write.
    let stop = stop_signal();
    if let Some(parent) = args.with_parent {
        end_with(parent)?;
    }
    let config = Config::load(&context.home).map_err(|error| config_error(&error))?;
    let config = configured(config, args);
    start_log(config.log)?;
    node::up(context, config, stop).await
}

/// The file's configuration with the flags over it.
fn configured(mut config: Config, args: UpArgs) -> Config {
    config.listen = args.listen.or(config.listen);
    for peer in args.peer {
        if !config.peers.contains(&peer) {
            config.peers.push(peer);
        }
    }
    config.multicast &= !args.no_multicast;
    config.auto &= !args.no_auto;
    config.direct &= !args.no_direct;
    config.tun = match args.tun {
        None => config.tun,
        Some(None) => TunSetting::On,
        Some(Some(name)) => TunSetting::Named(name),
    };
    config.dns = args.dns.or(config.dns);
    config.bundle_endpoint = args.bundle_endpoint.or(config.bundle_endpoint);
    config.log = args.log.map_or(config.log, LogForm::from);
    config
}

pub(crate) fn config_error(error: &ConfigError) -> ApiError {
    let error_text = error.to_string();
    match error {
        ConfigError::Read { kind: io::ErrorKind::IsADirectory, .. } => {
            ApiError::new(ErrorCode::InvalidConfig, error_text)
                .hint("move the directory away: the configuration is a file, and not needed")
        }
        ConfigError::Read { kind: io::ErrorKind::InvalidData, .. } => {
            ApiError::new(ErrorCode::InvalidConfig, error_text)
                .hint("save the file as UTF-8 text, or move it away to run with the defaults")
        }
        ConfigError::Read { kind, .. } => identity::io_error(*kind, error_text),
        _ => ApiError::new(ErrorCode::InvalidConfig, error_text).hint(
            "correct the file; the keys are listen, peers, multicast, auto, direct, congestion, tun, dns, bundle_endpoint, stale_after_s, require_logged and log",
        ),
    }
}

/// Resolves at SIGTERM, SIGINT or SIGHUP. The handlers stand once this returns the future, before it is polled.
pub(crate) fn stop_signal() -> impl Future<Output = io::Result<()>> + Send {
    let signals =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::hangup()));
    async move {
        let (mut terminate, mut interrupt, mut hangup) = (signals.0?, signals.1?, signals.2?);
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
        Ok(())
    }
}

/// Asks the kernel to kill this process when its parent dies, and makes sure that it has not died already.
fn end_with(parent: i32) -> Result<(), Failure> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(io::Error::from)?;
    if getppid().map(rustix::process::Pid::as_raw_nonzero).map(i32::from) == Some(parent) {
        return Ok(());
    }
    Err(ApiError::new(ErrorCode::Interrupted, "the process that started this node has ended").into())
}

/// What a log filter looks like.
const LOG_HINT: &str =
    "give a level (error, warn, info, debug, trace), or several filters such as meshara=debug,warn";

fn start_log(form: LogForm) -> Result<(), Failure> {
    let filter = match std::env::var("MESHARA_LOG") {
        Ok(text) if !text.is_empty() => EnvFilter::try_new(&text).map_err(|error| {
            ApiError::new(ErrorCode::Usage, format!("MESHARA_LOG={text} is no log filter: {error}"))
                .hint(LOG_HINT)
        })?,
        _ => EnvFilter::new("info"),
    };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let started = match form {
        LogForm::Human => {
            let colour = crate::output::stderr_paint().is_coloured();
            log.with_ansi(colour).with_target(false).try_init()
        }
        LogForm::Json => log.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| {
        ApiError::new(ErrorCode::Internal, format!("the log does not start: {error}")).into()
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn args(line: &[&str]) -> UpArgs {
        match Cli::try_parse_from(["meshara", "up"].iter().chain(line)).unwrap().command {
            Command::Up(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_override_the_file_and_add_peers() {
        let file = Config {
            listen: Some("127.0.0.1:1".parse().unwrap()),
            peers: vec!["a:1".parse().unwrap()],
            auto: false,
            log: LogForm::Json,
            ..Config::default()
        };
        let flags = args(&[
            "--listen",
            "127.0.0.1:2",
            "--peer",
            "b:1",
            "--peer",
            "a:1",
            "--no-multicast",
            "--log",
            "human",
            "--tun=mesh1",
            "--dns",
            "127.0.0.1:5353",
            "--bundle-endpoint",
            "127.0.0.1:8443",
        ]);
        let config = configured(file.clone(), flags);
        assert_eq!(config.listen, Some("127.0.0.1:2".parse().unwrap()));
        assert_eq!(config.peers, ["a:1".parse().unwrap(), "b:1".parse().unwrap()]);
        assert_eq!((config.multicast, config.auto, config.direct), (false, false, true));
        assert_eq!(config.log, LogForm::Human);
        assert_eq!(config.tun, TunSetting::Named("mesh1".parse().unwrap()));
        assert_eq!(config.dns, Some("127.0.0.1:5353".parse().unwrap()));
        assert_eq!(config.bundle_endpoint, Some("127.0.0.1:8443".parse().unwrap()));
        assert_eq!(configured(config, args(&["--tun"])).tun, TunSetting::On);
        assert_eq!(configured(file.clone(), args(&[])), file);
    }

    #[test]
    fn the_hint_names_every_key() {
        let hint = config_error(&Config::parse("odd = 1", std::path::Path::new("c")).unwrap_err()).hint;
        let address = Some("127.0.0.1:1".parse().unwrap());
        let every = Config { listen: address, dns: address, bundle_endpoint: address, ..Config::default() };
        for key in serde_json::to_value(every).unwrap().as_object().unwrap().keys() {
            assert!(hint.contains(key.as_str()), "{key}: {hint}");
        }
    }
}
