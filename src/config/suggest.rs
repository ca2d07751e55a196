//! The nearest name to one that nobody knows.

/// Two names are alike enough to suggest one for the other.
const ALIKE: f64 = 0.75;

/// What to say of a key that is not known.
pub(super) fn unknown(key: &str, known: &[String], sections: &[&str]) -> String {
    if sections.contains(&key) {
        return format!("is a section: write [{key}] and its keys below");
    }
    if key.starts_with("auth.issuers.") {
        return "is not known; the list comes whole, as JSON: \
                TIDEGATE_AUTH__ISSUERS='[{\"jwks\":\"…\",\"issuer\":\"…\",\"audience\":\"…\"}]'"
            .into();
    }
    let scored = known.iter().map(|name| (likeness(key, name), name));
    match scored.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(likeness, _)| *likeness >= ALIKE) {
        Some((_, name)) => format!("is not known; did you mean `{name}`?"),
        None => "is not known; `tidegate default-config` lists every key".into(),
    }
}

/// The nearest of a few names.
pub(super) fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let scored = known.iter().map(|other| (strsim::jaro_winkler(name, other), *other));
    scored.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(likeness, _)| *likeness >= ALIKE).map(|(_, name)| name)
}

/// How alike two keys are: the name counts three times its section, so that a key in the wrong section is found in the
/// right one, and a key of no likeness is not taken for its neighbour.
fn likeness(key: &str, other: &str) -> f64 {
    let name = |key: &str| key.rsplit_once('.').map_or(key, |(_, name)| name).to_owned();
    let section = |key: &str| key.split_once('.').map_or("", |(section, _)| section).to_owned();
    let names = strsim::jaro_winkler(&name(key), &name(other));
    if section(key).is_empty() {
        names
    } else {
        (strsim::jaro_winkler(&section(key), &section(other)) + 3.0 * names) / 4.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suggestion(key: &str) -> String {
        let known = ["kafka.brokers", "public.proxy_protocol", "public.listen", "auth.audience", "auth.issuers"];
        unknown(key, &known.map(str::to_owned), &["kafka"])
    }

    #[test]
    fn a_slip_a_wrong_section_and_no_section_all_find_the_key() {
        for key in ["kafka.broker", "kafak.brokers", "public.brokers", "brokers"] {
            assert_eq!(suggestion(key), "is not known; did you mean `kafka.brokers`?", "{key}");
        }
    }

    #[test]
    fn what_is_like_nothing_is_not_guessed_at() {
        assert_eq!(suggestion("kafka.zzz"), "is not known; `tidegate default-config` lists every key");
        assert_eq!(suggestion("kafka"), "is a section: write [kafka] and its keys below");
        assert!(suggestion("auth.issuers.0.jwks").contains("TIDEGATE_AUTH__ISSUERS="));
    }
}
