//! What labs keep from students, for authors: hints, solution and checks, without an attempt.

use std::sync::Arc;

use faultline_domain::{LabSlug, authz::MayAuthor};
use faultline_lab::{Broken, LabFolder};

use crate::{app::App, problem::Problem};

/// Returns a lab with everything in it. Its variables have the values that its page shows to this person.
pub(crate) async fn whole(
    app: &App,
    who: &MayAuthor,
    slug: &LabSlug,
) -> Result<Arc<LabFolder>, Problem> {
    let (lab, _) = app.lab_shown(slug, who.person()).await?;
    Ok(lab)
}

/// Returns why labs can't be loaded, one text each.
pub(crate) fn broken(app: &App, _who: &MayAuthor) -> Vec<String> {
    let catalogue = app.catalogue();
    catalogue.broken().iter().map(Broken::render).collect()
}
