//! Manifests that are no images, lists, and what refers to what: on our registry and on Debian's.

use std::io::Cursor;
use std::net::SocketAddr;

use bytes::Bytes;
use corten_registry::client::{ANY, Client, Error, Found};
use corten_spec::{Digest, Kind, Reference, media};
use serde_json::json;

use crate::image::{Image, descriptor, noise};
use crate::peer::{Ours, Theirs, client, reference};
use crate::proxy::{Fault, Proxy};

const SBOM: &str = "application/spdx+json";
const SIGNATURE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// Both registries, each on a folder of its own.
struct Both {
    ours: Ours,
    theirs: Theirs,
    _dir: tempfile::TempDir,
}

impl Both {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            ours: Ours::start(&dir.path().join("ours")),
            theirs: Theirs::plain(dir.path()),
            _dir: dir,
        }
    }

    fn addresses(&self) -> [SocketAddr; 2] {
        [self.ours.address, self.theirs.address]
    }
}

/// Uploads an artifact that says what it is of; its digest.
async fn attach(c: &Client, to: &Reference, subject: &Image, kind: &str, payload: &str) -> Digest {
    let blobs = [(kind, payload), ("application/vnd.oci.empty.v1+json", "{}")];
    for (media_type, text) in blobs {
        let d = descriptor(media_type, text.as_bytes());
        c.push_blob(to, &d, Cursor::new(text.to_owned()))
            .await
            .unwrap();
    }
    let describe = |media_type: &str, bytes: &[u8]| json!({ "mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len() });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media::OCI_MANIFEST,
        "artifactType": kind,
        "config": describe("application/vnd.oci.empty.v1+json", b"{}"),
        "layers": [describe(kind, payload.as_bytes())],
        "subject": describe(media::OCI_MANIFEST, &subject.manifest),
        "annotations": { "of": payload },
    });
    let bytes = Bytes::from(manifest.to_string());
    let by_digest = to.with_digest(Digest::of(&bytes));
    let untagged = format!(
        "{}/{}@{}",
        to.registry(),
        to.repository(),
        Digest::of(&bytes)
    );
    let digest = c
        .push_manifest(
            &untagged.parse().unwrap(),
            media::OCI_MANIFEST,
            bytes.clone(),
        )
        .await
        .unwrap();
    assert_eq!(Some(&digest), by_digest.digest());
    digest
}

#[tokio::test]
async fn referrers_are_found_by_api_or_tag_and_go_with_their_manifests() {
    let both = Both::start();
    let c = client();
    for address in both.addresses() {
        let at = reference(address, "signed:v1");
        let image = Image::new("amd64", vec![noise(1, 100)]);
        let subject = image.push(&c, &at).await.unwrap();
        assert_eq!(c.referrers(&at, &subject, None).await.unwrap(), []);
        let sbom = attach(&c, &at, &image, SBOM, "one").await;
        let first = attach(&c, &at, &image, SIGNATURE, "two").await;
        let second = attach(&c, &at, &image, SIGNATURE, "three").await;
        let listed = async |kind: Option<&str>| {
            let list = c.referrers(&at, &subject, kind).await.unwrap();
            let mut digests: Vec<Digest> = list.iter().map(|r| r.digest.clone()).collect();
            digests.sort();
            digests
        };
        let sorted = |mut digests: Vec<Digest>| {
            digests.sort();
            digests
        };
        let all = sorted(vec![sbom.clone(), first.clone(), second.clone()]);
        assert_eq!(listed(None).await, all);
        assert_eq!(listed(Some(SBOM)).await, std::slice::from_ref(&sbom));
        assert_eq!(listed(Some("application/none")).await, []);
        let list = c.referrers(&at, &subject, Some(SBOM)).await.unwrap();
        assert_eq!(list[0].annotations["of"], "one");
        assert_eq!(list[0].artifact_type.as_deref(), Some(SBOM));
        // Once more is not twice.
        attach(&c, &at, &image, SBOM, "one").await;
        assert_eq!(listed(None).await, all);
        c.delete_manifest(&at.with_digest(first)).await.unwrap();
        assert_eq!(listed(None).await, sorted(vec![sbom, second]));
    }
    // The one keeps the list, for the other the client does.
    let tag = |address| async move {
        let tags = client().tags(&reference(address, "signed")).await.unwrap();
        tags.iter().any(|t| t.starts_with("sha256-"))
    };
    assert!(!tag(both.ours.address).await);
    assert!(tag(both.theirs.address).await);
}

#[tokio::test]
async fn manifests_are_what_they_are() {
    let both = Both::start();
    let c = client();
    for address in both.addresses() {
        let at = reference(address, "raw:v1");
        let image = Image::new("amd64", vec![noise(2, 100)]);
        let digest = image.push(&c, &at).await.unwrap();
        let raw = c.manifest(&at, ANY).await.unwrap();
        assert_eq!(
            (raw.bytes, &raw.descriptor.digest),
            (image.manifest.clone(), &digest)
        );
        assert_eq!(raw.descriptor.media_type, media::OCI_MANIFEST);
        assert_eq!(c.head(&at).await.unwrap(), Some(raw.descriptor));
        assert_eq!(c.head(&reference(address, "raw:v2")).await.unwrap(), None);
        let artifact = attach(&c, &at, &image, SBOM, "text").await;
        let raw = c.manifest(&at.with_digest(artifact), ANY).await.unwrap();
        assert!(
            String::from_utf8(raw.bytes.to_vec())
                .unwrap()
                .contains(SBOM)
        );
        let err = c
            .manifest(&reference(address, "raw:v2"), ANY)
            .await
            .unwrap_err();
        assert_eq!(err.kind(), Kind::NotFound);

        let layer = Digest::of(&image.layers[0]);
        assert_eq!(c.blob_size(&at, &layer).await.unwrap(), Some(100));
        assert_eq!(c.blob_size(&at, &Digest::of(b"none")).await.unwrap(), None);
        c.delete_blob(&at, &layer).await.unwrap();
        let err = c.delete_blob(&at, &Digest::of(b"none")).await.unwrap_err();
        assert!(matches!(err, Error::UnknownBlob { .. }), "{err:?}");
        c.delete_manifest(&at.with_digest(digest.clone()))
            .await
            .unwrap();
        assert_eq!(c.head(&at.with_digest(digest.clone())).await.unwrap(), None);
        let err = c
            .delete_manifest(&at.with_digest(digest))
            .await
            .unwrap_err();
        assert!(matches!(err, Error::UnknownManifest { .. }), "{err:?}");
    }
}

#[tokio::test]
async fn tags_and_repositories_are_listed() {
    let both = Both::start();
    let c = client();
    for address in both.addresses() {
        let image = Image::new("amd64", vec![noise(3, 100)]);
        for name in ["team/app:v1", "team/app:v2", "team/tool:v1", "other:v1"] {
            image.push(&c, &reference(address, name)).await.unwrap();
        }
        let mut tags = c.tags(&reference(address, "team/app")).await.unwrap();
        tags.sort();
        assert_eq!(tags, ["v1", "v2"]);
        let err = c.tags(&reference(address, "none")).await.unwrap_err();
        assert!(matches!(err, Error::Status { status: 404, .. }), "{err:?}");
        let host = address.to_string();
        let all = c.catalog(&host).await.unwrap();
        assert_eq!(all, ["other", "team/app", "team/tool"]);
        let found = c.search(&host, "Team", 1).await.unwrap();
        let names: Vec<&str> = found.iter().map(|f| f.name.as_str()).collect();
        assert_eq!(names, ["team/app"]);
    }
}

fn answer(more: &str, body: &str) -> Fault {
    Fault::Instead(format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{more}content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    ))
}

fn scripted(script: impl Fn(&str) -> Fault + Send + Sync + 'static) -> Proxy {
    Proxy::start(crate::peer::free_address(), move |seen| {
        script(seen.line.split(' ').nth(1).unwrap())
    })
}

#[tokio::test]
async fn pages_are_followed_on_the_registry_itself_and_end() {
    // The link names a host that the registry takes itself for.
    let registry = scripted(|path| match path {
        "/v2/a/tags/list?n=1000" => answer(
            "link: <https://internal.invalid/v2/a/tags/list?n=1000&last=one>; rel=\"next\"\r\n",
            r#"{"name":"a","tags":["one","not a tag\u001b[31m"]}"#,
        ),
        "/v2/a/tags/list?n=1000&last=one" => answer("", r#"{"tags":["two"]}"#),
        "/v2/null/tags/list?n=1000" => answer("", r#"{"tags":null}"#),
        path => answer(
            &format!("link: <{path}>; rel=\"next\"\r\n"),
            r#"{"tags":["x"]}"#,
        ),
    });
    let tags = client()
        .tags(&reference(registry.address, "a"))
        .await
        .unwrap();
    assert_eq!(tags, ["one", "two"]);
    let none = client()
        .tags(&reference(registry.address, "null"))
        .await
        .unwrap();
    assert!(none.is_empty());
    let err = client()
        .tags(&reference(registry.address, "loop"))
        .await
        .unwrap_err();
    assert!(
        matches!(&err, Error::NotARegistry { why, .. } if why.contains("back into itself")),
        "{err:?}"
    );
}

#[tokio::test]
async fn the_old_index_is_searched_where_there_is_one() {
    let registry = scripted(|path| match path.starts_with("/v1/search?q=box&n=5") {
        true => answer(
            "",
            r#"{"num_results":2,"results":[{"name":"library/busybox","description":"small\u0007","star_count":3,"is_official":true},{"name":"../x"}]}"#,
        ),
        false => answer("", "{}"),
    });
    let found = client()
        .search(&registry.address.to_string(), "box", 5)
        .await
        .unwrap();
    let busybox = Found {
        name: "library/busybox".into(),
        description: "small".into(),
        stars: 3,
        official: true,
    };
    assert_eq!(found, [busybox]);
}

/// Callers spawn these.
#[test]
fn futures_can_be_spawned() {
    fn check<T: Send>(_: T) {}
    let (c, r) = (client(), "127.0.0.1:1/a:v1".parse::<Reference>().unwrap());
    let digest = Digest::of(b"");
    check(c.tags(&r));
    check(c.catalog("x"));
    check(c.search("x", "y", 1));
    check(c.referrers(&r, &digest, None));
    check(c.manifest(&r, ANY));
    check(c.head(&r));
    check(c.blob_size(&r, &digest));
    check(c.delete_manifest(&r));
    check(c.push_manifest(&r, "x", Bytes::new()));
    let d = descriptor("x", b"");
    check(c.push_blob(&r, &d, Cursor::new(Vec::new())));
}
