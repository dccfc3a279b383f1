//! An image of one file: this executable. It is static, so nothing else is needed.

use std::fs::File;
use std::io::{self, Read, Write};

use corten_registry::client::Descriptor;
use corten_spec::{Digest, Platform, media};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;

/// Where the executable is in the image.
pub const PROGRAM: &str = "/corten";

/// The documents of an image, ready to be pushed.
pub struct Image {
    pub layer: Vec<u8>,
    pub layer_descriptor: Descriptor,
    pub config: Vec<u8>,
    pub config_descriptor: Descriptor,
    pub manifest: Vec<u8>,
}

/// Packs the running executable, /etc/passwd and /etc/group.
pub fn make() -> io::Result<Image> {
    let tar = tar()?;
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&tar)?;
    let layer = gzip.finish()?;
    let platform = Platform::host();
    let config = serde_json::to_vec(&json!({
        "architecture": platform.architecture,
        "os": platform.os,
        "created": "1970-01-01T00:00:00Z",
        "config": {
            "Entrypoint": [PROGRAM, "demo"],
            "Cmd": ["--inside", "serve"],
            "ExposedPorts": { "80/tcp": {} },
            "Env": ["PATH=/"],
            "WorkingDir": "/",
        },
        "rootfs": { "type": "layers", "diff_ids": [Digest::of(&tar)] },
        "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "corten demo" }],
    }))?;
    let layer_descriptor = describe(&layer, media::OCI_LAYER_GZIP);
    let config_descriptor = describe(&config, media::OCI_CONFIG);
    let document =
        |d: &Descriptor| json!({ "mediaType": d.media_type, "digest": d.digest, "size": d.size });
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": media::OCI_MANIFEST,
        "config": document(&config_descriptor),
        "layers": [document(&layer_descriptor)],
    }))?;
    Ok(Image {
        layer,
        layer_descriptor,
        config,
        config_descriptor,
        manifest,
    })
}

fn describe(bytes: &[u8], media_type: &str) -> Descriptor {
    Descriptor {
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
        media_type: media_type.into(),
    }
}

fn tar() -> io::Result<Vec<u8>> {
    let mut program = Vec::new();
    File::open("/proc/self/exe")?.read_to_end(&mut program)?;
    let mut tar = Vec::with_capacity(program.len() + (8 << 10));
    entry(&mut tar, "etc/", b'5', 0o755, b"")?;
    entry(
        &mut tar,
        "etc/passwd",
        b'0',
        0o644,
        b"root:x:0:0:root:/:/corten\nnobody:x:65534:65534::/:/corten\n",
    )?;
    entry(
        &mut tar,
        "etc/group",
        b'0',
        0o644,
        b"root:x:0:\nnogroup:x:65534:\n",
    )?;
    entry(&mut tar, &PROGRAM[1..], b'0', 0o755, &program)?;
    tar.resize(tar.len() + 1024, 0);
    Ok(tar)
}

/// One entry in POSIX.1-1988 ustar form: a header block, then the content in blocks of 512 bytes.
fn entry(tar: &mut Vec<u8>, name: &str, kind: u8, mode: u32, content: &[u8]) -> io::Result<()> {
    let mut header = [0u8; 512];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, format!("{mode:07o}").as_bytes());
    put(108, b"0000000");
    put(116, b"0000000");
    put(124, format!("{:011o}", content.len()).as_bytes());
    put(136, b"00000000000");
    // The checksum is taken with its own field as spaces.
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar.write_all(&header)?;
    tar.write_all(content)?;
    tar.resize(tar.len().next_multiple_of(512), 0);
    Ok(())
}
