//! `meshara trust bundle`: what another trust domain must know of this mesh, and what this node knows of others.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use meshara::api::{ApiError, ErrorCode, FederationInfo, FederationRequest};

use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::table::{Align, Table};

/// Print the SPIFFE bundle of the mesh, or hold those of other trust domains
///
/// Another SPIFFE trust domain verifies this mesh's workloads with it. It is public, and the same on every node that knows all issuers.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara trust bundle > lab.json
  meshara trust bundle | jq '.keys[].use'
  meshara trust bundle add example.org --file example.json
  meshara trust bundle list")]
pub(crate) struct BundleArgs {
    #[command(subcommand)]
    command: Option<BundleCommand>,
}

#[derive(Debug, Subcommand)]
enum BundleCommand {
    /// Let programs of this machine verify the workloads of another trust domain
    ///
    /// With --url newer bundles are fetched there. With --endpoint-id the endpoint proves that SPIFFE ID (profile https_spiffe), which
    /// needs the first bundle as a file; without it proves the name of its host, as web servers do (profile https_web).
    #[command(after_help = "Examples:
  meshara trust bundle add example.org --file example.json
  meshara trust bundle add example.org --url https://example.org/bundle.json
  meshara trust bundle add prod --file prod.json --url https://192.0.2.7:8443/ --endpoint-id spiffe://prod/workload/alice")]
    Add {
        /// Name of the trust domain
        trust_domain: String,
        /// Its SPIFFE bundle
        #[arg(long, required_unless_present = "url")]
        file: Option<PathBuf>,
        /// Where newer bundles are fetched, https://HOST[:PORT]/PATH
        #[arg(long)]
        url: Option<String>,
        /// SPIFFE ID of that endpoint
        #[arg(long, value_name = "ID", requires = "url", requires = "file")]
        endpoint_id: Option<String>,
    },
    /// List the other trust domains
    #[command(after_help = "Examples:
  meshara trust bundle list --json")]
    List,
    /// Trust another trust domain no more
    #[command(after_help = "Examples:
  meshara trust bundle remove example.org")]
    Remove {
        /// Its name
        trust_domain: String,
    },
}

pub(crate) async fn run(args: BundleArgs, context: &Context) -> Result<(), Failure> {
    let client = context.client();
    let (domain, verb) = match args.command {
        // JSON in any case: it is for programs.
        None => return Ok(output::json(&client.trust_bundle().await?)?),
        Some(BundleCommand::List) => return list(&client.federation_list().await?, context),
        Some(BundleCommand::Add { trust_domain, file, url, endpoint_id }) => {
            let bundle = file.map(|file| read(&file)).transpose()?;
            let request = FederationRequest { trust_domain, bundle, url, endpoint_id };
            (client.federation_add(&request).await?, "trusted:")
        }
        Some(BundleCommand::Remove { trust_domain }) => {
            (client.federation_remove(&trust_domain).await?, "no longer trusted:")
        }
    };
    if context.json {
        return Ok(output::json(&domain)?);
    }
    let keys = format!("{} for certificates, {} for tokens", domain.x509_authorities, domain.jwt_authorities);
    Ok(output::line(format!("{verb} {} (keys: {keys})", domain.trust_domain))?)
}

/// The bundle in a file.
fn read(file: &std::path::Path) -> Result<serde_json::Value, Failure> {
    let text = std::fs::read_to_string(file)?;
    serde_json::from_str(&text).map_err(|error| {
        let text = format!("{} is no SPIFFE bundle: {error}", file.display());
        ApiError::new(ErrorCode::InvalidArgument, text)
            .hint("a SPIFFE bundle is a JSON object with `keys`")
            .into()
    })
}

fn list(domains: &[FederationInfo], context: &Context) -> Result<(), Failure> {
    if context.json {
        for domain in domains {
            output::json(domain)?;
        }
        return Ok(());
    }
    let columns = [
        ("TRUST DOMAIN", Align::Left),
        ("KEYS", Align::Right),
        ("NUMBER", Align::Right),
        ("FETCHED FROM", Align::Left),
        ("LAST", Align::Left),
    ];
    let mut table = Table::new(output::stdout_paint(), &columns);
    for domain in domains {
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let last = domain.last_error.clone().or_else(|| domain.fetched_at.map(|at| at.to_string()));
        table.row(vec![
            domain.trust_domain.clone(),
            format!("{}+{}", domain.x509_authorities, domain.jwt_authorities),
            or_none(domain.sequence.map(|number| number.to_string())),
            or_none(domain.url.clone()),
            or_none(last),
        ]);
    }
    Ok(output::line(table)?)
}
