//! A store that an earlier release has made.

use std::fs;

use corten_spec::Digest;
use corten_store::snapshot::conformance::{archive::Archive, layer, view};
use corten_store::{LayerId, Snapshotter as _, Store};
use rusqlite::Connection;

/// A database of version 1 with a row in every table, and what these speak of on disk.
fn version1(root: &std::path::Path) -> (LayerId, Digest) {
    let tar = Archive::new().file("a", "of long ago").finish();
    let digest = Digest::of(&tar);
    let id: LayerId = format!("sha256-{}", digest.hex()).parse().unwrap();
    for name in [
        "blobs/sha256",
        "blobs/sha512",
        "ingest",
        "layers",
        "snapshots/box/fs",
        "snapshots/box/work",
        "trash",
    ] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    fs::write(root.join("blobs/sha256").join(digest.hex()), &tar).unwrap();
    let tree = root.join("layers").join(id.as_str()).join("fs");
    fs::create_dir_all(&tree).unwrap();
    fs::write(tree.join("a"), "of long ago").unwrap();
    let db = Connection::open(root.join("corten.db")).unwrap();
    db.execute_batch(include_str!("version1.sql")).unwrap();
    let rows = [
        "INSERT INTO blob VALUES ('BLOB', SIZE, 1)",
        "INSERT INTO layer VALUES ('LAYER', NULL, NULL, 'tree', 0, 0, NULL, 11, 1, NULL, 1)",
        "INSERT INTO layer_blob VALUES ('LAYER', 'BLOB')",
        "INSERT INTO settled VALUES ('LAYER', '', 'LAYER')",
        "INSERT INTO image VALUES ('docker.io/library/old:1', 'BLOB', SIZE, 'm', 'BLOB', 'BLOB', SIZE, 1)",
        "INSERT INTO image_layer VALUES ('docker.io/library/old:1', 0, 'BLOB', SIZE, 'BLOB', 'LAYER')",
        "INSERT INTO container VALUES ('box', 'box', 'docker.io/library/old:1', 1, '{}')",
        "INSERT INTO snapshot VALUES ('box', 'overlay', 1)",
        "INSERT INTO snapshot_layer VALUES ('box', 0, 'LAYER')",
        "INSERT INTO lease VALUES (7, 'pull', 1, 1, 'an earlier boot', 1)",
        "INSERT INTO lease_blob VALUES (7, 'BLOB')",
        "INSERT INTO lease_layer VALUES (7, 'LAYER')",
        "INSERT INTO lease_snapshot VALUES (7, 'box')",
    ];
    for row in rows {
        let row = row
            .replace("BLOB", &digest.to_string())
            .replace("LAYER", id.as_str())
            .replace("SIZE", &tar.len().to_string());
        db.execute_batch(&row).unwrap();
    }
    (id, digest)
}

#[test]
fn a_store_of_version_1_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    fs::create_dir(&root).unwrap();
    let (id, digest) = version1(&root);
    let store = Store::open(&root).unwrap();
    let db = Connection::open(root.join("corten.db")).unwrap();
    let number = |sql: &str| db.query_row(sql, [], |r| r.get::<_, i64>(0)).unwrap();
    assert!(number("PRAGMA user_version") > 1);
    assert_eq!(number("SELECT count(*) FROM pragma_foreign_key_check"), 0);

    // Nothing is lost, neither by opening it nor by a collection; the lease alone has ended with its process.
    store.collect().unwrap();
    let image = store.image("old:1").unwrap();
    assert_eq!((&image.layers[0].layer, &image.config), (&id, &digest));
    assert_eq!(store.containers().list().unwrap().len(), 1);
    assert_eq!(store.snapshotter().list().unwrap(), ["box"]);
    assert_eq!(store.check(false).unwrap(), []);

    // The folder is a folder still, below the container and below a new one.
    for recipe in [store.snapshotter().mounts("box").unwrap(), {
        let lease = store.lease("test").unwrap();
        lease.hold_snapshot("k").unwrap();
        let again = layer(
            &store,
            &lease,
            &Archive::new().file("a", "of long ago").finish(),
        );
        assert_eq!(again.unwrap(), id);
        store
            .snapshotter()
            .prepare("k", std::slice::from_ref(&id))
            .unwrap()
    }] {
        let seen = view::of(&view::mount(&recipe).unwrap()).unwrap();
        assert!(seen.contains(" a \"of long ago\""), "{seen}");
    }
    assert!(!root.join("layers").join(id.as_str()).join("meta").exists());
}

/// Version 2 had no networks; its containers were on none that has a row.
#[test]
fn a_store_of_version_2_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    let row = corten_store::ContainerRow {
        id: "box".parse().unwrap(),
        name: "box".parse().unwrap(),
        image: "docker.io/library/old:1".into(),
        created_at: 1,
        record: "{}".into(),
    };
    let store = Store::open(&root).unwrap();
    store.containers().insert(&row, &[]).unwrap();
    drop(store);
    let db = Connection::open(root.join("corten.db")).unwrap();
    db.execute_batch("DROP TABLE network_member; DROP TABLE network; DROP TABLE pod_container; DROP TABLE pod; PRAGMA user_version = 2;")
        .unwrap();
    drop(db);

    let store = Store::open(&root).unwrap();
    let containers = store.containers().list().unwrap();
    assert_eq!(containers.as_slice(), std::slice::from_ref(&row));
    assert_eq!(store.networks().list().unwrap(), []);
    let network = |_: &[corten_store::NetworkRow]| {
        Ok::<_, corten_store::Error>(corten_store::NetworkRow {
            id: "net1".parse().unwrap(),
            name: "web".parse().unwrap(),
            created_at: 2,
            record: "{}".into(),
        })
    };
    let web = store.networks().add(network).unwrap();
    let on = std::slice::from_ref(&web.id);
    store.networks().set_members(&row.id, "{}", on).unwrap();
    assert_eq!(store.networks().members(&web.id).unwrap(), [row.id]);
    assert_eq!(store.networks().named("web").unwrap(), web);
    // By its very name: not by its id, nor by a part of that.
    assert!(store.networks().named("net1").is_err());
    assert!(store.networks().named("we").is_err());
}
