//! What every command has: the run, the binary under test, the seed, and where the report goes.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, bail};
use serde::Serialize;

use crate::measure::machine::Provenance;
use crate::measure::stall::ms;
use crate::mesh::form::{Formed, Mesh};
use crate::net::link::{Medium, Network};
use crate::net::topology::Topology;
use crate::report;
use crate::run::Run;

/// Handed to every command.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) run: Run,
    pub(crate) meshara: PathBuf,
    pub(crate) seed: u64,
    pub(crate) machine: Provenance,
    /// Time zero of the lab's clock.
    pub(crate) start: Instant,
    report: Option<PathBuf>,
    /// Makes directories of several meshes of one run different.
    meshes: std::cell::Cell<u32>,
}

impl Context {
    pub(crate) fn new(run: Run, meshara: PathBuf, seed: u64, report: Option<PathBuf>) -> Self {
        let machine = Provenance::read(&meshara);
        Self { run, meshara, seed, machine, start: Instant::now(), report, meshes: std::cell::Cell::new(0) }
    }

    /// Milliseconds of the lab's clock.
    pub(crate) fn now(&self) -> f64 {
        ms(self.start.elapsed())
    }

    /// A new directory for homes.
    pub(crate) fn fresh_dir(&self) -> Result<PathBuf> {
        self.meshes.set(self.meshes.get() + 1);
        let dir = self.run.dir().join(format!("m{}", self.meshes.get()));
        std::fs::create_dir(&dir)?;
        Ok(dir)
    }

    /// A mesh on a new network.
    pub(crate) fn mesh(&self, topology: Topology, medium: Medium) -> Result<(Mesh, Formed)> {
        self.mesh_with(topology, medium, None, None)
    }

    /// A mesh on a new network with limited links, in bits per second, and a `config.toml` for every node.
    pub(crate) fn mesh_with(
        &self,
        topology: Topology,
        medium: Medium,
        rate: Option<u64>,
        config: Option<&str>,
    ) -> Result<(Mesh, Formed)> {
        let dir = self.fresh_dir()?;
        let network = Network::build(&self.run, topology, medium, rate, self.seed)?;
        Mesh::form(network, &dir, &self.meshara, config, &[])
    }

    /// A mesh on a new network that is made with further arguments of `init`.
    pub(crate) fn mesh_made(
        &self,
        topology: Topology,
        medium: Medium,
        init: &[&str],
    ) -> Result<(Mesh, Formed)> {
        let dir = self.fresh_dir()?;
        let network = Network::build(&self.run, topology, medium, None, self.seed)?;
        Mesh::form(network, &dir, &self.meshara, None, init)
    }

    /// Takes a mesh down, so that the next one of this run has the machine and the names for itself.
    pub(crate) fn clear(&self, mesh: Mesh) {
        drop(mesh);
        self.run.clear();
    }

    /// Writes the report, if one is wanted.
    pub(crate) fn write<T: Serialize>(&self, command: &str, results: &T) -> Result<()> {
        if let Some(path) = &self.report {
            report::write(path, command, self.seed, &self.machine, results)?;
        }
        Ok(())
    }

    /// Where the report goes, if one is wanted.
    pub(crate) fn report(&self) -> Option<&Path> {
        self.report.as_deref()
    }

    /// Says where and of what the figures are.
    pub(crate) fn introduce(&self) {
        let machine = &self.machine;
        println!(
            "{} · commit {} · {} cores, {} · Linux {} · seed {}\n",
            if machine.meshara.is_empty() { "no meshara" } else { &machine.meshara },
            machine.commit,
            machine.cores,
            machine.cpu,
            machine.kernel,
            self.seed
        );
    }
}

/// The binary under test: as given, beside the lab, or the release build.
pub(crate) fn find_meshara(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = given {
        return path.canonicalize().map_err(|error| anyhow::anyhow!("{}: {error}", path.display()));
    }
    let beside = std::env::current_exe().ok().and_then(|lab| Some(lab.parent()?.join("meshara")));
    let release = PathBuf::from("target/release/meshara");
    for path in beside.into_iter().chain([release]) {
        if let Ok(path) = path.canonicalize() {
            return Ok(path);
        }
    }
    bail!("no `meshara` beside the lab or in target/release: build it, or give --meshara PATH")
}
