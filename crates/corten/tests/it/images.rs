//! Images as people handle them: names, lists, filters, formats, removal.

use corten_testkit::fixture::layout::{self, Layer, Layout};
use corten_testkit::fixture::tar::Tar;
use corten_testkit::{Registry, Result, Sandbox};

use super::{sandbox, with_busybox};

/// A small image of one file, different for each `content`.
pub fn small(sandbox: &Sandbox, content: &str) -> Result<Layout> {
    let folder = sandbox.files().join(format!("small-{content}"));
    let tar = Tar::new()
        .folder("etc/")
        .file("etc/content", 0o644, content.as_bytes());
    layout::write(&folder, &[Layer::gzip(&tar.finish())])
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

#[test]
fn a_tag_that_moves_leaves_its_image_without_one() -> Result<()> {
    let (sandbox, registry) = (sandbox()?, Registry::plain()?);
    let image = registry.push(&small(&sandbox, "one")?, "moving")?;
    sandbox.corten(&["pull", &image]).ok();
    let old = sandbox.corten(&["images", "--quiet", "--no-trunc"]).ok();
    let digest = sandbox
        .corten(&["image", "inspect", "--format", "{{.Digest}}", &image])
        .ok();
    registry.push(&small(&sandbox, "two")?, "moving")?;
    sandbox.corten(&["pull", &image]).ok();

    let repository = image.strip_suffix(":latest").expect("a tag");
    let all = sandbox
        .corten(&[
            "images",
            "--all",
            "--format",
            "{{.Repository}} {{.Tag}} {{.Digest}}",
        ])
        .ok();
    assert_eq!(all.lines().count(), 2, "{all}");
    assert!(
        all.contains(&format!("{repository} <none> {digest}")),
        "{all}"
    );
    let dangling = [
        "images",
        "--quiet",
        "--no-trunc",
        "--filter",
        "dangling=true",
    ];
    assert_eq!(sandbox.corten(&dangling).ok(), old);
    assert_eq!(
        sandbox.corten(&["images", "--quiet"]).ok().lines().count(),
        1
    );
    let by_digest = format!("{repository}@{digest}");
    assert_eq!(
        sandbox
            .corten(&["image", "inspect", "--format", "{{.Id}}", &by_digest])
            .ok(),
        old
    );

    let asked = sandbox.corten_with(&["image", "prune"], b"n\n");
    assert!(
        asked.ok().is_empty() && asked.talk().contains("Are you sure"),
        "{asked}"
    );
    let pruned = sandbox.corten_with(&["image", "prune"], b"y\n").ok();
    assert!(pruned.contains(&format!("Deleted: {old}")), "{pruned}");
    assert_eq!(sandbox.corten(&dangling).ok(), "");
    sandbox.corten(&["image", "inspect", &image]).ok();
    sandbox.finish();
    Ok(())
}

#[test]
fn names_come_and_go() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    sandbox.corten(&["tag", &image, "mine:1"]).ok();
    sandbox
        .corten(&["tag", "mine:1", "example.test:5000/a/b"])
        .ok();
    let tags = [
        "image",
        "inspect",
        "--format",
        "{{join .RepoTags \" \"}}",
        "mine:1",
    ];
    let all = sandbox.corten(&tags).ok();
    assert!(
        ["mine:1", "example.test:5000/a/b:latest", &image]
            .iter()
            .all(|t| all.contains(t)),
        "{all}"
    );
    let listed = sandbox.corten(&[
        "images",
        "--filter",
        "reference=mine",
        "--format",
        "{{.Repository}}:{{.Tag}}",
    ]);
    assert_eq!(listed.ok(), "mine:1");
    assert_eq!(sandbox.corten(&["rmi", "mine:1"]).ok(), "Untagged: mine:1");
    sandbox
        .corten(&["image", "inspect", "mine:1"])
        .fails(125)
        .names("mine:1")
        .complete();
    let id = sandbox.corten(&["images", "--quiet"]).ok();
    sandbox
        .corten(&["rmi", &id])
        .fails(125)
        .names("several names");
    let gone = sandbox.corten(&["rmi", "--force", &id]).ok();
    assert_eq!(
        gone.lines().filter(|l| l.starts_with("Untagged: ")).count(),
        2,
        "{gone}"
    );
    assert_eq!(
        gone.lines()
            .filter(|l| l.starts_with("Deleted: sha256:"))
            .count(),
        1,
        "{gone}"
    );
    let digest = format!("x@sha256:{}", "0".repeat(64));
    sandbox
        .corten(&["tag", "mine", &digest])
        .fails(125)
        .complete();
    sandbox
        .corten(&["rmi", "no", "such"])
        .fails(125)
        .names("\"such\"")
        .names("\"no\"");
    sandbox.finish();
    Ok(())
}

#[test]
fn what_is_listed_and_inspected() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let table = sandbox.corten(&["images", "--digests"]).ok();
    let header: Vec<&str> = lines(&table)[0].split_whitespace().collect();
    assert_eq!(
        header,
        [
            "REPOSITORY",
            "TAG",
            "DIGEST",
            "IMAGE",
            "ID",
            "CREATED",
            "SIZE"
        ]
    );
    let own = sandbox
        .corten(&["images", "--format", "table {{.ID}}\\t{{.Tag}}"])
        .ok();
    assert!(
        lines(&own)[0].starts_with("ID ") && own.contains("latest"),
        "{own}"
    );
    let one = sandbox.corten(&["images", "--format", "json"]).ok();
    let one: serde_json::Value = serde_json::from_str(&one).expect("an object a line");
    assert_eq!(one["Tag"], "latest");
    for (filter, count) in [
        ("label=org.example.fixture", 1),
        ("label=org.example.fixture=busybox", 1),
        ("label=org.example.fixture=other", 0),
        ("label!=org.example.fixture", 0),
        ("until=2000-01-01", 0),
        ("until=0s", 1),
        ("dangling=false", 1),
        ("reference=*/bus*", 1),
    ] {
        let found = sandbox
            .corten(&["images", "--quiet", "--filter", filter])
            .ok();
        assert_eq!(found.lines().count(), count, "{filter}");
    }
    sandbox
        .corten(&["images", "--filter", "since=nobody"])
        .fails(125)
        .names("nobody")
        .complete();
    sandbox
        .corten(&["images", "--filter", "colour=red"])
        .fails(125)
        .names("colour")
        .complete();
    sandbox
        .corten(&["images", "--format", "{{.Colour}}"])
        .fails(125)
        .names("Repository")
        .complete();
    sandbox
        .corten(&["images", "--format", "{{.ID"])
        .fails(125)
        .names("character")
        .complete();

    let shape = "{{.Os}}/{{.Architecture}} {{len .RootFS.Layers}} {{index .Config.Labels \"org.example.fixture\"}} {{json .Config.Cmd}}";
    let said = sandbox.corten(&["inspect", "--format", shape, &image]).ok();
    assert_eq!(said, r#"linux/amd64 3 busybox ["/bin/sh"]"#);
    let sizes = sandbox
        .corten(&["image", "tree", "--no-trunc", &image])
        .ok();
    assert!(
        !sizes.contains(" 0B"),
        "every layer of it has bytes: {sizes}"
    );
    let history = sandbox
        .corten(&["history", "--format", "{{.ID}} {{.Size}}", &image])
        .ok();
    assert!(
        history.lines().count() >= 3 && history.contains("<missing>"),
        "{history}"
    );
    let bytes = sandbox
        .corten(&["history", "--human=false", "--no-trunc", &image])
        .ok();
    assert!(bytes.contains("sha256:"), "{bytes}");
    let tree = sandbox.corten(&["image", "tree", &image]).ok();
    assert!(
        tree.contains("└──") && tree.contains(&format!("Top Layer of: [{image}]")),
        "{tree}"
    );
    let platforms = sandbox
        .corten(&[
            "image",
            "platforms",
            "--format",
            "{{.Platform}} {{.Here}}",
            &image,
        ])
        .ok();
    assert_eq!(platforms, "linux/amd64 true");
    sandbox.finish();
    Ok(())
}

#[test]
fn what_layers_do_is_told() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let top = sandbox.corten(&["image", "diff", &image]).ok();
    for line in ["C /data/changed", "D /data/gone", "A /data/replaced/new"] {
        assert!(lines(&top).contains(&line), "{line} in\n{top}");
    }
    let second = sandbox
        .corten(&[
            "image",
            "diff",
            "--layer",
            "2",
            "--format",
            "{{.Kind}} {{.Path}} {{.Size}}",
            &image,
        ])
        .ok();
    assert!(lines(&second).contains(&"A /data/kept 5"), "{second}");
    let all = sandbox
        .corten(&["image", "changes", "--layer", "all", &image])
        .ok();
    assert_eq!(all.lines().filter(|l| l.ends_with(':')).count(), 3, "{all}");
    sandbox
        .corten(&["image", "diff", "--layer", "9", &image])
        .fails(125)
        .names("3 layers")
        .complete();
    sandbox.finish();
    Ok(())
}

/// What GNU tar says of an archive's members.
fn members(sandbox: &Sandbox, archive: &[u8]) -> String {
    let path = sandbox.files().join("members.tar");
    std::fs::write(&path, archive).expect("write");
    let text = path.display().to_string();
    let args = [
        "--xattrs",
        "--xattrs-include=*",
        "--full-time",
        "--numeric-owner",
        "-tvvf",
        &text,
    ];
    let said = corten_testkit::tool::call("tar", &args).expect("tar");
    let words = |l: &str| l.split_whitespace().collect::<Vec<_>>().join(" ");
    said.lines().map(words).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_root_goes_out_and_comes_back() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let script = "rm /data/kept; echo new >/data/changed; mkdir -p /x/y; ln /data/changed /x/hard; ln -s y /x/soft; \
        mkfifo /x/fifo; mknod /x/null c 1 3; chown 1000:70000 /x/fifo; chmod 4711 /x/y; \
        dd if=/dev/zero of=/x/holes bs=1 count=1 seek=9999999 2>/dev/null; rm -r /data/replaced; mkdir /data/replaced";
    sandbox
        .corten(&[
            "run",
            "--name",
            "box",
            "--network",
            "none",
            &image,
            "sh",
            "-c",
            script,
        ])
        .ok();
    let exported = sandbox.corten(&["export", "box"]);
    exported.exits(0);
    assert!(
        exported.stdout.len() < 4 << 20,
        "holes stay holes: {}",
        exported.stdout.len()
    );
    let listed = members(&sandbox, &exported.stdout);
    for (name, looks) in [
        (" data/changed", "-rw------- 0/0"),
        (" x/hard link to data/changed", "hrw------- 0/0"),
        (" x/soft -> y", "lrwxrwxrwx 0/0"),
        (" x/fifo", "prw-r--r-- 1000/70000"),
        (" x/null", "crw-r--r-- 0/0"),
        (" x/y/", "drws--x--x 0/0"),
        (" x/holes", "-rw-r--r-- 0/0"),
        (" tmp/", "drwxrwxrwt 0/0"),
    ] {
        let found = listed.lines().find(|l| l.ends_with(name));
        assert!(
            found.is_some_and(|l| l.starts_with(looks)),
            "{name}: {found:?}\n{listed}"
        );
    }
    assert!(
        !listed.contains("data/kept")
            && !listed.contains(".wh.")
            && !listed.contains("replaced/new"),
        "{listed}"
    );
    assert!(
        listed
            .lines()
            .any(|l| l.contains("10000000") && l.ends_with("x/holes")),
        "{listed}"
    );

    let id = sandbox
        .corten_with(
            &[
                "import",
                "--change",
                "CMD [\"cat\", \"/data/changed\"]",
                "--message",
                "from a box",
                "-",
                "box:1",
            ],
            &exported.stdout,
        )
        .ok();
    assert!(id.starts_with("sha256:"), "{id}");
    assert_eq!(
        sandbox
            .corten(&["run", "--rm", "--network", "none", "box:1"])
            .ok(),
        "new"
    );
    let size = [
        "run",
        "--rm",
        "--network",
        "none",
        "box:1",
        "stat",
        "-c",
        "%s %b",
        "/x/holes",
    ];
    let size = sandbox.corten(&size).ok();
    assert!(size.starts_with("10000000 "), "{size}");
    assert!(
        sandbox
            .corten(&["history", "box:1"])
            .ok()
            .contains("from a box")
    );
    // What it was made of exports as the same bytes, but for what a start adds.
    sandbox.corten(&["create", "--name", "again", "box:1"]).ok();
    let again = sandbox.corten(&["export", "again"]);
    assert_eq!(members(&sandbox, &again.exits(0).stdout), listed);

    // Of one that runs, with a volume that is not its root's.
    let busy = [
        "run",
        "-d",
        "--name",
        "busy",
        "--network",
        "none",
        "-v",
        "/data",
        &image,
    ];
    sandbox
        .corten(
            &[
                &busy[..],
                &[
                    "sh",
                    "-c",
                    "echo running >/run/here; touch /data/in-a-volume; sleep 60",
                ],
            ]
            .concat(),
        )
        .ok();
    let running = || members(&sandbox, &sandbox.corten(&["export", "busy"]).stdout);
    corten_testkit::wait::until("the file", super::SOON, || {
        running().contains(" run/here").then_some(())
    })?;
    let listed = running();
    assert!(
        !listed.contains("in-a-volume") && listed.contains(" data/kept"),
        "{listed}"
    );
    sandbox.corten(&["exec", "busy", "cat", "/run/here"]).ok();
    sandbox.corten(&["rm", "-f", "busy"]).ok();
    let file = sandbox.files().join("out.tar");
    sandbox
        .corten(&["export", "-o", &file.display().to_string(), "box"])
        .ok();
    assert!(file.exists() && !file.with_extension("partial").exists());

    let committed = sandbox
        .corten(&[
            "commit",
            "--message",
            "kept",
            "--change",
            "ENV A=1",
            "box",
            "box:2",
        ])
        .ok();
    assert!(committed.starts_with("sha256:"));
    let diff = sandbox.corten(&["image", "diff", "box:2"]).ok();
    for line in [
        "D /data/kept",
        "C /data/changed",
        "A /x/holes",
        "C /data/replaced",
    ] {
        assert!(lines(&diff).contains(&line), "{line} in\n{diff}");
    }
    let run = |args: &[&str]| {
        sandbox.corten(&[&["run", "--rm", "--network", "none", "box:2"], args].concat())
    };
    assert_eq!(
        run(&["sh", "-c", "cat /x/hard; ls /data/replaced; echo $A"]).ok(),
        "new\n1"
    );
    assert_eq!(
        sandbox
            .corten(&[
                "image",
                "inspect",
                "--format",
                "{{len .RootFS.Layers}}",
                "box:2"
            ])
            .ok(),
        "4"
    );
    sandbox
        .corten(&["import", "/no/such", "x"])
        .fails(125)
        .names("/no/such")
        .complete();
    sandbox
        .corten_with(&["import", "-", "x"], b"this is no tar")
        .fails(125)
        .names("tar");
    sandbox
        .corten_with(&["import", "--change", "RUN x", "-", "x"], b"x")
        .fails(125)
        .names("RUN");
    sandbox.finish();
    Ok(())
}
