//! What accounts that are signed in to the dashboard, or look things up by key without paying, may cost. Whoever has the smallest allotment may sign in: so each has a rate and a
//! bound on what goes on at once, and what is worked out for all of them waits in one line, in the order of their asking. The operator's
//! pages wait for nobody. Paid calls share nothing with them but the processor.

use crate::error::{ApiError, unavailable};
use crate::info::documents;
use crate::places::{Full, Place, Places, Room};
use crate::port::{Account, Gateway, Viewer};
use crate::server::App;
use std::num::NonZeroUsize;
use std::sync::Arc;
use stoa_types::Address;
use tokio::sync::Semaphore;

/// Requests under way: more than a browser has connections.
const REQUESTS: Room = Room {
    operator: usize::MAX,
    account: 8,
    accounts: 64,
};
/// What is looked up by key, those that wait for a desk included: in the one line, so many of an account can be ahead of another's page.
const READS: Room = Room {
    operator: 0,
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
    reads: Arc<Places>,
    checks: Arc<Places>,
    /// Pages of accounts that are worked out and files of accounts that are checked, at once.
    desks: Arc<Semaphore>,
}

impl Visits {
    pub(crate) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            requests: Places::new(REQUESTS),
            reads: Places::new(READS),
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

    /// A place for what an account looks up by key, however many keys it has.
    fn read(&self, account: Address) -> Result<Place, ApiError> {
        let all_keys = Viewer::Account(account);
        self.reads.take(all_keys).map_err(|full| match full {
            Full::Own(limit) => ApiError::TooManyAtOnce {
                what: "reads by key",
                limit,
            },
            Full::All => {
                unavailable("as many reads by key are under way as it can take".to_owned())
            }
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

/// Looks something up for the holder of a key. The work goes on when its client is gone, and holds the place as long.
pub(crate) async fn look_up_by_key<T: Send + 'static>(
    app: &Arc<App>,
    account: &Account,
    looks: impl FnOnce(&dyn Gateway, Viewer) -> T + Send + 'static,
) -> Result<T, ApiError> {
    let (place, viewer) = (app.visits.read(account.address)?, account.viewer());
    let in_place = move |gateway: &dyn Gateway| {
        let found = looks(gateway, viewer);
        drop(place);
        found
    };
    look_up(app, viewer, in_place).await
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
