//! Generated images: three layers of whatever a build can do to a tree, seen by us as umoci unpacks them.

use std::collections::{BTreeMap, BTreeSet};

use corten_store::snapshot::conformance;
use corten_store::snapshot::conformance::archive::{Archive, Item};

use crate::fixture::{FORMS, Sandbox, noise};
use crate::peers::{umoci, view_of};

/// Draws numbers out of a fixed sequence.
struct Dice(std::vec::IntoIter<u8>);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(noise(100_000, seed).into_iter())
    }

    fn below(&mut self, n: usize) -> usize {
        let (a, b) = (self.0.next().unwrap(), self.0.next().unwrap());
        usize::from(u16::from_le_bytes([a, b])) % n
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        match from.len() {
            0 => None,
            n => Some(&from[self.below(n)]),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Folder,
    File,
    Symlink,
}

/// The merged tree so far.
type Tree = BTreeMap<String, Kind>;

fn below<'a>(tree: &'a Tree, path: &str) -> Vec<&'a String> {
    let prefix = format!("{path}/");
    tree.keys().filter(|p| p.starts_with(&prefix)).collect()
}

fn remove(tree: &mut Tree, path: &str) {
    let gone: Vec<String> = below(tree, path).into_iter().cloned().collect();
    for p in gone.iter().chain([&path.to_owned()]) {
        tree.remove(p);
    }
}

fn item(dice: &mut Dice, path: &str, flag: u8) -> Item {
    let modes = [0o644, 0o755, 0o700, 0o4711, 0o2770, 0o1777, 0];
    let mut item = Item::new(path, flag)
        .mode(modes[dice.below(modes.len())])
        .owner(
            [0, 1000, 70_000, 3_000_000][dice.below(4)],
            dice.below(200_000) as u32,
        )
        .mtime(
            dice.below(60_000) as i64 * 30_000,
            dice.below(3) as u32 * 333_333_333,
        );
    // Only root may have user.* xattrs on anything but files and folders.
    if flag != b'2' && dice.below(4) == 0 {
        item = item.xattr(
            ["user.a", "user.b"][dice.below(2)],
            noise(dice.below(300) + 1, 5),
        );
    }
    item
}

/// One layer on top of `tree`, which it changes.
fn layer(dice: &mut Dice, tree: &mut Tree) -> Vec<u8> {
    let mut out = Archive::new().item(item(dice, "./", b'5'));
    // What this layer has said already: a path is named, hidden or implied once.
    let mut said = BTreeSet::new();
    let mut files: Vec<String> = Vec::new();
    for _ in 0..dice.below(25) + 3 {
        let folders: Vec<String> = tree
            .iter()
            .filter(|(_, k)| **k == Kind::Folder)
            .map(|(p, _)| p.clone())
            .chain([String::new()])
            .collect();
        let parent = dice.pick(&folders).unwrap().clone();
        let name = ["a", "b", "c", "d", ".e", "f g"][dice.below(6)];
        let path = match parent.as_str() {
            "" => name.to_owned(),
            p => format!("{p}/{name}"),
        };
        let taken = |p: &str| {
            said.contains(p)
                || said
                    .iter()
                    .any(|s: &String| s.starts_with(&format!("{p}/")))
        };
        if taken(&path) {
            continue;
        }
        let there = tree.get(&path).copied();
        match dice.below(10) {
            0..=2 => {
                out = out.item(item(dice, &path, b'5'));
                if there != Some(Kind::Folder) {
                    remove(tree, &path);
                }
                tree.insert(path.clone(), Kind::Folder);
            }
            3..=5 => {
                let data = noise(dice.below(3000), 9);
                out = out.item(item(dice, &path, b'0').data(data));
                remove(tree, &path);
                tree.insert(path.clone(), Kind::File);
                files.push(path.clone());
            }
            6 => {
                let target = ["a", "../b", "/c/d", "nowhere"][dice.below(4)];
                out = out.item(item(dice, &path, b'2').mode(0o777).link(target));
                remove(tree, &path);
                tree.insert(path.clone(), Kind::Symlink);
            }
            7 => {
                // Of this layer or of one below.
                let lower: Vec<String> = tree
                    .iter()
                    .filter(|(p, k)| {
                        **k == Kind::File && **p != path && !p.starts_with(&format!("{path}/"))
                    })
                    .map(|(p, _)| p.clone())
                    .collect();
                let from = if dice.below(2) == 0 { &lower } else { &files };
                let Some(target) = dice.pick(from) else {
                    continue;
                };
                let within = target.starts_with(&format!("{path}/"));
                if *target == path || within || tree.get(target) != Some(&Kind::File) {
                    continue;
                }
                out = out.hardlink(&path, target);
                // The target must not go in this layer: in order, the link would come too late or too early.
                said.insert(target.clone());
                remove(tree, &path);
                tree.insert(path.clone(), Kind::File);
            }
            8 if there.is_some() => {
                out = out.whiteout(if parent.is_empty() { "." } else { &parent }, name);
                remove(tree, &path);
            }
            9 if there == Some(Kind::Folder) => {
                out = out.item(item(dice, &path, b'5')).opaque(&path);
                for p in below(tree, &path).into_iter().cloned().collect::<Vec<_>>() {
                    tree.remove(&p);
                }
            }
            _ => continue,
        }
        said.insert(path);
    }
    out.finish()
}

#[test]
fn umoci_sees_what_we_see() {
    let sandboxes = FORMS.map(Sandbox::of);
    for seed in 0..50 {
        let mut dice = Dice::new(seed);
        let mut tree = Tree::new();
        let layers: Vec<Vec<u8>> = (0..3).map(|_| layer(&mut dice, &mut tree)).collect();
        let folder = tempfile::tempdir().unwrap();
        let theirs = view_of(&umoci(folder.path(), &layers));
        for (sandbox, form) in sandboxes.iter().zip(FORMS) {
            let store = &sandbox.store;
            let ours = conformance::merged(store, &store.snapshotter(), &layers).unwrap();
            assert_eq!(ours, theirs, "image {seed}, {form:?}");
            assert_eq!(ours.lines().count(), tree.len() + 1, "image {seed}");
        }
    }
}
