//! The points for a solved lab.

/// Returns the points for an attempt: the lab's points (`worth`) minus the cost of the hints opened, but at least a
/// tenth of `worth`; 0 if the solution was shown first.
#[must_use]
pub fn points(worth: u32, hint_costs: &[u32], gave_up: bool) -> u32 {
    if gave_up {
        return 0;
    }
    let spent: u32 = hint_costs
        .iter()
        .fold(0, |sum, cost| sum.saturating_add(*cost));
    worth.saturating_sub(spent).max(worth / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_cost_but_never_everything() {
        assert_eq!(points(100, &[], false), 100);
        assert_eq!(points(100, &[10, 20], false), 70);
        assert_eq!(points(100, &[90, 90], false), 10);
        assert_eq!(points(100, &[], true), 0);
    }
}
