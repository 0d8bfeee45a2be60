//! `meshara policy check`: would this be allowed, by which rule.

use clap::Args;
use meshara::api::PolicyCheckRequest;

use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::table::{Align, Table};
use crate::text;

/// Say whether a node would be allowed something now, and by which rule
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  meshara policy check alice db/postgres
  meshara policy check alice mesh:db/ping --explain
  meshara policy check alice tun:db/tcp:22 --json | jq .allowed")]
pub(crate) struct CheckArgs {
    /// Who asks: a name, a NodeId or a unique prefix of one
    node: String,
    /// For what: NODE/SERVICE, or KIND:NAME as in rules
    target: String,
    /// Also say what each rule says
    #[arg(long)]
    explain: bool,
}

pub(crate) async fn run(args: CheckArgs, context: &Context) -> Result<(), Failure> {
    let CheckArgs { node, target, explain } = args;
    let request = PolicyCheckRequest { node: node.clone(), target: target.clone(), explain };
    let checked = context.client().policy_check(&request).await?;
    if context.json {
        return Ok(output::json(&checked)?);
    }
    let paint = output::stdout_paint();
    let verdict = if checked.allowed { paint.good("allowed") } else { paint.bad("denied") };
    let (node, target) = (text::printable(&node), text::printable(&target));
    output::line(format!("{node} to {target}: {verdict} by the rule {}", paint.bold(&checked.rule)))?;
    if explain {
        let columns = [("RULE", Align::Left), ("EFFECT", Align::Left), ("SAYS", Align::Left)];
        let mut table = Table::new(paint, &columns);
        for looked in checked.rules {
            let says = match looked.why.as_str() {
                "matches" => "matches",
                "other_caller" => "is about other callers",
                "other_target" => "is about other targets",
                _ => "holds at other times",
            };
            table.row(vec![looked.rule, looked.effect, says.to_owned()]);
        }
        output::line(table)?;
    }
    Ok(())
}
