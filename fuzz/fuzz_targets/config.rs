//! Files of the configuration.

#![no_main]

use anteroom::config::{Diagnostics, SecretSource, load, print};
use libfuzzer_sys::{Corpus, fuzz_target};

/// What a secret of the environment is. No file spells it by accident, with escapes or without.
const SECRET: &str = "q7Zt0mVx4RkD9wJb2LsY8nGf5HcA1eUp";

/// Some are there, some are not. None is a certificate, so a listener with TLS is always refused here.
fn secrets(source: &SecretSource) -> Result<String, String> {
    match source {
        SecretSource::Env(name) if name.starts_with("REDIS") => Ok(format!("redis://:{SECRET}@cache:6379/1")),
        SecretSource::Env(name) if name.starts_with("KEY") => Ok(SECRET.to_owned()),
        SecretSource::Env(_) => Err("it is not set".to_owned()),
        SecretSource::File(_) => Err("no such file".to_owned()),
    }
}

fuzz_target!(|data: &[u8]| -> Corpus {
    let Ok(text) = str::from_utf8(data) else { return Corpus::Reject };
    let loaded = match load("routes.toml", text, &secrets) {
        Ok(loaded) => loaded,
        Err(diagnostics) => {
            assert!(diagnostics.errors() != 0, "a file is refused for a reason");
            check(&diagnostics, text);
            return Corpus::Keep;
        }
    };
    assert_eq!(loaded.warnings.errors(), 0);
    check(&loaded.warnings, text);

    let printed = print(&loaded.config);
    assert!(!printed.contains(SECRET));
    match load("printed.toml", &printed, &secrets) {
        Ok(again) => assert_eq!(print(&again.config), printed),
        Err(diagnostics) => {
            panic!("what is printed does not load:\n{printed}\n{}", diagnostics.render(false))
        }
    }
    Corpus::Keep
});

/// Each finding is at a place in the text, and can be shown.
fn check(diagnostics: &Diagnostics, text: &str) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines: Vec<_> = text.split('\n').collect();
    let json = diagnostics.to_json();
    let findings = json.as_array().unwrap();
    assert_eq!(findings.len(), diagnostics.iter().count());
    for finding in findings {
        let at = |key: &str| finding[key].as_u64().and_then(|number| usize::try_from(number).ok());
        if let Some(line) = at("line") {
            let column = at("column").unwrap();
            let len = lines[line - 1].chars().count();
            // Masking may make more characters of a line, never fewer; its bytes stay.
            assert!(column <= len.max(lines[line - 1].len()) + 2, "{finding}");
        }
    }
    assert_eq!(diagnostics.render(false).is_empty(), diagnostics.is_empty());
    assert!(!diagnostics.render(true).contains(SECRET));
}
