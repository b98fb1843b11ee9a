//! Kubernetes quantities.

/// Parses a Kubernetes quantity, such as `150m`, `1Gi` or `2e3`, into a number.
pub(crate) fn parse(text: &str) -> Option<f64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..)? {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        binary => {
            let power = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
            let power = power.iter().position(|unit| *unit == binary)?;
            1024_f64.powi(i32::try_from(power).ok()? + 1)
        }
    };
    Some(digits.parse::<f64>().ok()? * unit)
}
