//! Who is logged in to the dashboard: sessions, each behind a random cookie, in memory alone.

use crate::guard::text_value;
use crate::port::Viewer;
use axum::http::{HeaderMap, HeaderValue, header};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use stoa_types::Timestamp;

/// Sessions of the operator at once; one more ends the oldest.
const OPERATOR_MAX: usize = 16;
/// Sessions of one account at once; one more ends its oldest.
const ACCOUNT_MAX: usize = 8;
/// Sessions of all accounts at once; one more ends the oldest of them, never one of the operator.
const ACCOUNTS_MAX: usize = 2_048;

#[derive(Debug, Clone, Copy)]
struct Session {
    viewer: Viewer,
    /// The later begun, the higher.
    number: u64,
    until: Timestamp,
}

#[derive(Default)]
struct Open {
    begun: u64,
    /// By the hash of the secret: a look-up tells nothing of it.
    sessions: HashMap<blake3::Hash, Session>,
}

/// Sessions and the token of the operator's link. Secrets are kept as hashes; `blake3::Hash` compares in constant time.
pub(crate) struct Sessions {
    seed: [u8; 32],
    token: blake3::Hash,
    cookie: String,
    open: Mutex<Open>,
}

impl Sessions {
    pub(crate) fn new(token: &str, seed: &[u8; 32]) -> Self {
        // Cookies know no ports: the name keeps two servers of one machine apart.
        let cookie = format!(
            "stoa_{}",
            &blake3::keyed_hash(seed, b"cookie name").to_hex()[..8]
        );
        Self {
            seed: *seed,
            token: blake3::hash(token.as_bytes()),
            cookie,
            open: Mutex::default(),
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this is the token of the login link. An empty one never is.
    pub(crate) fn accepts(&self, token: &str) -> bool {
        !token.is_empty() && blake3::hash(token.as_bytes()) == self.token
    }

    /// A session from `now` until `until`; gives its `Set-Cookie`. `secure`: the browser came by TLS and must go on so.
    pub(crate) fn begin(
        &self,
        viewer: Viewer,
        (now, until): (Timestamp, Timestamp),
        secure: bool,
    ) -> HeaderValue {
        let mut open = self.open();
        open.sessions.retain(|_, session| session.until > now);
        let most = match viewer {
            Viewer::Operator => OPERATOR_MAX,
            Viewer::Account(_) | Viewer::Key(..) => ACCOUNT_MAX,
        };
        open.keep(most - 1, |session| session.viewer == viewer);
        if viewer != Viewer::Operator {
            open.keep(ACCOUNTS_MAX - 1, |session| {
                session.viewer != Viewer::Operator
            });
        }
        open.begun += 1;
        let number = open.begun;
        let name = [b"session".as_slice(), &number.to_be_bytes()].concat();
        let secret = blake3::keyed_hash(&self.seed, &name).to_hex();
        let hash = blake3::hash(secret.as_bytes());
        let session = Session {
            viewer,
            number,
            until,
        };
        open.sessions.insert(hash, session);
        self.set_cookie(&secret, "", secure)
    }

    fn set_cookie(&self, value: &str, more: &str, secure: bool) -> HeaderValue {
        let secure = if secure { "; Secure" } else { "" };
        text_value(format!(
            "{}={value}; Path=/; HttpOnly; SameSite=Strict{more}{secure}",
            self.cookie
        ))
    }

    /// Hashes of what the request shows as this server's cookie. A browser shows one.
    fn shown(&self, headers: &HeaderMap) -> Vec<blake3::Hash> {
        let cookies = headers.get_all(header::COOKIE).iter();
        let texts = cookies.filter_map(|value| value.to_str().ok());
        let pairs = texts
            .flat_map(|value| value.split(';'))
            .filter_map(|pair| pair.trim().split_once('='));
        let ours = pairs.filter(|(name, _)| *name == self.cookie);
        ours.map(|(_, value)| blake3::hash(value.as_bytes()))
            .collect()
    }

    /// Who looks, going by the cookie.
    pub(crate) fn viewer(&self, headers: &HeaderMap, now: Timestamp) -> Option<Viewer> {
        let shown = self.shown(headers);
        let open = self.open();
        let session = shown.iter().find_map(|hash| open.sessions.get(hash))?;
        (session.until > now).then_some(session.viewer)
    }

    /// Ends the session of the cookie; gives the `Set-Cookie` that makes the browser forget it.
    pub(crate) fn end(&self, headers: &HeaderMap) -> HeaderValue {
        let shown = self.shown(headers);
        let mut open = self.open();
        for hash in shown {
            open.sessions.remove(&hash);
        }
        self.set_cookie("", "; Max-Age=0", false)
    }
}

impl Open {
    /// Ends the oldest of those `of` speaks of, until there are at most so many.
    fn keep(&mut self, most: usize, of: impl Fn(&Session) -> bool) {
        loop {
            let those = self.sessions.iter().filter(|(_, session)| of(session));
            let (count, oldest) = those.fold((0, None), |(count, oldest), (hash, session)| {
                let older = oldest.is_none_or(|(_, number)| session.number < number);
                let oldest = if older {
                    Some((*hash, session.number))
                } else {
                    oldest
                };
                (count + 1, oldest)
            });
            match oldest {
                Some((hash, _)) if count > most => self.sessions.remove(&hash),
                _ => return,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stoa_types::Address;

    const NOW: Timestamp = Timestamp::from_secs(1_000);
    const LATER: Timestamp = Timestamp::from_secs(2_000);

    fn shows(cookie: &HeaderValue) -> HeaderMap {
        let pair = cookie.to_str().expect("ASCII").split(';').next();
        let value = HeaderValue::from_str(pair.expect("a pair")).expect("ASCII");
        HeaderMap::from_iter([(header::COOKIE, value)])
    }

    fn account(n: u16) -> Viewer {
        let mut address = Address::ZERO;
        address.0[..2].copy_from_slice(&n.to_be_bytes());
        Viewer::Account(address)
    }

    #[test]
    fn a_session_ends_at_its_time_and_by_signing_out_alone() {
        let sessions = Sessions::new("token", &[1; 32]);
        let one = shows(&sessions.begin(account(1), (NOW, LATER), false));
        let other = shows(&sessions.begin(account(1), (NOW, LATER), false));
        assert_ne!(one, other);
        assert_eq!(sessions.viewer(&one, NOW), Some(account(1)));
        assert_eq!(sessions.viewer(&one, LATER), None);
        let forget = sessions.end(&one);
        assert!(forget.to_str().expect("ASCII").contains("Max-Age=0"));
        assert_eq!(sessions.viewer(&one, NOW), None);
        assert_eq!(sessions.viewer(&other, NOW), Some(account(1)));
        let stranger = Sessions::new("token", &[2; 32]);
        assert_eq!(stranger.viewer(&other, NOW), None);
        assert_eq!(sessions.viewer(&HeaderMap::new(), NOW), None);
    }

    #[test]
    fn sessions_are_bounded_and_accounts_never_push_the_operator_out() {
        let sessions = Sessions::new("token", &[1; 32]);
        let operator = shows(&sessions.begin(Viewer::Operator, (NOW, LATER), false));
        let first = shows(&sessions.begin(account(0), (NOW, LATER), false));
        let own: Vec<_> = (0..ACCOUNT_MAX)
            .map(|_| shows(&sessions.begin(account(1), (NOW, LATER), false)))
            .collect();
        let more = shows(&sessions.begin(account(1), (NOW, LATER), false));
        assert_eq!(sessions.viewer(&own[0], NOW), None, "its own oldest");
        for shown in [&own[1], &more, &first, &operator] {
            assert!(sessions.viewer(shown, NOW).is_some());
        }
        for n in 0..u16::try_from(ACCOUNTS_MAX).expect("small") {
            sessions.begin(account(2 + n), (NOW, LATER), false);
        }
        assert_eq!(
            sessions.viewer(&first, NOW),
            None,
            "the oldest of all accounts"
        );
        assert_eq!(sessions.viewer(&operator, NOW), Some(Viewer::Operator));
        assert!(sessions.open().sessions.len() <= ACCOUNTS_MAX + 1);
        for _ in 0..OPERATOR_MAX {
            sessions.begin(Viewer::Operator, (NOW, LATER), false);
        }
        assert_eq!(sessions.viewer(&operator, NOW), None);
        sessions.begin(account(1), (LATER, LATER), false);
        assert_eq!(sessions.open().sessions.len(), 1, "what has ended is gone");
    }

    #[test]
    fn a_browser_that_came_by_tls_shows_its_cookie_nowhere_else() {
        let sessions = Sessions::new("token", &[1; 32]);
        for secure in [true, false] {
            let cookie = sessions.begin(account(1), (NOW, LATER), secure);
            let cookie = cookie.to_str().expect("ASCII");
            assert!(cookie.contains("; HttpOnly; SameSite=Strict"));
            assert_eq!(cookie.contains("; Secure"), secure);
        }
    }
}
