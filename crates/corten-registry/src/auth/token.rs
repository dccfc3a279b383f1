//! The token protocol, as values: what to send to the realm, and what its answer holds. See
//! "Token Authentication Specification" and "OAuth 2.0 token" of the distribution project.

use std::time::Duration;

use serde::Deserialize;

use super::{Credentials, Secret};
use crate::protocol::query;

/// A request to a token server.
#[derive(Debug)]
pub struct TokenRequest {
    /// With its query, for a GET.
    pub url: String,
    /// An `Authorization` value.
    pub authorization: Option<Secret>,
    /// A form body; there being one makes it a POST.
    pub form: Option<Secret>,
}

/// A bearer token and how long it lives.
#[derive(Debug)]
pub struct Token {
    pub bearer: Secret,
    pub lives: Duration,
    /// A new refresh token, which takes the old one's place.
    pub refresh: Option<Secret>,
}

/// Who the realm is told that we are.
const CLIENT_ID: &str = "corten";
/// The specification's default and floor for `expires_in`.
const LIVES_DEFAULT: u64 = 60;

impl TokenRequest {
    /// A password goes as Basic in a GET, which every token server takes; a refresh token needs the OAuth2 POST.
    pub fn new(
        realm: &str,
        service: Option<&str>,
        scope: &str,
        credentials: Option<&Credentials>,
    ) -> Self {
        if let Some(Credentials::Identity(refresh)) = credentials {
            let mut form = query::append(
                "?grant_type=refresh_token",
                &[("client_id", CLIENT_ID), ("scope", scope)],
            );
            if let Some(service) = service {
                form = query::append(&form, &[("service", service)]);
            }
            let form = query::append(&form, &[("refresh_token", refresh.expose())]);
            return Self {
                url: realm.to_owned(),
                authorization: None,
                form: Some(Secret::new(&form[1..])),
            };
        }
        let mut url = realm.to_owned();
        if let Some(service) = service {
            url = query::append(&url, &[("service", service)]);
        }
        // Several scopes come separated by blanks and go as parameters of their own.
        for scope in scope.split(' ').filter(|s| !s.is_empty()) {
            url = query::append(&url, &[("scope", scope)]);
        }
        Self {
            url,
            authorization: credentials.and_then(Credentials::basic),
            form: None,
        }
    }
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
    refresh_token: Option<String>,
}

impl Token {
    /// Reads the answer; `None` if it holds no token that could stand in a header.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let answer: Answer = serde_json::from_slice(bytes).ok()?;
        let usable = |t: &String| !t.is_empty() && t.bytes().all(|b| (0x21..0x7f).contains(&b));
        let bearer = answer
            .token
            .filter(usable)
            .or(answer.access_token.filter(usable))?;
        // The specification says to assume a minute, also where the server names less.
        let lives = answer
            .expires_in
            .unwrap_or(LIVES_DEFAULT)
            .max(LIVES_DEFAULT);
        Some(Self {
            bearer: Secret::new(bearer),
            lives: Duration::from_secs(lives.min(86_400)),
            refresh: answer.refresh_token.filter(usable).map(Secret::new),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_goes_as_basic() {
        let me = Credentials::password("me", "pw");
        let r = TokenRequest::new(
            "https://a/t?x=1",
            Some("reg"),
            "repository:a:pull",
            Some(&me),
        );
        assert_eq!(
            r.url,
            "https://a/t?x=1&service=reg&scope=repository%3Aa%3Apull"
        );
        assert!(r.form.is_none() && r.authorization.is_some());
    }

    #[test]
    fn a_refresh_token_goes_in_the_form() {
        let me = Credentials::Identity(Secret::new("r&t"));
        let r = TokenRequest::new("https://a/t", Some("reg"), "s", Some(&me));
        assert_eq!(r.url, "https://a/t");
        assert_eq!(
            r.form.as_ref().unwrap().expose(),
            "grant_type=refresh_token&client_id=corten&scope=s&service=reg&refresh_token=r%26t"
        );
        assert!(!format!("{r:?}").contains("r%26t"));
    }

    #[test]
    fn either_name_of_the_token() {
        let t = Token::parse(br#"{"access_token":"abc","expires_in":10}"#).unwrap();
        assert_eq!((t.bearer.expose(), t.lives.as_secs()), ("abc", 60));
        assert!(Token::parse(br#"{"token":"a\r\nb"}"#).is_none());
        assert!(Token::parse(b"{}").is_none());
    }
}
