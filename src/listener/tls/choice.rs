//! Which certificate is for which client.

/// The first certificate that is usable and for the name: one that has the name itself, then one that has a
/// wildcard in place of its first label, then any at all, for a client that asks for no name or an unknown one.
///
/// Names are in lower case. Rule: a wildcard stands for one whole label (RFC 6125, section 6.4.3).
pub(super) fn choose<'a, C>(
    certificates: &'a [C],
    names: impl Fn(&C) -> &[String],
    server_name: Option<&str>,
    is_usable: impl Fn(&C) -> bool,
) -> Option<&'a C> {
    let first = |is_for: &dyn Fn(&str) -> bool| {
        certificates.iter().find(|one| names(one).iter().any(|name| is_for(name)) && is_usable(one))
    };
    let named = server_name.and_then(|wanted| {
        let parent = wanted.split_once('.').map(|(_, parent)| parent);
        let wildcard = |name: &str| name.strip_prefix("*.").is_some_and(|below| Some(below) == parent);
        first(&|name| name == wanted).or_else(|| first(&wildcard))
    });
    named.or_else(|| certificates.iter().find(|one| is_usable(one)))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake {
        names: Vec<String>,
        usable: bool,
    }

    #[test]
    fn a_name_has_its_own_certificate_then_a_wildcard_then_the_first() {
        let fake = |names: &[&str], usable| Fake {
            names: names.iter().map(|&name| name.to_owned()).collect(),
            usable,
        };
        let certificates = [
            fake(&["default.example"], true),
            fake(&["*.example.com"], true),
            // such as an ECDSA certificate for a client that only knows RSA
            fake(&["app.example.com", "other.example.com"], false),
            fake(&["app.example.com", "*.deep.example.com"], true),
            fake(&["*.app.example.com", "*"], true),
        ];
        let cases = [
            (None, 0),
            (Some("unknown.example"), 0),
            (Some("default.example"), 0),
            (Some("app.example.com"), 3),
            (Some("other.example.com"), 1),
            (Some("x.example.com"), 1),
            (Some("example.com"), 0),
            (Some("x.y.example.com"), 0),
            (Some("x.deep.example.com"), 3),
            (Some("x.app.example.com"), 4),
            (Some("localhost"), 0),
            (Some("com"), 0),
        ];
        for (name, index) in cases {
            let chosen = choose(&certificates, |one| &one.names, name, |one| one.usable).unwrap();
            assert!(std::ptr::eq(chosen, &raw const certificates[index]), "{name:?}");
        }
        let none = [fake(&["a.example"], false)];
        assert!(choose(&none, |one| &one.names, Some("a.example"), |one| one.usable).is_none());
    }
}
