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
