//! Debian's docker-registry on a loopback port of its own: plain, or with TLS
//! and a password. Images go in by skopeo. It dies with the value.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::error::{Error, Result};
use crate::fixture::layout::Layout;
use crate::{tool, wait};

pub const USER: &str = "corten";
pub const PASSWORD: &str = "rust-protects-itself";

#[derive(Debug)]
pub struct Registry {
    folder: TempDir,
    server: Child,
    port: u16,
    secure: bool,
}

impl Registry {
    /// HTTP, open to everyone.
    pub fn plain() -> Result<Registry> {
        Registry::start(false)
    }

    /// HTTPS with a certificate of [`Registry::authority`], and Basic authentication.
    pub fn secure() -> Result<Registry> {
        Registry::start(true)
    }

    fn start(secure: bool) -> Result<Registry> {
        let folder = tempfile::Builder::new()
            .prefix("corten-registry-")
            .tempdir()
            .map_err(Error::system("cannot make a temporary folder"))?;
        let port = free_port()?;
        let root = folder.path();
        if secure {
            certificate(root)?;
            tool::call(
                "htpasswd",
                &["-Bbc", &text(&root.join("htpasswd")), USER, PASSWORD],
            )?;
        }
        let config = root.join("config.yml");
        fs::write(&config, configuration(root, port, secure))
            .map_err(Error::path("write", &config))?;
        let log = root.join("log");
        let log = fs::File::create(&log).map_err(Error::path("create", &log))?;
        let server = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            // Without it the server sends traces to whatever the environment names.
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|source| Error::Start {
                program: "docker-registry".to_owned(),
                source,
            })?;
        let registry = Registry {
            folder,
            server,
            port,
            secure,
        };
        wait::until("docker-registry listening", Duration::from_secs(20), || {
            TcpStream::connect(("127.0.0.1", port)).ok()
        })?;
        Ok(registry)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:PORT`, as it stands in a reference.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}:latest", self.host())
    }

    /// The certificate authority that signed the server's certificate.
    pub fn authority(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }

    /// What the server wrote: one line a request, for counting them.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Pushes an image; returns its reference.
    pub fn push(&self, layout: &Layout, name: &str) -> Result<String> {
        self.push_as(layout, name, &[])
    }

    /// Pushes with more of skopeo's arguments: `--format=v2s2`, `--dest-compress-format=zstd`.
    pub fn push_as(&self, layout: &Layout, name: &str, args: &[&str]) -> Result<String> {
        let reference = self.reference(name);
        let mut command = Command::new("skopeo");
        command
            .args([
                "copy",
                "--quiet",
                "--insecure-policy",
                "--dest-tls-verify=false",
            ])
            .args(args);
        if self.secure {
            command.arg(format!("--dest-creds={USER}:{PASSWORD}"));
        }
        tool::run(
            command
                .arg(layout.skopeo())
                .arg(format!("docker://{reference}")),
        )?;
        Ok(reference)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Killed on purpose: it has nothing to save. It is reaped right after.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// A port that nobody listens on now.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0))
        .map_err(Error::system("cannot bind a loopback port"))?;
    Ok(listener
        .local_addr()
        .map_err(Error::system("cannot read a socket's address"))?
        .port())
}

fn configuration(root: &Path, port: u16, secure: bool) -> String {
    let root = root.display();
    let mut config = format!(
        "version: 0.1\nlog:\n  level: info\n  accesslog:\n    disabled: false\n\
         storage:\n  filesystem:\n    rootdirectory: {root}/storage\n  delete:\n    enabled: true\n\
         http:\n  addr: 127.0.0.1:{port}\n"
    );
    if secure {
        config.push_str(&format!(
            "  tls:\n    certificate: {root}/server.crt\n    key: {root}/server.key\n"
        ));
        config.push_str(&format!(
            "auth:\n  htpasswd:\n    realm: corten-test\n    path: {root}/htpasswd\n"
        ));
    }
    config
}

/// An authority and a server certificate for loopback, by openssl.
fn certificate(root: &Path) -> Result<()> {
    let openssl = |args: &[&str]| tool::run(Command::new("openssl").args(args).current_dir(root));
    let extensions = root.join("extensions");
    let names = "subjectAltName=IP:127.0.0.1,IP:::1,DNS:localhost\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE\n";
    fs::write(&extensions, names).map_err(Error::path("write", &extensions))?;
    let key = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ];
    let mut authority = vec!["req", "-x509"];
    authority.extend(key);
    authority.extend([
        "-days",
        "2",
        "-subj",
        "/CN=Corten test authority",
        "-keyout",
        "ca.key",
        "-out",
        "ca.crt",
    ]);
    openssl(&authority)?;
    let mut request = vec!["req"];
    request.extend(key);
    request.extend([
        "-subj",
        "/CN=localhost",
        "-keyout",
        "server.key",
        "-out",
        "server.csr",
    ]);
    openssl(&request)?;
    let sign = [
        "x509",
        "-req",
        "-in",
        "server.csr",
        "-CA",
        "ca.crt",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
    ];
    let mut sign = sign.to_vec();
    sign.extend(["-days", "2", "-extfile", "extensions", "-out", "server.crt"]);
    openssl(&sign)?;
    Ok(())
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
