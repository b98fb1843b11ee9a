//! Opens a hint. Hints open in order. Each costs points only once; after the attempt has finished they are free.

use faultline_domain::authz::MayUse;

use crate::{app::App, problem::Problem};

/// Opens hint `number`, counted from 1, and returns its text as Markdown.
pub(crate) async fn reveal_hint(app: &App, proof: &MayUse, number: u32) -> Result<String, Problem> {
    let environment = proof.environment();
    let lab = app
        .lab_of(environment)
        .await
        .ok_or_else(Problem::lab_gone)?;
    let attempt = app.attempt(environment).await?;
    let hint = (number as usize)
        .checked_sub(1)
        .and_then(|i| lab.lab.hints.get(i))
        .ok_or_else(Problem::not_found)?;
    let known = attempt.hints.iter().any(|(n, _)| *n == number);
    let before = attempt.hints.iter().filter(|(n, _)| *n < number).count();
    if !known && before + 1 < number as usize {
        return Err(Problem::conflict(
            "out-of-order",
            "Hints open in order",
            format!("Open hint {} first.", before + 1),
        ));
    }
    app.store
        .reveal_hint(
            &attempt.id,
            number,
            lab.lab.hint_points(number as usize),
            app.now(),
        )
        .await?;
    app.touch(&environment.id).await;
    app.changed(&environment.id);
    Ok(hint.text.clone())
}
