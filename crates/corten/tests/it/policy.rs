//! `policy.toml` at work: signatures by skopeo with GnuPG, and by openssl in cosign's form, and everything
//! that somebody with write access to a registry could try instead.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use corten_testkit::fixture::layout;
use corten_testkit::{Image, Outcome, Registry, Result, Sandbox, tool};
use serde_json::{Value, json};

use super::images::small;
use super::sandbox;

const SIMPLE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const ANNOTATION: &str = "dev.cosignproject.cosign/signature";

/// Payloads and signatures of them.
type Signatures = Vec<(String, String)>;

struct Rig {
    sandbox: Sandbox,
    registry: Registry,
}

impl Rig {
    fn new() -> Result<Rig> {
        Ok(Rig {
            sandbox: sandbox()?,
            registry: Registry::plain()?,
        })
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.sandbox.files().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("folder");
        fs::write(&path, bytes).expect("write");
        path.display().to_string()
    }

    fn policy(&self, text: &str) {
        fs::write(self.sandbox.etc().join("policy.toml"), text).expect("write");
    }

    /// Everything on our registry needs a signature by one of the keys.
    fn require(&self, keys: &[&str], more: &str) {
        let host = self.registry.host();
        self.policy(&format!(
            "default = \"reject\"\n[[rule]]\nnames = [\"{host}/**\"]\naction = \"require\"\nkeys = {keys:?}\n{more}\n"
        ));
    }

    fn pull(&self, image: &str) -> Outcome {
        self.sandbox.corten(&["pull", image])
    }

    fn digest(&self, image: &str) -> Result<String> {
        let args = [
            "inspect",
            "--raw",
            "--tls-verify=false",
            &format!("docker://{image}"),
        ];
        Ok(format!(
            "sha256:{}",
            layout::sha256(tool::call("skopeo", &args)?.as_bytes())
        ))
    }

    /// Refused, for a reason, and before anything of the image was fetched.
    #[track_caller]
    fn refused(&self, image: &str, why: &str) {
        let fetched = || {
            self.registry
                .log()
                .lines()
                .filter(|l| l.contains("GET /v2/") && l.contains("/blobs/"))
                .count()
        };
        let allowed = fetched();
        self.pull(image).fails(125).names(why).complete();
        let store = self.sandbox.root().join("blobs/sha256");
        let blobs = fs::read_dir(store).map_or(0, Iterator::count);
        assert_eq!(blobs, 0, "nothing is stored");
        // Payloads of signatures are blobs, too; layers and configs are not among what was asked for.
        assert!(fetched() - allowed <= 64, "{}", fetched() - allowed);
        assert_eq!(
            self.sandbox.corten(&["images", "--all", "--quiet"]).ok(),
            ""
        );
    }

    /// A pair of keys by openssl: the private one's path and the public one's.
    fn key(&self, name: &str, algorithm: &[&str]) -> Result<(String, String)> {
        let private = self.file(&format!("{name}.pem"), "");
        let public = self.file(&format!("{name}.pub"), "");
        tool::call(
            "openssl",
            &[&["genpkey", "-out", &private], algorithm].concat(),
        )?;
        tool::call(
            "openssl",
            &["pkey", "-in", &private, "-pubout", "-out", &public],
        )?;
        Ok((private, public))
    }

    fn sign(&self, private: &str, message: &[u8]) -> Result<String> {
        let input = self.file("message", message);
        let output = self.file("signature", "");
        let hash: &[&str] = if private.contains("ed25519") {
            &[]
        } else {
            &["-digest", "sha256"]
        };
        let args = [
            "pkeyutl", "-sign", "-inkey", private, "-rawin", "-in", &input, "-out", &output,
        ];
        tool::call("openssl", &[&args[..], hash].concat())?;
        let encoded = tool::call("base64", &["-w0", &output])?;
        Ok(encoded.trim().to_owned())
    }

    /// Puts signatures where cosign does: a manifest under a tag made of the digest.
    fn attach(&self, image: &str, digest: &str, signatures: &[(String, String)]) -> Result<()> {
        let folder = self.sandbox.files().join("signatures");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).expect("folder");
        let put = |bytes: &[u8], media_type: &str| -> Value {
            let hex = layout::sha256(bytes);
            fs::write(folder.join(&hex), bytes).expect("blob");
            json!({"mediaType": media_type, "digest": format!("sha256:{hex}"), "size": bytes.len()})
        };
        let layers: Vec<Value> = signatures
            .iter()
            .map(|(payload, signature)| {
                let mut layer = put(payload.as_bytes(), SIMPLE);
                layer["annotations"] = json!({ ANNOTATION: signature });
                layer
            })
            .collect();
        let config = put(b"{}", "application/vnd.oci.image.config.v1+json");
        let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": layers});
        fs::write(folder.join("manifest.json"), manifest.to_string()).expect("manifest");
        let tag = digest.replace(':', "-");
        self.put(image, &format!("{tag}.sig"))
    }

    /// Pushes the artifact in the folder `signatures` into the image's repository.
    fn put(&self, image: &str, tag: &str) -> Result<()> {
        let folder = self.sandbox.files().join("signatures");
        let repository = image.rsplit_once(':').expect("a tag").0;
        let args = [
            "copy",
            "--quiet",
            &format!("dir:{}", folder.display()),
            &format!("docker://{repository}:{tag}"),
        ];
        // By another configuration folder: the policy under test is none of this.
        let mut command = Command::new(self.sandbox.binary());
        command
            .arg("--root")
            .arg(self.sandbox.files().join("signer"))
            .arg("--run")
            .arg(self.sandbox.run_folder());
        command.arg("--etc").arg(self.sandbox.files()).args(args);
        corten_testkit::sandbox::finish(command, b"", &args)?.ok();
        Ok(())
    }
}

fn payload(name: &str, digest: &str) -> String {
    json!({"critical": {"identity": {"docker-reference": name}, "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature"}, "optional": null})
    .to_string()
}

#[test]
fn a_signature_lets_an_image_in_by_every_door() -> Result<()> {
    let rig = Rig::new()?;
    let image = rig.registry.push(&Image::Busybox.layout()?, "signed")?;
    let digest = rig.digest(&image)?;
    let p256 = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
    let (private, public) = rig.key("p256", &p256)?;
    let claim = payload(image.rsplit_once(':').expect("a tag").0, &digest);
    rig.attach(
        &image,
        &digest,
        &[(claim.clone(), rig.sign(&private, claim.as_bytes())?)],
    )?;
    rig.require(&[&public], "");
    rig.pull(&image).ok();
    let stored = rig
        .sandbox
        .corten(&["image", "inspect", "--format", "{{.Digest}}", &image])
        .ok();
    assert_eq!(stored, digest);
    rig.sandbox.corten(&["rmi", &image]).ok();
    rig.sandbox
        .corten(&["run", "--rm", "--network", "none", &image, "true"])
        .ok();
    rig.sandbox.corten(&["rmi", &image]).ok();

    // Not by that key; not signed at all; rejected by name; and an image that nobody has a rule for.
    let (_, other) = rig.key("other", &p256)?;
    rig.require(&[&other], "");
    rig.refused(&image, "none of the keys");
    rig.require(&[&other, &public], "");
    rig.pull(&image).ok();
    rig.sandbox.corten(&["rmi", &image]).ok();
    let bare = rig.registry.push(&small(&rig.sandbox, "bare")?, "bare")?;
    rig.refused(&bare, "no signature was found");
    rig.sandbox
        .corten(&["run", "--rm", &bare, "true"])
        .fails(125)
        .names("requires a signature")
        .complete();
    rig.sandbox
        .corten(&[
            "copy",
            &format!("docker://{bare}"),
            &format!("dir:{}", rig.sandbox.files().join("out").display()),
        ])
        .fails(125)
        .names("requires a signature");
    let list = format!("{}/list:1", rig.registry.host());
    rig.sandbox
        .corten(&["manifest", "create", &list, &bare])
        .fails(125)
        .names("requires a signature");
    rig.sandbox
        .corten(&["manifest", "create", &list, &image])
        .ok();
    rig.sandbox.corten(&["manifest", "rm", &list]).ok();
    rig.policy("default = \"reject\"");
    rig.refused(&image, "rejects");
    let asked = rig.sandbox.corten(&["image", "policy", "busybox"]).ok();
    assert_eq!(asked, "reject by default");
    // Its archive comes in by no other door.
    let archive = rig.sandbox.files().join("a.tar").display().to_string();
    tool::call(
        "skopeo",
        &[
            "--insecure-policy",
            "copy",
            "--quiet",
            "--src-tls-verify=false",
            &format!("docker://{bare}"),
            &format!("oci-archive:{archive}"),
        ],
    )?;
    rig.sandbox
        .corten(&["load", "-i", &archive])
        .fails(125)
        .names("archives")
        .complete();
    rig.policy("default = \"reject\"\narchives = \"accept\"");
    rig.sandbox.corten(&["load", "-i", &archive]).ok();
    rig.sandbox.finish();
    Ok(())
}

#[test]
fn what_skopeo_signed_with_gnupg_is_accepted() -> Result<()> {
    if !std::path::Path::new("/usr/bin/gpg").exists() {
        eprintln!("skipped: GnuPG is not installed");
        return Ok(());
    }
    let rig = Rig::new()?;
    let home = tempfile_home(&rig);
    let gpg = |args: &[&str]| {
        let fixed = [
            "--homedir",
            &home,
            "--batch",
            "--quiet",
            "--pinentry-mode",
            "loopback",
            "--passphrase",
            "",
        ];
        tool::call("gpg", &[&fixed, args].concat())
    };
    gpg(&[
        "--quick-gen-key",
        "signer@example.test",
        "rsa2048",
        "sign",
        "1d",
    ])?;
    let public = rig.file("gpg.pub", "");
    gpg(&["--yes", "--armor", "--output", &public, "--export"])?;
    let lookaside = rig.sandbox.files().join("lookaside").display().to_string();
    rig.file(
        "registries.d/default.yaml",
        format!(
            "default-docker:\n  lookaside: file://{lookaside}\n  sigstore: file://{lookaside}\n"
        ),
    );
    let settings = rig
        .sandbox
        .files()
        .join("registries.d")
        .display()
        .to_string();
    let image = rig.registry.reference("signed");
    let copy = [
        "--insecure-policy",
        "--registries.d",
        &settings,
        "copy",
        "--quiet",
        "--dest-tls-verify=false",
        "--sign-by",
        "signer@example.test",
    ];
    let ends = [
        &Image::Busybox.layout()?.skopeo(),
        &format!("docker://{image}"),
    ];
    let mut command = Command::new("skopeo");
    command.args(copy).args(ends).env("GNUPGHOME", &home);
    tool::run(&mut command)?;

    let rule = |more: &str| {
        rig.policy(&format!(
            "default = \"reject\"\n[[rule]]\nnames = [\"{}/**\"]\naction = \"require\"\ngpg-keys = [\"{public}\"]\nlookaside = \"file://{lookaside}\"\n{more}",
            rig.registry.host()
        ));
    };
    rule("");
    rig.pull(&image).ok();
    rig.sandbox.corten(&["rmi", &image]).ok();

    // The same folder behind a web server.
    let web = format!("127.0.0.1:{}", corten_testkit::registry::free_port()?);
    let mut httpd = Command::new("busybox")
        .args(["httpd", "-f", "-p", &web, "-h", &lookaside])
        .spawn()
        .expect("httpd");
    corten_testkit::wait::until("a web server", super::SOON, || {
        std::net::TcpStream::connect(&web).ok()
    })?;
    rig.policy(&format!(
        "default = \"reject\"\n[[rule]]\nnames = [\"{}/**\"]\naction = \"require\"\ngpg-keys = [\"{public}\"]\nlookaside = \"http://{web}\"\n",
        rig.registry.host()
    ));
    let served = rig.pull(&image);
    let _ = httpd.kill();
    let _ = httpd.wait();
    served.ok();
    rig.sandbox.corten(&["rmi", &image]).ok();
    rig.pull(&image).fails(125).names(&web).complete();
    rule("");

    // The same bytes under another name, with the signature carried along; then under another tag.
    let digest = rig.digest(&image)?;
    let from = format!("docker://{image}");
    for name in ["other:latest", "signed:old"] {
        let target = format!("{}/{name}", rig.registry.host());
        tool::call(
            "skopeo",
            &[
                "--insecure-policy",
                "copy",
                "--quiet",
                "--src-tls-verify=false",
                "--dest-tls-verify=false",
                "--remove-signatures",
                &from,
                &format!("docker://{target}"),
            ],
        )?;
        if name.starts_with("other") {
            carry(&find(&lookaside), "signed@", "other@");
        }
        rig.refused(&target, "another name");
    }
    rule("identity = \"repository\"");
    let old = format!("{}/signed:old", rig.registry.host());
    rig.pull(&old).ok();
    rig.sandbox.corten(&["rmi", &old]).ok();
    // A byte of the message is another one.
    rule("");
    let message = find(&lookaside)
        .into_iter()
        .find(|p| p.display().to_string().contains("/signed@"))
        .expect("a signature");
    let mut bytes = fs::read(&message).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(&message, bytes).expect("write");
    rig.pull(&image)
        .fails(125)
        .names("requires a signature")
        .names(&digest)
        .complete();
    let _ = tool::call("gpgconf", &["--homedir", &home, "--kill", "all"]);
    rig.sandbox.finish();
    Ok(())
}

/// A short path of its own: GnuPG's agent has a socket there.
fn tempfile_home(rig: &Rig) -> String {
    let home = rig.sandbox.folder().join("g");
    fs::create_dir(&home).expect("folder");
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).expect("mode");
    home.display().to_string()
}

fn find(folder: &str) -> Vec<PathBuf> {
    let listed = tool::call("find", &[folder, "-type", "f"]).expect("find");
    listed.lines().map(PathBuf::from).collect()
}

fn carry(files: &[PathBuf], from: &str, to: &str) {
    for file in files {
        let target = PathBuf::from(file.display().to_string().replace(from, to));
        fs::create_dir_all(target.parent().expect("a folder")).expect("folder");
        fs::copy(file, target).expect("copy");
    }
}

#[test]
fn keys_of_every_kind_and_what_is_done_to_avoid_them() -> Result<()> {
    let rig = Rig::new()?;
    let image = rig
        .registry
        .push(&small(&rig.sandbox, "target")?, "target")?;
    let digest = rig.digest(&image)?;
    let name = image.rsplit_once(':').expect("a tag").0;
    let honest = payload(name, &digest);
    let kinds: [(&str, &[&str]); 4] = [
        (
            "p256",
            &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
        ),
        (
            "p384",
            &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
        ),
        (
            "rsa",
            &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        ),
        ("ed25519", &["-algorithm", "ed25519"]),
    ];
    let mut keys = Vec::new();
    for (kind, algorithm) in kinds {
        let (private, public) = rig.key(kind, algorithm)?;
        rig.require(&[&public], "");
        rig.attach(
            &image,
            &digest,
            &[(honest.clone(), rig.sign(&private, honest.as_bytes())?)],
        )?;
        rig.pull(&image).ok();
        rig.sandbox.corten(&["rmi", &image]).ok();
        keys.push((private, public));
    }
    let (private, public) = keys.remove(0);
    let sign = |text: &str| rig.sign(&private, text.as_bytes());
    rig.require(&[&public], "");
    let good = sign(&honest)?;
    let other_image = payload(name, &format!("sha256:{}", layout::sha256(b"other")));
    let other_name = payload(&format!("{}/elsewhere", rig.registry.host()), &digest);
    let other_tag = payload(&format!("{name}:v0"), &digest);
    let no_claim = json!({"critical": {}}).to_string();
    let wrong_kind = honest.replace("cosign container image signature", "a promise");
    let cases: Vec<(&str, Signatures, &str)> = vec![
        (
            "on another image",
            vec![(other_image.clone(), sign(&other_image)?)],
            "another image",
        ),
        (
            "for another name",
            vec![(other_name.clone(), sign(&other_name)?)],
            "another name",
        ),
        (
            "for another tag",
            vec![(other_tag.clone(), sign(&other_tag)?)],
            "another name",
        ),
        (
            "changed payload",
            vec![(honest.replace("null", "{}"), good.clone())],
            "none of the keys",
        ),
        (
            "another's signature",
            vec![(honest.clone(), rig.sign(&keys[0].0, honest.as_bytes())?)],
            "none of the keys",
        ),
        ("no base64", vec![(honest.clone(), "!!!".into())], "base64"),
        (
            "empty",
            vec![(honest.clone(), String::new())],
            "none of the keys",
        ),
        (
            "no claim",
            vec![(no_claim.clone(), sign(&no_claim)?)],
            "no claim",
        ),
        (
            "another kind",
            vec![(wrong_kind.clone(), sign(&wrong_kind)?)],
            "a promise",
        ),
        (
            "too many",
            (0..80)
                .map(|n| (format!("{honest}{}", " ".repeat(n)), good.clone()))
                .skip(1)
                .collect(),
            "more than 64",
        ),
        (
            "too large",
            vec![(format!("{honest}{}", " ".repeat(2 << 20)), good.clone())],
            "too large",
        ),
        ("none", vec![], "no signature was found"),
    ];
    for (what, signatures, why) in cases {
        rig.attach(&image, &digest, &signatures)?;
        eprintln!("case: {what}");
        rig.refused(&image, why);
    }
    // A bad one beside a good one does no harm.
    rig.attach(
        &image,
        &digest,
        &[
            (honest.clone(), "AAAA".into()),
            (honest.clone(), good.clone()),
        ],
    )?;
    rig.pull(&image).ok();
    rig.sandbox.corten(&["rmi", &image]).ok();
    // What is signed here is not signed there: the same bytes in another repository, the signature carried along.
    let copied = rig
        .registry
        .push(&small(&rig.sandbox, "target")?, "copied")?;
    assert_eq!(rig.digest(&copied)?, digest);
    rig.attach(&copied, &digest, &[(honest.clone(), good.clone())])?;
    rig.refused(&copied, "another name");
    rig.require(&[&public], "identity = \"digest\"");
    rig.pull(&copied).ok();
    rig.sandbox.corten(&["rmi", &copied]).ok();
    // A mirror, whose images were signed under their own name.
    let host = rig.registry.host();
    rig.policy(&format!(
        "default = \"reject\"\n[[rule]]\nnames = [\"{host}/copied\"]\naction = \"require\"\nkeys = [\"{public}\"]\nsigned-as = \"{host}/target\"\n"
    ));
    rig.pull(&copied).ok();
    rig.sandbox.corten(&["rmi", &copied]).ok();
    rig.sandbox.finish();
    Ok(())
}

#[test]
fn a_policy_that_cannot_be_read_stops_every_pull() -> Result<()> {
    let rig = Rig::new()?;
    let image = rig.registry.push(&small(&rig.sandbox, "plain")?, "plain")?;
    let garbage = rig.file(
        "garbage.pub",
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
    );
    let certificate = rig.file(
        "cert.pub",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    for (text, why) in [
        ("default =".to_owned(), "policy.toml"),
        ("default = \"accept\"\nrules = []".to_owned(), "rules"),
        (format!("default = \"accept\"\n[[rule]]\nnames = [\"other.test/x\"]\naction = \"require\"\nkeys = [\"{garbage}\"]"), "garbage.pub"),
        (format!("default = \"accept\"\n[[rule]]\nnames = [\"other.test/x\"]\naction = \"require\"\nkeys = [\"{certificate}\"]"), "certificate"),
        ("default = \"accept\"\n[[rule]]\nnames = [\"other.test/x\"]\naction = \"require\"\nkeys = [\"/no/such.pub\"]".to_owned(), "such.pub"),
        ("default = \"accept\"\n[[rule]]\nnames = [\"busybox\"]\naction = \"reject\"".to_owned(), "busybox"),
    ] {
        rig.policy(&text);
        rig.refused(&image, why);
    }
    rig.policy("default = \"accept\"");
    rig.pull(&image).ok();
    rig.sandbox.finish();
    Ok(())
}

#[test]
fn bundles_are_found_as_referrers() -> Result<()> {
    let rig = Rig::new()?;
    let image = rig
        .registry
        .push(&small(&rig.sandbox, "target")?, "target")?;
    let digest = rig.digest(&image)?;
    let name = image.rsplit_once(':').expect("a tag").0;
    let (private, public) = rig.key(
        "p256",
        &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
    )?;
    let attach = |statement: &Value| -> Result<()> {
        let kind = "application/vnd.in-toto+json";
        let text = statement.to_string();
        let message = format!("DSSEv1 {} {kind} {} {text}", kind.len(), text.len());
        let signature = rig.sign(&private, message.as_bytes())?;
        let input = rig.file("statement", &text);
        let payload = tool::call("base64", &["-w0", &input])?;
        let bundle_type = "application/vnd.dev.sigstore.bundle.v0.3+json";
        let bundle = json!({"mediaType": bundle_type, "verificationMaterial": {"publicKey": {"hint": "x"}},
            "dsseEnvelope": {"payload": payload.trim(), "payloadType": kind, "signatures": [{"sig": signature}]}})
        .to_string();
        let folder = rig.sandbox.files().join("signatures");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).expect("folder");
        let put = |bytes: &[u8], media_type: &str| {
            let hex = layout::sha256(bytes);
            fs::write(folder.join(&hex), bytes).expect("blob");
            json!({"mediaType": media_type, "digest": format!("sha256:{hex}"), "size": bytes.len()})
        };
        let size = tool::call(
            "skopeo",
            &[
                "inspect",
                "--raw",
                "--tls-verify=false",
                &format!("docker://{image}"),
            ],
        )?
        .len();
        let manifest_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({"schemaVersion": 2, "mediaType": manifest_type, "artifactType": bundle_type,
            "config": put(b"{}", "application/vnd.oci.empty.v1+json"), "layers": [put(bundle.as_bytes(), bundle_type)],
            "subject": {"mediaType": manifest_type, "digest": digest, "size": size}});
        fs::write(folder.join("manifest.json"), manifest.to_string()).expect("manifest");
        rig.put(&image, "bundle")
    };
    let statement = |subject: Value, predicate: &str| json!({"_type": "https://in-toto.io/Statement/v1", "subject": [subject], "predicateType": predicate, "predicate": {}});
    let sign = "https://sigstore.dev/cosign/sign/v1";
    let named = json!({"name": name, "digest": {"sha256": &digest[7..]}});
    rig.require(&[&public], "");
    for (subject, predicate, why) in [
        (
            json!({"name": name, "digest": {"sha256": "00"}}),
            sign,
            "another image",
        ),
        (named.clone(), "https://spdx.dev/Document", "no signature"),
        (
            json!({"digest": {"sha256": &digest[7..]}}),
            sign,
            "names no repository",
        ),
    ] {
        attach(&statement(subject, predicate))?;
        rig.refused(&image, why);
    }
    attach(&statement(named, sign))?;
    rig.pull(&image).ok();
    rig.sandbox.finish();
    Ok(())
}
