//! Images on their way: what is pulled is pushed, saved, loaded and copied byte for byte, and the
//! peers at the other end see the same digests.

use std::fs;
use std::process::{Child, Command};

use corten_testkit::fixture::layout;
use corten_testkit::fixture::tar::Tar;
use corten_testkit::{Image, Outcome, Registry, Result, Sandbox, tool, wait};
use serde_json::Value;

use super::images::small;
use super::peers::apart;
use super::{SOON, sandbox, with_busybox};

/// Our own registry, for as long as the test.
struct Ours {
    server: Child,
    host: String,
}

impl Ours {
    fn start(sandbox: &Sandbox) -> Result<Ours> {
        let host = format!("127.0.0.1:{}", corten_testkit::registry::free_port()?);
        let mut command = sandbox.command();
        command.args(["registry", "serve", "--addr", &host, "--root"]);
        let server = command
            .arg(sandbox.folder().join("registry"))
            .spawn()
            .expect("the registry");
        wait::until("our registry", SOON, || {
            std::net::TcpStream::connect(&host).ok()
        })?;
        Ok(Ours { server, host })
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// `corten` on a state folder of its own, as if on another host.
fn elsewhere(sandbox: &Sandbox, args: &[&str], stdin: &[u8]) -> Outcome {
    let mut command = Command::new(sandbox.binary());
    let root = sandbox.files().join("other-root");
    command
        .arg("--root")
        .arg(root)
        .arg("--run")
        .arg(sandbox.run_folder());
    command
        .env("CORTEN_ETC", sandbox.etc())
        .env("HOME", sandbox.home())
        .args(args);
    corten_testkit::sandbox::finish(command, stdin, args).expect("a finished command")
}

fn skopeo(args: &[&str]) -> Result<String> {
    tool::call("skopeo", &[&["--insecure-policy"], args].concat())
}

/// The digest that a registry's name stands for, by an independent client.
fn digest(reference: &str) -> Result<String> {
    let at = format!("docker://{reference}");
    let raw = skopeo(&["inspect", "--raw", "--tls-verify=false", &at])?;
    Ok(format!("sha256:{}", layout::sha256(raw.as_bytes())))
}

/// Two platforms of a small image, as an index in a registry.
fn index(sandbox: &Sandbox, registry: &Registry, name: &str) -> Result<String> {
    let folder = sandbox.files().join("index");
    let mut entries = Vec::new();
    for (arch, content) in [("amd64", "first"), ("arm64", "second")] {
        let one = small(sandbox, content)?;
        let mut manifest = one.manifest()?;
        let mut config: Value = serde_json::from_slice(
            &one.blob(manifest["config"]["digest"].as_str().expect("digest"))?,
        )
        .expect("config");
        config["architecture"] = arch.into();
        let blobs = folder.join("blobs/sha256");
        fs::create_dir_all(&blobs).expect("folder");
        for layer in manifest["layers"].as_array().expect("layers") {
            let digest = layer["digest"].as_str().expect("digest");
            fs::write(blobs.join(&digest[7..]), one.blob(digest)?).expect("layer");
        }
        let put = |bytes: &[u8]| {
            let hex = layout::sha256(bytes);
            fs::write(blobs.join(&hex), bytes).expect("blob");
            (format!("sha256:{hex}"), bytes.len())
        };
        let (digest, size) = put(config.to_string().as_bytes());
        manifest["config"]["digest"] = digest.into();
        manifest["config"]["size"] = size.into();
        let (digest, size) = put(manifest.to_string().as_bytes());
        entries.push(serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": size,
            "platform": {"os": "linux", "architecture": arch},
        }));
    }
    let index_type = "application/vnd.oci.image.index.v1+json";
    let bytes =
        serde_json::json!({"schemaVersion": 2, "mediaType": index_type, "manifests": entries})
            .to_string();
    let hex = layout::sha256(bytes.as_bytes());
    fs::write(folder.join("blobs/sha256").join(&hex), &bytes).expect("index");
    let top = serde_json::json!({"schemaVersion": 2, "manifests": [{
        "mediaType": index_type, "digest": format!("sha256:{hex}"), "size": bytes.len(),
        "annotations": {"org.opencontainers.image.ref.name": "latest"}}]});
    fs::write(folder.join("index.json"), top.to_string()).expect("index.json");
    fs::write(
        folder.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .expect("oci-layout");
    let reference = registry.reference(name);
    let from = format!("oci:{}:latest", folder.display());
    skopeo(&[
        "copy",
        "--quiet",
        "--all",
        "--dest-tls-verify=false",
        &from,
        &format!("docker://{reference}"),
    ])?;
    Ok(reference)
}

#[test]
fn what_was_pulled_is_pushed_with_the_same_digests() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::plain()?);
    let ours = Ours::start(&sandbox)?;
    let layout = Image::Busybox.layout()?;
    for (name, args) in [
        ("oci", &[][..]),
        ("docker", &["--format=v2s2"][..]),
        (
            "zstd",
            &["--dest-compress", "--dest-compress-format=zstd"][..],
        ),
    ] {
        let from = registry.push_as(&layout, name, args)?;
        sandbox.corten(&["pull", &from]).ok();
        let to = format!("{}/team/{name}:v1", ours.host);
        sandbox.corten(&["tag", &from, &to]).ok();
        let said = sandbox.corten(&["push", &to]).ok();
        let expected = digest(&from)?;
        assert!(said.contains(&expected), "{said}");
        assert_eq!(digest(&to)?, expected, "{name}");
        // And back, from ours, by another client, into a folder: every blob is what the manifest says.
        let folder = sandbox.files().join(format!("back-{name}"));
        skopeo(&[
            "copy",
            "--quiet",
            "--src-tls-verify=false",
            "--preserve-digests",
            &format!("docker://{to}"),
            &format!("dir:{}", folder.display()),
        ])?;
        // A second push sends nothing.
        let again = sandbox.corten(&["push", &to]);
        assert!(
            again.ok().contains(&expected) && again.talk().contains("already here"),
            "{again}"
        );
    }
    let all = format!("{}/team/docker", ours.host);
    sandbox
        .corten(&["tag", &format!("{all}:v1"), &format!("{all}:v2")])
        .ok();
    let quiet = sandbox
        .corten(&["push", "--quiet", "--all-tags", &all])
        .ok();
    assert_eq!(
        quiet.lines().collect::<Vec<_>>(),
        [format!("{all}:v1"), format!("{all}:v2")]
    );
    assert_eq!(digest(&format!("{all}:v2"))?, digest(&format!("{all}:v1"))?);
    sandbox
        .corten(&["push", "nobody/here"])
        .fails(125)
        .names("nobody/here")
        .complete();
    drop(ours);
    sandbox.finish();
    Ok(())
}

#[test]
fn layers_are_taken_over_from_another_repository() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::plain()?);
    let image = registry.push(&Image::Busybox.layout()?, "first")?;
    sandbox.corten(&["pull", &image]).ok();
    let uploads = || {
        registry
            .log()
            .lines()
            .filter(|l| l.contains("PATCH "))
            .count()
    };
    let before = uploads();
    let second = registry.reference("second");
    sandbox.corten(&["tag", &image, &second]).ok();
    sandbox.corten(&["push", &second]).ok();
    assert!(registry.log().contains("mount="), "asked to mount");
    assert_eq!(uploads(), before, "nothing was sent again");
    assert_eq!(digest(&second)?, digest(&image)?);
    sandbox.finish();
    Ok(())
}

#[test]
fn an_index_is_pushed_whole_if_all_of_it_is_here() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::plain()?);
    let image = index(&sandbox, &registry, "both")?;
    sandbox
        .corten(&["pull", "--platform", "linux/amd64", &image])
        .ok();
    let copy = registry.reference("one");
    sandbox.corten(&["tag", &image, &copy]).ok();
    let said = sandbox.corten(&["push", &copy]);
    said.ok();
    assert!(said.talk().contains("not all platforms"), "{said}");
    assert_ne!(digest(&copy)?, digest(&image)?);
    sandbox
        .corten(&["pull", "--platform", "linux/s390x", &image])
        .fails(125)
        .names("linux/arm64")
        .complete();

    sandbox
        .corten(&["pull", "--platform", "linux/arm64", &image])
        .ok();
    let here = sandbox
        .corten(&[
            "image",
            "platforms",
            "--format",
            "{{.Platform}} {{.Here}}",
            &image,
        ])
        .ok();
    assert_eq!(here, "linux/amd64 true\nlinux/arm64 true");
    // Its archive has both, and either can be had of it.
    let path = sandbox.files().join("both.tar").display().to_string();
    let arch = [
        "image",
        "inspect",
        "--format",
        "{{.Architecture}} {{.Digest}}",
        image.as_str(),
    ];
    let top = digest(&image)?;
    sandbox.corten(&["save", "-o", &path, &image]).ok();
    for wanted in ["amd64", "arm64"] {
        let platform = format!("linux/{wanted}");
        elsewhere(
            &sandbox,
            &["load", "--platform", &platform, "-i", &path],
            b"",
        )
        .ok();
        assert_eq!(
            elsewhere(&sandbox, &arch, b"").ok(),
            format!("{wanted} {top}")
        );
    }
    elsewhere(
        &sandbox,
        &["load", "--platform", "linux/s390x", "-i", &path],
        b"",
    )
    .fails(125)
    .names("linux/arm64")
    .complete();
    sandbox
        .corten(&["save", "--platform", "linux/amd64", "-o", &path, &image])
        .ok();
    elsewhere(&sandbox, &["load", "-i", &path], b"").ok();
    let one = elsewhere(&sandbox, &arch, b"").ok();
    assert!(one.starts_with("amd64 ") && !one.contains(&top), "{one}");
    sandbox
        .corten(&["save", "--platform", "linux/s390x", "-o", &path, &image])
        .fails(125)
        .names("s390x")
        .complete();
    let whole = registry.reference("whole");
    sandbox.corten(&["tag", &image, &whole]).ok();
    sandbox.corten(&["push", &whole]).ok();
    assert_eq!(digest(&whole)?, digest(&image)?);
    let one = registry.reference("arm");
    sandbox.corten(&["tag", &image, &one]).ok();
    sandbox
        .corten(&["push", "--platform", "linux/arm64", &one])
        .ok();
    let config = skopeo(&[
        "inspect",
        "--config",
        "--tls-verify=false",
        &format!("docker://{one}"),
    ])?;
    assert!(config.contains("arm64"), "{config}");
    sandbox.finish();
    Ok(())
}

#[test]
fn saved_and_loaded_it_is_the_same() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let at = |args: &[&str]| elsewhere(&sandbox, args, b"");
    let facts = [
        "image",
        "inspect",
        "--format",
        "{{.Id}} {{.Digest}} {{.ManifestDigest}} {{.RepoTags}}",
        &image,
    ];
    let expected = sandbox.corten(&facts).ok();
    let file = |name: &str| sandbox.files().join(name).display().to_string();
    for format in ["docker-archive", "oci-archive", "oci-dir"] {
        let path = file(format);
        sandbox
            .corten(&["save", "--format", format, "-o", &path, &image])
            .ok();
        assert_eq!(
            at(&["load", "-i", &path]).ok(),
            format!("Loaded image: {image}")
        );
        assert_eq!(at(&facts).ok(), expected, "{format}");
        at(&["rmi", &image]).ok();
    }
    // Two images, one of them by two names.
    let second = small(&sandbox, "second")?;
    let folder = second.folder.display().to_string();
    let other = sandbox.corten(&["load", "-i", &folder]).ok();
    let other = other
        .strip_prefix("Loaded image ID: ")
        .expect("an id")
        .to_owned();
    sandbox.corten(&["tag", &other, "other:1"]).ok();
    sandbox.corten(&["tag", &image, "again:1"]).ok();
    let several = file("several.tar");
    sandbox
        .corten(&["save", "-o", &several, &image, "other:1", "again:1"])
        .ok();
    let said = at(&["load", "-i", &several]).ok();
    let mut said: Vec<&str> = said.lines().collect();
    said.sort_unstable();
    let expected_names = [
        format!("Loaded image: {image}"),
        "Loaded image: again:1".into(),
        "Loaded image: other:1".into(),
    ];
    assert_eq!(said, expected_names);
    assert_eq!(at(&["images", "--quiet"]).ok().lines().count(), 2);
    for name in [&image, "again:1", "other:1"] {
        at(&["rmi", name]).ok();
    }
    sandbox.corten(&["rmi", "again:1"]).ok();
    sandbox.corten(&["rmi", "other:1"]).ok();
    // A folder of docker's form has no names.
    let folder = file("docker-dir");
    sandbox
        .corten(&["save", "--format", "docker-dir", "-o", &folder, &image])
        .ok();
    let said = at(&["load", "--input", &folder]).ok();
    let id = said
        .strip_prefix("Loaded image ID: ")
        .expect("an id")
        .to_owned();
    assert!(expected.starts_with(&id), "{said}");
    assert_eq!(
        at(&["images", "--all", "--format", "{{.Repository}}"]).ok(),
        "<none>"
    );
    // One that gets a name is no longer without one.
    at(&["tag", &id, "named:1"]).ok();
    assert_eq!(
        at(&["images", "--all", "--format", "{{.Repository}}:{{.Tag}}"]).ok(),
        "named:1"
    );
    at(&["rmi", &id]).ok();
    // Packed, and through pipes; `save` of an id keeps no name.
    let tar = sandbox.corten(&["save", &image]);
    tar.exits(0);
    for (name, packed) in [
        ("gz", layout::gzip(&tar.stdout)),
        ("plain", tar.stdout.clone()),
    ] {
        let loaded = elsewhere(&sandbox, &["load", "--quiet"], &packed);
        assert_eq!(loaded.ok(), format!("Loaded image: {image}"), "{name}");
        at(&["rmi", &image]).ok();
    }
    let zst = file("packed.zst");
    fs::write(file("plain.tar"), &tar.stdout).expect("write");
    tool::call("zstd", &["-q", "-f", &file("plain.tar"), "-o", &zst])?;
    at(&["load", "-i", &zst]).ok();
    assert_eq!(at(&facts).ok(), expected);
    let by_id = file("by-id.tar");
    sandbox.corten(&["save", "-o", &by_id, &id]).ok();
    assert!(
        sandbox
            .corten(&["load", "-i", &by_id])
            .ok()
            .starts_with("Loaded image ID: ")
    );
    sandbox.finish();
    Ok(())
}

#[test]
fn podman_docker_and_containerd_load_what_we_saved() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    sandbox
        .corten(&["tag", &image, "example.test/a/busybox:1"])
        .ok();
    sandbox
        .corten(&["tag", &image, "example.test/a/busybox:2"])
        .ok();
    let id = sandbox.corten(&["images", "--quiet", "--no-trunc"]).ok();
    let save = |format: &str, file: &str| {
        let path = sandbox.files().join(file).display().to_string();
        let names = ["example.test/a/busybox:1", "example.test/a/busybox:2"];
        sandbox
            .corten(&[&["save", "--format", format, "-o", &path], &names[..]].concat())
            .ok();
    };
    save("docker-archive", "docker.tar");
    // podman 4 takes one image of an OCI archive.
    let path = sandbox.files().join("oci.tar").display().to_string();
    sandbox
        .corten(&[
            "save",
            "--format",
            "oci-archive",
            "-o",
            &path,
            "example.test/a/busybox:1",
        ])
        .ok();
    let script = r#"
        for fixed in /run /var/lib/containers /var/lib/cni; do mkdir -p $fixed; mount -t tmpfs test $fixed; done
        p="podman --cgroup-manager=cgroupfs --events-backend=file --root $PWD/podman --runroot /run/podman --tmpdir /run/podman-tmp"
        $p load --quiet --input docker.tar >/dev/null
        $p images --no-trunc --format 'docker {{.Id}} {{.Repository}}:{{.Tag}}' | sort
        $p save --quiet --format docker-archive -o back-docker.tar example.test/a/busybox:1
        $p save --quiet --format oci-archive -o back-oci.tar example.test/a/busybox:1
        $p rmi -fa >/dev/null
        $p load --quiet --input oci.tar >/dev/null
        $p images --no-trunc --format 'oci {{.Id}}' | sort -u
        cat >config.toml <<END
version = 2
root = "$PWD/containerd"
state = "/run/c"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "/run/c.sock"
END
        containerd --config config.toml >containerd.log 2>&1 &
        for try in $(seq 200); do ctr -a /run/c.sock version >/dev/null 2>&1 && break; sleep 0.05; done
        ctr -a /run/c.sock images import docker.tar >/dev/null
        ctr -a /run/c.sock images ls | awk '/example/ { print "ctr", $1, $3 }' | sort
    "#;
    let said = apart(&sandbox, script)?;
    let bare = id.strip_prefix("sha256:").expect("an id");
    let manifest = sandbox
        .corten(&["image", "inspect", "--format", "{{.Digest}}", &image])
        .ok();
    for tag in ["1", "2"] {
        for line in [
            format!("docker {bare} example.test/a/busybox:{tag}"),
            format!("ctr example.test/a/busybox:{tag} {manifest}"),
        ] {
            assert!(said.lines().any(|l| l == line), "{line} in\n{said}");
        }
    }
    assert!(said.lines().any(|l| l == format!("oci {bare}")), "{said}");
    // And back: what podman saved is loaded here, the same image by its id.
    // (For an OCI archive podman rewrites the config of what it loaded from a docker archive.)
    for (file, format) in [
        ("back-docker.tar", "{{.Id}}"),
        ("back-oci.tar", "{{.RootFS.Layers}}"),
    ] {
        let path = sandbox.files().join(file).display().to_string();
        let at = |args: &[&str]| elsewhere(&sandbox, args, b"");
        let name = "example.test/a/busybox:1";
        assert_eq!(
            at(&["load", "-i", &path]).ok(),
            format!("Loaded image: {name}")
        );
        let facts = ["image", "inspect", "--format", format, name];
        assert_eq!(at(&facts).ok(), sandbox.corten(&facts).ok(), "{file}");
        at(&["rmi", name]).ok();
    }
    sandbox.finish();
    Ok(())
}

#[test]
fn copies_between_all_places() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::plain()?);
    let image = index(&sandbox, &registry, "both")?;
    let top = digest(&image)?;
    let at = |name: &str| sandbox.files().join(name).display().to_string();
    let copy = |args: &[&str]| sandbox.corten(&[&["copy", "--quiet"], args].concat());
    let from = format!("docker://{image}");
    let second = registry.reference("second");
    let steps = [
        (from.clone(), format!("oci:{}:v1", at("layout"))),
        (
            format!("oci:{}:v1", at("layout")),
            format!("oci-archive:{}:example.test/x:1", at("a.tar")),
        ),
        (
            format!("oci-archive:{}", at("a.tar")),
            format!("dir:{}", at("dir")),
        ),
        (
            format!("dir:{}", at("dir")),
            format!("docker-archive:{}:example.test/x:1", at("d.tar")),
        ),
        (
            format!("docker-archive:{}", at("d.tar")),
            format!("docker://{second}"),
        ),
    ];
    for (source, target) in &steps {
        assert_eq!(
            copy(&["--all", "--preserve-digests", source, target]).ok(),
            top,
            "{target}"
        );
    }
    assert_eq!(digest(&second)?, top);
    // A blob that was damaged meanwhile is written again.
    let raw = skopeo(&["inspect", "--raw", &format!("oci:{}:v1", at("layout"))])?;
    let inner: Value = serde_json::from_str(&raw).expect("an index");
    let digest = inner["manifests"][0]["digest"]
        .as_str()
        .expect("digest")
        .replace(':', "/");
    let blob = sandbox.files().join("layout/blobs").join(digest);
    let whole = fs::read(&blob).expect("a blob");
    let manifest: Value = serde_json::from_slice(&whole).expect("a manifest");
    let layer = manifest["layers"][0]["digest"]
        .as_str()
        .expect("digest")
        .replace(':', "/");
    let layer = sandbox.files().join("layout/blobs").join(layer);
    let good = fs::read(&layer).expect("a layer");
    fs::write(&layer, vec![0; good.len()]).expect("write");
    copy(&["--all", &from, &format!("oci:{}:v1", at("layout"))]).ok();
    assert_eq!(fs::read(&layer).expect("a layer"), good);
    copy(&["--all", &from, "docker-archive:/dev/null"]).ok();
    assert!(!fs::metadata("/dev/null").expect("there").is_file());
    // skopeo reads each of them, and what it wrote is read here.
    for place in [
        format!("oci:{}:v1", at("layout")),
        format!("oci-archive:{}", at("a.tar")),
        format!("dir:{}", at("dir")),
    ] {
        let raw = skopeo(&["inspect", "--raw", &place])?;
        assert_eq!(
            format!("sha256:{}", layout::sha256(raw.as_bytes())),
            top,
            "{place}"
        );
    }
    skopeo(&[
        "copy",
        "--quiet",
        "--all",
        "--src-tls-verify=false",
        &from,
        &format!("dir:{}", at("theirs")),
    ])?;
    let third = registry.reference("third");
    assert_eq!(
        copy(&[
            "--all",
            &format!("dir:{}", at("theirs")),
            &format!("docker://{third}")
        ])
        .ok(),
        top
    );
    // One platform is another digest, and said to be.
    let one = copy(&[&from, &format!("oci:{}:one", at("layout"))]).ok();
    assert_ne!(one, top);
    copy(&[
        "--preserve-digests",
        &from,
        &format!("oci:{}:one", at("layout")),
    ])
    .fails(125)
    .names(&top)
    .complete();
    let index: Value = serde_json::from_slice(
        &fs::read(sandbox.files().join("layout/index.json")).expect("index"),
    )
    .expect("json");
    assert_eq!(
        index["manifests"].as_array().map(Vec::len),
        Some(2),
        "{index}"
    );
    assert_eq!(
        sandbox.corten(&["images", "--all", "--quiet"]).ok(),
        "",
        "nothing went through the store"
    );
    for (source, target, word) in [
        ("busybox", "dir:/x", "transport"),
        ("oci:/no/such", "dir:/x", "/no/such"),
        (&from, "store:x", "corten pull"),
    ] {
        copy(&[source, target]).fails(125).names(word).complete();
    }
    sandbox.finish();
    Ok(())
}

#[test]
fn archives_that_lie_are_refused() -> Result<()> {
    let sandbox = sandbox()?;
    let file = |name: &str, bytes: &[u8]| {
        let path = sandbox.files().join(name);
        fs::write(&path, bytes).expect("write");
        path.display().to_string()
    };
    let load = |path: &str| sandbox.corten(&["load", "-i", path]);
    let layer = Tar::new().file("a", 0o644, b"a").finish();
    let config = |diff: &str| {
        serde_json::json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [diff]}}).to_string()
    };
    let honest = format!("sha256:{}", layout::sha256(&layer));
    let docker = |config_name: &str, config: &str, layers: &[&str], layer: &[u8]| {
        let manifest = serde_json::json!([{"Config": config_name, "RepoTags": ["example.test/x:1"], "Layers": layers}]);
        Tar::new()
            .file("manifest.json", 0o644, manifest.to_string().as_bytes())
            .file("config.json", 0o644, config.as_bytes())
            .file("layer.tar", 0o644, layer)
            .finish()
    };
    // An honest one, with docker's old links between layers, loads.
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": ["example.test/x:1"], "Layers": ["two/layer.tar"]}]);
    let linked = Tar::new()
        .file("one/layer.tar", 0o644, &layer)
        .symlink("two/layer.tar", "../one/layer.tar")
        .file("config.json", 0o644, config(&honest).as_bytes())
        .file("manifest.json", 0o644, manifest.to_string().as_bytes())
        .finish();
    assert_eq!(
        load(&file("linked.tar", &linked)).ok(),
        "Loaded image: example.test/x:1"
    );
    sandbox.corten(&["rmi", "example.test/x:1"]).ok();

    let lie = format!("sha256:{}", layout::sha256(b"other"));
    let evil = Tar::new()
        .file("../../../../../../tmp/corten-escaped", 0o644, b"x")
        .finish();
    let evil_id = format!("sha256:{}", layout::sha256(&evil));
    let cases: [(&str, Vec<u8>, &str); 8] = [
        (
            "diff.tar",
            docker("config.json", &config(&lie), &["layer.tar"], &layer),
            "diff id",
        ),
        (
            "absent.tar",
            docker("config.json", &config(&honest), &["/etc/passwd"], &layer),
            "etc/passwd",
        ),
        (
            "above.tar",
            docker(
                "../../etc/hostname",
                &config(&honest),
                &["layer.tar"],
                &layer,
            ),
            "hostname",
        ),
        (
            "escape.tar",
            docker("config.json", &config(&evil_id), &["layer.tar"], &evil),
            "..",
        ),
        (
            "count.tar",
            docker("config.json", &config(&honest), &[], &layer),
            "number of layers",
        ),
        (
            "json.tar",
            Tar::new().file("manifest.json", 0o644, b"[{]").finish(),
            "manifest.json",
        ),
        ("empty.tar", Tar::new().finish(), "neither"),
        (
            "noise.tar",
            corten_testkit::fixture::hostile::noise(4096),
            "no tar",
        ),
    ];
    for (name, bytes, word) in cases {
        load(&file(name, &bytes)).fails(125).names(word).complete();
        assert_eq!(
            sandbox.corten(&["images", "--all", "--quiet"]).ok(),
            "",
            "{name}"
        );
    }
    for gone in corten_testkit::fixture::hostile::escapes() {
        assert!(!gone.exists());
    }
    // A layout whose blob was changed on its way.
    let image = small(&sandbox, "x")?;
    let manifest = image.manifest()?;
    let digest = manifest["layers"][0]["digest"].as_str().expect("digest");
    let blob = image.folder.join("blobs/sha256").join(&digest[7..]);
    fs::write(&blob, layout::gzip(b"something else")).expect("write");
    load(&image.folder.display().to_string())
        .fails(125)
        .names(&digest[7..19]);
    load("/no/such/file").fails(125).names("/no/such/file");
    sandbox.finish();
    Ok(())
}
