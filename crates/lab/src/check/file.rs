//! Checks a file in the guest.

use faultline_domain::{NodeName, TenantId, lab::FileTest};
use faultline_guest::client;
use faultline_provider::{Provider, Stream, Target};
use regex::bytes::Regex;

use super::{Finding, Unknown, chain};

/// The maximum of a file that is read, in bytes.
const MAX_CONTENT: u64 = 1024 * 1024;

pub(super) async fn evaluate(
    provider: &dyn Provider,
    env: &TenantId,
    node: &NodeName,
    test: &FileTest,
) -> Result<Finding, Unknown> {
    let path = &test.path;
    let stat = client::stat(open(provider, env, node).await?, path)
        .await
        .map_err(|e| Unknown(chain(&e)))?;
    let Some(stat) = stat else {
        return Ok(Finding::new(!test.exists, format!("{path} does not exist")));
    };
    if !test.exists {
        return Ok(Finding::new(false, format!("{path} exists")));
    }
    if let Some(mode) = &test.mode {
        let now = stat.mode & 0o7777;
        if u32::from_str_radix(mode, 8).ok() != Some(now) {
            return Ok(Finding::new(false, format!("{path} has mode {now:04o}")));
        }
    }
    if test.matches.is_none() && test.lacks.is_none() {
        return Ok(Finding::new(true, format!("{path} exists")));
    }
    if stat.kind != "file" {
        return Ok(Finding::new(false, format!("{path} is a {}", stat.kind)));
    }
    let content = client::read_file(open(provider, env, node).await?, path, MAX_CONTENT)
        .await
        .map_err(|e| Unknown(chain(&e)))?;
    let found = |pattern: &str| {
        Regex::new(pattern)
            .map(|r| r.is_match(&content))
            .map_err(|_| Unknown(format!("{pattern:?} is not a regular expression")))
    };
    if let Some(pattern) = &test.matches
        && !found(pattern)?
    {
        return Ok(Finding::new(
            false,
            format!("{path} lacks the expected text"),
        ));
    }
    if let Some(pattern) = &test.lacks
        && found(pattern)?
    {
        return Ok(Finding::new(
            false,
            format!("{path} contains text that must not be there"),
        ));
    }
    Ok(Finding::new(true, format!("{path} is as it must be")))
}

async fn open(provider: &dyn Provider, env: &TenantId, node: &NodeName) -> Result<Stream, Unknown> {
    provider
        .open(env, node, Target::Guest)
        .await
        .map_err(|e| Unknown(chain(&e)))
}
