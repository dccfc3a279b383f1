//! `[streaming]` of `serve.toml`: where kubelet finds the streams of exec, attach and port-forward.

use std::path::PathBuf;
use std::time::Duration;

use corten_cri::stream::{Settings, TlsFiles};
use serde::Deserialize;

use super::config::ValueProblem;
use crate::cli::value;

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct File {
    /// One, or one of each family. Port 0, the default, is any free one.
    addresses: Vec<String>,
    /// How kubelet reaches it, where that is not the first address.
    host: Option<String>,
    idle_timeout: Option<String>,
    creation_timeout: Option<String>,
    /// PEM files; with them it is HTTPS.
    tls_certificate: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    /// With it only clients whose certificate it has signed are let in.
    tls_client_ca: Option<PathBuf>,
}

/// A key, its text, and what is wrong with it.
type Bad = (&'static str, String, ValueProblem);

impl File {
    pub fn settings(self) -> Result<Settings, Bad> {
        let mut settings = Settings::default();
        if !self.addresses.is_empty() {
            let parse = |text: &String| {
                let address = text.parse();
                address.map_err(|_| ("streaming.addresses", text.clone(), ValueProblem::Address))
            };
            settings.addresses = self.addresses.iter().map(parse).collect::<Result<_, _>>()?;
        }
        settings.host = self.host;
        settings.tls = match (self.tls_certificate, self.tls_key, self.tls_client_ca) {
            (None, None, None) => None,
            (Some(certificate), Some(key), client_ca) => Some(TlsFiles {
                certificate,
                key,
                client_ca,
            }),
            (certificate, key, ca) => {
                // The one that is there lacks the other.
                let all = [
                    ("streaming.tls-certificate", certificate),
                    ("streaming.tls-key", key),
                    ("streaming.tls-client-ca", ca),
                ];
                let given = all.into_iter().find_map(|(name, path)| Some((name, path?)));
                let (name, path) = given.unwrap_or_default();
                return Err((name, path.display().to_string(), ValueProblem::Pair));
            }
        };
        let time = |key: &'static str, text: Option<String>, default: Duration| match text {
            None => Ok(default),
            Some(text) => value::duration(&text).map_err(|e| (key, text, e.into())),
        };
        let (idle, creation) = (self.idle_timeout, self.creation_timeout);
        settings.idle_timeout = time("streaming.idle-timeout", idle, settings.idle_timeout)?;
        let key = "streaming.creation-timeout";
        settings.creation_timeout = time(key, creation, settings.creation_timeout)?;
        Ok(settings)
    }
}
