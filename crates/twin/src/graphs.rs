//! Graphs from files: GraphML, and a small JSON form.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::scenario::{LinkModel, ScenarioError};
use crate::topology::Plan;

/// Largest graph file: 20,000 nodes with 8 links each are about 15 MB of GraphML.
const MAX_FILE: u64 = 64 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonGraph {
    nodes: usize,
    edges: Vec<JsonEdge>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonEdge {
    a: usize,
    b: usize,
    latency_ms: Option<f64>,
    jitter_ms: Option<f64>,
    loss: Option<f64>,
    bandwidth_mbit: Option<f64>,
}

/// Reads a graph; what a link doesn't say is taken from `link`.
pub(crate) fn read(path: &Path, link: LinkModel) -> Result<Plan, ScenarioError> {
    let unreadable = |reason: String| ScenarioError::Read { path: path.into(), reason };
    let length = std::fs::metadata(path).map_err(|error| unreadable(error.to_string()))?.len();
    if length > MAX_FILE {
        return Err(unreadable("larger than 64 MiB".into()));
    }
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
    let parsed = if text.trim_start().starts_with('<') { graphml(&text, link) } else { json(&text, link) };
    parsed.map_err(|reason| ScenarioError::Malformed { path: path.into(), reason })
}

fn json(text: &str, link: LinkModel) -> Result<Plan, String> {
    let graph: JsonGraph = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut plan = Plan { nodes: graph.nodes, edges: BTreeMap::new() };
    for edge in graph.edges {
        if edge.a >= graph.nodes || edge.b >= graph.nodes {
            return Err(format!("edge {}–{} names a node that doesn't exist", edge.a, edge.b));
        }
        let model = LinkModel {
            latency_ms: edge.latency_ms.unwrap_or(link.latency_ms),
            jitter_ms: edge.jitter_ms.unwrap_or(link.jitter_ms),
            loss: edge.loss.unwrap_or(link.loss),
            bandwidth_mbit: edge.bandwidth_mbit.unwrap_or(link.bandwidth_mbit),
        };
        plan.join(edge.a, edge.b, model);
    }
    Ok(plan)
}

/// Nodes are numbered in the order of the file. Data of an edge whose key is named `latency_ms`, `jitter_ms`, `loss` or
/// `bandwidth_mbit` is used; directions are ignored.
fn graphml(text: &str, link: LinkModel) -> Result<Plan, String> {
    let document = roxmltree::Document::parse(text).map_err(|error| error.to_string())?;
    let elements = || document.descendants().filter(roxmltree::Node::is_element);
    let named = |name: &'static str| elements().filter(move |node| node.tag_name().name() == name);
    let keys: BTreeMap<&str, &str> =
        named("key").filter_map(|key| Some((key.attribute("id")?, key.attribute("attr.name")?))).collect();
    let mut index: BTreeMap<&str, usize> = BTreeMap::new();
    for node in named("node") {
        let id = node.attribute("id").ok_or("a node has no id")?;
        let next = index.len();
        if index.insert(id, next).is_some() {
            return Err(format!("node {id} appears twice"));
        }
    }
    let mut plan = Plan { nodes: index.len(), edges: BTreeMap::new() };
    for edge in named("edge") {
        let end = |name: &str| {
            let id = edge.attribute(name).ok_or_else(|| format!("an edge has no {name}"))?;
            index.get(id).copied().ok_or_else(|| format!("an edge names node {id}, which doesn't exist"))
        };
        let mut model = link;
        for data in edge.children().filter(|child| child.tag_name().name() == "data") {
            let key = data.attribute("key").unwrap_or_default();
            let slot = match keys.get(key).copied().unwrap_or(key) {
                "latency_ms" => &mut model.latency_ms,
                "jitter_ms" => &mut model.jitter_ms,
                "loss" => &mut model.loss,
                "bandwidth_mbit" => &mut model.bandwidth_mbit,
                _ => continue,
            };
            let text = data.text().unwrap_or_default().trim();
            *slot = text.parse().map_err(|_| format!("{text} is no number"))?;
        }
        plan.join(end("source")?, end("target")?, model);
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRAPHML: &str = r#"<?xml version="1.0"?>
        <graphml xmlns="http://graphml.graphdrawing.org/xmlns">
          <key id="d0" for="edge" attr.name="latency_ms" attr.type="double"/>
          <graph edgedefault="undirected">
            <node id="x"/><node id="y"/><node id="z"/>
            <edge source="x" target="z"><data key="d0">7.5</data></edge>
            <edge source="z" target="y"/>
          </graph>
        </graphml>"#;

    #[test]
    fn reads_both_forms() {
        let link = LinkModel::default();
        let plan = graphml(GRAPHML, link).unwrap();
        assert_eq!(plan.nodes, 3);
        assert_eq!(plan.edges.keys().copied().collect::<Vec<_>>(), [(0, 2), (1, 2)]);
        assert!((plan.edges[&(0, 2)].latency_ms - 7.5).abs() < 1e-9);
        let plan = json(r#"{"nodes": 2, "edges": [{"a": 1, "b": 0, "loss": 0.5}]}"#, link).unwrap();
        assert!((plan.edges[&(0, 1)].loss - 0.5).abs() < 1e-9);
    }

    #[test]
    fn refuses() {
        let link = LinkModel::default();
        assert!(graphml("<graphml><graph><edge source='a'/></graph></graphml>", link).is_err());
        assert!(graphml("<graphml>", link).is_err());
        assert!(json(r#"{"nodes": 2, "edges": [{"a": 1, "b": 2}]}"#, link).is_err());
        let missing = read(Path::new("/no/such/file"), link);
        assert!(matches!(missing, Err(ScenarioError::Read { .. })));
    }
}
