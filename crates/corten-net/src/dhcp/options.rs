//! The options that a network's configuration names, to be sent (`provide`) or asked for
//! (`request`). Pure.

use serde::{Deserialize, Serialize};

use super::message::code;
use crate::Error;

/// The names of the reference plugin, and some that its users write as numbers.
const NAMES: [(&str, u8); 16] = [
    ("subnet-mask", code::SUBNET_MASK),
    ("routers", code::ROUTERS),
    ("domain-name-servers", code::NAME_SERVERS),
    ("host-name", code::HOST_NAME),
    ("domain-name", code::DOMAIN_NAME),
    ("interface-mtu", code::MTU),
    ("broadcast-address", 28),
    ("static-routes", code::STATIC_ROUTES),
    ("ntp-servers", 42),
    ("dhcp-lease-time", code::LEASE_TIME),
    ("dhcp-renewal-time", code::RENEWAL_TIME),
    ("vendor-class-identifier", 60),
    ("dhcp-client-identifier", code::CLIENT_ID),
    ("user-class", 77),
    ("domain-search", 119),
    ("classless-static-routes", code::CLASSLESS_ROUTES),
];

/// Asked for unless the configuration says otherwise. Option 121 comes before 3 (RFC 3442).
const DEFAULTS: [u8; 7] = [
    code::SUBNET_MASK,
    code::CLASSLESS_ROUTES,
    code::ROUTERS,
    code::STATIC_ROUTES,
    code::NAME_SERVERS,
    code::DOMAIN_NAME,
    code::MTU,
];

/// What the protocol itself writes: a configuration may not.
const RESERVED: [u8; 8] = [
    code::PAD,
    code::REQUESTED_ADDRESS,
    code::OVERLOAD,
    code::MESSAGE_TYPE,
    code::SERVER_ID,
    code::PARAMETERS,
    code::MESSAGE,
    code::END,
];

/// What is sent of one option, in all.
const MAX_VALUE: usize = 255;
const MAX_OPTIONS: usize = 32;

/// An entry of `ipam.provide`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Provide {
    pub option: String,
    #[serde(default)]
    pub value: String,
    /// The name of one of `CNI_ARGS`, whose value it is.
    #[serde(default)]
    pub from_arg: String,
}

/// An entry of `ipam.request`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    #[serde(default)]
    pub option: String,
    /// Nothing is asked for that is not listed.
    #[serde(default)]
    pub skip_default: bool,
}

fn refuse(value: &str, reason: &str) -> Error {
    Error::Invalid {
        what: "DHCP option",
        value: value.chars().take(64).collect(),
        reason: reason.into(),
    }
}

fn code_of(name: &str) -> Result<u8, Error> {
    let known = NAMES.iter().find(|(n, _)| *n == name).map(|(_, c)| *c);
    let code = known.or_else(|| name.parse().ok());
    let code = code.ok_or_else(|| refuse(name, "is none that is known, and no number"))?;
    match RESERVED.contains(&code) {
        true => Err(refuse(name, "is the protocol's own")),
        false => Ok(code),
    }
}

/// What the client sends with every message.
pub fn provided(
    entries: &[Provide],
    args: &[(String, String)],
) -> Result<Vec<(u8, Vec<u8>)>, Error> {
    if entries.len() > MAX_OPTIONS {
        return Err(refuse("provide", "has more entries than fit a message"));
    }
    let mut all = Vec::new();
    for entry in entries {
        let code = code_of(&entry.option)?;
        let from_arg = || {
            let found = args.iter().find(|(key, _)| *key == entry.from_arg);
            found.map(|(_, value)| value.as_str())
        };
        let value = match (entry.from_arg.is_empty(), entry.value.is_empty()) {
            (true, true) => return Err(refuse(&entry.option, "has neither value nor fromArg")),
            (true, false) => Some(entry.value.as_str()),
            (false, true) => from_arg(),
            (false, false) => return Err(refuse(&entry.option, "has both value and fromArg")),
        };
        // An argument that the caller did not give leaves the option out.
        let Some(value) = value.filter(|v| !v.is_empty()) else {
            continue;
        };
        if value.len() > MAX_VALUE {
            return Err(refuse(&entry.option, "has a value of more than 255 bytes"));
        }
        all.push((code, value.as_bytes().to_vec()));
    }
    Ok(all)
}

/// What the client asks for.
pub fn requested(entries: &[Request]) -> Result<Vec<u8>, Error> {
    let mut all = match entries.iter().any(|e| e.skip_default) {
        true => Vec::new(),
        false => DEFAULTS.to_vec(),
    };
    for entry in entries.iter().filter(|e| !e.option.is_empty()) {
        let code = code_of(&entry.option)?;
        if !all.contains(&code) {
            all.push(code);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provide(json: serde_json::Value) -> Result<Vec<(u8, Vec<u8>)>, String> {
        let entries: Vec<Provide> = serde_json::from_value(json).unwrap();
        let args = [("K8S_POD_NAME".to_owned(), "web-1".to_owned())];
        provided(&entries, &args).map_err(|e| e.to_string())
    }

    #[test]
    fn options_are_named_or_numbered_and_valued_or_taken_from_an_argument() {
        let all = provide(serde_json::json!([
            {"option": "host-name", "fromArg": "K8S_POD_NAME"},
            {"option": "user-class", "fromArg": "MISSING"},
            {"option": "60", "value": "corten"},
        ]));
        let (name, class) = (b"web-1".to_vec(), b"corten".to_vec());
        assert_eq!(all.unwrap(), [(12, name), (60, class)]);
        for (option, value, reason) in [
            ("nonsense", "x", "is none that is known"),
            ("256", "x", "is none that is known"),
            ("53", "x", "is the protocol's own"),
            ("host-name", "", "has neither"),
        ] {
            let refused = provide(serde_json::json!([{"option": option, "value": value}]));
            let refused = refused.unwrap_err();
            assert!(refused.contains(reason), "{refused}");
        }
    }

    #[test]
    fn what_is_asked_for_is_the_usual_and_more_or_the_listed_alone() {
        let ask = |json| requested(&serde_json::from_value::<Vec<Request>>(json).unwrap()).unwrap();
        let more = ask(serde_json::json!([{"option": "ntp-servers"}, {"option": "routers"}]));
        assert_eq!(more, [1, 121, 3, 33, 6, 15, 26, 42]);
        let only = ask(serde_json::json!([{"skipDefault": true}, {"option": "subnet-mask"}]));
        assert_eq!(only, [1]);
    }
}
