//! How findings are shown, whatever they say.

use insta::assert_snapshot;

use super::*;

#[test]
fn all_errors_of_a_file_come_in_one_run_and_in_its_order() {
    let text = "version = 1
[server]
workers = 'many'
[[route]]
name = 'chat'
re_path = '^chat/(?P<room>.+/$'
handler = 'rom'
orgins = ['*']
[[route]]
name = 'chat'
path = '/x'
handler = 'echo'
ping = { every = 5 }
";
    let findings = read(text).unwrap_err();
    let codes: Vec<_> = findings.iter().map(|finding| finding.code().as_str()).collect();
    assert_eq!(codes, ["E005", "E016", "E007", "E003", "E012", "E008"]);
    assert_eq!(findings.to_string(), "routes.toml: 6 errors");
}

#[test]
fn findings_can_be_read_by_machines() {
    let findings = read(&format!("version = 1\n[defaults]\n  # é\n  orgins = ['*']{ROUTE}")).unwrap_err();
    assert_snapshot!(serde_json::to_string_pretty(&findings.to_json()).unwrap(), @r#"
        [
          {
            "code": "E003",
            "severity": "error",
            "file": "routes.toml",
            "line": 4,
            "column": 3,
            "message": "unknown key `orgins` in [defaults]",
            "help": "did you mean `origins`?"
          }
        ]
        "#);
}

#[test]
fn a_file_without_a_text_has_one_finding_without_a_line() {
    let findings = Diagnostics::unreadable("routes.toml", "this is not a regular file");
    assert_eq!((findings.to_string(), findings.is_empty()), ("routes.toml: 1 error".to_owned(), false));
    assert_snapshot!(findings.render(false), @r#"
        error[E025]: this is not a regular file
        --> routes.toml
        "#);
    assert_snapshot!(serde_json::to_string_pretty(&findings.to_json()).unwrap(), @r#"
        [
          {
            "code": "E025",
            "severity": "error",
            "file": "routes.toml",
            "line": null,
            "column": null,
            "message": "this is not a regular file",
            "help": null
          }
        ]
        "#);
}

#[test]
fn colours_are_for_terminals() {
    let findings = read("").unwrap_err();
    assert!(findings.render(true).contains('\u{1b}'));
    assert!(!findings.render(false).contains('\u{1b}'));
}
