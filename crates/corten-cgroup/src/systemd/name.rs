//! Names of units, and where systemd puts their groups (systemd.slice(5), systemd.unit(5)).

use crate::Error;

/// A container's unit: a scope in a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// `machine.slice`.
    pub slice: String,
    /// `corten-web.scope`.
    pub unit: String,
}

impl Scope {
    /// Of `linux.cgroupsPath` in the form that runc gave it, `SLICE:PREFIX:NAME`. An empty path gives the
    /// container a name of its own, an empty slice the manager's usual one.
    pub fn parse(path: &str, id: &str, user: bool) -> Result<Self, Error> {
        let usual = if user { "user.slice" } else { "system.slice" };
        let bad = |reason| Error::Path {
            path: path.into(),
            reason,
        };
        if path.is_empty() {
            return Ok(Self {
                slice: usual.into(),
                // A container's id may have a plus sign, a unit's name may not.
                unit: format!("corten-{}.scope", id.replace('+', r"\x2b")),
            });
        }
        let parts: Vec<&str> = path.split(':').collect();
        let [slice, prefix, name] = parts[..] else {
            return Err(bad(
                "with the systemd cgroup driver it must be SLICE:PREFIX:NAME",
            ));
        };
        if name.is_empty() {
            return Err(bad("it has no name after the second colon"));
        }
        if name.ends_with(".slice") {
            return Err(bad("a container is a scope, not a slice"));
        }
        let unit = format!("{prefix}-{name}.scope");
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.\\@".contains(c);
        if unit.len() > 255 || !unit.chars().all(plain) {
            return Err(bad("a unit's name is up to 255 letters, digits and -_.\\@"));
        }
        let slice = if slice.is_empty() { usual } else { slice };
        let scope = Self {
            slice: slice.into(),
            unit,
        };
        slice_path(&scope.slice).map_err(|_| {
            bad("a slice's name is made of names with one dash between, and ends in .slice")
        })?;
        Ok(scope)
    }

    /// The group's path below the root of every hierarchy, in a manager that lives at `root` (`""` for the
    /// host's).
    pub fn path(&self, root: &str) -> Result<String, Error> {
        Ok(format!(
            "{}{}/{}",
            root.trim_end_matches('/'),
            slice_path(&self.slice)?,
            self.unit
        ))
    }
}

/// The group of a slice: `a-b.slice` is in `a.slice`, so `/a.slice/a-b.slice`. `-.slice` is the root, `""`.
pub fn slice_path(slice: &str) -> Result<String, Error> {
    let bad = |reason| Error::Path {
        path: slice.into(),
        reason,
    };
    let stem = slice
        .strip_suffix(".slice")
        .ok_or_else(|| bad("a slice's name ends in .slice"))?;
    if stem == "-" {
        return Ok(String::new());
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.\\@".contains(c);
    let mut path = String::new();
    let mut name = String::new();
    for part in stem.split('-') {
        if part.is_empty() || !part.chars().all(plain) || slice.len() > 255 {
            return Err(bad("it is no slice's name"));
        }
        if !name.is_empty() {
            name.push('-');
        }
        name.push_str(part);
        path.push_str(&format!("/{name}.slice"));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_three_parts_names_a_scope_in_its_slices() {
        for (path, user, group) in [
            ("", false, "/system.slice/corten-web.scope"),
            ("", true, "/user.slice/corten-web.scope"),
            (
                "machine.slice:libpod:1f",
                false,
                "/machine.slice/libpod-1f.scope",
            ),
            (":crio:1f", false, "/system.slice/crio-1f.scope"),
            ("-.slice:a:b", false, "/a-b.scope"),
            (
                "kubepods-burstable-pod1_2.slice:cri:x",
                false,
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/cri-x.scope",
            ),
        ] {
            let scope = Scope::parse(path, "web", user).unwrap();
            assert_eq!(scope.path("").unwrap(), group, "{path}");
        }
        let scope = Scope::parse("", "a+b", false).unwrap();
        assert_eq!(scope.unit, r"corten-a\x2bb.scope");
        let home = "/user.slice/user-1000.slice/user@1000.service";
        let path = scope.path(home).unwrap();
        assert!(path.starts_with(&format!("{home}/system.slice/")), "{path}");
    }

    #[test]
    fn other_forms_are_refused() {
        for path in [
            "/corten/web",
            "web",
            "a.slice:b",
            "a.slice:b:c:d",
            "a.slice:b:",
            "a:b:c",
            "a--b.slice:b:c",
            "-a.slice:b:c",
            "a-.slice:b:c",
            ".slice:b:c",
            "a/b.slice:b:c",
            "../a.slice:b:c",
            "a.slice:b:../../c",
            "a.slice:b:c d",
            "a.slice:b:c.slice",
            "a.slice:b:c\n",
        ] {
            let error = Scope::parse(path, "web", false).unwrap_err();
            assert!(matches!(error, Error::Path { .. }), "{path}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_path_leaves_its_root(path in r"[a-z.:/\\-]{0,24}") {
            if let Ok(scope) = Scope::parse(&path, "web", false) {
                let group = scope.path("/r").unwrap();
                proptest::prop_assert!(crate::group::checked(&group).is_ok(), "{}", group);
                proptest::prop_assert!(group.starts_with("/r/"));
            }
        }
    }
}
