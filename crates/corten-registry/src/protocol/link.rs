//! `Link` (RFC 8288), of which registries send one form: `<…>; rel="next"` on a list that has another page.

/// The target of the first link to a next page, as it stands there: a URL, or a path with a query.
pub fn next(value: &str) -> Option<&str> {
    let mut rest = value;
    loop {
        let (before, after) = rest.split_once('<')?;
        // Only separators may stand between two links.
        if !before.trim_matches([' ', '\t', ',']).is_empty() {
            return None;
        }
        let (target, after) = after.split_once('>')?;
        let end = parameters_end(after);
        let (parameters, more) = after.split_at(end);
        if parameters.split(';').any(is_next) {
            return (!target.is_empty()).then_some(target);
        }
        rest = more;
    }
}

/// Where a link's parameters end: at a comma that is not quoted.
fn parameters_end(text: &str) -> usize {
    let mut quoted = false;
    let comma = |(_, c): &(usize, char)| {
        quoted ^= *c == '"';
        *c == ',' && !quoted
    };
    text.char_indices()
        .find(comma)
        .map_or(text.len(), |(i, _)| i)
}

fn is_next(parameter: &str) -> bool {
    let Some((name, value)) = parameter.split_once('=') else {
        return false;
    };
    let value = value.trim().trim_matches('"');
    let mut relations = value.split_ascii_whitespace();
    name.trim().eq_ignore_ascii_case("rel") && relations.any(|r| r.eq_ignore_ascii_case("next"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page() {
        let path = "/v2/_catalog?n=2&last=b";
        for value in [
            format!("<{path}>; rel=\"next\""),
            format!("<{path}>;rel=next"),
            format!("</first>; rel=\"first\", <{path}>; title=\"a, b\"; Rel=\"next last\""),
        ] {
            assert_eq!(next(&value), Some(path), "{value}");
        }
        for none in [
            "",
            "<x",
            "</x>",
            "</x>; rel=prev",
            "x </y>; rel=next",
            "<>; rel=next",
        ] {
            assert_eq!(next(none), None, "{none}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_header_is_survived(text in "[<>;,=\" a-z/?]{0,80}") {
            if let Some(target) = next(&text) {
                proptest::prop_assert!(text.contains(target));
            }
        }
    }
}
