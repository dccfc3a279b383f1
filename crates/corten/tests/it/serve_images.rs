//! The image service of `corten serve`, by a real client, with real registries: every call, whose credentials, what
//! breaks on the way.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use corten_cri::proto::{
    AuthConfig, ImageFilter, ImageFsInfoRequest, ImageStatusRequest, ListImagesRequest,
    PullImageRequest, RemoveImageRequest, StreamImagesRequest,
};
use corten_testkit::fixture::hostile::noise;
use corten_testkit::fixture::layout::{self, Layer, Layout};
use corten_testkit::fixture::tar::Tar;
use corten_testkit::registry::{PASSWORD, USER};
use corten_testkit::{Fault, Image, Proxy, Registry, Result, Sandbox, tool};
use serde_json::{Value, json};
use tonic::Code;

use super::daemon::{Daemon, block, spec};
use super::{SOON, sandbox};

/// An image of one layer of so many bytes that do not compress.
fn large(sandbox: &Sandbox, name: &str, bytes: usize) -> Result<Layout> {
    let tar = Tar::new().file("data", 0o644, &noise(bytes)).finish();
    layout::write(&sandbox.files().join(name), &[Layer::gzip(&tar)])
}

async fn remove(daemon: &Daemon, name: &str) {
    let request = RemoveImageRequest {
        image: Some(spec(name)),
    };
    daemon
        .images()
        .await
        .remove_image(request)
        .await
        .expect("a removal");
}

#[test]
fn an_image_from_pull_to_removal_by_every_name() -> Result<()> {
    let (sandbox, registry, other) = (sandbox()?, Registry::plain()?, Registry::plain()?);
    let layout = Image::Busybox.layout()?;
    let name = registry.push(&layout, "busybox")?;
    let elsewhere = other.push(&layout, "mirror/box")?;
    let daemon = Daemon::start(&sandbox, &[]);
    block(async {
        assert_eq!(daemon.ids().await, Vec::<String>::new());
        let id = daemon.pull(&name).await.expect("a pull");
        assert_eq!(
            daemon.pull(&elsewhere).await.expect("a pull"),
            id,
            "the same in every registry"
        );
        let config = layout.manifest().expect("a manifest")["config"]["digest"].clone();
        assert_eq!(Value::from(id.as_str()), config);

        let image = daemon.image(&name).await.expect("an image");
        assert_eq!((image.id.as_str(), image.pinned), (id.as_str(), false));
        let mut tags = vec![name.clone(), elsewhere.clone()];
        tags.sort();
        assert_eq!(image.repo_tags, tags);
        assert_eq!(image.repo_digests.len(), 2, "{image:?}");
        assert!(image.size > 500_000, "{}", image.size);
        let short = id.trim_start_matches("sha256:")[..12].to_owned();
        let by_digest = image.repo_digests[0].clone();
        for same in [&id, &short, &elsewhere, &by_digest] {
            let found = daemon
                .image(same)
                .await
                .unwrap_or_else(|| panic!("nothing by {same}"));
            assert_eq!(found, image, "{same}");
        }
        for absent in [
            "example.invalid/none:1",
            "sha256:00ff",
            "NOT A NAME",
            "busybox",
        ] {
            assert_eq!(daemon.image(absent).await, None, "{absent}");
        }

        let mut images = daemon.images().await;
        let filter = |name: &str| {
            Some(ImageFilter {
                image: Some(spec(name)),
            })
        };
        for (filter, count) in [(filter(&elsewhere), 1), (filter("none"), 0), (None, 1)] {
            let request = ListImagesRequest {
                filter: filter.clone(),
            };
            let listed = images
                .list_images(request)
                .await
                .expect("a list")
                .into_inner()
                .images;
            assert_eq!(listed.len(), count);
            let stream = images.stream_images(StreamImagesRequest { filter }).await;
            let mut stream = stream.expect("a stream").into_inner();
            let mut streamed = vec![];
            while let Some(piece) = stream.message().await.expect("a piece") {
                assert!(!piece.images.is_empty());
                streamed.extend(piece.images);
            }
            assert_eq!(streamed, listed);
        }
        let verbose = ImageStatusRequest {
            image: Some(spec(&id)),
            verbose: true,
        };
        let info = images
            .image_status(verbose)
            .await
            .expect("a status")
            .into_inner()
            .info;
        let info: Value = serde_json::from_str(&info["info"]).expect("JSON");
        assert_eq!(info["imageSpec"]["os"], "linux");

        let used = images
            .image_fs_info(ImageFsInfoRequest {})
            .await
            .expect("figures")
            .into_inner();
        let filesystem = &used.image_filesystems[0];
        let mountpoint = &filesystem.fs_id.as_ref().expect("a place").mountpoint;
        assert_eq!(mountpoint, &sandbox.root().to_string_lossy());
        assert!(
            filesystem
                .used_bytes
                .as_ref()
                .is_some_and(|b| b.value > 500_000),
            "{used:?}"
        );
        assert!(
            filesystem.inodes_used.as_ref().is_some_and(|i| i.value > 5),
            "{used:?}"
        );
        assert_eq!(used.container_filesystems.len(), 1);
        let before = filesystem.used_bytes.expect("bytes").value;

        remove(&daemon, &elsewhere).await;
        assert_eq!(daemon.image(&name).await, None, "all names go with one");
        assert_eq!(daemon.ids().await, Vec::<String>::new());
        // Measured again since an image has gone: at once, or a while after a measurement that took long.
        let since = Instant::now();
        loop {
            let used = images.image_fs_info(ImageFsInfoRequest {}).await;
            let used = used.expect("figures").into_inner().image_filesystems;
            let after = used[0].used_bytes.expect("bytes").value;
            if after + 500_000 < before {
                break;
            }
            assert!(since.elapsed() < SOON, "{after} of {before}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for gone in [name.as_str(), id.as_str(), "NOT A NAME"] {
            remove(&daemon, gone).await;
        }
        let nameless = images
            .remove_image(RemoveImageRequest { image: None })
            .await;
        assert_eq!(nameless.expect_err("no name").code(), Code::InvalidArgument);
    });
    assert!(daemon.stop().success());
    let left = tool::call(
        "find",
        &[
            &sandbox.root().join("layers").to_string_lossy(),
            "-mindepth",
            "1",
        ],
    )?;
    assert_eq!(left.trim(), "");
    sandbox.finish();
    Ok(())
}

#[test]
fn who_an_image_runs_as_and_which_are_pinned() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::plain()?);
    let users = [
        ("none", "", None, ""),
        ("uid", "1002", Some(1002), ""),
        ("name", "www-data", None, "www-data"),
        ("uid-gid", "1003:1004", Some(1003), ""),
        ("name-gid", "www-data:1004", None, "www-data"),
    ];
    let layer = Layer::gzip(&Tar::new().file("a", 0o644, b"a").finish());
    for (name, user, _, _) in users {
        let folder = sandbox.files().join(name);
        let layout = layout::write_as(
            &folder,
            std::slice::from_ref(&layer),
            &json!({ "User": user }),
        )?;
        registry.push(&layout, name)?;
    }
    let pinned = registry.reference("uid");
    let settings = sandbox.etc().join("serve.toml");
    fs::write(&settings, format!("[images]\npinned = [{pinned:?}]\n")).expect("settings");
    let daemon = Daemon::start(&sandbox, &[]);
    block(async {
        for (name, _, uid, username) in users {
            let reference = registry.reference(name);
            daemon.pull(&reference).await.expect("a pull");
            // Twice: what was read once is remembered.
            for _ in 0..2 {
                let image = daemon.image(&reference).await.expect("an image");
                assert_eq!(image.uid.map(|u| u.value), uid, "{name}");
                assert_eq!(image.username, username, "{name}");
                assert_eq!(image.pinned, reference == pinned, "{name}");
            }
        }
        // Whoever says so by name may remove it all the same.
        remove(&daemon, &pinned).await;
        assert_eq!(daemon.image(&pinned).await, None);
    });
    assert!(daemon.stop().success());
    sandbox.finish();
    Ok(())
}

#[test]
fn a_tag_that_moves_leaves_the_image_that_it_had() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::plain()?);
    let first = large(&sandbox, "first", 1000)?;
    let second = large(&sandbox, "second", 2000)?;
    let name = registry.push(&first, "app")?;
    let daemon = Daemon::start(&sandbox, &[]);
    block(async {
        let old = daemon.pull(&name).await.expect("a pull");
        registry.push(&second, "app").expect("a push");
        let new = daemon.pull(&name).await.expect("a pull");
        assert_ne!(old, new);
        let left = daemon.image(&old).await.expect("the old one");
        assert_eq!(left.repo_tags, Vec::<String>::new());
        assert_eq!(left.repo_digests.len(), 1, "{left:?}");
        let by_digest = daemon
            .image(&left.repo_digests[0])
            .await
            .expect("the old one");
        assert_eq!(by_digest.id, old);
        remove(&daemon, &old).await;
        assert_eq!(daemon.ids().await, [new]);
    });
    assert!(daemon.stop().success());
    sandbox.finish();
    Ok(())
}

fn trust(sandbox: &Sandbox, registry: &Registry) {
    let folder = sandbox.etc().join("certs.d").join(registry.host());
    fs::create_dir_all(&folder).expect("certs.d");
    let (host, ca) = (registry.host(), registry.authority());
    let text = format!("[host.\"https://{host}\"]\nca = \"{}\"\n", ca.display());
    fs::write(folder.join("hosts.toml"), text).expect("hosts.toml");
}

#[test]
fn every_way_to_say_who_pulls() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::secure()?);
    let image = registry.push(&Image::Busybox.layout()?, "private/busybox")?;
    trust(&sandbox, &registry);
    let both = tool::run(Command::new("sh").args([
        "-c",
        &format!("printf '%s' '{USER}:{PASSWORD}' | base64 -w0"),
    ]))?;
    // What root of the node has logged in to is for nobody's pods.
    let docker = sandbox.home().join(".docker");
    fs::create_dir_all(&docker).expect("a folder");
    let text = format!(
        r#"{{"auths":{{"{}":{{"auth":"{}"}}}}}}"#,
        registry.host(),
        both.trim()
    );
    fs::write(docker.join("config.json"), text).expect("write");
    let daemon = Daemon::start(&sandbox, &[]);
    let password = AuthConfig {
        username: USER.into(),
        password: PASSWORD.into(),
        ..AuthConfig::default()
    };
    let wrong = AuthConfig {
        password: "wrong".into(),
        ..password.clone()
    };
    let for_another = AuthConfig {
        server_address: "https://evil.example.com".into(),
        ..password.clone()
    };
    let garbage = AuthConfig {
        auth: "%%".into(),
        ..AuthConfig::default()
    };
    let pair = AuthConfig {
        auth: both.trim().into(),
        server_address: format!("https://{}/v2/", registry.host()),
        ..AuthConfig::default()
    };
    block(async {
        for (auth, code) in [
            (None, Code::PermissionDenied),
            (Some(wrong), Code::PermissionDenied),
            (Some(for_another), Code::PermissionDenied),
            (Some(garbage), Code::InvalidArgument),
        ] {
            let refused = daemon
                .pull_as(&image, auth)
                .await
                .expect_err("no right to it");
            assert_eq!(refused.code(), code, "{refused}");
            assert!(!refused.message().contains("wrong"), "{refused}");
            assert_eq!(daemon.image(&image).await, None);
        }
        for auth in [password, pair] {
            let id = daemon.pull_as(&image, Some(auth)).await.expect("a pull");
            // It is here: whoever has no right to it is refused all the same.
            let refused = daemon.pull(&image).await.expect_err("no right to it");
            assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
            remove(&daemon, &id).await;
        }
    });
    assert!(!daemon.log().contains(PASSWORD));
    assert!(daemon.stop().success());
    sandbox.finish();
    Ok(())
}

#[test]
fn names_are_the_registrys_whatever_mirror_serves_them() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::plain()?);
    registry.push(&Image::Busybox.layout()?, "library/busybox")?;
    let folder = sandbox.etc().join("certs.d/docker.io");
    fs::create_dir_all(&folder).expect("certs.d");
    let text = format!(
        "[host.\"http://{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
        registry.host()
    );
    fs::write(folder.join("hosts.toml"), text).expect("hosts.toml");
    let daemon = Daemon::start(&sandbox, &[]);
    block(async {
        let id = daemon.pull("busybox").await.expect("a pull");
        let image = daemon
            .image("docker.io/library/busybox:latest")
            .await
            .expect("an image");
        assert_eq!(image.id, id);
        assert_eq!(image.repo_tags, ["docker.io/library/busybox:latest"]);
        assert!(
            image.repo_digests[0].starts_with("docker.io/library/busybox@sha256:"),
            "{image:?}"
        );
        assert_eq!(
            daemon.pull(&image.repo_digests[0]).await.expect("a pull"),
            id
        );
    });
    assert!(daemon.stop().success());
    sandbox.finish();
    Ok(())
}

#[test]
fn the_same_image_twice_at_once_is_one_pull() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::plain()?);
    registry.push(&large(&sandbox, "large", 3 << 20)?, "large")?;
    let proxy = Proxy::before(registry.port())?;
    proxy.fail(Fault::Slow { rate: 3 << 20 }, 100);
    let image = proxy.reference("large");
    let daemon = Daemon::start(&sandbox, &[]);
    block(async {
        let pulls = (0..4).map(|_| daemon.pull(&image));
        let ids: Vec<_> = futures(pulls).await;
        let first = ids[0].as_ref().expect("a pull").clone();
        assert!(
            ids.iter()
                .all(|id| id.as_ref().is_ok_and(|id| *id == first)),
            "{ids:?}"
        );
    });
    let requests = proxy.requests();
    let blobs = requests
        .iter()
        .filter(|r| r.starts_with("GET ") && r.contains("/blobs/"));
    assert_eq!(blobs.count(), 2, "a config and a layer: {requests:#?}");
    assert!(daemon.stop().success());
    sandbox.finish();
    Ok(())
}

/// All of them at once.
async fn futures<T>(all: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut all: Vec<_> = all.map(|f| (Box::pin(f), None)).collect();
    std::future::poll_fn(|cx| {
        for (future, done) in &mut all {
            if done.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(cx)
            {
                *done = Some(value);
            }
        }
        match all.iter().all(|(_, done)| done.is_some()) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    all.into_iter().filter_map(|(_, done)| done).collect()
}

#[test]
fn a_deadline_ends_the_pull_and_the_next_goes_on_from_there() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::plain()?);
    registry.push(&large(&sandbox, "large", 4 << 20)?, "large")?;
    let proxy = Proxy::before(registry.port())?;
    let image = proxy.reference("large");
    let daemon = Daemon::start(&sandbox, &[]);
    proxy.fail(Fault::Stall { after: 2 << 20 }, 1);
    block(async {
        let began = Instant::now();
        let late = daemon
            .pull_within(&image, Duration::from_millis(1500))
            .await;
        // The client's own clock may be the first.
        let code = late.expect_err("late").code();
        assert!(
            [Code::DeadlineExceeded, Code::Cancelled].contains(&code),
            "{code:?}"
        );
        assert!(
            began.elapsed() < Duration::from_secs(4),
            "{:?}",
            began.elapsed()
        );
        assert_eq!(daemon.image(&image).await, None);
        assert_eq!(daemon.ids().await, Vec::<String>::new());
        daemon.pull(&image).await.expect("a pull");
    });
    let requests = proxy.requests();
    let resumed = |r: &String| r.contains("bytes=") && !r.contains("bytes=0-");
    assert!(requests.iter().any(resumed), "{requests:#?}");
    assert!(
        daemon.log().contains("nobody waits for the pull"),
        "{}",
        daemon.log()
    );
    assert!(daemon.stop().success());
    sandbox.finish();
    Ok(())
}

#[test]
fn settings_may_bound_a_pull_too() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::plain()?);
    registry.push(&large(&sandbox, "large", 1 << 20)?, "large")?;
    let proxy = Proxy::before(registry.port())?;
    proxy.fail(Fault::Stall { after: 100_000 }, 1);
    let settings = sandbox.files().join("mine.toml");
    fs::write(&settings, "[images]\npull-timeout = \"1s\"\n").expect("settings");
    let daemon = Daemon::start(&sandbox, &["--config", &settings.to_string_lossy()]);
    block(async {
        let late = daemon
            .pull(&proxy.reference("large"))
            .await
            .expect_err("late");
        assert_eq!(late.code(), Code::DeadlineExceeded, "{late}");
        assert!(late.message().contains("within 1s"), "{late}");
    });
    assert!(daemon.stop().success());
    // What has arrived is there for another try, until somebody cleans up.
    sandbox.corten(&["system", "prune"]).ok();
    sandbox.finish();
    Ok(())
}

#[test]
fn a_registry_that_goes_away_in_the_middle_is_named() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::plain()?);
    registry.push(&large(&sandbox, "large", 2 << 20)?, "large")?;
    let proxy = Proxy::before(registry.port())?;
    let image = proxy.reference("large");
    let daemon = Daemon::start(&sandbox, &[]);
    // Never a byte more than before: each try is one without progress.
    proxy.fail(Fault::Status(503), 1000);
    block(async {
        let refused = daemon.pull(&image).await.expect_err("an outage");
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
        assert!(
            refused.message().starts_with("RegistryUnavailable: "),
            "{refused}"
        );
        assert!(refused.message().contains(&proxy.host()), "{refused}");
        assert_eq!(daemon.ids().await, Vec::<String>::new());
        proxy.fail(Fault::Status(503), 0);
        daemon.pull(&image).await.expect("a pull once it is back");
        let absent = daemon
            .pull(&registry.reference("absent"))
            .await
            .expect_err("no such image");
        assert_eq!(absent.code(), Code::NotFound, "{absent}");
        for bad in ["", "A b"] {
            let refused = daemon.pull(bad).await.expect_err("no name");
            assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        }
    });
    assert!(daemon.stop().success());
    sandbox.finish();
    Ok(())
}

#[test]
fn an_image_that_policy_forbids_is_refused_in_kubelets_words() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::plain()?);
    let image = registry.push(&Image::Busybox.layout()?, "busybox")?;
    fs::write(sandbox.etc().join("policy.toml"), "default = \"reject\"\n").expect("a policy");
    let daemon = Daemon::start(&sandbox, &[]);
    block(async {
        let refused = daemon.pull(&image).await.expect_err("forbidden");
        assert!(
            refused.message().starts_with("SignatureValidationFailed: "),
            "{refused}"
        );
        assert_eq!(daemon.ids().await, Vec::<String>::new());
    });
    assert!(daemon.stop().success());
    sandbox.finish();
    Ok(())
}

#[test]
fn a_full_disk_refuses_the_image_and_nothing_else() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::plain()?);
    registry.push(&large(&sandbox, "large", 12 << 20)?, "large")?;
    registry.push(&large(&sandbox, "small", 10_000)?, "small")?;
    let root = sandbox.root();
    fs::create_dir(&root).expect("a folder");
    let at = root.to_string_lossy().into_owned();
    tool::call(
        "mount",
        &["-t", "tmpfs", "-o", "size=8m", "corten-test", &at],
    )?;
    let daemon = Daemon::start(&sandbox, &[]);
    block(async {
        for _ in 0..2 {
            let refused = daemon
                .pull(&registry.reference("large"))
                .await
                .expect_err("no room");
            assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
            assert!(refused.message().contains("no space left"), "{refused}");
        }
        let id = daemon
            .pull(&registry.reference("small"))
            .await
            .expect("room enough");
        assert_eq!(daemon.ids().await, [id]);
    });
    assert!(daemon.stop().success());
    sandbox.corten(&["system", "check"]).ok();
    tool::call("umount", &[&at])?;
    sandbox.finish();
    Ok(())
}

#[test]
fn killed_in_the_middle_of_a_pull_it_goes_on_after_the_start() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::plain()?);
    registry.push(&large(&sandbox, "large", 4 << 20)?, "large")?;
    let proxy = Proxy::before(registry.port())?;
    let image = proxy.reference("large");
    let daemon = Daemon::start(&sandbox, &[]);
    proxy.fail(Fault::Stall { after: 2 << 20 }, 1);
    block(async {
        let mut images = daemon.images().await;
        let request = PullImageRequest {
            image: Some(spec(&image)),
            ..PullImageRequest::default()
        };
        let pull = images.pull_image(request);
        let half = tokio::time::timeout(Duration::from_millis(1500), pull).await;
        assert!(half.is_err(), "it was over before the kill: {half:?}");
    });
    daemon.kill();
    let daemon = Daemon::start(&sandbox, &[]);
    block(async {
        assert_eq!(daemon.ids().await, Vec::<String>::new());
        let id = daemon.pull(&image).await.expect("a pull");
        assert_eq!(daemon.ids().await, [id]);
    });
    assert!(daemon.stop().success());
    sandbox.corten(&["system", "check"]).ok();
    sandbox.finish();
    Ok(())
}

#[test]
fn killed_again_and_again_it_ends_with_the_image_and_nothing_besides() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::plain()?);
    registry.push(&large(&sandbox, "large", 6 << 20)?, "large")?;
    let proxy = Proxy::before(registry.port())?;
    let image = proxy.reference("large");
    proxy.fail(Fault::Slow { rate: 12 << 20 }, 1000);
    let moments = [30, 0, 90, 210, 60, 150, 300, 15, 240];
    for ms in moments {
        let daemon = Daemon::start(&sandbox, &[]);
        block(async {
            let pull = daemon.pull(&image);
            // Over before the kill, or not: either is a state to be found in.
            let _either = tokio::time::timeout(Duration::from_millis(ms), pull).await;
        });
        daemon.kill();
    }
    let daemon = Daemon::start(&sandbox, &[]);
    block(async {
        let id = daemon.pull(&image).await.expect("a pull");
        assert_eq!(daemon.ids().await, std::slice::from_ref(&id));
        remove(&daemon, &id).await;
    });
    assert!(daemon.stop().success());
    sandbox.corten(&["system", "check"]).ok();
    for folder in ["layers", "ingest", "blobs/sha256"] {
        let folder = sandbox.root().join(folder);
        let left = tool::call("find", &[&folder.to_string_lossy(), "-mindepth", "1"])?;
        assert_eq!(left.trim(), "", "in {}", folder.display());
    }
    sandbox.finish();
    Ok(())
}

#[test]
fn many_images_at_once_and_in_one_list() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::plain()?);
    let count = 40;
    let references: Vec<String> = (0..count)
        .map(|i| {
            registry.push(
                &large(&sandbox, &format!("i{i}"), 1000 + i)?,
                &format!("many/i{i}"),
            )
        })
        .collect::<Result<_>>()?;
    let daemon = Daemon::start(&sandbox, &[]);
    block(async {
        let pulled = futures(references.iter().map(|r| daemon.pull(r))).await;
        let mut ids: Vec<String> = pulled.into_iter().map(|p| p.expect("a pull")).collect();
        ids.sort();
        let mut listed = daemon.ids().await;
        listed.sort();
        assert_eq!(listed, ids);
        ids.dedup();
        assert_eq!(ids.len(), count);
    });
    assert!(daemon.stop().success());
    sandbox.finish();
    Ok(())
}
