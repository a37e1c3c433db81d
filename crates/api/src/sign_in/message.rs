//! The text that a wallet signs to sign in, strictly by the grammar of EIP-4361.
//!
//! What is not exactly such a text is refused, so that nobody signs a text that reads one way and is taken another. A wallet signs the
//! bytes that it shows: they are read here and never written anew before they are checked.

use crate::calendar;
use std::net::Ipv6Addr;
use stoa_crypto::checksummed;
use stoa_types::{Address, Timestamp};

/// Longest text; those of wallets have some hundred bytes.
pub(super) const MESSAGE_BYTES_MAX: usize = 4 << 10;
/// Fewest characters of a nonce.
const NONCE_LEAST: usize = 8;

/// Why a text is no such message: the part that is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum MessageError {
    #[error("it has more than {MESSAGE_BYTES_MAX} bytes")]
    TooLong,
    #[error("its first line is not `DOMAIN wants you to sign in with your Ethereum account:`")]
    Domain,
    #[error("its second line is not an address with the capitals of EIP-55")]
    Address,
    #[error(
        "the line for the statement is not one line of URI characters and spaces between two empty lines"
    )]
    Statement,
    #[error("`{0}` is missing, repeated, out of order or malformed")]
    Field(&'static str),
    #[error("something follows its last field")]
    Rest,
}

/// A message, checked for its form alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message<'a> {
    /// Scheme before the domain, where there is one.
    pub(super) scheme: Option<&'a str>,
    pub(super) domain: &'a str,
    pub(super) address: Address,
    pub(super) statement: Option<&'a str>,
    pub(super) uri: Uri<'a>,
    pub(super) chain_id: u64,
    pub(super) nonce: &'a str,
    pub(super) issued_at: Timestamp,
    pub(super) expiration_time: Option<Timestamp>,
    pub(super) not_before: Option<Timestamp>,
    pub(super) request_id: Option<&'a str>,
    pub(super) resources: Vec<&'a str>,
}

/// An absolute URI with the parts that count here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Uri<'a> {
    pub(super) text: &'a str,
    pub(super) scheme: &'a str,
    /// `None` where nothing like `//HOST` follows the scheme.
    pub(super) authority: Option<&'a str>,
}

/// The lines that are left.
struct Lines<'a>(Option<&'a str>);

impl<'a> Lines<'a> {
    fn peek(&self) -> Option<&'a str> {
        let rest = self.0?;
        Some(rest.split_once('\n').map_or(rest, |(line, _)| line))
    }

    fn take(&mut self) -> Option<&'a str> {
        let line = self.peek()?;
        self.0 = self
            .0
            .and_then(|rest| rest.split_once('\n'))
            .map(|(_, rest)| rest);
        Some(line)
    }

    /// The value of the next line, which must be this field.
    fn field(&mut self, name: &'static str) -> Result<&'a str, MessageError> {
        self.option(name).ok_or(MessageError::Field(name))
    }

    /// The value of the next line, if that is this field.
    fn option(&mut self, name: &'static str) -> Option<&'a str> {
        let value = self.peek()?.strip_prefix(name)?.strip_prefix(": ")?;
        self.take();
        Some(value)
    }

    /// The instant in the next line, if that is this field.
    fn instant(&mut self, name: &'static str) -> Result<Option<Timestamp>, MessageError> {
        let value = self.option(name);
        let read = |text| calendar::parse_rfc3339(text).ok_or(MessageError::Field(name));
        value.map(read).transpose()
    }
}

impl<'a> Message<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, MessageError> {
        use MessageError::Field;
        if text.len() > MESSAGE_BYTES_MAX {
            return Err(MessageError::TooLong);
        }
        let mut lines = Lines(Some(text));
        let (scheme, domain) = lines
            .take()
            .and_then(first_line)
            .ok_or(MessageError::Domain)?;
        let address = lines
            .take()
            .and_then(address)
            .ok_or(MessageError::Address)?;
        let statement = statement(&mut lines)?;
        let uri = uri(lines.field("URI")?).ok_or(Field("URI"))?;
        if lines.field("Version")? != "1" {
            return Err(Field("Version"));
        }
        let chain_id = number(lines.field("Chain ID")?).ok_or(Field("Chain ID"))?;
        let nonce = lines.field("Nonce")?;
        if nonce.len() < NONCE_LEAST || !nonce.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(Field("Nonce"));
        }
        let issued_at = lines.instant("Issued At")?.ok_or(Field("Issued At"))?;
        let expiration_time = lines.instant("Expiration Time")?;
        let not_before = lines.instant("Not Before")?;
        let request_id = lines.option("Request ID");
        if request_id.is_some_and(|id| !escaped(id, is_pchar)) {
            return Err(Field("Request ID"));
        }
        let resources = resources(&mut lines)?;
        match lines.0 {
            Some(_) => Err(MessageError::Rest),
            None => Ok(Self {
                scheme,
                domain,
                address,
                statement,
                uri,
                chain_id,
                nonce,
                issued_at,
                expiration_time,
                not_before,
                request_id,
                resources,
            }),
        }
    }
}

fn first_line(line: &str) -> Option<(Option<&str>, &str)> {
    let origin = line.strip_suffix(" wants you to sign in with your Ethereum account:")?;
    let (scheme, domain) = match origin.split_once("://") {
        Some((scheme, domain)) => (Some(scheme), domain),
        None => (None, origin),
    };
    let sound = scheme.is_none_or(is_scheme) && !domain.is_empty() && is_authority(domain);
    sound.then_some((scheme, domain))
}

fn address(line: &str) -> Option<Address> {
    let address: Address = line.to_ascii_lowercase().parse().ok()?;
    (checksummed(address) == line).then_some(address)
}

/// An empty line, then, if there is one, the statement, then an empty line.
fn statement<'a>(lines: &mut Lines<'a>) -> Result<Option<&'a str>, MessageError> {
    if lines.take() != Some("") {
        return Err(MessageError::Statement);
    }
    let statement = lines.take().ok_or(MessageError::Statement)?;
    // Nothing at all, or a statement of nothing, which has an empty line of its own.
    if statement.is_empty() && lines.peek() != Some("") {
        return Ok(None);
    }
    let sound = statement.bytes().all(|b| b == b' ' || is_uri(b));
    if !sound || lines.take() != Some("") {
        return Err(MessageError::Statement);
    }
    Ok(Some(statement))
}

fn resources<'a>(lines: &mut Lines<'a>) -> Result<Vec<&'a str>, MessageError> {
    const NAME: &str = "Resources";
    let mut found = Vec::new();
    if lines.peek() != Some("Resources:") {
        return Ok(found);
    }
    lines.take();
    while let Some(line) = lines.peek() {
        let resource = line.strip_prefix("- ").and_then(uri);
        found.push(resource.ok_or(MessageError::Field(NAME))?.text);
        lines.take();
    }
    Ok(found)
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && is_digits(text);
    digits.then(|| text.parse().ok()).flatten()
}

/// An absolute URI of RFC 3986.
fn uri(text: &str) -> Option<Uri<'_>> {
    let (scheme, rest) = text.split_once(':')?;
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = match rest.strip_prefix("//") {
        Some(rest) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            (Some(authority), path)
        }
        None => (None, rest),
    };
    let path_byte = |b: u8| is_pchar(b) || b == b'/';
    let sound = is_scheme(scheme)
        && authority.is_none_or(is_authority)
        && escaped(path, path_byte)
        && [query, fragment]
            .iter()
            .all(|part| escaped(part, |b| path_byte(b) || b == b'?'));
    sound.then_some(Uri {
        text,
        scheme,
        authority,
    })
}

/// `[USER@]HOST[:PORT]` of RFC 3986.
fn is_authority(text: &str) -> bool {
    let (user, rest) = text.rsplit_once('@').unwrap_or(("", text));
    let (host, port) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) if host.parse::<Ipv6Addr>().is_ok() => ("", port),
        _ => rest.split_at(rest.find(':').unwrap_or(rest.len())),
    };
    let port = port.is_empty() || port.strip_prefix(':').is_some_and(is_digits);
    let plain = |b: u8| is_unreserved(b) || is_sub_delimiter(b);
    port && escaped(host, plain) && escaped(user, |b| plain(b) || b == b':')
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit())
}

fn is_scheme(text: &str) -> bool {
    let first = text.bytes().next();
    let known = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
    first.is_some_and(|b| b.is_ascii_alphabetic()) && text.bytes().all(known)
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

fn is_sub_delimiter(byte: u8) -> bool {
    b"!$&'()*+,;=".contains(&byte)
}

/// Reserved and unreserved.
fn is_uri(byte: u8) -> bool {
    is_unreserved(byte) || is_sub_delimiter(byte) || b":/?#[]@".contains(&byte)
}

fn is_pchar(byte: u8) -> bool {
    is_unreserved(byte) || is_sub_delimiter(byte) || b":@".contains(&byte)
}

/// Whether every character is `allowed` or a percent sign with two hexadecimal digits.
fn escaped(text: &str, allowed: impl Fn(u8) -> bool) -> bool {
    let mut pieces = text.split('%');
    let plain = |piece: &str| piece.bytes().all(&allowed);
    let first = pieces.next().is_some_and(plain);
    first
        && pieces.all(|piece| {
            let (Some(digits), Some(rest)) = (piece.get(..2), piece.get(2..)) else {
                return false;
            };
            digits.bytes().all(|b| b.is_ascii_hexdigit()) && plain(rest)
        })
}

#[cfg(test)]
mod tests;
