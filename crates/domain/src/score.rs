//! What a solved lab is worth.

use crate::lab::Score;

/// Points for an attempt: the lab's points less what its revealed hints cost, never below a tenth; nothing when
/// the solution was shown first.
#[must_use]
pub fn points(score: &Score, hint_costs: &[u32], gave_up: bool) -> u32 {
    if gave_up {
        return 0;
    }
    let spent: u32 = hint_costs
        .iter()
        .fold(0, |sum, cost| sum.saturating_add(*cost));
    score.points.saturating_sub(spent).max(score.points / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_cost_but_never_everything() {
        let score = Score { points: 100 };
        assert_eq!(points(&score, &[], false), 100);
        assert_eq!(points(&score, &[10, 20], false), 70);
        assert_eq!(points(&score, &[90, 90], false), 10);
        assert_eq!(points(&score, &[], true), 0);
    }
}
