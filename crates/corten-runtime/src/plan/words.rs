//! The words of mount(8), sorted by who understands them: the mount, its superblock, this runtime, or the
//! file system (config.md, "Linux mount options").

use std::path::Path;

use corten_sys::mount::{Attributes, Propagation};

use crate::error::{Error, unsupported};

/// Options sorted.
#[derive(Default)]
pub(crate) struct Options {
    pub bind: bool,
    pub recursive: bool,
    pub remount: bool,
    pub attributes: Attributes,
    pub below: Attributes,
    pub propagation: Vec<(Propagation, bool)>,
    pub copy_up: bool,
    /// Ids are to be mapped; the flag says for the mounts below as well.
    pub idmap: Option<bool>,
    /// A source that is a link becomes the same link in the container.
    pub copy_link: bool,
    /// A source that is a link is what is bound.
    pub bind_link: bool,
    /// A target that is a link is what is covered.
    pub cover_link: bool,
    /// The file system is to count changes of its files.
    pub versions: bool,
    /// For the superblock: a bind mount shares the host's.
    pub superblock: Vec<&'static str>,
    /// For the file system itself.
    pub rest: Vec<(String, Option<String>)>,
}

/// Words that are attributes of a mount, as (word, bit, set).
const ATTRIBUTES: [(&str, u64, bool); 18] = [
    ("ro", Attributes::READ_ONLY, true),
    ("rw", Attributes::READ_ONLY, false),
    ("nosuid", Attributes::NO_SUID, true),
    ("suid", Attributes::NO_SUID, false),
    ("nodev", Attributes::NO_DEV, true),
    ("dev", Attributes::NO_DEV, false),
    ("noexec", Attributes::NO_EXEC, true),
    ("exec", Attributes::NO_EXEC, false),
    ("nodiratime", Attributes::NO_DIR_ATIME, true),
    ("diratime", Attributes::NO_DIR_ATIME, false),
    ("nosymfollow", Attributes::NO_SYMLINK_FOLLOW, true),
    ("symfollow", Attributes::NO_SYMLINK_FOLLOW, false),
    ("noatime", Attributes::NO_ATIME, true),
    ("atime", Attributes::NO_ATIME, false),
    ("strictatime", Attributes::STRICT_ATIME, true),
    ("nostrictatime", Attributes::STRICT_ATIME, false),
    ("relatime", 0, true),
    ("norelatime", 0, false),
];

/// Words of the superblock, which `fsconfig` takes as flags.
const SUPERBLOCK: [&str; 5] = ["sync", "async", "dirsync", "lazytime", "nolazytime"];

/// Words without anything to do: what a mount is anyway; complaints, which come to us instead of the kernel's
/// log; and what mount(8) keeps for the boot (`fstab`).
const NOTHING: [&str; 10] = [
    "",
    "defaults",
    "nomand",
    "noiversion",
    "loud",
    "silent",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
];

/// Words that cannot be honoured. Mandatory locks left the kernel with Linux 5.15; loop devices belong to whoever
/// makes them; `user` and its like say who may run mount(8).
const REFUSED: [&str; 7] = ["mand", "loop", "user", "nouser", "users", "owner", "group"];

fn attribute(word: &str) -> Option<Attributes> {
    let (_, bit, set) = ATTRIBUTES.iter().find(|(name, ..)| *name == word)?;
    let mut attributes = Attributes::default();
    match (*bit, set) {
        // The access-time choice is one field of three values; relative, 0, is the default.
        (Attributes::NO_ATIME | Attributes::STRICT_ATIME, true) => attributes.set = *bit,
        (0, true) | (Attributes::NO_ATIME | Attributes::STRICT_ATIME, false) => {
            attributes.clear = Attributes::ATIME;
        }
        (0, false) => {}
        (bit, true) => attributes.set = bit,
        (bit, false) => attributes.clear = bit,
    }
    Some(attributes)
}

fn merge(into: &mut Attributes, new: Attributes) {
    if (new.set | new.clear) & Attributes::ATIME != 0 {
        into.set &= !Attributes::ATIME;
        into.clear &= !Attributes::ATIME;
    }
    into.add(new.set);
    into.remove(new.clear);
}

/// `rshared` and its like; the flag says recursive.
pub(crate) fn propagation(word: &str) -> Option<(Propagation, bool)> {
    let (word, recursive) = match word.strip_prefix('r') {
        Some(rest) => (rest, true),
        None => (word, false),
    };
    let kind = match word {
        "private" => Propagation::Private,
        "slave" => Propagation::Slave,
        "shared" => Propagation::Shared,
        "unbindable" => Propagation::Unbindable,
        _ => return None,
    };
    Some((kind, recursive))
}

/// Sorts words for the mount that is called `what` in messages.
pub(crate) fn sort(words: &[String], what: &Path) -> Result<Options, Error> {
    let mut options = Options::default();
    for word in words {
        if let Some(attributes) = attribute(word) {
            merge(&mut options.attributes, attributes);
        } else if let Some(kind) = propagation(word) {
            options.propagation.push(kind);
        } else if let Some(attributes) = word.strip_prefix('r').and_then(attribute) {
            merge(&mut options.below, attributes);
        } else if let Some(word) = SUPERBLOCK.iter().find(|known| *known == word) {
            options.superblock.push(word);
        } else if REFUSED.contains(&word.as_str()) {
            return Err(unsupported(format!("mount option {word:?} of {what:?}")));
        } else if !options.of_ours(word) && !nothing(word) {
            options.rest.push(match word.split_once('=') {
                Some((key, value)) => (key.into(), Some(value.into())),
                None => (word.clone(), None),
            });
        }
    }
    Ok(options)
}

fn nothing(word: &str) -> bool {
    // mount(8): comments, for programs of user space.
    NOTHING.contains(&word) || word.starts_with("x-") || word.starts_with("X-")
}

impl Options {
    /// Words for the runtime. The last four are crun's.
    fn of_ours(&mut self, word: &str) -> bool {
        match word {
            "bind" => self.bind = true,
            "rbind" => (self.bind, self.recursive) = (true, true),
            "remount" => self.remount = true,
            "idmap" => self.idmap = Some(self.idmap.unwrap_or(false)),
            "ridmap" => self.idmap = Some(true),
            "iversion" => self.versions = true,
            "tmpcopyup" => self.copy_up = true,
            "copy-symlink" => self.copy_link = true,
            "src-nofollow" => self.bind_link = true,
            "dest-nofollow" => self.cover_link = true,
            _ => return false,
        }
        true
    }
}

/// All words that are understood, sorted, for `features`.
pub(crate) fn all() -> Vec<String> {
    let mut words: Vec<String> = ATTRIBUTES.iter().map(|(word, ..)| (*word).into()).collect();
    words.extend(ATTRIBUTES.iter().map(|(word, ..)| format!("r{word}")));
    for word in ["private", "slave", "shared", "unbindable"] {
        words.push(word.into());
        words.push(format!("r{word}"));
    }
    words.extend(SUPERBLOCK.map(String::from));
    let nothing = NOTHING.iter().filter(|word| !word.is_empty());
    words.extend(nothing.map(|word| String::from(*word)));
    let ours = [
        "bind",
        "copy-symlink",
        "dest-nofollow",
        "idmap",
        "iversion",
        "rbind",
        "remount",
        "ridmap",
        "src-nofollow",
        "tmpcopyup",
    ];
    words.extend(ours.map(String::from));
    words.sort();
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of config.md, "Linux mount options", without `mand`, which is a MAY that no kernel keeps.
    const SPECIFIED: &str = "async atime bind defaults dev diratime dirsync exec iversion lazytime loud noatime nodev \
        nodiratime noexec noiversion nolazytime nomand norelatime nostrictatime nosuid nosymfollow private ratime rbind \
        rdev rdiratime relatime remount rexec rnoatime rnodiratime rnoexec rnorelatime rnostrictatime rnosuid \
        rnosymfollow ro rprivate rrelatime rro rrw rshared rslave rstrictatime rsuid rsymfollow runbindable rw shared \
        silent slave strictatime suid symfollow sync tmpcopyup unbindable idmap ridmap";

    #[test]
    fn every_word_of_the_specification_is_known() {
        let known = all();
        for word in SPECIFIED.split_whitespace() {
            assert!(known.iter().any(|k| k == word), "{word}");
            let options = sort(&[word.into()], Path::new("/")).unwrap();
            assert!(options.rest.is_empty(), "{word}");
        }
    }

    #[test]
    fn no_word_is_listed_that_is_not_understood() {
        for word in all() {
            let options = sort(std::slice::from_ref(&word), Path::new("/")).unwrap();
            assert!(options.rest.is_empty(), "{word}");
        }
    }

    #[test]
    fn the_last_of_two_that_exclude_each_other_counts() {
        let of = |text: &str| {
            let words: Vec<String> = text.split(',').map(String::from).collect();
            sort(&words, Path::new("/")).unwrap().attributes
        };
        assert_eq!(of("ro,rw").set, 0);
        assert_eq!(of("rw,ro").set, Attributes::READ_ONLY);
        assert_eq!(of("noatime,strictatime").set, Attributes::STRICT_ATIME);
        assert_eq!(of("noatime,relatime").set & Attributes::ATIME, 0);
    }

    #[test]
    fn what_cannot_be_honoured_is_named() {
        for word in REFUSED {
            let error = sort(&[word.into()], Path::new("/x")).err().unwrap();
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
