//! `corten registry`: served with TLS and accounts, as a cache, collected; and what it refuses.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Child;

use corten_testkit::registry::free_port;
use corten_testkit::{Image, Registry, Result, Sandbox, tool};

use super::sandbox;

/// A server that ends with the test.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        // Gone already, or gone with this.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a registry on a port of its own and waits until it says where it serves.
fn serve(sandbox: &Sandbox, args: &[&str]) -> Result<(Serving, String)> {
    let address = format!("127.0.0.1:{}", free_port()?);
    let mut all = vec!["registry", "serve", "--addr", &address];
    all.extend(args);
    let mut child = sandbox.start(&all);
    let mut said = String::new();
    let stderr = child.stderr.take().expect("stderr is piped");
    let serving = Serving(child);
    let mut lines = BufReader::new(stderr).lines();
    let ready = lines.any(|line| {
        said = line.expect("a line");
        said.contains("serving on")
    });
    assert!(ready, "{said}");
    let scheme = if args.contains(&"--tls-cert") {
        "https"
    } else {
        "http"
    };
    assert_eq!(said, format!("serving on {scheme}://{address}"));
    Ok((serving, address))
}

#[test]
fn with_tls_and_accounts_for_skopeo_and_for_us() -> Result<()> {
    let sandbox = sandbox()?;
    let files = sandbox.files();
    let path = |name: &str| files.join(name).to_string_lossy().into_owned();
    let (cert, key, users) = (path("cert.pem"), path("key.pem"), path("users"));
    tool::call(
        "openssl",
        &[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=test",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-keyout",
            &key,
            "-out",
            &cert,
        ],
    )?;
    fs::write(
        &users,
        tool::call("htpasswd", &["-Bbn", "me", "pass:word"])?,
    )
    .expect("accounts");
    let args = ["--tls-cert", &cert, "--tls-key", &key, "--htpasswd", &users];
    let (serving, host) = serve(&sandbox, &args)?;
    let there = format!("docker://{host}/team/busybox:v1");
    let source = Image::Busybox.layout()?.skopeo();
    let certs = path("certs");
    fs::create_dir(&certs).expect("folder");
    fs::copy(&cert, format!("{certs}/ca.crt")).expect("authority");
    let copy = ["copy", "-q", "--insecure-policy", "--dest-cert-dir", &certs];
    let with = |creds: &str| {
        let args = [&copy[..], &["--dest-creds", creds, &source, &there]].concat();
        tool::call("skopeo", &args)
    };
    assert!(with("me:wrong").is_err());
    with("me:pass:word")?;

    // Ours: trusting the certificate, and as whom Docker's file says.
    let image = format!("{host}/team/busybox:v1");
    sandbox
        .corten(&["pull", &image])
        .fails(125)
        .names(&host)
        .complete();
    let trusted = sandbox.etc().join("certs.d").join(&host);
    fs::create_dir_all(&trusted).expect("folder");
    fs::copy(&cert, trusted.join("ca.pem")).expect("authority");
    fs::write(trusted.join("hosts.toml"), "ca = \"ca.pem\"\n").expect("hosts.toml");
    sandbox
        .corten(&["pull", &image])
        .fails(125)
        .names("anonymous")
        .complete();
    let docker = sandbox.home().join(".docker");
    fs::create_dir_all(&docker).expect("folder");
    // me:pass:word
    let config = format!(r#"{{"auths":{{"{host}":{{"auth":"bWU6cGFzczp3b3Jk"}}}}}}"#);
    fs::write(docker.join("config.json"), config).expect("config.json");
    sandbox.corten(&["pull", &image]).ok();
    sandbox.corten(&["run", "--rm", &image, "true"]).ok();

    // Beside the server: all is in use, or was just now.
    let gc = sandbox
        .corten(&["--json", "registry", "gc", "--dry-run"])
        .ok();
    assert!(
        gc.replace(char::is_whitespace, "").contains(r#""Blobs":0"#),
        "{gc}"
    );
    let creds = ["--creds", "me:pass:word", "--cert-dir", &certs];
    tool::call("skopeo", &[&["delete"], &creds[..], &[&there]].concat())?;
    let gc = sandbox.corten(&["registry", "gc", "--grace", "0s"]).ok();
    assert!(
        gc.starts_with("removed 0 manifests,") && !gc.contains(" 0 blobs,"),
        "{gc}"
    );
    drop(serving);
    sandbox.finish();
    Ok(())
}

#[test]
fn a_cache_serves_without_its_upstream() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::plain()?);
    registry.push(&Image::Busybox.layout()?, "busybox")?;
    let upstream = format!("http://{}", registry.host());
    let args = [
        "--proxy",
        &upstream,
        "--proxy-fresh",
        "0s",
        "--proxy-max-size",
        "1g",
    ];
    let (serving, host) = serve(&sandbox, &args)?;
    let image = format!("{host}/busybox:latest");
    sandbox.corten(&["pull", &image]).ok();
    sandbox.corten(&["rmi", &image]).ok();
    drop(registry);
    sandbox.corten(&["pull", &image]).ok();
    sandbox.corten(&["run", "--rm", &image, "true"]).ok();
    drop(serving);
    sandbox.finish();
    Ok(())
}

#[test]
fn what_would_not_serve_well_is_refused() -> Result<()> {
    let sandbox = sandbox()?;
    let files = sandbox.files();
    let users = files.join("users").to_string_lossy().into_owned();
    fs::write(&users, "me:plain\n").expect("accounts");
    let serve = |args: &[&str]| {
        let fixed = ["registry", "serve", "--addr"];
        sandbox.corten(&[&fixed[..], args].concat())
    };
    serve(&["127.0.0.1:0", "--htpasswd", &users])
        .fails(125)
        .names("line 1")
        .complete();
    serve(&["127.0.0.1:0", "--tls-cert", &users])
        .fails(125)
        .names("--tls-key");
    serve(&["127.0.0.1:0", "--tls-cert", &users, "--tls-key", &users])
        .fails(125)
        .names(&users)
        .complete();
    serve(&["127.0.0.1:0", "--proxy", "https://h.test/v2"])
        .fails(125)
        .names("h.test")
        .complete();
    serve(&["127.0.0.1:0", "--gc-interval", "1.5h"])
        .fails(125)
        .names("90s");
    fs::write(&users, tool::call("htpasswd", &["-Bbn", "me", "pw"])?).expect("accounts");
    serve(&["0.0.0.0:0", "--htpasswd", &users])
        .fails(125)
        .names("TLS")
        .complete();
    sandbox
        .corten(&["registry", "gc"])
        .fails(125)
        .names("registry")
        .complete();
    // One server has a folder.
    let (serving, _) = self::serve(&sandbox, &[])?;
    serve(&["127.0.0.1:0"])
        .fails(125)
        .names("in use")
        .complete();
    drop(serving);
    sandbox.finish();
    Ok(())
}
