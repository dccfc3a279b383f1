-- The tables of version 1, as the first release made them.
PRAGMA user_version = 1;
PRAGMA journal_mode = WAL;
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
