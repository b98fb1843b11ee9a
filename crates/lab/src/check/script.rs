//! Checks by a script in the guest, with the image's own tools.

use std::time::Duration;

use faultline_domain::{NodeName, TenantId};
use faultline_provider::Provider;

use super::{Finding, MAX_SEEN, Unknown, chain};
use crate::{
    LabFolder,
    script::{self, Run},
    text,
};

pub(super) async fn evaluate(
    provider: &dyn Provider,
    env: &TenantId,
    folder: &LabFolder,
    node: &NodeName,
    name: &str,
    limit: Duration,
) -> Result<Finding, Unknown> {
    let content = folder
        .script(name)
        .ok_or_else(|| Unknown(format!("{name} is missing in the lab's folder")))?;
    let how = Run {
        trusted: true,
        timeout: limit,
    };
    let ran = script::run(provider, env, node, content, &how)
        .await
        .map_err(|e| Unknown(chain(&e)))?;
    let seen = text::clean(&ran.stdout, MAX_SEEN);
    match ran.code {
        0 => Ok(Finding::new(true, seen)),
        124 => Ok(Finding::new(
            false,
            format!("not finished after {} s", limit.as_secs()),
        )),
        // These exit codes are the shell's own, for a command that doesn't exist or can't be run, or mean death by a
        // signal: the script itself is broken, not the machine. 137 may be caused by the guest's lack of memory.
        code @ (126 | 127 | 137) => Err(Unknown(format!(
            "{name} ended with exit code {code}: {}",
            text::clean_tail(&ran.tail, 300)
        ))),
        _ => Ok(Finding::new(false, seen)),
    }
}
