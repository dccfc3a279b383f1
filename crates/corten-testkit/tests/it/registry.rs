use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

use corten_testkit::registry::{PASSWORD, USER};
use corten_testkit::{Fault, Image, Proxy, Registry, Result, tool};

/// The digest and size of the largest layer.
fn layer(image: Image) -> Result<(String, usize)> {
    let manifest = image.layout()?.manifest()?;
    let layer = &manifest["layers"][0];
    let size = layer["size"].as_u64().unwrap_or_default();
    Ok((
        layer["digest"].as_str().unwrap_or_default().to_owned(),
        usize::try_from(size).expect("a size"),
    ))
}

/// One GET; the status and the body, however short.
fn get(host: &str, path: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(host).expect("connect");
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )
    .expect("send");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("read");
    let end = bytes
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .expect("a head");
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    (
        head.split(' ').nth(1).unwrap_or_default().to_owned(),
        bytes[end + 4..].to_vec(),
    )
}

#[test]
fn the_proxy_fails_as_often_as_asked() -> Result<()> {
    let registry = Registry::plain()?;
    registry.push(&Image::Busybox.layout()?, "busybox")?;
    let proxy = Proxy::before(registry.port())?;
    let (digest, size) = layer(Image::Busybox)?;
    let path = format!("/v2/busybox/blobs/{digest}");
    let whole = get(&proxy.host(), &path);
    assert_eq!((whole.0.as_str(), whole.1.len()), ("200", size));
    proxy.fail(Fault::Cut { after: 30_000 }, 1);
    assert_eq!(get(&proxy.host(), &path).1.len(), 30_000);
    assert_eq!(get(&proxy.host(), &path).1.len(), size);
    proxy.fail(Fault::Flip, 1);
    assert_ne!(get(&proxy.host(), &path).1, whole.1);
    proxy.fail(Fault::Status(429), 1);
    assert_eq!(get(&proxy.host(), &path).0, "429");
    assert_eq!(get(&proxy.host(), &path).1, whole.1);
    assert_eq!(proxy.requests().len(), 6);
    Ok(())
}

#[test]
fn the_secure_registry_wants_its_password() -> Result<()> {
    let registry = Registry::secure()?;
    let reference = registry.push(&Image::Busybox.layout()?, "private/busybox")?;
    let inspect = |credentials: &str| {
        let mut command = Command::new("skopeo");
        command.args([
            "inspect",
            "--raw",
            "--tls-verify=false",
            &format!("--creds={credentials}"),
        ]);
        tool::run(command.arg(format!("docker://{reference}")))
    };
    assert!(inspect(&format!("{USER}:{PASSWORD}"))?.contains("schemaVersion"));
    assert!(inspect("corten:wrong").is_err());
    let authority = registry.authority();
    let url = format!("https://{}/v2/", registry.host());
    let user = format!("{USER}:{PASSWORD}");
    tool::call(
        "curl",
        &[
            "-sSf",
            "--cacert",
            &authority.to_string_lossy(),
            "-u",
            &user,
            &url,
        ],
    )?;
    Ok(())
}
