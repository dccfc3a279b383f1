//! The tables, and how an older database becomes a newer one. `PRAGMA user_version`
//! counts the steps taken; a step, once released, is never edited.

use rusqlite::Transaction;

/// Step N takes version N to N + 1.
const STEPS: &[&str] = &[FIRST, IMAGES, NETWORKS, PODS];

pub(super) const VERSION: i64 = STEPS.len() as i64;

pub(super) fn migrate(t: &Transaction<'_>, from: i64) -> rusqlite::Result<()> {
    let done = usize::try_from(from).unwrap_or(0);
    for step in &STEPS[done..] {
        t.execute_batch(step)?;
    }
    t.pragma_update(None, "user_version", VERSION)
}

const FIRST: &str = "
-- A whole blob under blobs/. `added` is in seconds since the epoch, as every time here but a container's.
CREATE TABLE blob (
    digest TEXT PRIMARY KEY, size INTEGER NOT NULL, added INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- A folder under layers/. `base`: this one is a patch, lies on that layer, and was made for the stack `below` it (ids, bottom
-- first, a comma between). `form`: how it is kept ('tree').
-- `pending`: what only the layers below can tell (snapshot/settle.rs); null where nothing is.
-- `boot`: written in this boot and not flushed since; a power cut may have hollowed it out.
CREATE TABLE layer (
    id TEXT PRIMARY KEY, base TEXT REFERENCES layer(id), below TEXT, form TEXT NOT NULL,
    names_root INTEGER NOT NULL, opaque_root INTEGER NOT NULL,
    pending BLOB, size INTEGER NOT NULL, entries INTEGER NOT NULL, boot TEXT, added INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX layer_base ON layer(base) WHERE base IS NOT NULL;

-- This blob was seen to unpack to that layer.
CREATE TABLE layer_blob (
    layer TEXT NOT NULL REFERENCES layer(id) ON DELETE CASCADE,
    blob TEXT NOT NULL REFERENCES blob(digest) ON DELETE CASCADE,
    PRIMARY KEY (layer, blob)
) STRICT, WITHOUT ROWID;
CREATE INDEX layer_blob_blob ON layer_blob(blob);

-- On the stack `below`, a pending layer becomes `result`: itself, or a patch.
CREATE TABLE settled (
    layer TEXT NOT NULL REFERENCES layer(id) ON DELETE CASCADE, below TEXT NOT NULL,
    result TEXT NOT NULL REFERENCES layer(id) ON DELETE CASCADE,
    PRIMARY KEY (layer, below)
) STRICT, WITHOUT ROWID;
CREATE INDEX settled_result ON settled(result);

CREATE TABLE image (
    reference TEXT PRIMARY KEY,
    target TEXT NOT NULL REFERENCES blob(digest), target_size INTEGER NOT NULL, target_media_type TEXT NOT NULL,
    manifest TEXT NOT NULL REFERENCES blob(digest), config TEXT NOT NULL REFERENCES blob(digest),
    size INTEGER NOT NULL, pulled_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX image_target ON image(target);
CREATE INDEX image_manifest ON image(manifest);
CREATE INDEX image_config ON image(config);
CREATE TABLE image_layer (
    reference TEXT NOT NULL REFERENCES image(reference) ON DELETE CASCADE, position INTEGER NOT NULL,
    blob TEXT NOT NULL REFERENCES blob(digest), size INTEGER NOT NULL, diff_id TEXT NOT NULL,
    layer TEXT NOT NULL REFERENCES layer(id),
    PRIMARY KEY (reference, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX image_layer_blob ON image_layer(blob);
CREATE INDEX image_layer_layer ON image_layer(layer);

-- `created_at` in nanoseconds since the epoch.
CREATE TABLE container (
    id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, image TEXT NOT NULL, created_at INTEGER NOT NULL, record TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE snapshot (
    key TEXT PRIMARY KEY, driver TEXT NOT NULL, added INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE snapshot_layer (
    key TEXT NOT NULL REFERENCES snapshot(key) ON DELETE CASCADE, position INTEGER NOT NULL,
    layer TEXT NOT NULL REFERENCES layer(id),
    PRIMARY KEY (key, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX snapshot_layer_layer ON snapshot_layer(layer);

-- Held by one process: its pid, start time in clock ticks since boot, and that boot.
CREATE TABLE lease (
    id INTEGER PRIMARY KEY AUTOINCREMENT, purpose TEXT NOT NULL,
    pid INTEGER NOT NULL, started INTEGER NOT NULL, boot TEXT NOT NULL, added INTEGER NOT NULL
) STRICT;
CREATE TABLE lease_blob (
    lease INTEGER NOT NULL REFERENCES lease(id) ON DELETE CASCADE, blob TEXT NOT NULL REFERENCES blob(digest),
    PRIMARY KEY (lease, blob)
) STRICT, WITHOUT ROWID;
CREATE INDEX lease_blob_blob ON lease_blob(blob);
CREATE TABLE lease_layer (
    lease INTEGER NOT NULL REFERENCES lease(id) ON DELETE CASCADE, layer TEXT NOT NULL REFERENCES layer(id),
    PRIMARY KEY (lease, layer)
) STRICT, WITHOUT ROWID;
CREATE INDEX lease_layer_layer ON lease_layer(layer);
-- A snapshot may be held before it exists.
CREATE TABLE lease_snapshot (
    lease INTEGER NOT NULL REFERENCES lease(id) ON DELETE CASCADE, key TEXT NOT NULL,
    PRIMARY KEY (lease, key)
) STRICT, WITHOUT ROWID;
";

/// Layers as EROFS images: `form` is also 'erofs' (the data file is the tar) or 'erofs-pages'. `image` is the digest of the
/// metadata image, by which it is checked after a power cut.
const IMAGES: &str = "
ALTER TABLE layer ADD COLUMN image TEXT;
-- The fs-verity measures of an image's files, where the file system has that: NAME=HEX, a space between.
ALTER TABLE layer ADD COLUMN verity TEXT;
-- Images that somebody has mounted on the host. `key` is that of a snapshot.
CREATE TABLE mounted (
    key TEXT PRIMARY KEY, reference TEXT NOT NULL, path TEXT NOT NULL, added INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

/// Networks that users have made, and who is on them. `created_at` in nanoseconds since the epoch.
const NETWORKS: &str = "
CREATE TABLE network (
    id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, created_at INTEGER NOT NULL, record TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE network_member (
    network TEXT NOT NULL REFERENCES network(id),
    container TEXT NOT NULL REFERENCES container(id) ON DELETE CASCADE,
    PRIMARY KEY (network, container)
) STRICT, WITHOUT ROWID;
CREATE INDEX network_member_container ON network_member(container);
";

/// Pods, and the containers in them. `created_at` in nanoseconds since the epoch.
const PODS: &str = "
CREATE TABLE pod (
    id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, created_at INTEGER NOT NULL, record TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE pod_container (
    id TEXT PRIMARY KEY, pod TEXT NOT NULL REFERENCES pod(id), name TEXT NOT NULL UNIQUE, created_at INTEGER NOT NULL,
    record TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX pod_container_pod ON pod_container(pod);
";
