//! Checks by a TCP connection from outside the guest.

use faultline_domain::{NodeName, TenantId, lab::TcpTest};
use faultline_provider::Provider;

use super::{Finding, Unknown, port};

pub(super) async fn evaluate(
    provider: &dyn Provider,
    env: &TenantId,
    node: &NodeName,
    test: &TcpTest,
) -> Result<Finding, Unknown> {
    Ok(match port(provider, env, node, test.port).await? {
        Ok(_) => Finding::new(test.open, format!("{node}:{} takes connections", test.port)),
        Err(why) => Finding::new(!test.open, format!("{node}:{}: {why}", test.port)),
    })
}
