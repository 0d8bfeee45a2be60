//! `meshara trust workload`: which programs on this machine have which identity.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use meshara::NodeName;
use meshara::api::{WorkloadInfo, WorkloadRequest};

use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::table::{Align, Table};

/// Give programs of this machine identities
///
/// A program asks for its identity on the socket `workload.sock` in the home, as SPIFFE programs do (SPIFFE_ENDPOINT_SOCKET). Programs of the
/// user that runs the node have one without registration.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara trust workload add db --uid 110
  meshara trust workload add web --exe /usr/sbin/nginx
  meshara trust workload list")]
pub(crate) struct WorkloadArgs {
    #[command(subcommand)]
    command: WorkloadCommand,
}

#[derive(Debug, Subcommand)]
enum WorkloadCommand {
    /// Register a program, or change its conditions
    ///
    /// With --uid and --exe both must hold. Give --uid wherever you can: with --exe alone, whoever may run that program has the identity.
    #[command(after_help = "Examples:
  meshara trust workload add db --uid 110
  meshara trust workload add db --uid 110 --exe /usr/lib/postgresql/17/bin/postgres")]
    Add {
        /// Last part of its SPIFFE ID
        name: NodeName,
        /// Number of the user that it runs as
        #[arg(long, required_unless_present = "exe")]
        uid: Option<u32>,
        /// Its program file (of a script: the interpreter)
        #[arg(long, value_name = "PATH")]
        exe: Option<PathBuf>,
    },
    /// List the registered programs
    #[command(after_help = "Examples:
  meshara trust workload list --json")]
    List,
    /// Forget a program: it gets nothing new
    #[command(after_help = "Examples:
  meshara trust workload remove db")]
    Remove {
        /// Its name
        name: NodeName,
    },
}

pub(crate) async fn run(args: WorkloadArgs, context: &Context) -> Result<(), Failure> {
    let client = context.client();
    let (workload, verb) = match args.command {
        WorkloadCommand::List => return list(&client.workload_list().await?, context),
        WorkloadCommand::Add { name, uid, exe } => {
            // Links are followed now, so that what is shown is what counts.
            let exe = exe.map(std::fs::canonicalize).transpose()?;
            let added = client.workload_add(&WorkloadRequest { name: name.to_string(), uid, exe }).await?;
            (added, "registered")
        }
        WorkloadCommand::Remove { name } => {
            (client.workload_remove(name.as_str()).await?, "no longer registered:")
        }
    };
    if context.json {
        return Ok(output::json(&workload)?);
    }
    output::line(format!("{verb} {} ({})", workload.spiffe_id, conditions(&workload)))?;
    if let Some(closed) = closed_to_others(&context.home)
        && workload.uid != std::fs::metadata(&context.home).ok().map(|home| home.uid())
    {
        let paint = output::stdout_paint();
        let remedy =
            format!("other users can't reach the socket: `chmod o+x {}` lets them", closed.display());
        output::line(paint.dim(&remedy))?;
    }
    Ok(())
}

fn list(workloads: &[WorkloadInfo], context: &Context) -> Result<(), Failure> {
    if context.json {
        for workload in workloads {
            output::json(workload)?;
        }
        return Ok(());
    }
    let columns =
        [("NAME", Align::Left), ("UID", Align::Right), ("PROGRAM", Align::Left), ("SPIFFE ID", Align::Left)];
    let mut table = Table::new(output::stdout_paint(), &columns);
    for workload in workloads {
        let uid = workload.uid.map_or_else(|| "any".to_owned(), |uid| uid.to_string());
        let exe = workload.exe.as_ref().map_or_else(|| "any".to_owned(), |exe| exe.display().to_string());
        table.row(vec![workload.name.clone(), uid, exe, workload.spiffe_id.clone()]);
    }
    Ok(output::line(table)?)
}

fn conditions(workload: &WorkloadInfo) -> String {
    let uid = workload.uid.map(|uid| format!("user {uid}"));
    let exe = workload.exe.as_ref().map(|exe| exe.display().to_string());
    uid.into_iter().chain(exe).collect::<Vec<_>>().join(", ")
}

/// The first directory on the way to the home that other users may not enter.
fn closed_to_others(home: &Path) -> Option<&Path> {
    let mut ways: Vec<&Path> = home.ancestors().collect();
    ways.reverse();
    let open =
        |path: &&Path| std::fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o001 != 0);
    ways.into_iter().find(|path| !open(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_directory_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("a").join("home");
        std::fs::create_dir_all(&home).unwrap();
        let set =
            |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        for open in [dir.path(), &dir.path().join("a"), &home] {
            set(open, 0o755);
        }
        assert_eq!(closed_to_others(&home), None);
        set(&home, 0o700);
        assert_eq!(closed_to_others(&home), Some(home.as_path()));
        set(&dir.path().join("a"), 0o750);
        assert_eq!(closed_to_others(&home), home.parent());
    }
}
