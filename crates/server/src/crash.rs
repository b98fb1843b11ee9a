//! Points at which tests end the server as a crash would. In a program that isn't a test, they do nothing.
//!
//! `tests/crashes.rs` ends a server at each point in turn, starts the next one with the same store and provider, and checks
//! that nothing was lost, doubled or left behind. To add a point, name it here and place `crash_point!(app, Name);` where
//! a crash would leave things half done.

use crate::app::App;

/// Ends the server here if a test asks for it.
macro_rules! crash_point {
    ($app:expr, $name:ident) => {
        $crate::crash::point(&$app, $crate::crash::Point::$name).await
    };
}

macro_rules! points {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A point at which a crash leaves things half done.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Point { $($(#[$doc])* $name,)* }

        #[cfg(test)]
        impl Point {
            /// All points.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

points! {
    /// An environment was requested; the reconcilers were not woken.
    EnvironmentRequested,
    /// An environment was reset; the reconcilers were not woken.
    ResetRequested,
    /// An environment was restored; the reconcilers were not woken.
    RestoreRequested,
    /// A fork was requested; the reconcilers were not woken.
    ForkRequested,
    /// A save point was requested; the reconcilers were not woken.
    SaveRequested,
    /// The deletion of a save point was requested; the reconcilers were not woken.
    SaveDeletionRequested,
    /// The end of an environment was requested; the reconcilers were not woken.
    EndRequested,
    /// A tenant was requested for an environment.
    TenantRequested,
    /// The provider is about to create a tenant.
    BeforeCreation,
    /// The provider has created a tenant, which the store doesn't know.
    TenantCreated,
    /// That a tenant runs was stored, but not that it is warm.
    RunningRecorded,
    /// A tenant was stored as warm.
    TenantWarm,
    /// A tenant of a pool was released, to be written to disk.
    PoolSaveRequested,
    /// A tenant of a pool was written to disk, which was not recorded.
    PoolSaveWritten,
    /// A tenant was requested for a pool.
    PoolTenantRequested,
    /// A tenant of a pool was created; its setup has not begun.
    PoolTenantCreated,
    /// The setup of a tenant of a pool is done; it still runs.
    PoolTenantSetUp,
    /// A tenant of a pool is paused; the store doesn't know.
    PoolTenantPaused,
    /// A tenant of a pool was released.
    PoolTenantReleased,
    /// An environment has claimed its own tenant; its preparation has not begun.
    Claimed,
    /// An environment has claimed a tenant of a pool; its preparation has not begun.
    ClaimedFromPool,
    /// An environment has taken over a tenant that is being made for a pool.
    TakenOver,
    /// A tenant of a pool was resumed; the store doesn't know.
    Resumed,
    /// What the lab allows was applied to a tenant.
    Configured,
    /// The owner's keys are about to be installed for the setup.
    BeforeKeys,
    /// The owner's keys were written to a node; the store doesn't know.
    KeysWritten,
    /// The owner's keys are installed; the setup has not begun.
    KeysInstalled,
    /// The setup is done; the environment is not active.
    SetUp,
    /// A tenant that continues from a save point has the owner's keys; the environment is not active.
    Continued,
    /// An environment was stored as active.
    Active,
    /// A failed start was stored to be tried again with another tenant.
    Retried,
    /// A dead tenant of a pool was released, and the environment waits for the next one.
    Replaced,
    /// A save point is about to be made.
    BeforeSave,
    /// The files of a save point are complete; the store doesn't know.
    FilesWritten,
    /// A save point was stored as complete or failed.
    SaveRecorded,
    /// The files of a save point were deleted; the store doesn't know.
    FilesDeleted,
    /// An environment was asked to pause; the reconcilers were not woken.
    SuspendRequested,
    /// A tenant is paused; the store doesn't know.
    Paused,
    /// A paused environment's save point was requested.
    SuspensionRequested,
    /// A paused environment was stored as being on disk.
    SuspensionRecorded,
    /// An environment on disk was requested again; the reconcilers were not woken.
    ResumeRequested,
    /// An environment that could not be resumed was stored as being on disk again.
    ReturnedToDisk,
    /// An environment was stored as expired.
    Expired,
    /// The tenant of an environment that has ended was released.
    Released,
    /// The provider has freed a tenant; the store doesn't know.
    Freed,
    /// An environment was stored as gone.
    Concluded,
}

/// Ends the server here if a test asks for it, by waiting until the test drops all its tasks.
pub(crate) async fn point(app: &App, here: Point) {
    #[cfg(test)]
    app.crash.pass(here).await;
    #[cfg(not(test))]
    let _ = (app, here);
}

/// The point at which a server ends.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct Crash {
    at: std::sync::Mutex<Option<Point>>,
    reached: tokio_util::sync::CancellationToken,
}

#[cfg(test)]
impl Crash {
    /// Sets the point.
    pub fn arm(&self, at: Point) {
        *crate::lock::lock(&self.at) = Some(at);
    }

    /// Waits until the point is reached.
    pub async fn reached(&self) {
        self.reached.cancelled().await;
    }

    async fn pass(&self, here: Point) {
        if *crate::lock::lock(&self.at) == Some(here) {
            self.reached.cancel();
            std::future::pending::<()>().await;
        }
    }
}
