//! Layers, and what must be seen of them merged.

use super::archive::{Archive, Item};

/// Some layers, bottom first, and their merged view.
pub struct Case {
    pub name: &'static str,
    pub layers: Vec<Vec<u8>>,
    pub expected: String,
    /// Why an engine that unpacks in order into one folder may see something else; empty where it must not.
    pub in_order: &'static str,
}

const T: &str = "1000000000.000000000";

fn case(name: &'static str, layers: Vec<Archive>, expected: &[&str]) -> Case {
    let root = "d 0755 0:0 T .";
    let lines = match expected.first() {
        Some(first) if first.ends_with(" .") => expected.to_vec(),
        _ => [&[root], expected].concat(),
    };
    Case {
        name,
        layers: layers
            .into_iter()
            .map(|a| a.after_root().finish())
            .collect(),
        expected: lines
            .iter()
            .map(|l| l.replacen(" T ", &format!(" {T} "), 1) + "\n")
            .collect(),
        in_order: "",
    }
}

impl Case {
    fn unlike_in_order(mut self, why: &'static str) -> Self {
        self.in_order = why;
        self
    }

    /// The layers as they are, without a root entry in each.
    fn without_root(mut self, layers: Vec<Archive>) -> Self {
        self.layers = layers.into_iter().map(Archive::finish).collect();
        self
    }
}

/// All cases.
pub fn cases() -> Vec<Case> {
    [plain(), hiding(), replacing(), linking(), implying(), odd()]
        .into_iter()
        .flatten()
        .collect()
}

fn plain() -> Vec<Case> {
    let n = Archive::new;
    let caps = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    vec![
        case("nothing at all", vec![], &["d 0755 0:0 0.000000000 ."]).without_root(vec![]),
        case("an empty layer", vec![], &["d 0755 0:0 0.000000000 ."]).without_root(vec![n()]),
        case(
            "every type, and modes that chown would take away",
            vec![
                n().item(Item::new("d", b'5').mode(0o1777).owner(1, 2))
                    .item(Item::new("d/f", b'0').mode(0o6755).owner(3, 4).data("x"))
                    .item(Item::new("d/l", b'2').owner(5, 6).link("/no/where"))
                    .item(Item::new("d/c", b'3').mode(0o620).device(5, 1).owner(0, 5))
                    .item(Item::new("d/b", b'4').mode(0o660).device(259, 70_000))
                    .item(Item::new("d/p", b'6').mode(0o600)),
            ],
            &[
                "d 1777 1:2 T d",
                "b 0660 0:0 T d/b 259:70000",
                "c 0620 0:5 T d/c 5:1",
                "f 6755 3:4 T d/f \"x\"",
                "l 0777 5:6 T d/l -> /no/where",
                "p 0600 0:0 T d/p",
            ],
        ),
        case(
            "times to the nanosecond, before the epoch too, and of folders that were filled later",
            vec![
                n().item(Item::new("d", b'5').mtime(1_234_567_890, 123_456_789))
                    .item(Item::new("d/e", b'5').mtime(7, 1))
                    .item(Item::new("d/f", b'0').mtime(-2, 750_000_000))
                    .item(Item::new("x", b'0').mtime(1_600_000_000, 999_999_999))
                    .item(Item::new("d/e/g", b'0').mtime(0, 0))
                    .item(Item::new("l", b'2').link("x").mtime(11, 12)),
            ],
            &[
                "d 0755 0:0 1234567890.123456789 d",
                "d 0755 0:0 7.000000001 d/e",
                "f 0644 0:0 0.000000000 d/e/g \"\"",
                "f 0644 0:0 -2.750000000 d/f \"\"",
                "l 0777 0:0 11.000000012 l -> x",
                "f 0644 0:0 1600000000.999999999 x \"\"",
            ],
        ),
        case(
            "ids of more than 16 and 21 bits",
            vec![
                n().item(Item::new("a", b'0').owner(65_536, 100_000))
                    .item(Item::new("b", b'0').owner(3_000_000, 4_294_967_294)),
            ],
            &[
                "f 0644 65536:100000 T a \"\"",
                "f 0644 3000000:4294967294 T b \"\"",
            ],
        ),
        case(
            "xattrs, of a capability after its owner too",
            vec![
                n().item(
                    Item::new("a", b'0')
                        .owner(7, 7)
                        .xattr("user.one", "1\n2")
                        .xattr("security.capability", caps.as_slice()),
                )
                .item(Item::new("d", b'5').xattr("user.bytes", b"\0=\xff".as_slice()))
                .item(Item::new("l", b'2').link("a").xattr("trusted.t", "t")),
            ],
            &[
                "f 0644 7:7 T a [security.capability=\\x01\\x00\\x00\\x02\\x00\\x04\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00] [user.one=1\\n2] \"\"",
                "d 0755 0:0 T d [user.bytes=\\x00=\\xff]",
                "l 0777 0:0 T l [trusted.t=t] -> a",
            ],
        ),
    ]
}

fn hiding() -> Vec<Case> {
    let n = Archive::new;
    let base = || {
        n().folder("d")
            .file("d/a", "a")
            .file("d/b", "b")
            .folder("d/s")
            .file("d/s/x", "x")
            .file("f", "f")
    };
    vec![
        case(
            "whiteouts of a file and of a folder",
            vec![
                base(),
                n().folder("d")
                    .whiteout("d", "a")
                    .whiteout("d", "s")
                    .whiteout(".", "f"),
            ],
            &["d 0755 0:0 T d", "f 0644 0:0 T d/b \"b\""],
        ),
        case(
            "a whiteout of what is not there",
            vec![base(), n().whiteout(".", "g")],
            &[
                "d 0755 0:0 T d",
                "f 0644 0:0 T d/a \"a\"",
                "f 0644 0:0 T d/b \"b\"",
                "d 0755 0:0 T d/s",
                "f 0644 0:0 T d/s/x \"x\"",
                "f 0644 0:0 T f \"f\"",
            ],
        ),
        case(
            "an opaque folder keeps its own layer's names, before and after the mark",
            vec![
                base(),
                n().folder("d")
                    .file("d/one", "1")
                    .opaque("d")
                    .file("d/two", "2"),
            ],
            &[
                "d 0755 0:0 T d",
                "f 0644 0:0 T d/one \"1\"",
                "f 0644 0:0 T d/two \"2\"",
                "f 0644 0:0 T f \"f\"",
            ],
        ),
        case(
            "an opaque root",
            vec![base(), n().file("new", "").opaque(".")],
            &["f 0644 0:0 T new \"\""],
        ),
        case(
            "hidden, and there again in a third layer",
            vec![
                base(),
                n().whiteout(".", "d"),
                n().folder("d").file("d/c", "c"),
            ],
            &[
                "d 0755 0:0 T d",
                "f 0644 0:0 T d/c \"c\"",
                "f 0644 0:0 T f \"f\"",
            ],
        ),
        case(
            "a whiteout of what the same layer brings means: in place of, whichever comes first",
            vec![
                base(),
                n().whiteout(".", "d")
                    .item(Item::new("d", b'5').mode(0o700))
                    .file("d/new", "n")
                    .file("f", "other")
                    .whiteout(".", "f"),
            ],
            &[
                "d 0700 0:0 T d",
                "f 0644 0:0 T d/new \"n\"",
                "f 0644 0:0 T f \"other\"",
            ],
        ),
        case(
            "the same with the folder first",
            vec![
                base(),
                n().folder("d").file("d/new", "n").whiteout(".", "d"),
            ],
            &[
                "d 0755 0:0 T d",
                "f 0644 0:0 T d/new \"n\"",
                "f 0644 0:0 T f \"f\"",
            ],
        )
        .unlike_in_order("it touches the folder, and so its time"),
        case(
            "the bookkeeping of AUFS is no part of an image",
            vec![
                n().folder(".wh..wh.plnk")
                    .file(".wh..wh.plnk/1.2", "")
                    .file(".wh..wh.aufs", "")
                    .file("a", ""),
            ],
            &["f 0644 0:0 T a \"\""],
        )
        .unlike_in_order("it takes those for folders and files of the image"),
    ]
}

fn replacing() -> Vec<Case> {
    let n = Archive::new;
    vec![
        case(
            "a file over a folder, a folder over a file, a symlink over both",
            vec![
                n().folder("a")
                    .file("a/x", "")
                    .file("b", "")
                    .folder("c")
                    .file("c/x", "")
                    .file("d", ""),
                n().file("a", "now a file")
                    .folder("b")
                    .file("b/y", "")
                    .symlink("c", "b")
                    .symlink("d", "b"),
            ],
            &[
                "f 0644 0:0 T a \"now a file\"",
                "d 0755 0:0 T b",
                "f 0644 0:0 T b/y \"\"",
                "l 0777 0:0 T c -> b",
                "l 0777 0:0 T d -> b",
            ],
        ),
        case(
            "the last of several entries of one name wins, whatever their types",
            vec![
                n().file("a", "1")
                    .file("a", "2")
                    .folder("b")
                    .file("b/x", "")
                    .file("b", "file")
                    .file("c", "")
                    .folder("c")
                    .file("c/in", "")
                    .symlink("d", "a")
                    .file("d", "no symlink")
                    .item(Item::new("e", b'5').mode(0o700).xattr("user.old", "1"))
                    .file("e/kept", "")
                    .item(Item::new("e", b'5').mode(0o711).mtime(5, 0)),
            ],
            &[
                "f 0644 0:0 T a \"2\"",
                "f 0644 0:0 T b \"file\"",
                "d 0755 0:0 T c",
                "f 0644 0:0 T c/in \"\"",
                "f 0644 0:0 T d \"no symlink\"",
                "d 0711 0:0 5.000000000 e",
                "f 0644 0:0 T e/kept \"\"",
            ],
        ),
        case(
            "a name written again is no way into another one's inode",
            vec![n().file("a", "a").hardlink("b", "a").file("b", "b")],
            &["f 0644 0:0 T a \"a\"", "f 0644 0:0 T b \"b\""],
        ),
        case(
            "the upper layer's word on a folder and on the root",
            vec![
                n().item(
                    Item::new("d", b'5')
                        .mode(0o700)
                        .owner(1, 1)
                        .xattr("user.x", "low"),
                ),
                n().item(Item::new("./", b'5').mode(0o711).owner(8, 9).mtime(3, 4))
                    .item(Item::new("d", b'5').mode(0o750).owner(2, 2).mtime(9, 0)),
            ],
            &["d 0711 8:9 3.000000004 .", "d 0750 2:2 9.000000000 d"],
        ),
    ]
}

fn linking() -> Vec<Case> {
    let n = Archive::new;
    vec![
        case(
            "hard links to a file, a symlink and a device",
            vec![
                n().file("a", "a")
                    .hardlink("b", "a")
                    .hardlink("c", "./b")
                    .symlink("s", "a")
                    .hardlink("t", "s")
                    .item(Item::new("n", b'3').device(1, 3))
                    .hardlink("m", "/n"),
            ],
            &[
                "f 0644 0:0 T a \"a\" = a",
                "f 0644 0:0 T b \"a\" = a",
                "f 0644 0:0 T c \"a\" = a",
                "c 0644 0:0 T m 1:3 = m",
                "c 0644 0:0 T n 1:3 = m",
                "l 0777 0:0 T s -> a = s",
                "l 0777 0:0 T t -> a = s",
            ],
        ),
        case(
            "a hard link to a file of a lower layer, and one to that link",
            vec![
                n().folder("d")
                    .item(Item::new("d/a", b'0').mode(0o4711).owner(1, 1).data("low")),
                n().file("z", ""),
                n().folder("e").hardlink("e/b", "d/a").hardlink("c", "e/b"),
            ],
            &[
                "f 4711 1:1 T c \"low\" = c",
                "d 0755 0:0 T d",
                "f 4711 1:1 T d/a \"low\" = c",
                "d 0755 0:0 T e",
                "f 4711 1:1 T e/b \"low\" = c",
                "f 0644 0:0 T z \"\"",
            ],
        ),
        case(
            "a renamed file: a hard link to what the same layer hides",
            vec![
                n().file("old", "x"),
                n().hardlink("new", "old").whiteout(".", "old"),
            ],
            &["f 0644 0:0 T new \"x\""],
        ),
        case(
            "a hard link to a lower file, taken back",
            vec![n().file("a", "a"), n().hardlink("b", "a").file("b", "own")],
            &["f 0644 0:0 T a \"a\"", "f 0644 0:0 T b \"own\""],
        ),
    ]
}

fn implying() -> Vec<Case> {
    let n = Archive::new;
    let private = || {
        n().item(
            Item::new("p", b'5')
                .mode(0o700)
                .owner(5, 6)
                .mtime(77, 0)
                .xattr("user.x", "low"),
        )
        .item(Item::new("p/q", b'5').mode(0o2711).owner(7, 8).mtime(78, 9))
    };
    vec![
        case(
            "folders that no layer names",
            vec![n().file("a/b/c", "")],
            &[
                "d 0755 0:0 0.000000000 a",
                "d 0755 0:0 0.000000000 a/b",
                "f 0644 0:0 T a/b/c \"\"",
            ],
        )
        .unlike_in_order("it gives them the time of unpacking"),
        case(
            "folders that only a lower layer names keep its attributes",
            vec![private(), n().file("p/q/f", "")],
            &[
                "d 0700 5:6 77.000000000 p [user.x=low]",
                "d 2711 7:8 78.000000009 p/q",
                "f 0644 0:0 T p/q/f \"\"",
            ],
        ),
        case(
            "and so they do two layers up, past one that names one of them",
            vec![
                private(),
                n().item(Item::new("p", b'5').mode(0o711).mtime(1, 0)),
                n().file("p/q/f", ""),
            ],
            &[
                "d 0711 0:0 1.000000000 p",
                "d 2711 7:8 78.000000009 p/q",
                "f 0644 0:0 T p/q/f \"\"",
            ],
        ),
        case(
            "a whiteout in an implied folder",
            vec![private().file("p/x", ""), n().whiteout("p", "x")],
            &[
                "d 0700 5:6 77.000000000 p [user.x=low]",
                "d 2711 7:8 78.000000009 p/q",
            ],
        ),
        case(
            "an implied folder that is opaque",
            vec![private().file("p/x", ""), n().opaque("p").file("p/y", "")],
            &[
                "d 0700 5:6 77.000000000 p [user.x=low]",
                "f 0644 0:0 T p/y \"\"",
            ],
        ),
        case(
            "named after it was implied",
            vec![
                private(),
                n().file("p/f", "")
                    .item(Item::new("p", b'5').mode(0o701).mtime(2, 0)),
            ],
            &[
                "d 0701 0:0 2.000000000 p",
                "f 0644 0:0 T p/f \"\"",
                "d 2711 7:8 78.000000009 p/q",
            ],
        ),
        case(
            "a root that only the lowest layer names",
            vec![],
            &["d 0750 3:4 6.000000000 .", "f 0644 0:0 T a \"\""],
        )
        .without_root(vec![
            n().item(Item::new("./", b'5').mode(0o750).owner(3, 4).mtime(6, 0)),
            n().file("a", ""),
        ]),
        case(
            "an implied folder that is a symlink below",
            vec![
                n().folder("usr")
                    .item(Item::new("usr/bin", b'5').mode(0o711).mtime(4, 0))
                    .file("usr/bin/a", "a")
                    .symlink("bin", "usr/bin"),
                n().file("bin/b", "b")
                    .item(Item::new("bin/sub", b'5').mode(0o700))
                    .file("bin/sub/c", "c")
                    .whiteout("bin", "a"),
            ],
            &[
                "l 0777 0:0 T bin -> usr/bin",
                "d 0755 0:0 T usr",
                "d 0711 0:0 4.000000000 usr/bin",
                "f 0644 0:0 T usr/bin/b \"b\"",
                "d 0700 0:0 T usr/bin/sub",
                "f 0644 0:0 T usr/bin/sub/c \"c\"",
            ],
        ),
        case(
            "an absolute symlink below, and one through another",
            vec![
                n().folder("usr")
                    .item(Item::new("usr/lib", b'5').mtime(4, 0))
                    .symlink("lib", "/usr/lib")
                    .symlink("lib64", "lib"),
                n().file("lib64/x", "x"),
            ],
            &[
                "l 0777 0:0 T lib -> /usr/lib",
                "l 0777 0:0 T lib64 -> lib",
                "d 0755 0:0 T usr",
                "d 0755 0:0 4.000000000 usr/lib",
                "f 0644 0:0 T usr/lib/x \"x\"",
            ],
        ),
    ]
}

fn odd() -> Vec<Case> {
    let n = Archive::new;
    vec![
        case(
            "an absolute name is one below the root",
            vec![
                n().item(Item::new("/abs", b'5').mtime(3, 0))
                    .file("/abs/f", "f"),
            ],
            &["d 0755 0:0 3.000000000 abs", "f 0644 0:0 T abs/f \"f\""],
        ),
        case(
            "a symlink of the same layer, followed inside",
            vec![
                n().folder("real")
                    .item(Item::new("real/in", b'5').mtime(3, 0))
                    .symlink("way", "real/../real")
                    .file("way/in/f", "f"),
            ],
            &[
                "d 0755 0:0 T real",
                "d 0755 0:0 3.000000000 real/in",
                "f 0644 0:0 T real/in/f \"f\"",
                "l 0777 0:0 T way -> real/../real",
            ],
        ),
        case(
            "names with spaces, newlines, and no UTF-8",
            vec![n().item(Item {
                path: b"a \n\xff\\".to_vec(),
                ..Item::default()
            })],
            &["f 0644 0:0 T a \\n\\xff\\\\ \"\""],
        ),
        case(
            "the overlay's own xattrs are not for a layer to set",
            vec![
                n().folder("d").file("d/a", ""),
                n().item(
                    Item::new("d", b'5')
                        .xattr("trusted.overlay.opaque", "y")
                        .xattr("user.overlay.redirect", "/etc"),
                ),
            ],
            &["d 0755 0:0 T d", "f 0644 0:0 T d/a \"\""],
        ),
        case(
            "labels of the host's policy are the host's",
            vec![n().item(Item::new("a", b'0').xattr("security.selinux", "u:r:t:s0"))],
            &["f 0644 0:0 T a \"\""],
        ),
    ]
}
