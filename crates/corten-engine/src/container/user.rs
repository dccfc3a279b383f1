//! `-u USER[:GROUP]` against the container's own /etc/passwd and /etc/group. Pure: the
//! files come as text, read inside the root by the caller.

use crate::error::Error;

/// Who the container's process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// Groups of /etc/group that list the user.
    pub additional_gids: Vec<u32>,
    pub home: String,
}

#[cfg(test)]
impl User {
    pub fn root() -> Self {
        Self {
            uid: 0,
            gid: 0,
            additional_gids: vec![],
            home: "/root".into(),
        }
    }
}

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// Resolves `asked` (empty: root). A name must be found; a number need not be. A group that is
/// given turns the user's additional groups off, as docker has it.
pub fn resolve(asked: &str, passwd: &str, group: &str) -> Result<User, Error> {
    let (user, wanted_group) = match asked.split_once(':') {
        Some((u, g)) => (u, Some(g).filter(|g| !g.is_empty())),
        None => (asked, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let mut entries = passwd.lines().filter_map(passwd_line);
    let number = number(user)?;
    let entry = match number {
        // Digits alone are a uid even where a user is named so, as in POSIX chown's fallback.
        Some(uid) => entries.find(|e| e.uid == uid),
        None => entries.find(|e| e.name == user),
    };
    let uid = match (number, &entry) {
        (Some(uid), _) => uid,
        (None, Some(e)) => e.uid,
        (None, None) => {
            return Err(Error::UserMissing {
                name: user.into(),
                file: "/etc/passwd",
            });
        }
    };
    let gid = match wanted_group {
        Some(g) => group_id(g, group)?,
        None => entry.as_ref().map_or(0, |e| e.gid),
    };
    let additional_gids = match (wanted_group, &entry) {
        (None, Some(e)) => groups_of(e.name, group, gid),
        _ => vec![],
    };
    let home = match &entry {
        Some(e) if !e.home.is_empty() => e.home.to_owned(),
        None if uid == 0 => "/root".into(),
        _ => "/".into(),
    };
    Ok(User {
        uid,
        gid,
        additional_gids,
        home,
    })
}

/// The groups of /etc/group that list a user, who is a name or a number; of a number that /etc/passwd does not
/// know, none.
pub fn groups(user: &str, passwd: &str, group: &str) -> Vec<u32> {
    let mut entries = passwd.lines().filter_map(passwd_line);
    let name = match user.parse::<u32>() {
        Ok(uid) => entries.find(|e| e.uid == uid).map(|e| e.name),
        Err(_) => Some(user),
    };
    // No id is the kernel's "no change", so this leaves out no group.
    name.map_or(vec![], |name| groups_of(name, group, u32::MAX))
}

/// A number of the kernel's range; -1 is "no change" to setuid(2) and so is no id.
fn number(text: &str) -> Result<Option<u32>, Error> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(n) if n <= i32::MAX as u32 => Ok(Some(n)),
        _ => Err(Error::UserNumber { text: text.into() }),
    }
}

fn group_id(text: &str, group: &str) -> Result<u32, Error> {
    if let Some(gid) = number(text)? {
        return Ok(gid);
    }
    let found = group
        .lines()
        .filter_map(group_line)
        .find(|(name, ..)| *name == text);
    found
        .map(|(_, gid, _)| gid)
        .ok_or_else(|| Error::UserMissing {
            name: text.into(),
            file: "/etc/group",
        })
}

fn groups_of(user: &str, group: &str, primary: u32) -> Vec<u32> {
    let mut gids: Vec<u32> = group
        .lines()
        .filter_map(group_line)
        .filter(|(_, gid, members)| *gid != primary && members.split(',').any(|m| m == user))
        .map(|(_, gid, _)| gid)
        .collect();
    gids.sort_unstable();
    gids.dedup();
    gids
}

/// passwd(5): `name:password:uid:gid:gecos:home:shell`. A line that is none is passed over.
fn passwd_line(line: &str) -> Option<Passwd<'_>> {
    let mut f = line.split(':');
    let name = f.next().filter(|n| !n.is_empty())?;
    let uid = f.nth(1)?.parse().ok()?;
    let gid = f.next()?.parse().ok()?;
    let home = f.nth(1).unwrap_or_default();
    Some(Passwd {
        name,
        uid,
        gid,
        home,
    })
}

/// group(5): `name:password:gid:members`.
fn group_line(line: &str) -> Option<(&str, u32, &str)> {
    let mut f = line.split(':');
    let name = f.next().filter(|n| !n.is_empty())?;
    let gid = f.nth(1)?.parse().ok()?;
    Some((name, gid, f.next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\nwww:x:33:33:www:/var/www:/bin/sh\n7:x:1007:1007::/seven:\n";
    const GROUP: &str = "root:x:0:\nwww:x:33:\nadm:x:4:www,root\ndocker:x:999:www\nbad:x:\n";

    #[test]
    fn names_and_numbers() {
        let at = |s: &str| resolve(s, PASSWD, GROUP).unwrap();
        assert_eq!(at("").uid, 0);
        assert_eq!(at("").additional_gids, [4]);
        let www = at("www");
        assert_eq!((www.uid, www.gid, www.home.as_str()), (33, 33, "/var/www"));
        assert_eq!(www.additional_gids, [4, 999]);
        assert_eq!(at("33").additional_gids, [4, 999]);
        assert_eq!(at("www:adm").gid, 4);
        assert_eq!(at("www:adm").additional_gids, Vec::<u32>::new());
        let other = at("1234:5678");
        assert_eq!(
            (other.uid, other.gid, other.home.as_str()),
            (1234, 5678, "/")
        );
        assert_eq!(at("1234").gid, 0);
        assert_eq!(at("7").uid, 7, "digits are a uid");
    }

    #[test]
    fn groups_by_name_and_by_number() {
        assert_eq!(groups("www", PASSWD, GROUP), [4, 999]);
        assert_eq!(groups("33", PASSWD, GROUP), [4, 999]);
        assert_eq!(groups("1234", PASSWD, GROUP), Vec::<u32>::new());
        assert_eq!(groups("root", "", GROUP), [4], "a name needs no entry");
    }

    #[test]
    fn what_is_missing_is_named() {
        let err = |s: &str| resolve(s, PASSWD, GROUP).unwrap_err();
        assert!(
            matches!(err("nobody"), Error::UserMissing { name, file: "/etc/passwd" } if name == "nobody")
        );
        assert!(
            matches!(err("www:no"), Error::UserMissing { name, file: "/etc/group" } if name == "no")
        );
        assert!(matches!(err("4294967295"), Error::UserNumber { .. }));
        assert!(matches!(err("0:99999999999"), Error::UserNumber { .. }));
    }
}
