//! What accounts that are signed in to the dashboard may cost. Whoever has the smallest allotment may sign in: so each has a rate and a
//! bound on what goes on at once, and what is worked out for all of them waits in one line, in the order of their asking. The operator's
//! pages wait for nobody. Paid calls share nothing with them but the processor.

use crate::error::{ApiError, unavailable};
use crate::info::documents;
use crate::places::{Full, Place, Places, Room};
use crate::port::{Gateway, Viewer};
use crate::server::App;
use std::num::NonZeroUsize;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Requests under way: more than a browser has connections.
const REQUESTS: Room = Room {
    operator: usize::MAX,
    account: 8,
    accounts: 64,
};
/// Receipt files that are taken in and checked: each may be as large as a body may be.
const CHECKS: Room = Room {
    operator: 4,
    account: 1,
    accounts: 8,
};

/// The bounds of one server.
#[derive(Debug)]
pub(crate) struct Visits {
    requests: Arc<Places>,
    checks: Arc<Places>,
    /// Pages of accounts that are worked out and files of accounts that are checked, at once.
    desks: Arc<Semaphore>,
}

impl Visits {
    pub(crate) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            requests: Places::new(REQUESTS),
            checks: Places::new(CHECKS),
            desks: Arc::new(Semaphore::new((cores / 2).max(1))),
        }
    }

    /// A place for a request, as long as it is answered.
    pub(crate) fn request(&self, viewer: Viewer) -> Result<Place, ApiError> {
        self.requests.take(viewer).map_err(|full| match full {
            Full::Own(limit) => ApiError::TooManyAtOnce {
                what: "pages",
                limit,
            },
            Full::All => unavailable("as many pages are asked for as it can take".to_owned()),
        })
    }

    /// A place for a receipt file, from its first byte to the end of its check.
    pub(crate) fn check(&self, viewer: Viewer) -> Result<Place, ApiError> {
        self.checks.take(viewer).map_err(|full| match full {
            Full::Own(limit) => ApiError::TooManyAtOnce {
                what: "receipt files",
                limit,
            },
            Full::All => {
                unavailable("as many receipt files are being checked as it can take".to_owned())
            }
        })
    }
}

/// Looks something up for `viewer`: an account waits for its turn.
pub(crate) async fn look_up<T: Send + 'static>(
    app: &Arc<App>,
    viewer: Viewer,
    look_up: impl FnOnce(&dyn Gateway) -> T + Send + 'static,
) -> Result<T, ApiError> {
    let desk = match viewer {
        Viewer::Operator => None,
        Viewer::Account(_) | Viewer::Key(..) => app.visits.desks.clone().acquire_owned().await.ok(),
    };
    // The work goes on when its client is gone, and holds its desk as long.
    let at_desk = move |gateway: &dyn Gateway| {
        let found = look_up(gateway);
        drop(desk);
        found
    };
    documents(app, at_desk).await
}
