//! The WebSocket of a page that looks into the terminals of somebody's environment.
//!
//! It is like that of the owner's page, with these differences: it opens no new terminals, changes no sizes, answers no
//! queries, and ends when the look does. Input is dropped unless the person has asked to type (`looks.rs`).

use axum::extract::ws::WebSocket;

use super::{
    bridge::{Bridges, unchanged},
    notice::End,
    socket::{Access, serve},
};
use crate::{
    app::{App, Shared},
    auth::{Looking, Withdrawn},
    looks::Look,
    web::live::Changes,
};

pub(super) async fn run(app: &Shared, looking: &Looking, look: Look, socket: WebSocket) {
    let e = looking.environment();
    let bridges = Bridges::looking(app, &e.id);
    let changes = Changes::of_look(app, &looking.proof);
    let over = async {
        tokio::select! {
            why = looking.withdrawn(app) => match why {
                Withdrawn::SignedOut => End::SignedOut,
                Withdrawn::NotAllowed => End::NotAllowed,
            },
            end = stopped(app, looking) => end,
        }
    };
    serve(app, socket, Access::Look(look), bridges, changes, over).await;
}

/// Returns when the environment no longer runs on the same tenant, and why.
async fn stopped(app: &App, looking: &Looking) -> End {
    let e = looking.environment();
    let mut watch = app.hub.watch(&e.id);
    loop {
        watch.mark_unchanged();
        if let Err(end) = unchanged(app, e).await {
            return end;
        }
        // A notification may be missed, but not for long.
        let _ = tokio::time::timeout(app.config.recheck(), watch.changed()).await;
    }
}
