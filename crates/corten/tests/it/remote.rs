//! What is done with registries besides pulling and pushing: all tags, search, accounts, referrers, lists, sync.

use std::fs;

use corten_testkit::fixture::layout;
use corten_testkit::registry::{PASSWORD, USER};
use corten_testkit::{Image, Outcome, Registry, Result, Sandbox, tool};
use serde_json::{Value, json};

use super::images::small;
use super::sandbox;

fn skopeo(args: &[&str]) -> Result<String> {
    tool::call("skopeo", &[&["--insecure-policy"], args].concat())
}

/// Pushes small images under these tags, each of its own content.
fn tags(sandbox: &Sandbox, registry: &Registry, name: &str, tags: &[&str]) -> Result<String> {
    for tag in tags {
        let from = small(sandbox, tag)?.skopeo();
        let to = format!("docker://{}/{name}:{tag}", registry.host());
        skopeo(&["copy", "--quiet", "--dest-tls-verify=false", &from, &to])?;
    }
    Ok(format!("{}/{name}", registry.host()))
}

#[test]
fn all_tags_come_and_are_searched_for() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::plain()?);
    let app = tags(&sandbox, &registry, "team/app", &["1.0", "1.1", "2.0"])?;
    tags(&sandbox, &registry, "other", &["1"])?;
    let said = sandbox
        .corten(&["pull", "--quiet", "--all-tags", &app])
        .ok();
    assert_eq!(said.lines().count(), 3, "{said}");
    assert_eq!(
        sandbox
            .corten(&["images", "--format", "{{.Tag}}"])
            .ok()
            .lines()
            .count(),
        3
    );
    sandbox
        .corten(&["pull", "--all-tags", &format!("{app}:1.0")])
        .fails(125)
        .names("1.0")
        .complete();

    let host = registry.host();
    let found = sandbox
        .corten(&["search", "--format", "{{.Name}}", &format!("{host}/app")])
        .ok();
    assert_eq!(found, app);
    let listed = sandbox
        .corten(&["search", "--list-tags", "--format", "{{.Tag}}", &app])
        .ok();
    let mut listed: Vec<&str> = listed.lines().collect();
    listed.sort_unstable();
    assert_eq!(listed, ["1.0", "1.1", "2.0"]);
    assert!(
        sandbox
            .corten(&["search", &format!("{host}/")])
            .ok()
            .starts_with("NAME")
    );
    sandbox
        .corten(&["search", "--filter", "colour=red", "x"])
        .fails(125)
        .names("colour")
        .complete();

    // When to ask: a name that is here, a registry that is not.
    let before = registry.log().lines().count();
    sandbox
        .corten(&["pull", "--policy", "missing", &format!("{app}:1.0")])
        .ok();
    sandbox
        .corten(&["pull", "--policy", "never", &format!("{app}:1.0")])
        .ok();
    assert_eq!(registry.log().lines().count(), before, "nobody was asked");
    sandbox
        .corten(&["pull", "--policy", "never", &format!("{app}:9")])
        .fails(125)
        .complete();
    drop(registry);
    sandbox
        .corten(&["pull", "--policy", "newer", &format!("{app}:1.0")])
        .ok();
    sandbox
        .corten(&["pull", &format!("{app}:1.0")])
        .fails(125)
        .complete();
    sandbox.finish();
    Ok(())
}

#[test]
fn a_digest_is_pulled_whatever_the_tag_means() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::plain()?);
    let app = tags(&sandbox, &registry, "app", &["one"])?;
    let raw = skopeo(&[
        "inspect",
        "--raw",
        "--tls-verify=false",
        &format!("docker://{app}:one"),
    ])?;
    let digest = format!("sha256:{}", layout::sha256(raw.as_bytes()));
    let both = format!("{app}:nonsense@{digest}");
    assert_eq!(
        sandbox.corten(&["pull", "--quiet", &both]).ok(),
        format!("{app}@{digest}")
    );
    for name in [&both, &format!("{app}@{digest}")] {
        sandbox.corten(&["image", "inspect", name]).ok();
    }
    let untagged = sandbox
        .corten(&["images", "--all", "--format", "{{.Tag}} {{.Digest}}"])
        .ok();
    assert_eq!(untagged, format!("<none> {digest}"));
    sandbox.corten(&["rmi", &format!("{app}@{digest}")]).ok();
    sandbox.finish();
    Ok(())
}

#[test]
fn an_account_is_kept_and_given_back() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::secure()?);
    let image = registry.push(&Image::Busybox.layout()?, "private")?;
    let host = registry.host();
    let folder = sandbox.etc().join("certs.d").join(&host);
    fs::create_dir_all(&folder).expect("certs.d");
    let ca = registry.authority();
    fs::write(
        folder.join("hosts.toml"),
        format!("[host.\"https://{host}\"]\nca = \"{}\"\n", ca.display()),
    )
    .expect("write");
    let login = |password: &str| {
        sandbox.corten_with(
            &["login", "--username", USER, "--password-stdin", &host],
            password.as_bytes(),
        )
    };
    login("wrong").fails(125).names(USER).complete();
    let config = sandbox.home().join(".docker/config.json");
    assert!(!config.exists(), "what was refused is not kept");
    fs::create_dir_all(config.parent().expect("a folder")).expect("folder");
    fs::write(
        &config,
        r#"{"HttpHeaders": {"X": "y"}, "auths": {"other.test": {"auth": "YTpi"}}}"#,
    )
    .expect("write");
    assert_eq!(login(&format!("{PASSWORD}\n")).ok(), "Login Succeeded");
    let text = fs::read_to_string(&config).expect("read");
    assert!(
        text.contains("HttpHeaders") && text.contains("other.test") && !text.contains(PASSWORD),
        "{text}"
    );
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(
        config.metadata().expect("there").permissions().mode() & 0o777,
        0o600
    );
    sandbox.corten(&["pull", "--quiet", &image]).ok();
    // Others read the same file.
    let mut theirs = std::process::Command::new("skopeo");
    theirs
        .args([
            "inspect",
            "--raw",
            "--tls-verify=false",
            &format!("docker://{image}"),
        ])
        .env("HOME", sandbox.home());
    theirs.env("REGISTRY_AUTH_FILE", &config);
    tool::run(&mut theirs)?;
    sandbox.corten(&["logout", &host]).ok();
    let text = fs::read_to_string(&config).expect("read");
    assert!(
        !text.contains(&host) && text.contains("other.test"),
        "{text}"
    );
    sandbox
        .corten(&["pull", &image])
        .fails(125)
        .names("corten login")
        .complete();
    sandbox.corten(&["logout", "--all"]).ok();
    assert!(
        !fs::read_to_string(&config)
            .expect("read")
            .contains("other.test")
    );

    // A helper instead of the file.
    let bin = sandbox.files().join("bin");
    fs::create_dir(&bin).expect("folder");
    let helper = bin.join("docker-credential-test");
    let kept = sandbox.files().join("kept").display().to_string();
    fs::write(
        &helper,
        format!(
            "#!/bin/sh\ncat >'{kept}.'\"$1\"\ntest \"$1\" = get && cat '{kept}.store' || true\n"
        ),
    )
    .expect("write");
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).expect("mode");
    fs::write(&config, r#"{"credsStore": "test"}"#).expect("write");
    let mut command = sandbox.command();
    command.env("PATH", format!("{}:/usr/bin:/bin", bin.display()));
    let args = ["login", "--username", USER, "--password-stdin", &host];
    command.args(args);
    corten_testkit::sandbox::finish(command, PASSWORD.as_bytes(), &args)?.ok();
    let stored: Value =
        serde_json::from_slice(&fs::read(format!("{kept}.store")).expect("stored")).expect("json");
    assert_eq!(
        stored,
        json!({"ServerURL": host, "Username": USER, "Secret": PASSWORD})
    );
    assert!(!fs::read_to_string(&config).expect("read").contains("auths"));

    fs::write(&config, "{").expect("write");
    login(PASSWORD).fails(125).names("config.json").complete();
    fs::remove_file(&config).expect("remove");
    sandbox
        .corten(&["login", &host])
        .fails(125)
        .names("terminal")
        .complete();
    sandbox
        .corten(&["login", "-u", "a", "-p", "b", "no host"])
        .fails(125)
        .names("no host")
        .complete();
    sandbox.finish();
    Ok(())
}

#[test]
fn what_is_attached_is_found_and_copied_along() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::plain()?);
    let app = tags(&sandbox, &registry, "app", &["1"])?;
    let image = format!("{app}:1");
    let file = |name: &str, text: &str| {
        let path = sandbox.files().join(name);
        fs::write(&path, text).expect("write");
        path.display().to_string()
    };
    let sbom = file("sbom.json", r#"{"spdxVersion": "SPDX-2.3", "name": "app"}"#);
    let proof = file(
        "proof.json",
        r#"{"_type": "https://in-toto.io/Statement/v1"}"#,
    );
    let attach =
        |sort: &str, path: &str| sandbox.corten(&["image", "attach", "--type", sort, path, &image]);
    let first = attach("sbom", &sbom).ok();
    attach("attestation", &proof).ok();
    attach("application/vnd.example.note", &file("note", "a note")).ok();
    attach("sbom", &file("no.json", "{}"))
        .fails(125)
        .names("SPDX")
        .complete();
    attach("nonsense", &sbom)
        .fails(125)
        .names("nonsense")
        .complete();
    attach("sbom", "/no/such")
        .fails(125)
        .names("/no/such")
        .complete();
    let list = |args: &[&str]| {
        sandbox.corten(&[&["image", "referrers"], args, &[image.as_str()]].concat())
    };
    assert_eq!(
        list(&["--format", "{{.ArtifactType}}"])
            .ok()
            .lines()
            .count(),
        3
    );
    assert_eq!(
        list(&[
            "--type",
            "sbom",
            "--format",
            "{{.Digest}} {{.ArtifactType}}"
        ])
        .ok(),
        format!("{first} application/spdx+json")
    );
    let one = format!("{app}@{first}");
    let shown: Value =
        serde_json::from_str(&sandbox.corten(&["image", "artifact", &one]).ok()).expect("json");
    assert_eq!(shown["artifactType"], "application/spdx+json");
    let out = sandbox.files().join("out");
    fs::create_dir(&out).expect("folder");
    sandbox
        .corten(&[
            "image",
            "artifact",
            "--output",
            &out.display().to_string(),
            &one,
        ])
        .ok();
    assert_eq!(
        fs::read(out.join("sbom.json")).expect("there"),
        fs::read(&sbom).expect("there")
    );
    assert_eq!(
        sandbox
            .corten(&["image", "artifact", "--output", "-", &one])
            .ok(),
        fs::read_to_string(&sbom).expect("there")
    );

    let copied = format!("{}/copied", registry.host());
    let said = sandbox
        .corten(&[
            "--json",
            "copy",
            "--quiet",
            "--referrers",
            &format!("docker://{image}"),
            &format!("docker://{copied}:1"),
        ])
        .ok();
    let said: Value = serde_json::from_str(&said).expect("json");
    assert_eq!(said["Referrers"], 3);
    let there = sandbox
        .corten(&[
            "image",
            "referrers",
            "--format",
            "{{.Digest}}",
            &format!("{copied}:1"),
        ])
        .ok();
    assert!(
        there.lines().count() == 3 && there.contains(&first),
        "{there}"
    );
    sandbox.finish();
    Ok(())
}

#[test]
fn lists_are_made_annotated_and_pushed() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::plain()?);
    let app = tags(&sandbox, &registry, "parts", &["amd64", "arm64"])?;
    let list = format!("{}/app:1", registry.host());
    let manifest = |args: &[&str]| -> Outcome { sandbox.corten(&[&["manifest"], args].concat()) };
    let (amd, arm) = (format!("{app}:amd64"), format!("{app}:arm64"));
    // One of them from the store, one from the registry.
    sandbox.corten(&["pull", "--quiet", &amd]).ok();
    manifest(&["create", &list, &amd, &arm]).ok();
    manifest(&["create", &list])
        .fails(125)
        .names("already")
        .complete();
    manifest(&[
        "annotate",
        &list,
        &arm,
        "--arch",
        "arm64",
        "--variant",
        "v8",
        "--annotation",
        "a=b",
    ])
    .ok();
    let shown: Value = serde_json::from_str(&manifest(&["inspect", &list]).ok()).expect("json");
    assert_eq!(
        shown["manifests"][1]["platform"],
        json!({"os": "linux", "architecture": "arm64", "variant": "v8"})
    );
    assert_eq!(
        manifest(&["ls", "--format", "{{.Name}} {{.Images}}"]).ok(),
        format!("{list} 2")
    );
    let digest = manifest(&["push", "--quiet", &list]).ok();
    let raw = skopeo(&[
        "inspect",
        "--raw",
        "--tls-verify=false",
        &format!("docker://{list}"),
    ])?;
    assert_eq!(format!("sha256:{}", layout::sha256(raw.as_bytes())), digest);
    let arm64 = skopeo(&[
        "--override-arch",
        "arm64",
        "inspect",
        "--tls-verify=false",
        &format!("docker://{list}"),
    ]);
    assert!(arm64.is_ok(), "{arm64:?}");
    sandbox.corten(&["pull", "--quiet", &list]).ok();
    sandbox
        .corten(&["pull", "--quiet", "--platform", "linux/arm64", &list])
        .ok();

    let second = shown["manifests"][1]["digest"].as_str().expect("digest");
    assert_eq!(manifest(&["remove", &list, second]).ok(), second);
    manifest(&["remove", &list, second])
        .fails(125)
        .names(&second[..20])
        .complete();
    manifest(&["add", "--arch", "riscv64", &list, &arm]).ok();
    let docker = format!("{}/docker:1", registry.host());
    manifest(&["create", "--format", "v2s2", &docker]).ok();
    manifest(&["add", "--all", &docker, &list]).ok();
    manifest(&["push", "--quiet", "--purge", &docker]).ok();
    manifest(&["inspect", &docker]).ok();
    manifest(&["push", &docker])
        .fails(125)
        .names("none of that name")
        .complete();
    let empty = format!("{}/empty:1", registry.host());
    manifest(&["create", &empty]).ok();
    manifest(&["push", &empty])
        .fails(125)
        .names("no images")
        .complete();
    manifest(&["rm", &empty, &list]).ok();
    assert_eq!(manifest(&["ls", "--format", "{{.Name}}"]).ok(), "");
    manifest(&["create", &empty, "127.0.0.1:1/nobody"]).fails(125);
    assert_eq!(
        manifest(&["ls", "--format", "{{.Name}}"]).ok(),
        "",
        "what could not be made is not there"
    );
    sandbox.finish();
    Ok(())
}

#[test]
fn repositories_are_synced() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::plain()?);
    let app = tags(&sandbox, &registry, "team/app", &["1.0", "1.1", "2.0"])?;
    let host = registry.host();
    let sync = |args: &[&str]| sandbox.corten(&[&["sync", "--quiet"], args].concat());
    let mirror = format!("{host}/mirror");
    assert_eq!(sync(&["--dry-run", &app, &mirror]).ok().lines().count(), 3);
    assert_eq!(sync(&[&app, &mirror]).ok().lines().count(), 3);
    let mirrored = skopeo(&[
        "list-tags",
        "--tls-verify=false",
        &format!("docker://{mirror}/app"),
    ])?;
    assert!(
        ["1.0", "1.1", "2.0"].iter().all(|t| mirrored.contains(t)),
        "{mirrored}"
    );
    let list = sandbox.files().join("list.toml");
    fs::write(
        &list,
        format!("[\"{host}\"]\nimages.\"team/app\" = [\"1.*\"]\n"),
    )
    .expect("write");
    let list = list.display().to_string();
    let folder = sandbox.files().join("usb");
    let usb = folder.display().to_string();
    assert_eq!(
        sync(&["--list", "--dir", "--scoped", &list, &usb])
            .ok()
            .lines()
            .count(),
        2
    );
    let place = format!("dir:{usb}/{host}/team/app:1.1");
    let raw = skopeo(&["inspect", "--raw", &place])?;
    assert_eq!(
        raw,
        skopeo(&[
            "inspect",
            "--raw",
            "--tls-verify=false",
            &format!("docker://{app}:1.1")
        ])?
    );
    let layout = sandbox.files().join("layout").display().to_string();
    sync(&["--oci", &app, &layout]).ok();
    skopeo(&["inspect", "--raw", &format!("oci:{layout}:app:2.0")])?;

    fs::write(
        sandbox.files().join("bad.toml"),
        format!("[\"{host}\"]\nimages.\"team/app\" = [\"1.0\", \"9\", \"2.0\"]\n"),
    )
    .expect("write");
    let bad = sandbox.files().join("bad.toml").display().to_string();
    sync(&["--list", &bad, &mirror])
        .fails(125)
        .names(":9")
        .complete();
    let kept = sync(&["--list", "--keep-going", &bad, &mirror]);
    kept.fails(125).names("1 of 3").complete();
    assert_eq!(kept.text().lines().count(), 2, "{kept}");
    fs::write(sandbox.files().join("worse.toml"), "[\"x\"]\nimage = []\n").expect("write");
    sync(&[
        "--list",
        &sandbox.files().join("worse.toml").display().to_string(),
        &mirror,
    ])
    .fails(125)
    .names("worse.toml")
    .complete();
    sandbox.finish();
    Ok(())
}
