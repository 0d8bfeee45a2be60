//! Files of the home: permissions, damage, space.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use meshara::LockError;
use meshara::api::ErrorCode;
use meshara_identity::home::{ISSUER_KEY, ISSUER_STATE, KEYSTORE, MEMBERSHIP, ROOT_KEY};

use super::Check;
use crate::context::Context;
use crate::identity;
use crate::node::build_error;
use crate::text;

/// Files that nobody else may read.
const PRIVATE: [&str; 6] = [KEYSTORE, MEMBERSHIP, ISSUER_KEY, ISSUER_STATE, ROOT_KEY, "node.redb"];
/// Below this the store of a busy node may fill the disk within hours.
const SPACE_WARN: u64 = 1 << 30;
/// Below this a full outbox (hundreds of the largest messages) does not fit.
const SPACE_FAIL: u64 = 64 << 20;

pub(super) fn check(context: &Context, running: bool) -> Vec<Check> {
    let home = &context.home;
    let shown = home.display();
    let metadata = match fs::metadata(home) {
        Ok(metadata) if metadata.is_dir() => metadata,
        Ok(_) => {
            return vec![Check::fail("home", format!("{shown} is not a directory"), "use another --home")];
        }
        Err(error) => {
            let fix = "make a mesh with `meshara init` or join one with `meshara join`";
            return vec![Check::fail("home", format!("{shown}: {error}"), fix)];
        }
    };
    let mut checks = Vec::new();
    let mode = metadata.permissions().mode() & 0o777;
    let me = rustix::process::geteuid().as_raw();
    if metadata.uid() != me {
        let detail = format!("{shown} belongs to user {}, this is user {me}", metadata.uid());
        checks.push(Check::warn("home", detail, "run the command as the user that runs the node"));
    } else if mode & 0o077 != 0 {
        checks.push(Check::warn(
            "home",
            format!("others can look into {shown} (mode {mode:03o})"),
            format!("chmod 700 {shown}"),
        ));
    } else {
        checks.push(Check::ok("home", shown.to_string()));
    }
    checks.extend(PRIVATE.iter().filter_map(|name| private(&home.join(name))));
    checks.push(intact(context));
    // A running node holds the databases, and says itself when one of them is ill.
    if !running {
        checks.extend(opened(context));
    }
    checks.push(space(home));
    checks
}

fn private(path: &Path) -> Option<Check> {
    let mode = fs::metadata(path).ok()?.permissions().mode() & 0o777;
    let shown = path.display();
    (mode & 0o077 != 0).then(|| {
        Check::fail(
            "files",
            format!("others can access {shown} (mode {mode:03o})"),
            format!("chmod 600 {shown}"),
        )
    })
}

fn intact(context: &Context) -> Check {
    match identity::load(context) {
        Ok(identity) => {
            let member = identity.membership.member();
            Check::ok("identity", format!("{} {}", member.name, text::short(&member.node_id.to_string())))
        }
        Err(error) if error.code == ErrorCode::Passphrase && context.passphrase_file.is_none() => {
            Check::warn(
                "identity",
                "the keystore is sealed and was not opened",
                "give --passphrase-file to check it",
            )
        }
        Err(error) => Check::fail("identity", error.message, error.hint),
    }
}

/// What `up` opens beside the identity, and the root.
fn opened(context: &Context) -> Vec<Check> {
    // Without its file, the identity's check has said so.
    let Ok(passphrase) = identity::passphrase(context) else { return Vec::new() };
    let wrong = match meshara::examine(&context.home, passphrase.as_ref()) {
        Ok(wrong) => wrong,
        // A node that is just starting.
        Err(LockError::Held { .. }) => return Vec::new(),
        Err(error) => {
            let fix = "run the command as the user that runs the node";
            return vec![Check::warn("files", error.to_string(), fix)];
        }
    };
    if wrong.is_empty() {
        return vec![Check::ok("files", "what a node opens beside its identity is intact")];
    }
    let told = wrong.iter().map(build_error);
    // A sealed home was reported with the identity.
    let told = told.filter(|e| e.code != ErrorCode::Passphrase || context.passphrase_file.is_some());
    told.map(|error| Check::fail("files", error.message, error.hint)).collect()
}

fn space(home: &Path) -> Check {
    let stat = match rustix::fs::statvfs(home) {
        Ok(stat) => stat,
        Err(error) => {
            return Check::warn("disk", format!("cannot ask for free space: {error}"), "check it by hand");
        }
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let detail = format!("{} free", text::bytes(free));
    let fix = "free some space: a node with a full disk refuses messages";
    if free < SPACE_FAIL {
        Check::fail("disk", detail, fix)
    } else if free < SPACE_WARN {
        Check::warn("disk", detail, fix)
    } else {
        Check::ok("disk", detail)
    }
}
