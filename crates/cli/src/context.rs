//! What every command works with.

use std::path::PathBuf;

use meshara::api::Client;

use crate::args::Global;
use crate::failure::Failure;
use crate::home;

/// The global options, resolved.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) home: PathBuf,
    pub(crate) json: bool,
    pub(crate) passphrase_file: Option<PathBuf>,
}

impl Context {
    pub(crate) fn new(global: Global) -> Result<Self, Failure> {
        let home = match global.home {
            Some(home) => std::path::absolute(home)?,
            None => home::default_home()?,
        };
        // An empty variable means none, as it does for most tools.
        let passphrase_file = global.passphrase_file.filter(|path| !path.as_os_str().is_empty());
        Ok(Self { home, json: global.json, passphrase_file })
    }

    /// A client of the node that runs on the home.
    pub(crate) fn client(&self) -> Client {
        Client::new(&self.home)
    }
}
