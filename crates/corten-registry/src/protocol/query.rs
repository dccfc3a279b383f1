//! Percent-encoding of query strings and form bodies (RFC 3986), no more than registries need.

/// Encodes a value for a query or form: all but unreserved characters become `%XX`.
pub fn encode(value: &str) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = String::with_capacity(value.len());
    for b in value.bytes() {
        if b.is_ascii_alphanumeric() || b"-._~".contains(&b) {
            out.push(b as char);
        } else {
            out.push('%');
            out.push(DIGITS[usize::from(b >> 4)] as char);
            out.push(DIGITS[usize::from(b & 15)] as char);
        }
    }
    out
}

/// Decodes `%XX` and `+`, which stands for a space in queries and forms. A malformed escape or what
/// is no UTF-8 gives `None`.
pub fn decode(value: &str) -> Option<String> {
    decode_path(&value.replace('+', " "))
}

/// Decodes `%XX` only, as in paths and user information.
pub fn decode_path(value: &str) -> Option<String> {
    let mut out = Vec::with_capacity(value.len());
    let mut bytes = value.bytes();
    while let Some(b) = bytes.next() {
        out.push(match b {
            b'%' => {
                let hex = [bytes.next()?, bytes.next()?];
                let hi = char::from(hex[0]).to_digit(16)?;
                let lo = char::from(hex[1]).to_digit(16)?;
                u8::try_from(hi * 16 + lo).ok()?
            }
            b => b,
        });
    }
    String::from_utf8(out).ok()
}

/// The value of `key` in a query, decoded; the first where there are several.
pub fn get(query: Option<&str>, key: &str) -> Option<String> {
    all(query, key).next()
}

/// All values of `key`, decoded.
pub fn all(query: Option<&str>, key: &str) -> impl Iterator<Item = String> {
    let pairs = query.unwrap_or_default().split('&');
    let pairs = pairs.map(|p| p.split_once('=').unwrap_or((p, "")));
    pairs
        .filter(move |(k, _)| decode(k).as_deref() == Some(key))
        .filter_map(|(_, v)| decode(v))
}

/// `base?k=v&…`, or with `&` where `base` has a query already.
pub fn append(base: &str, pairs: &[(&str, &str)]) -> String {
    let mut out = base.to_owned();
    let mut separator = if base.contains('?') { '&' } else { '?' };
    for (k, v) in pairs {
        out.push(separator);
        out.push_str(k);
        out.push('=');
        out.push_str(&encode(v));
        separator = '&';
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_apart_and_puts_together() {
        let q = append("/x", &[("digest", "sha256:ab"), ("from", "a/b c")]);
        assert_eq!(q, "/x?digest=sha256%3Aab&from=a%2Fb%20c");
        let query = q.split_once('?').map(|(_, q)| q);
        assert_eq!(get(query, "digest").as_deref(), Some("sha256:ab"));
        assert_eq!(get(query, "from").as_deref(), Some("a/b c"));
        assert_eq!(get(query, "no"), None);
        let tags: Vec<String> = all(Some("tag=1&x&tag=b%2Ec"), "tag").collect();
        assert_eq!(tags, ["1", "b.c"]);
        assert_eq!(decode("%f"), None);
        assert_eq!(decode("%ff"), None);
    }

    proptest::proptest! {
        #[test]
        fn any_text_survives(s in ".*") {
            proptest::prop_assert_eq!(decode(&encode(&s)), Some(s));
        }
    }
}
