//! Who we are to a registry: credentials and where they come from, the challenge that asks for
//! them, and the token that they are exchanged for. No I/O but Docker's `config.json` and its helpers.

pub mod challenge;
pub mod docker_config;
pub mod token;

use std::fmt;

/// A text that no `Debug`, `Display` or error shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the wire only.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What proves who we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    Password {
        user: String,
        password: Secret,
    },
    /// An OAuth2 refresh token, Docker's `identitytoken`: good for access tokens only.
    Identity(Secret),
    /// A bearer token, sent as it is: Docker's `registrytoken`.
    Registry(Secret),
}

impl Credentials {
    pub fn password(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self::Password {
            user: user.into(),
            password: Secret::new(password),
        }
    }

    /// The name to tell a person which account was tried.
    pub fn user(&self) -> &str {
        match self {
            Self::Password { user, .. } => user,
            Self::Identity(_) | Self::Registry(_) => "<token>",
        }
    }

    /// The `Authorization` value of HTTP Basic (RFC 7617), for a password.
    pub(crate) fn basic(&self) -> Option<Secret> {
        use base64::Engine as _;
        let Self::Password { user, password } = self else {
            return None;
        };
        let pair = format!("{user}:{}", password.expose());
        let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
        Some(Secret(format!("Basic {encoded}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_print() {
        let c = Credentials::password("me", "hunter2");
        assert!(!format!("{c:?} {:?}", c.basic()).contains("hunter2"));
        assert_eq!(c.basic().unwrap().expose(), "Basic bWU6aHVudGVyMg==");
    }
}
