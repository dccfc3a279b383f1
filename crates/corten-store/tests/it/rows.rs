//! Images, containers and leases: who keeps what.

use corten_spec::{ContainerId, Digest, Kind, Reference};
use corten_store::snapshot::conformance::archive::Archive;
use corten_store::snapshot::conformance::{describe, layer};
use corten_store::{
    ContainerRow, Defect, Error, ImageRecord, LayerRef, Lease, NetworkRow, Snapshotter as _, Store,
    Target,
};

use crate::fixture::Sandbox;

fn image(store: &Store, lease: &Lease, reference: &str, tars: &[Vec<u8>]) -> ImageRecord {
    let reference: Reference = reference.parse().unwrap();
    let config = format!("config of {reference}").into_bytes();
    let manifest = format!("manifest of {reference}").into_bytes();
    for bytes in [&config, &manifest] {
        store.put_blob(lease, &Digest::of(bytes), bytes).unwrap();
    }
    let layers = tars
        .iter()
        .map(|tar| {
            let desc = describe(tar);
            LayerRef {
                digest: desc.digest,
                size: desc.size,
                diff_id: desc.diff_id,
                layer: layer(store, lease, tar).unwrap(),
            }
        })
        .collect();
    ImageRecord {
        reference: reference.to_string(),
        target: Target {
            digest: Digest::of(&manifest),
            size: manifest.len() as u64,
            media_type: corten_spec::media::OCI_MANIFEST.into(),
        },
        manifest: Digest::of(&manifest),
        config: Digest::of(&config),
        layers,
        pulled_at: 0,
        size: 7,
    }
}

fn container(id: &str, name: &str) -> ContainerRow {
    ContainerRow {
        id: id.parse().unwrap(),
        name: name.parse().unwrap(),
        image: "busybox".into(),
        created_at: 1,
        record: "{}".into(),
    }
}

#[test]
fn an_image_is_found_by_every_name_it_has() {
    let sandbox = Sandbox::new();
    let store = &sandbox.store;
    let lease = store.lease("test").unwrap();
    let tar = Archive::new().folder("./").file("a", "a").finish();
    let record = image(store, &lease, "busybox", &[tar.clone(), tar]);
    store.put_image(record.clone()).unwrap();
    let found = store.image("busybox").unwrap();
    assert!(found.pulled_at > 1_600_000_000);
    let found = ImageRecord {
        pulled_at: 0,
        ..found
    };
    assert_eq!(found, record);
    let id = record.config.hex();
    for name in [
        "docker.io/library/busybox:latest",
        "busybox:latest",
        &id[..6],
        id,
        &record.config.to_string(),
        &format!("busybox@{}", record.target.digest),
    ] {
        assert_eq!(
            store.image(name).unwrap().reference,
            record.reference,
            "{name}"
        );
    }
    for name in [
        "busybox:other",
        "",
        "zz",
        &format!("alpine@{}", record.target.digest),
    ] {
        let e = store.image(name).unwrap_err();
        assert_eq!(e.kind(), Kind::NotFound, "{name}");
    }
    // One id under two references: an id finds it, but does not remove it.
    store
        .put_image(ImageRecord {
            reference: "docker.io/library/again:latest".into(),
            ..record.clone()
        })
        .unwrap();
    assert_eq!(store.image(id).unwrap().config, record.config);
    assert!(matches!(
        store.remove_image(id),
        Err(Error::Ambiguous { .. })
    ));
    assert_eq!(store.images().unwrap().len(), 2);
    store.remove_image("again").unwrap();
    store.remove_image(id).unwrap();
    assert_eq!(store.images().unwrap(), []);
}

#[test]
fn an_image_needs_all_its_parts() {
    let sandbox = Sandbox::new();
    let store = &sandbox.store;
    let lease = store.lease("test").unwrap();
    let record = image(store, &lease, "a", &[Archive::new().finish()]);
    let lost = ImageRecord {
        config: Digest::of(b"nowhere"),
        ..record.clone()
    };
    assert!(matches!(
        store.put_image(lost),
        Err(Error::NotFound { what: "blob", .. })
    ));
    let mut lost = record;
    lost.layers[0].layer = "sha256-00".parse().unwrap();
    assert!(matches!(
        store.put_image(lost),
        Err(Error::NotFound { what: "layer", .. })
    ));
    assert_eq!(store.images().unwrap(), []);
}

#[test]
fn a_document_is_what_its_digest_says() {
    let sandbox = Sandbox::new();
    let store = &sandbox.store;
    let lease = store.lease("test").unwrap();
    let digest = Digest::of(b"text");
    let wrong = store.put_blob(&lease, &digest, b"texts");
    assert!(matches!(wrong, Err(Error::Mismatch { what: "digest", .. })));
    assert!(!store.has_blob(&digest).unwrap());
    assert!(!lease.hold_blob(&digest).unwrap());
    store.put_blob(&lease, &digest, b"text").unwrap();
    store.put_blob(&lease, &digest, b"text").unwrap();
    assert_eq!(store.read_blob(&digest, 4).unwrap(), b"text");
    assert!(matches!(
        store.read_blob(&digest, 3),
        Err(Error::Invalid { .. })
    ));
    std::fs::write(store.blob_path(&digest), "tex_").unwrap();
    assert!(matches!(
        store.read_blob(&digest, 4),
        Err(Error::Damaged { .. })
    ));
    assert!(matches!(
        store.verify_blob(&digest),
        Err(Error::Damaged { .. })
    ));
}

#[test]
fn a_name_is_taken_once_and_found_by_prefix() {
    let sandbox = Sandbox::new();
    let containers = sandbox.store.containers();
    containers.insert(&container("aa11", "web"), &[]).unwrap();
    containers.insert(&container("aa22", "db"), &[]).unwrap();
    match containers.insert(&container("bb", "web"), &[]) {
        Err(Error::AlreadyExists { name, by, .. }) => {
            assert_eq!((name.as_str(), by.as_str()), ("web", "container aa11"));
        }
        other => panic!("{other:?}"),
    }
    let get = |key: &str| containers.get(key).map(|r| r.id.to_string());
    assert_eq!(get("web").unwrap(), "aa11");
    assert_eq!(get("aa2").unwrap(), "aa22");
    assert!(matches!(get("aa"), Err(Error::Ambiguous { .. })));
    assert!(matches!(get("c"), Err(Error::NotFound { .. })));
    assert!(matches!(get(""), Err(Error::NotFound { .. })));
    let id: ContainerId = "aa11".parse().unwrap();
    containers.update(&id, "{\"v\":2}").unwrap();
    assert_eq!(containers.get("web").unwrap().record, "{\"v\":2}");
    let taken = containers.rename(&id, &"db".parse().unwrap());
    assert!(matches!(taken, Err(Error::AlreadyExists { .. })));
    containers.rename(&id, &"www".parse().unwrap()).unwrap();
    containers.delete(&id).unwrap();
    assert_eq!(containers.delete(&id).unwrap_err().kind(), Kind::NotFound);
    assert_eq!(containers.list().unwrap().len(), 1);
}

#[test]
fn what_somebody_needs_is_kept_and_the_rest_goes() {
    let sandbox = Sandbox::new();
    let store = &sandbox.store;
    let base = Archive::new().folder("./").folder("p").finish();
    // Implies `p`, so it gets a patch on top of it.
    let low = Archive::new()
        .item(corten_store::snapshot::conformance::archive::Item::new("p", b'5').mode(0o700))
        .finish();
    let top = Archive::new().file("p/x", "x").finish();
    let lease = store.lease("pull").unwrap();
    let record = image(store, &lease, "a", &[base.clone(), low, top]);
    store.put_image(record).unwrap();
    let other = image(store, &lease, "b", &[base]);
    store.put_image(other).unwrap();
    drop(lease);
    store.collect().unwrap();
    assert_eq!(sandbox.names("layers").len(), 4, "three layers and a patch");

    let row = container("c0ffee", "c");
    store.containers().insert(&row, &[]).unwrap();
    let image = store.image("a").unwrap();
    let layers: Vec<_> = image.layers.iter().map(|l| l.layer.clone()).collect();
    let snapshotter = store.snapshotter();
    snapshotter.prepare("c0ffee", &layers).unwrap();
    store.remove_image("a").unwrap();
    store.flush().unwrap();
    store.collect().unwrap();
    assert_eq!(
        sandbox.names("layers").len(),
        4,
        "the container's snapshot keeps them"
    );
    assert_eq!(sandbox.names("blobs/sha256").len(), 3, "those of b alone");
    assert_eq!(store.check(false).unwrap(), []);

    store.containers().delete(&row.id).unwrap();
    let unowned = store.check(false).unwrap();
    assert_eq!(unowned[0].what, Defect::UnownedSnapshot);
    assert!(store.collect().unwrap() > 0);
    assert_eq!(snapshotter.list().unwrap(), Vec::<String>::new());
    assert_eq!(sandbox.names("layers").len(), 1);
    store.remove_image("b").unwrap();
    store.collect().unwrap();
    for folder in ["layers", "blobs/sha256", "snapshots", "trash", "ingest"] {
        assert_eq!(sandbox.names(folder), Vec::<String>::new(), "{folder}");
    }
}

#[test]
fn check_names_what_is_lost_and_what_nobody_owns() {
    let sandbox = Sandbox::new();
    let store = &sandbox.store;
    let lease = store.lease("pull").unwrap();
    let tar = Archive::new().folder("./").finish();
    let record = image(store, &lease, "a", std::slice::from_ref(&tar));
    store.put_image(record.clone()).unwrap();
    drop(lease);
    let root = store.root();
    std::fs::write(root.join("blobs/sha256").join("0".repeat(64)), "x").unwrap();
    std::fs::create_dir_all(root.join("layers/sha256-00/fs")).unwrap();
    std::fs::create_dir_all(root.join("snapshots/x/fs")).unwrap();
    std::fs::create_dir_all(root.join("trash/1/2")).unwrap();
    std::fs::write(root.join("ingest/sha256-11"), "half").unwrap();
    std::fs::create_dir_all(root.join("ingest/sha256-22.tree/fs")).unwrap();
    let id = &record.layers[0].layer;
    std::fs::remove_dir_all(root.join("layers").join(id.as_str())).unwrap();
    let what =
        |found: Vec<corten_store::Finding>| found.into_iter().map(|f| f.what).collect::<Vec<_>>();
    let lost = [Defect::BrokenImage, Defect::LostLayer];
    let garbage = [
        Defect::OrphanBlob,
        Defect::OrphanLayer,
        Defect::OrphanSnapshot,
        Defect::Interrupted,
        Defect::Interrupted,
        Defect::Trash,
    ];
    assert_eq!(
        what(store.check(false).unwrap()),
        [&lost[..], &garbage].concat()
    );
    let found = store.check(true).unwrap();
    assert!(found.iter().all(|f| f.repaired), "{found:?}");
    // The blob was there, so the layer is back, and the image was never broken.
    assert_eq!(what(found), [&lost[1..], &garbage].concat());
    assert_eq!(store.check(false).unwrap(), []);
    assert!(root.join("layers").join(id.as_str()).join("fs").is_dir());

    std::fs::remove_file(store.blob_path(&record.manifest)).unwrap();
    let found = store.check(true).unwrap();
    assert_eq!(what(found)[..2], [Defect::BrokenImage, Defect::LostBlob]);
    assert_eq!(store.images().unwrap(), []);
    store.collect().unwrap();
    assert_eq!(store.check(false).unwrap(), []);
}

#[test]
fn a_root_that_an_overlay_cannot_name_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a:b", "a,b", "a\\b", "a\"b"] {
        let outcome = Store::open(&folder.path().join(name));
        assert!(matches!(outcome, Err(Error::Root { .. })), "{name}");
    }
    assert_eq!(crate::fixture::names(folder.path()), Vec::<String>::new());
}

#[test]
fn a_newer_database_is_left_alone() {
    let sandbox = Sandbox::new();
    let path = sandbox.store.root().join("corten.db");
    let db = rusqlite::Connection::open(path).unwrap();
    db.pragma_update(None, "user_version", 1000).unwrap();
    let outcome = Store::open(sandbox.store.root());
    assert!(matches!(outcome, Err(Error::Newer { found: 1000, .. })));
}

fn network(id: &str, name: &str) -> NetworkRow {
    NetworkRow {
        id: id.parse().unwrap(),
        name: name.parse().unwrap(),
        created_at: 1,
        record: "{}".into(),
    }
}

#[test]
fn networks_have_one_name_each_and_stay_while_a_container_is_on_them() {
    let s = Sandbox::new();
    let store = &s.store;
    let networks = store.networks();
    let add = |row: NetworkRow| networks.add::<Error>(|_| Ok(row));
    add(network("aa11", "front")).unwrap();
    add(network("bb22", "back")).unwrap();
    match add(network("cc33", "front")) {
        Err(Error::AlreadyExists { by, .. }) => assert_eq!(by, "network aa11"),
        other => panic!("{other:?}"),
    }
    // Who adds one sees the others, and may think better of it.
    let refused: Result<NetworkRow, Error> = networks.add(|all| {
        assert_eq!(all.len(), 2);
        Err(Error::NotFound {
            what: "reason",
            name: "none".into(),
        })
    });
    assert_eq!(
        refused.unwrap_err().to_string(),
        "no reason \"none\" in the store"
    );
    assert_eq!(networks.get("b").unwrap().name.as_str(), "back");

    let (front, back): (ContainerId, ContainerId) =
        ("aa11".parse().unwrap(), "bb22".parse().unwrap());
    let absent: ContainerId = "dd".parse().unwrap();
    let containers = store.containers();
    let web = container("c1", "web");
    // On a network that is not there: no row either.
    assert!(
        containers
            .insert(&web, &[front.clone(), absent.clone()])
            .is_err()
    );
    assert!(containers.list().unwrap().is_empty());
    containers
        .insert(&web, std::slice::from_ref(&front))
        .unwrap();
    assert_eq!(
        networks.members(&front).unwrap(),
        std::slice::from_ref(&web.id)
    );
    match networks.delete(&front) {
        Err(Error::InUse { by, .. }) => assert_eq!(by, ["web"]),
        other => panic!("{other:?}"),
    }
    assert!(networks.set_members(&web.id, "{}", &[absent]).is_err());
    networks
        .set_members(&web.id, "{\"a\":1}", std::slice::from_ref(&back))
        .unwrap();
    assert_eq!(containers.get("web").unwrap().record, "{\"a\":1}");
    networks.delete(&front).unwrap();
    assert!(networks.delete(&front).is_err());
    // The container takes its membership along.
    containers.delete(&web.id).unwrap();
    networks.delete(&back).unwrap();
    assert!(networks.list().unwrap().is_empty());
}
