//! The network of a cluster: the commands for `ip`, in which namespace, and the order.

use crate::{
    Result,
    place::{Member, NETWORK_BITS},
    tools::Tools,
};

/// Connects the control plane. Packets for addresses that no member has are refused, and not dropped, so that a pod that
/// tries to reach another network knows at once.
pub(crate) fn control_plane(tools: &Tools<'_>, pid: u32) -> Result<()> {
    let member = Member::ControlPlane;
    tools.ip(
        member,
        pid,
        &format!(
            "link set lo up\n\
             link add cluster0 type bridge\n\
             addr add {}/{NETWORK_BITS} dev cluster0\n\
             link set cluster0 up\n\
             route add unreachable default\n{}",
            member.address(),
            routes(member)
        ),
    )
}

/// Connects a node with the control plane's bridge. The process IDs are those of the members' first processes.
pub(crate) fn node(tools: &Tools<'_>, member: Member, pid: u32, control_plane: u32) -> Result<()> {
    tools.ip(
        Member::ControlPlane,
        control_plane,
        &format!(
            "link add {member} type veth peer name eth0 netns {pid}\n\
             link set {member} master cluster0 up\n"
        ),
    )?;
    tools.ip(
        member,
        pid,
        &format!(
            "link set lo up\n\
             addr add {}/{NETWORK_BITS} dev eth0\n\
             link set eth0 up\n\
             route add default via {}\n{}",
            member.address(),
            Member::ControlPlane.address(),
            routes(member)
        ),
    )
}

/// Returns the routes from a member to the pods of the other nodes.
fn routes(from: Member) -> String {
    Member::NODES
        .into_iter()
        .filter(|node| *node != from)
        .filter_map(|node| {
            Some(format!(
                "route add {} via {}\n",
                node.pods()?,
                node.address()
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_a_route_to_the_pods_of_the_other() {
        assert_eq!(
            routes(Member::Node1),
            "route add 10.244.2.0/24 via 172.30.0.12\n"
        );
        assert_eq!(routes(Member::ControlPlane).lines().count(), 2);
    }
}
