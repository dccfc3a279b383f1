//! Where systemd is to be reached.

use super::client::Address;

/// Tried in this order; `true`: systemd itself, without a bus. That one works before the bus is up, and
/// where none is installed.
pub(crate) fn of_host() -> Vec<(Address, bool)> {
    vec![
        (Address::Path("/run/dbus/system_bus_socket".into()), false),
        (Address::Path("/run/systemd/private".into()), true),
    ]
}

/// The places of a user's manager. `environment` looks a variable up.
pub(crate) fn of_user(environment: impl Fn(&str) -> Option<String>) -> Vec<(Address, bool)> {
    let mut places = Vec::new();
    if let Some(given) = environment("DBUS_SESSION_BUS_ADDRESS") {
        places.extend(given.split(';').filter_map(address).map(|a| (a, false)));
    }
    if let Some(folder) = environment("XDG_RUNTIME_DIR").filter(|f| f.starts_with('/')) {
        places.push((Address::Path(format!("{folder}/bus")), false));
        places.push((Address::Path(format!("{folder}/systemd/private")), true));
    }
    places
}

/// One address of a list: `unix:path=/run/user/1000/bus,guid=…`. Other transports are not for us.
fn address(text: &str) -> Option<Address> {
    let pairs = text.trim().strip_prefix("unix:")?;
    pairs.split(',').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        match key {
            "path" => unescaped(value).map(Address::Path),
            "abstract" => unescaped(value).map(Address::Abstract),
            _ => None,
        }
    })
}

/// `%20` is a space.
fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        rest = more;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let hex = std::str::from_utf8(rest.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(hex, 16).ok()?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok().filter(|s| !s.contains('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_bus_is_where_its_environment_says() {
        let given = "tcp:host=x;unix:guid=1,path=/a%20b;unix:abstract=/tmp/x,guid=2;unix:path=%zz";
        let places = of_user(|name| match name {
            "DBUS_SESSION_BUS_ADDRESS" => Some(given.into()),
            _ => Some("/run/user/7".into()),
        });
        let places: Vec<String> = places.iter().map(|(a, d)| format!("{a} {d}")).collect();
        assert_eq!(
            places,
            [
                "/a b false",
                "@/tmp/x false",
                "/run/user/7/bus false",
                "/run/user/7/systemd/private true"
            ]
        );
        assert!(of_user(|_| None).is_empty());
    }

    proptest::proptest! {
        #[test]
        fn no_address_makes_it_panic(text in "(unix:(path|abstract)=)?.{0,20}") {
            let _ = of_user(|_| Some(text.clone()));
        }
    }
}
