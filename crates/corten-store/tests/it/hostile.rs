//! Layers that mean harm, or are damaged: each its own error, and nothing left of it anywhere.

use corten_spec::Digest;
use corten_store::snapshot::conformance::archive::{Archive, Item};
use corten_store::snapshot::conformance::{layer, merged};
use corten_store::{
    Begin, Error, LayerChoice, LayerDesc, LayerError, Limits, Options, Packing, Snapshotter as _,
    Store,
};

use crate::fixture::{FORMS, Sandbox};

/// Ingests and expects a failure inside the layer.
fn fails(sandbox: &Sandbox, tar: &[u8]) -> LayerError {
    let lease = sandbox.store.lease("test").unwrap();
    let outcome = layer(&sandbox.store, &lease, tar);
    for folder in ["ingest", "layers", "blobs/sha256", "trash"] {
        assert_eq!(sandbox.names(folder), Vec::<String>::new(), "{folder}");
    }
    match outcome {
        Err(Error::Layer { source, .. }) => source,
        other => panic!("{other:?}"),
    }
}

fn refused(sandbox: &Sandbox, archive: Archive) -> (String, &'static str) {
    match fails(sandbox, &archive.finish()) {
        LayerError::Refused { entry, why } => (entry.to_string(), why),
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_is_written_outside() {
    FORMS
        .map(Sandbox::of)
        .into_iter()
        .for_each(nothing_is_written_outside_in);
}

fn nothing_is_written_outside_in(sandbox: Sandbox) {
    let outside = sandbox.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("victim"), "untouched").unwrap();
    let target = outside.to_str().unwrap();
    let up = format!("{}{}", "../".repeat(40), &target[1..]);
    let n = Archive::new;
    let out = "its path goes through a symlink that leads out of the layer";
    let attacks = [
        (n().file("../x", ""), "\"../x\"", "it has .. in its path"),
        (
            n().folder("a").file("a/../../x", ""),
            "\"a/../../x\"",
            "it has .. in its path",
        ),
        (
            n().symlink("s", target).file("s/victim", "!"),
            "\"s/victim\"",
            out,
        ),
        (
            n().symlink("s", &up).file("s/victim", "!"),
            "\"s/victim\"",
            out,
        ),
        (n().symlink("s", "..").file("s/x", "!"), "\"s/x\"", out),
        (
            n().folder("d").symlink("d/s", "../..").file("d/s/x", "!"),
            "\"d/s/x\"",
            out,
        ),
        (
            n().symlink("s", "t")
                .symlink("t", target)
                .whiteout("s", "victim"),
            "\"s/victim\"",
            out,
        ),
        (n().symlink("s", target).opaque("s"), "\"s\"", out),
        (
            n().symlink("s", target).hardlink("h", "s/victim"),
            "\"h\"",
            out,
        ),
        (
            n().symlink("s", target).item(Item::new("s/new", b'5')),
            "\"s/new\"",
            out,
        ),
        (
            n().hardlink("h", "../outside/victim"),
            "\"h\"",
            "it is a hard link through ..",
        ),
        (
            n().symlink("a", "b").symlink("b", "a").file("a/x", ""),
            "\"a/x\"",
            "its path has more than 40 symlinks",
        ),
    ];
    for (archive, entry, why) in attacks {
        assert_eq!(refused(&sandbox, archive), (entry.into(), why));
    }
    assert_eq!(crate::fixture::names(&outside), ["victim"]);
    let victim = std::fs::read_to_string(outside.join("victim")).unwrap();
    assert_eq!(victim, "untouched");
}

/// The symlink itself replaced: a file never goes through it.
#[test]
fn a_file_replaces_a_symlink_to_outside() {
    FORMS
        .map(Sandbox::of)
        .into_iter()
        .for_each(a_file_replaces_a_symlink_to_outside_in);
}

fn a_file_replaces_a_symlink_to_outside_in(sandbox: Sandbox) {
    let outside = sandbox.path().join("outside");
    std::fs::write(&outside, "untouched").unwrap();
    let tar = Archive::new()
        .symlink("s", outside.to_str().unwrap())
        .file("s", "mine")
        .symlink("t", outside.to_str().unwrap())
        .item(Item::new("t", b'5').mode(0o700).owner(1, 1))
        .finish();
    let lease = sandbox.store.lease("test").unwrap();
    layer(&sandbox.store, &lease, &tar).unwrap();
    assert_eq!(std::fs::read_to_string(&outside).unwrap(), "untouched");
}

#[test]
fn what_no_tree_can_hold_is_refused() {
    FORMS
        .map(Sandbox::of)
        .into_iter()
        .for_each(what_no_tree_can_hold_is_refused_in);
}

fn what_no_tree_can_hold_is_refused_in(sandbox: Sandbox) {
    let n = Archive::new;
    let nonsense = [
        (
            n().file("f", "").file("f/x", ""),
            "what it lies in is no folder",
        ),
        (
            n().folder("d").hardlink("h", "d"),
            "it is a hard link to a folder",
        ),
        (n().hardlink("h", "h"), "it is a hard link to itself"),
        (
            n().file(&"n".repeat(256), ""),
            "a name in its path is longer than 255 bytes",
        ),
        (
            n().file(&"n/".repeat(2100), ""),
            "its path is longer than 4095 bytes",
        ),
        (n().file("d/.wh...", ""), "it is a whiteout of no name"),
        (n().symlink("s", ""), "it is a symlink to nothing"),
    ];
    for (archive, why) in nonsense {
        assert_eq!(refused(&sandbox, archive).1, why);
    }
}

#[test]
fn a_link_to_nowhere_is_named_when_the_stack_is_known() {
    FORMS
        .map(Sandbox::of)
        .into_iter()
        .for_each(a_link_to_nowhere_is_named_when_the_stack_is_known_in);
}

fn a_link_to_nowhere_is_named_when_the_stack_is_known_in(sandbox: Sandbox) {
    let lease = sandbox.store.lease("test").unwrap();
    lease.hold_snapshot("k").unwrap();
    let tar = Archive::new().hardlink("a", "no/where").finish();
    let id = layer(&sandbox.store, &lease, &tar).unwrap();
    let outcome = sandbox.store.snapshotter().prepare("k", &[id]);
    match outcome {
        Err(Error::Layer {
            source: LayerError::Refused { entry, why },
            ..
        }) => {
            assert_eq!(entry.to_string(), "\"a\"");
            assert!(why.contains("neither this layer nor one below"), "{why}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn damaged_headers_are_told_by_offset() {
    FORMS
        .map(Sandbox::of)
        .into_iter()
        .for_each(damaged_headers_are_told_by_offset_in);
}

fn damaged_headers_are_told_by_offset_in(sandbox: Sandbox) {
    let tar = Archive::new().file("a", "abc").finish();
    let change = |at: usize, to: u8| {
        let mut t = tar.clone();
        t[at] = to;
        fails(&sandbox, &t)
    };
    let header = |e| match e {
        LayerError::Header { offset, why } => (offset, why),
        other => panic!("{other:?}"),
    };
    assert_eq!(header(change(0, b'b')), (0, "its checksum is wrong"));
    let mut cut = tar.clone();
    cut.truncate(700);
    assert!(matches!(
        fails(&sandbox, &cut),
        LayerError::TruncatedTar { offset: 700 }
    ));
    let mut lone = Archive::new().file("a", "");
    lone.raw(&[0; 512]);
    let lone = lone.file("b", "").finish();
    assert_eq!(header(fails(&sandbox, &lone)).0, 512);
}

#[test]
fn bounds_hold() {
    FORMS.into_iter().for_each(bounds_hold_in);
}

fn bounds_hold_in(layers: LayerChoice) {
    let sandbox = Sandbox::new();
    let limits = Limits {
        entries: 100,
        unpacked: 1 << 20,
        header: 4096,
        pending: 10_000,
        ..Limits::default()
    };
    let options = Options { limits, layers };
    let bounded = Sandbox {
        store: Store::open_with(&sandbox.path().join("bounded"), options).unwrap(),
        ..sandbox
    };
    let limit = |archive: Archive| match fails(&bounded, &archive.finish()) {
        LayerError::Limit { what, limit } => (what, limit),
        other => panic!("{other:?}"),
    };
    let many = (0..101).fold(Archive::new(), |a, i| a.file(&i.to_string(), ""));
    assert_eq!(limit(many), ("entries", 100));
    // Few entries, but each brings folders that it only implies.
    let deep = Archive::new().file(&format!("{}x", "d/".repeat(200)), "");
    assert_eq!(limit(deep), ("entries", 100));
    let long = (0..50).fold(Archive::new(), |a, i| {
        a.file(&format!("{i}{}/x", "n".repeat(240)), "")
    });
    assert_eq!(limit(long), ("bytes of names of implied folders", 10_000));
    let big = Archive::new().file("big", &"b".repeat(1 << 20));
    assert_eq!(limit(big), ("unpacked bytes", 1 << 20));
    let xattr = Item::new("x", b'0').xattr("user.x", vec![0; 5000]);
    let header = Archive::new().item(xattr);
    assert_eq!(limit(header), ("bytes in one extended header", 4096));
}

/// Deeper than a process may have descriptors open, and then in the way.
#[test]
fn a_deep_tree_is_replaced_and_removed() {
    let sandbox = Sandbox::of(LayerChoice::Folders);
    let lease = sandbox.store.lease("test").unwrap();
    let deep = "d/".repeat(2000);
    let tar = Archive::new()
        .file(&format!("{deep}x"), "")
        .file("d", "now a file")
        .finish();
    layer(&sandbox.store, &lease, &tar).unwrap();
    let kept = Archive::new().file(&format!("{deep}y"), "").finish();
    layer(&sandbox.store, &lease, &kept).unwrap();
    drop(lease);
    assert!(sandbox.store.collect().unwrap() > 2000 * 4096);
    for folder in ["ingest", "layers", "trash", "blobs/sha256"] {
        assert_eq!(sandbox.names(folder), Vec::<String>::new(), "{folder}");
    }
}

/// Links that mean each other, and one that means what comes later: neither is there when it is looked for.
#[test]
fn links_in_a_circle_lead_nowhere() {
    FORMS.map(Sandbox::of).into_iter().for_each(circle_in);
}

fn circle_in(sandbox: Sandbox) {
    let tar = Archive::new()
        .hardlink("a", "b")
        .hardlink("b", "a")
        .hardlink("c", "later")
        .file("later", "x")
        .finish();
    let lease = sandbox.store.lease("test").unwrap();
    lease.hold_snapshot("k").unwrap();
    let id = layer(&sandbox.store, &lease, &tar).unwrap();
    match sandbox.store.snapshotter().prepare("k", &[id]) {
        Err(Error::Layer {
            source: LayerError::Refused { entry, .. },
            ..
        }) => assert_eq!(entry.to_string(), "\"a\""),
        other => panic!("{other:?}"),
    }
    assert_eq!(sandbox.names("snapshots"), Vec::<String>::new());
}

/// The last entry of a name is the one that is there, whatever came before it.
#[test]
fn the_last_of_many_entries_wins() {
    for sandbox in FORMS.map(Sandbox::of) {
        let mut tar = Archive::new();
        for i in 0..300 {
            tar = match i % 3 {
                0 => tar.file("x", &i.to_string()),
                1 => tar.folder("x").file("x/y", "z"),
                _ => tar.symlink("x", "nowhere"),
            };
        }
        let tar = tar.file("x", "the last").finish();
        let store = &sandbox.store;
        let seen = merged(store, &store.snapshotter(), &[tar]).unwrap();
        assert_eq!(seen.lines().count(), 2, "{seen}");
        assert!(seen.contains(" x \"the last\""), "{seen}");
    }
}

/// A megabyte that unpacks to a gigabyte, after its archive has ended: all of it is hashed, none of it is kept.
#[test]
fn a_bomb_behind_the_end_takes_no_space() {
    use std::io::Write as _;
    use std::os::unix::fs::MetadataExt as _;
    let sandbox = Sandbox::of(LayerChoice::Erofs(Packing::Tar));
    let mut hasher = Digest::of(b"").hasher();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let head = Archive::new().file("a", "a").finish();
    let zeros = vec![0; 1 << 20];
    let parts = std::iter::once(&head).chain(std::iter::repeat_n(&zeros, 1 << 10));
    for part in parts {
        hasher.update(part);
        packed.write_all(part).unwrap();
    }
    let packed = packed.finish().unwrap();
    let desc = LayerDesc {
        digest: Digest::of(&packed),
        size: packed.len() as u64,
        media_type: corten_spec::media::OCI_LAYER_GZIP.into(),
        diff_id: hasher.finish(),
    };
    let lease = sandbox.store.lease("test").unwrap();
    let Begin::Ingest(ingest) = sandbox.store.begin_layer(&lease, &desc).unwrap() else {
        panic!("it is present");
    };
    let id = ingest.run(&packed[..]).unwrap();
    let folder = sandbox.store.root().join("layers").join(id.as_str());
    let data = std::fs::metadata(folder.join("data")).unwrap();
    assert!(data.len() > 1 << 30);
    assert!(data.blocks() < 4096, "{} blocks", data.blocks());
}
