//! The proxy variables of the environment, as curl and Go read them: `HTTPS_PROXY`, `HTTP_PROXY`
//! (lower case only: CVE-2016-5385), `ALL_PROXY` and `NO_PROXY`. Only `http://` proxies; loopback is never proxied.

/// Which proxy, if any, stands between us and a host.
#[derive(Clone, Default)]
pub struct ProxySettings {
    pub https: Option<String>,
    pub http: Option<String>,
    /// Hosts, domains and networks that are reached directly.
    pub except: Vec<String>,
}

impl std::fmt::Debug for ProxySettings {
    // A proxy's URL may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProxySettings")
            .field("https", &self.https.is_some())
            .field("http", &self.http.is_some())
            .field("except", &self.except)
            .finish()
    }
}

impl ProxySettings {
    /// Reads the environment.
    pub fn from_env() -> Self {
        let var = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        let either = |name: &str| var(&name.to_ascii_lowercase()).or_else(|| var(name));
        let except = either("NO_PROXY").unwrap_or_default();
        Self {
            https: either("HTTPS_PROXY").or_else(|| either("ALL_PROXY")),
            http: var("http_proxy").or_else(|| either("ALL_PROXY")),
            except: except
                .split([',', ' '])
                .filter(|e| !e.is_empty())
                .map(str::to_owned)
                .collect(),
        }
    }
}
