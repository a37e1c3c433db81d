//! Which pages there are, what each is made of, and the frame around it.

use super::{audits, calls, document, money, overview, page_response, performance, providers};
use crate::board::Board;
use crate::error::ApiError;
use crate::info::job_id;
use crate::port::Viewer;
use crate::routes::{Access, access};
use crate::server::App;
use crate::visits::look_up;
use axum::extract::{Extension, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use maud::{Markup, html};
use std::sync::Arc;
use stoa_types::{Address, JobId};

/// A part of a page that is replaced as a whole.
pub(super) struct Section {
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    pub(super) body: Markup,
}

pub(super) fn section(id: &'static str, title: &'static str, body: Markup) -> Section {
    Section { id, title, body }
}

/// A page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Page {
    Overview,
    Jobs,
    Job(JobId),
    Providers,
    Provider(Address),
    Audits,
    Money,
    Keys,
    Performance,
}

/// The pages that the head of every page leads to.
const MENU: [(Page, &str); 7] = [
    (Page::Overview, "Overview"),
    (Page::Jobs, "Jobs"),
    (Page::Providers, "Providers"),
    (Page::Audits, "Audits"),
    (Page::Money, "Money"),
    (Page::Keys, "Keys"),
    (Page::Performance, "Performance"),
];

impl Page {
    /// The page at a path.
    pub(super) fn at(path: &str) -> Option<Self> {
        if let Some(job) = path.strip_prefix("/dashboard/jobs/") {
            return job_id(job).map(Self::Job);
        }
        if let Some(id) = path.strip_prefix("/dashboard/providers/") {
            return id.parse().ok().map(Self::Provider);
        }
        let mut menu = MENU.into_iter().map(|(page, _)| page);
        menu.find(|page| page.path() == path)
    }

    fn path(self) -> String {
        match self {
            Self::Overview => "/".to_owned(),
            Self::Jobs => "/dashboard/jobs".to_owned(),
            Self::Job(job) => format!("/dashboard/jobs/{job}"),
            Self::Providers => "/dashboard/providers".to_owned(),
            Self::Provider(id) => format!("/dashboard/providers/{id}"),
            Self::Audits => "/dashboard/audits".to_owned(),
            Self::Money => "/dashboard/money".to_owned(),
            Self::Keys => "/dashboard/keys".to_owned(),
            Self::Performance => "/dashboard/performance".to_owned(),
        }
    }

    /// The entry of the menu that it belongs to.
    fn entry(self) -> Self {
        match self {
            Self::Job(_) => Self::Jobs,
            Self::Provider(_) => Self::Providers,
            page => page,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Job(_) => "Job",
            Self::Provider(_) => "Provider",
            page => MENU.iter().find(|(p, _)| *p == page).map_or("", |m| m.1),
        }
    }

    /// How the router's calls went as a whole is the operator's to know.
    fn open_to(self, viewer: Viewer) -> bool {
        viewer == Viewer::Operator || access(&self.path()) != Some(Access::Operator)
    }

    /// What the page shows. Another's things look exactly like no things.
    pub(super) fn sections(
        self,
        board: &dyn Board,
        viewer: Viewer,
    ) -> Result<Vec<Section>, ApiError> {
        if !self.open_to(viewer) {
            return Err(ApiError::NotFound { what: "page" });
        }
        Ok(match self {
            Self::Overview => overview::sections(board, viewer),
            Self::Jobs => calls::list(&board.calls(viewer)),
            Self::Job(job) => {
                let call = board.call(viewer, job);
                calls::one(job, &call.ok_or(ApiError::NotFound { what: "job" })?)
            }
            Self::Providers => providers::list(&board.provider_lines()),
            Self::Provider(id) => {
                let provider = board.provider(viewer, id);
                providers::one(&provider.ok_or(ApiError::NotFound { what: "provider" })?)
            }
            Self::Audits => audits::sections(&board.audits()),
            Self::Money => money::sections(&board.money(viewer)),
            Self::Keys => money::keys(&board.key_uses(viewer), board.now()),
            Self::Performance => performance::sections(&board.performance()),
        })
    }
}

/// Any page.
pub(crate) async fn page(
    State(app): State<Arc<App>>,
    Extension(viewer): Extension<Viewer>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let page = Page::at(uri.path()).ok_or(ApiError::NotFound { what: "page" })?;
    let sections = move |gateway: &dyn crate::port::Gateway| page.sections(gateway.board(), viewer);
    let sections = look_up(&app, viewer, sections).await??;
    let body = frame(page, viewer, &sections);
    let document = document(page.title(), Some("/dashboard/page.js"), &body);
    Ok(page_response(StatusCode::OK, document))
}

fn frame(page: Page, viewer: Viewer, sections: &[Section]) -> Markup {
    html! {
        a.skip href="#main" { "Skip to content" }
        header.top {
            a.brand href="/" { "Stoa" }
            nav aria-label="Pages" {
                @for (entry, name) in MENU.into_iter().filter(|(entry, _)| entry.open_to(viewer)) {
                    @let here = (entry == page.entry()).then_some("page");
                    a href=(entry.path()) aria-current=[here] { (name) }
                }
            }
            p #connection role="status" { "connecting" }
        }
        main #main data-page=(page.path()) {
            h1 { (page.title()) }
            @for part in sections {
                section aria-labelledby={ (part.id) "-title" } {
                    h2 id={ (part.id) "-title" } { (part.title) }
                    div id=(part.id) { (part.body) }
                }
            }
        }
        footer {
            p { (who(viewer)) }
            button #leave type="button" { "Sign out" }
        }
    }
}

fn who(viewer: Viewer) -> Markup {
    match viewer {
        Viewer::Operator => html! { "Logged in as the operator: every account is shown." },
        Viewer::Account(account) | Viewer::Key(account, _) => {
            html! { "Signed in as " code { (account) } "." }
        }
    }
}
