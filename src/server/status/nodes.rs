//! The backplane and the servers that share it, as JSON for the status page.
//!
//! Invariant: the size is bounded, however many servers there are and whatever they say of themselves.

use serde_json::{Value, json};

use super::json::{ms, shown};
use crate::topics::hub::Hub;
use crate::topics::{BackplaneInfo, FormerNode, NodeInfo, NodeState};

/// The most servers that are shown one by one.
const SHOWN: usize = 30;

/// How it is with the backplane of a server's topics, and with all servers that share it. `None` without one.
pub(super) fn look(hub: &Hub) -> Option<Value> {
    // In this order: whoever is gone is not there any more, and was counted.
    let (address, former, nodes) = (hub.backplane_address()?, hub.former_nodes(), hub.node_infos());
    Some(describe(&address, &hub.backplane_info()?, nodes, &former))
}

fn describe(address: &str, backplane: &BackplaneInfo, mut nodes: Vec<NodeInfo>, former: &[FormerNode]) -> Value {
    let count = nodes.len();
    // This one, then those in trouble.
    nodes.sort_by_key(|node| (!node.is_own, node.state == NodeState::Alive && node.backplane.is_connected));
    nodes.truncate(SHOWN);
    // So that nothing jumps.
    nodes.sort_by(|one, other| {
        (!one.is_own, &one.address, &one.name).cmp(&(!other.is_own, &other.address, &other.name))
    });
    json!({
        "address": shown(address),
        "connected": backplane.is_connected,
        "since": ms(backplane.since),
        "round_trip": backplane.round_trip.map(ms),
        "lag": backplane.lag,
        "behind": ms(backplane.behind),
        "waiting": backplane.waiting,
        "outages": backplane.outages,
        "away": ms(backplane.away),
        "epochs": backplane.epochs,
        "lost": backplane.nodes_lost,
        "count": count,
        "nodes": nodes.iter().map(node).collect::<Vec<_>>(),
        "former": former.iter().map(former_node).collect::<Vec<_>>(),
    })
}

fn node(info: &NodeInfo) -> Value {
    let BackplaneInfo { is_connected, round_trip, lag, behind, waiting, .. } = info.backplane;
    json!({
        "name": shown(&info.name),
        "address": shown(&info.address),
        "is_own": info.is_own,
        "state": match info.state {
            NodeState::Alive => "alive",
            NodeState::Doubted => "doubted",
            NodeState::Unknown => "unknown",
        },
        "silent": ms(info.silent),
        "bound": ms(info.bound),
        "age": ms(info.age),
        "connections": info.connections,
        "subscriptions": info.subscriptions,
        "members": info.members,
        "connected": is_connected,
        "round_trip": round_trip.map(ms),
        "lag": lag,
        "behind": ms(behind),
        "waiting": waiting,
    })
}

fn former_node(node: &FormerNode) -> Value {
    json!({
        "name": shown(&node.name),
        "address": shown(&node.address),
        "was_dead": node.was_dead,
        "ago": ms(node.ago),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn node_named(name: &str, state: NodeState) -> NodeInfo {
        let second = Duration::from_secs(1);
        NodeInfo {
            name: name.to_owned(),
            is_own: name == "own",
            address: format!("[2001:db8::1]:{name}"),
            age: second,
            connections: 1,
            subscriptions: 2,
            members: None,
            backplane: BackplaneInfo { is_connected: true, ..BackplaneInfo::default() },
            state,
            silent: second,
            patience: second,
            bound: second,
        }
    }

    fn names(told: &Value) -> Vec<&str> {
        told["nodes"].as_array().unwrap().iter().map(|node| node["name"].as_str().unwrap()).collect()
    }

    #[test]
    fn of_many_nodes_this_one_and_those_in_trouble_are_told_in_a_bounded_text() {
        let mut nodes: Vec<_> =
            (0..1_000).map(|number| node_named(&format!("{number:04}"), NodeState::Alive)).collect();
        nodes[700].state = NodeState::Doubted;
        nodes[800].backplane.is_connected = false;
        nodes[900].address = "long".repeat(10_000);
        nodes[900].name = "x".repeat(10_000);
        nodes[900].state = NodeState::Unknown;
        nodes.push(node_named("own", NodeState::Alive));
        let told = describe("127.0.0.1:6379", &BackplaneInfo::default(), nodes, &[]);
        let shown = names(&told);
        assert_eq!((&told["count"], shown.len(), shown[0]), (&json!(1_001), SHOWN, "own"));
        for name in ["0700", "0800"] {
            assert!(shown.contains(&name), "{name} is not in {shown:?}");
        }
        assert!(shown[1..].iter().filter(|name| name.len() == 4).is_sorted(), "{shown:?}");
        let (state, long) = (told.to_string(), told["nodes"][29]["name"].as_str().unwrap());
        assert!(state.len() < 12_000 && long.chars().count() == 121, "{} bytes", state.len());
    }

    #[test]
    fn those_who_were_there_are_told_with_what_became_of_them() {
        let former = |name: &str, was_dead| FormerNode {
            name: name.to_owned(),
            address: String::new(),
            was_dead,
            ago: Duration::from_millis(1_500),
        };
        let told = describe("", &BackplaneInfo::default(), Vec::new(), &[former("a", true), former("b", false)]);
        let known = |index: usize| (&told["former"][index]["name"], &told["former"][index]["was_dead"]);
        assert_eq!((known(0), known(1)), ((&json!("a"), &json!(true)), (&json!("b"), &json!(false))));
        assert_eq!(told["former"][0]["ago"], 1_500.0);
    }
}
