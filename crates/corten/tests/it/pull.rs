//! Pulls that go well: formats, passwords, faults that pass.

use std::fs;

use corten_testkit::fixture::hostile::noise;
use corten_testkit::fixture::layout::{self, Layer};
use corten_testkit::fixture::tar::Tar;
use corten_testkit::registry::{PASSWORD, USER};
use corten_testkit::{Fault, Image, Proxy, Registry, Result, Sandbox, tool, wait};

use super::sandbox;

fn runs(sandbox: &Sandbox, image: &str) {
    let out = sandbox.corten(&[
        "run",
        "--rm",
        "--pull",
        "never",
        "--network",
        "none",
        image,
        "cat",
        "/data/changed",
    ]);
    assert_eq!(out.ok(), "after", "{image}");
}

#[test]
fn every_format_that_registries_hold() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::plain()?);
    let layout = Image::Busybox.layout()?;
    let forms: [(&str, &[&str]); 4] = [
        ("oci-gzip", &[]),
        ("docker-schema2", &["--format=v2s2"]),
        (
            "oci-zstd",
            &["--dest-compress", "--dest-compress-format=zstd"],
        ),
        (
            "oci-zstd-chunked",
            &["--dest-compress", "--dest-compress-format=zstd:chunked"],
        ),
    ];
    for (name, args) in forms {
        let image = registry.push_as(&layout, name, args)?;
        sandbox.corten(&["pull", &image]).ok();
        runs(&sandbox, &image);
    }
    let listed = sandbox.corten(&["images"]).ok();
    assert!(
        forms.iter().all(|(name, _)| listed.contains(name)),
        "{listed}"
    );
    sandbox.finish();
    Ok(())
}

#[test]
fn a_registry_with_tls_and_a_password() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::secure()?);
    let image = registry.push(&Image::Busybox.layout()?, "private/busybox")?;
    let host = registry.host();

    // An authority that nobody trusts, no password, a wrong one, the right one.
    sandbox
        .corten(&["pull", &image])
        .fails(125)
        .names("certificate")
        .complete();
    let folder = sandbox.etc().join("certs.d").join(&host);
    fs::create_dir_all(&folder).expect("certs.d");
    let authority = registry.authority();
    fs::write(
        folder.join("hosts.toml"),
        format!(
            "[host.\"https://{host}\"]\nca = \"{}\"\n",
            authority.display()
        ),
    )
    .expect("write");
    sandbox
        .corten(&["pull", &image])
        .fails(125)
        .names(&host)
        .complete();
    let login = |password: &str| {
        let file = sandbox
            .home()
            .join(".docker/config.json")
            .to_string_lossy()
            .into_owned();
        fs::create_dir_all(sandbox.home().join(".docker")).expect("folder");
        let both = tool::run(std::process::Command::new("sh").args([
            "-c",
            &format!("printf '%s' '{USER}:{password}' | base64 -w0"),
        ]));
        let text = format!(
            r#"{{"auths":{{"{host}":{{"auth":"{}"}}}}}}"#,
            both.expect("base64").trim()
        );
        fs::write(file, text).expect("write");
    };
    login("wrong");
    sandbox
        .corten(&["pull", &image])
        .fails(125)
        .names(&host)
        .names(USER)
        .complete();
    assert!(!sandbox.corten(&["images"]).ok().contains("busybox"));
    login(PASSWORD);
    sandbox.corten(&["pull", &image]).ok();
    runs(&sandbox, &image);
    sandbox.finish();
    Ok(())
}

#[test]
fn a_cut_is_resumed_where_it_was() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::plain()?);
    registry.push(&Image::Busybox.layout()?, "busybox")?;
    let proxy = Proxy::before(registry.port())?;
    proxy.fail(Fault::Cut { after: 200_000 }, 2);
    let image = proxy.reference("busybox");
    sandbox.corten(&["pull", &image]).ok();
    let requests = proxy.requests();
    assert!(
        requests
            .iter()
            .any(|request| request.contains("bytes=") && !request.contains("bytes=0-")),
        "{requests:#?}"
    );
    runs(&sandbox, &image);
    sandbox.finish();
    Ok(())
}

#[test]
fn a_busy_registry_is_asked_again() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::plain()?);
    registry.push(&Image::Busybox.layout()?, "busybox")?;
    for code in [429, 503] {
        let proxy = Proxy::before(registry.port())?;
        proxy.fail(Fault::Status(code), 2);
        let image = proxy.reference("busybox");
        sandbox.corten(&["pull", &image]).ok();
        runs(&sandbox, &image);
        sandbox.corten(&["rmi", &image]).ok();
        sandbox.corten(&["system", "prune"]).ok();
    }
    sandbox.finish();
    Ok(())
}

#[test]
fn a_layer_that_is_here_is_not_asked_for_again() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::plain()?);
    let proxy = Proxy::before(registry.port())?;
    registry.push(&Image::Python.layout()?, "python")?;
    registry.push(&Image::Postgres.layout()?, "postgres")?;
    // A large one may come in parts, by several requests.
    let blobs = || {
        let requests = proxy.requests();
        let asked = requests
            .iter()
            .filter(|r| r.starts_with("GET ") && r.contains("/blobs/"));
        let digests = asked.filter_map(|r| r.split_whitespace().nth(1).map(str::to_owned));
        digests.collect::<std::collections::BTreeSet<_>>().len()
    };
    sandbox.corten(&["pull", &proxy.reference("python")]).ok();
    let before = blobs();
    // A config and the one layer that python lacks.
    sandbox.corten(&["pull", &proxy.reference("postgres")]).ok();
    assert_eq!(blobs() - before, 2, "{:#?}", proxy.requests());
    let before = proxy.requests().len();
    sandbox.corten(&["pull", &proxy.reference("postgres")]).ok();
    assert_eq!(
        proxy.requests().len() - before,
        1,
        "the manifest: nothing is new"
    );
    sandbox.finish();
    Ok(())
}

#[test]
fn our_own_registry_serves_what_skopeo_pushed() -> Result<()> {
    let sandbox = sandbox()?;
    let port = corten_testkit::registry::free_port()?;
    let (address, folder) = (
        format!("127.0.0.1:{port}"),
        sandbox.folder().join("registry"),
    );
    let mut command = sandbox.command();
    command
        .args(["registry", "serve", "--addr", &address, "--root"])
        .arg(&folder);
    let mut server = command.spawn().expect("the registry");
    corten_testkit::wait::until("our registry", super::SOON, || {
        std::net::TcpStream::connect(&address).ok()
    })?;
    let reference = format!("{address}/team/busybox:v1");
    let layout = Image::Busybox.layout()?;
    let target = format!("docker://{reference}");
    tool::call(
        "skopeo",
        &[
            "copy",
            "--quiet",
            "--insecure-policy",
            "--dest-tls-verify=false",
            &layout.skopeo(),
            &target,
        ],
    )?;
    let tags = tool::call(
        "skopeo",
        &[
            "list-tags",
            "--tls-verify=false",
            &format!("docker://{address}/team/busybox"),
        ],
    )?;
    assert!(tags.contains("v1"), "{tags}");
    sandbox.corten(&["pull", &reference]).ok();
    runs(&sandbox, &reference);
    tool::call("kill", &["-INT", &server.id().to_string()])?;
    assert!(server.wait().expect("the registry").success());
    sandbox.finish();
    Ok(())
}

/// Names of 250 bytes, a deep path, an empty file, a large one: through the registry and back.
#[test]
fn unusual_files_arrive() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::plain()?);
    let content = noise(3 << 20);
    let tar = Tar::new()
        .folder("deep/a/b/c/d/e/f/")
        .file("deep/a/b/c/d/e/f/empty", 0o600, b"")
        .file("large", 0o444, &content)
        .symlink("loop", "loop")
        .symlink("outside", "/../../../etc/hostname")
        .file("name with spaces and \u{e4}", 0o644, b"x");
    let folder = sandbox.files().join("unusual");
    let shell = std::fs::read("/bin/busybox").expect("busybox");
    let base = Tar::new()
        .folder("bin/")
        .file("bin/sh", 0o755, &shell)
        .symlink("bin/sha256sum", "sh")
        .symlink("bin/ls", "sh");
    let layers = [Layer::gzip(&base.finish()), Layer::gzip(&tar.finish())];
    let image = registry.push(&layout::write(&folder, &layers)?, "unusual")?;
    sandbox.corten(&["pull", &image]).ok();
    let run = |script: &str| {
        sandbox
            .corten(&[
                "run",
                "--rm",
                "--network",
                "none",
                &image,
                "sh",
                "-c",
                script,
            ])
            .ok()
    };
    assert_eq!(
        run("sha256sum </large"),
        format!("{}  -", layout::sha256(&content))
    );
    assert_eq!(
        run("ls -d '/name with spaces and \u{e4}' /deep/a/b/c/d/e/f/empty")
            .lines()
            .count(),
        2
    );
    sandbox.finish();
    Ok(())
}

/// Ctrl-C in the middle, and the same again: it goes on from what is on disk.
#[test]
fn an_interrupted_pull_goes_on() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::plain()?);
    registry.push(&Image::Busybox.layout()?, "busybox")?;
    let proxy = Proxy::before(registry.port())?;
    proxy.fail(Fault::Stall { after: 600_000 }, 1);
    let image = proxy.reference("busybox");
    let mut pull = sandbox.start(&["pull", &image]);
    let partial = || {
        let entries = fs::read_dir(sandbox.root().join("ingest")).ok()?;
        let lengths = entries.filter_map(|e| Some(e.ok()?.metadata().ok()?.len()));
        lengths.max().filter(|&n| n >= 262_144)
    };
    wait::until("some of the layer on disk", super::SOON, partial)?;
    let id = rustix::process::Pid::from_child(&pull);
    rustix::process::kill_process(id, rustix::process::Signal::INT).expect("kill");
    let status = pull.wait().expect("wait");
    assert!(!status.success());
    assert!(
        partial().is_some(),
        "what had come stays: {:?}",
        sandbox.root().join("ingest")
    );

    let before = proxy.requests().len();
    sandbox.corten(&["pull", &image]).ok();
    let after = &proxy.requests()[before..];
    let goes_on = |r: &String| {
        let from = r.split("bytes=").nth(1).and_then(|r| r.split('-').next());
        from.and_then(|n| n.parse::<u64>().ok())
            .is_some_and(|n| n >= 262_144)
    };
    assert!(after.iter().any(goes_on), "{after:#?}");
    runs(&sandbox, &image);
    sandbox.finish();
    Ok(())
}

/// Whoever comes second waits for the first one's layers, and asks for none of them.
#[test]
fn two_pulls_at_once_share_the_work() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::plain()?);
    registry.push(&Image::Python.layout()?, "python")?;
    let proxy = Proxy::before(registry.port())?;
    let image = proxy.reference("python");
    let mut pulls = [0, 1, 2].map(|_| sandbox.start(&["pull", &image]));
    for pull in &mut pulls {
        assert!(pull.wait().expect("wait").success());
    }
    let manifest = Image::Python.layout()?.manifest()?;
    let layers = manifest["layers"].as_array().expect("layers");
    for digest in layers.iter().filter_map(|l| l["digest"].as_str()) {
        let requests = proxy.requests();
        let asked = requests.iter().filter(|r| r.contains(digest));
        let whole = asked.filter(|r| !r.contains("bytes=") || r.contains("bytes=0-"));
        assert_eq!(whole.count(), 1, "{digest}: {requests:#?}");
    }
    sandbox.finish();
    Ok(())
}
