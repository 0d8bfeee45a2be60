//! The commands, one file each.

pub(crate) mod bench;
pub(crate) mod completions;
pub(crate) mod connect;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod id;
pub(crate) mod init;
pub(crate) mod invite;
pub(crate) mod join;
pub(crate) mod man;
pub(crate) mod name;
pub(crate) mod peers;
pub(crate) mod ping;
pub(crate) mod policy;
pub(crate) mod recv;
pub(crate) mod root;
pub(crate) mod routes;
pub(crate) mod send;
pub(crate) mod serve;
pub(crate) mod status;
pub(crate) mod trace;
pub(crate) mod trust;
pub(crate) mod twin;
pub(crate) mod up;

use crate::args::Command;
use crate::context::Context;
use crate::failure::Failure;

pub(crate) async fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Init(args) => init::run(args, context),
        Command::Up(args) => up::run(args, context).await,
        Command::Invite(args) => invite::run(args, context).await,
        Command::Join(args) => join::run(args, context).await,
        Command::Status(_) => status::run(context).await,
        Command::Peers(_) => peers::run(context).await,
        Command::Routes(_) => routes::run(context).await,
        Command::Id(args) => id::run(args, context).await,
        Command::Ping(args) => ping::run(args, context).await,
        Command::Policy(args) => policy::run(args, context).await,
        Command::Trace(args) => trace::run(args, context).await,
        Command::Send(args) => send::run(args, context).await,
        Command::Recv(args) => recv::run(args, context).await,
        Command::Serve(args) => serve::run(args, context).await,
        Command::Connect(args) => connect::run(args, context).await,
        Command::Bench(args) => bench::run(args, context).await,
        Command::Name(args) => name::run(args, context).await,
        Command::Doctor(_) => doctor::run(context).await,
        Command::Root(args) => root::run(args, context),
        Command::Trust(args) => trust::run(args, context).await,
        Command::Twin(args) => twin::run(args, context),
        Command::Demo(args) => demo::run(args, context).await,
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
    }
}
