//! What tenants use, from the host's metrics API.

use std::{collections::HashMap, time::Duration};

use faultline_domain::TenantId;
use faultline_provider::Usage;
use kube::{Client, core::Request};
use serde::Deserialize;
use tokio::time::Instant;

/// A rate is counted for this time at most, because nobody knows what was used in a longer pause.
const COUNTED: Duration = Duration::from_secs(120);

/// The CPU time of tenants. The metrics API has rates only, so it is summed up from one call to the next.
#[derive(Debug, Default)]
pub(super) struct CpuTimes(HashMap<TenantId, (Instant, u64)>);

impl CpuTimes {
    /// Counts a rate, in thousandths of a core, since the previous call. Returns the sum in milliseconds.
    pub(super) fn count(&mut self, id: &TenantId, rate_millis: u64, now: Instant) -> u64 {
        let (at, sum) = self.0.get(id).copied().unwrap_or((now, 0));
        let elapsed = now.saturating_duration_since(at).min(COUNTED);
        let millis = u64::try_from(elapsed.as_millis()).unwrap_or(0) * rate_millis / 1000;
        self.0.insert(id.clone(), (now, sum + millis));
        sum + millis
    }

    /// Forgets a tenant.
    pub(super) fn forget(&mut self, id: &TenantId) {
        self.0.remove(id);
    }
}

/// What the pods of a namespace use now.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Metrics {
    /// The CPU time per second, in milliseconds.
    pub(super) cpu_millis: u64,
    /// The memory, in bytes.
    pub(super) memory_bytes: u64,
}

impl Metrics {
    /// Returns the usage, with the CPU time used so far.
    pub(super) fn usage(self, cpu_millis: u64) -> Usage {
        Usage {
            private_bytes: self.memory_bytes,
            cpu_millis,
            disk_bytes: 0,
        }
    }
}

#[derive(Deserialize)]
struct PodMetricsList {
    items: Vec<PodMetrics>,
}

#[derive(Deserialize)]
struct PodMetrics {
    containers: Vec<ContainerMetrics>,
}

#[derive(Deserialize)]
struct ContainerMetrics {
    usage: HashMap<String, String>,
}

/// Asks for the metrics of a namespace's pods.
pub(super) async fn metrics(client: &Client, namespace: &str) -> kube::Result<Metrics> {
    let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods");
    let request = Request::new(path).list(&kube::api::ListParams::default());
    let request = request.map_err(kube::Error::BuildRequest)?;
    let list: PodMetricsList = client.request(request).await?;
    let containers = list.items.into_iter().flat_map(|pod| pod.containers);
    Ok(containers.fold(Metrics::default(), |sum, container| {
        let of = |name| container.usage.get(name).map_or("", String::as_str);
        Metrics {
            cpu_millis: sum.cpu_millis + quantity(of("cpu"), 1000),
            memory_bytes: sum.memory_bytes + quantity(of("memory"), 1),
        }
    }))
}

/// Returns a quantity of the metrics API, such as `12345n` or `640Ki`, times `unit`. 0 if it is malformed.
fn quantity(text: &str, unit: u64) -> u64 {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let number: u64 = digits.parse().unwrap_or(0);
    let (multiplier, divisor) = match text.get(digits.len()..).unwrap_or_default() {
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "" => (1, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        _ => (0, 1),
    };
    number.saturating_mul(unit).saturating_mul(multiplier) / divisor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_of_the_metrics_api_are_read() {
        for (text, unit, expected) in [
            ("0", 1000, 0),
            ("2", 1000, 2000),
            ("15m", 1000, 15),
            ("2500000n", 1000, 2),
            ("640Ki", 1, 655_360),
            ("3Mi", 1, 3 << 20),
            ("nonsense", 1, 0),
        ] {
            assert_eq!(quantity(text, unit), expected, "{text}");
        }
    }

    #[test]
    fn cpu_time_is_summed_up_and_long_pauses_are_not_guessed() {
        let (mut times, id) = (CpuTimes::default(), "abc".parse().unwrap());
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(times.count(&id, 500, start), 0);
        assert_eq!(times.count(&id, 500, after(10)), 5000);
        assert_eq!(times.count(&id, 1000, after(10_010)), 125_000);
        times.forget(&id);
        assert_eq!(times.count(&id, 500, after(10_020)), 0);
    }
}
