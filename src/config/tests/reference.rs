//! The reference file, `routes.toml`.

use super::*;
use crate::config::file::all_keys;
use crate::upstream::Settings;

const REFERENCE: &str = include_str!("../../../routes.toml");

#[test]
fn the_reference_file_is_taken_without_findings_and_shows_every_default() {
    assert_eq!(whole(REFERENCE), "");
    let (reference, minimal) = (config(REFERENCE), config(&format!("version = 1{ROUTE}")));
    assert_eq!(reference.server, minimal.server);
    assert_eq!(reference.listeners, minimal.listeners);
    assert_eq!(reference.trust, minimal.trust);
    assert_eq!(reference.layer, minimal.layer);
    let settings = &reference.upstreams[0].settings;
    assert_eq!(*settings, Settings::new(settings.servers.clone()));
    let echo = |config: Config| {
        let routes = config.routes.into_iter().filter(|route| route.name == "echo").collect();
        print(&Config { routes, upstreams: Vec::new(), ..config })
    };
    assert_eq!(echo(reference), echo(minimal));
}

#[test]
fn the_reference_file_names_every_key() {
    let named = |key: &str| {
        let forms = [
            format!("[{key}]"),
            format!("[{key}."),
            format!("\n{key} = "),
            format!("\n# {key} = "),
            format!("{{ {key} = "),
            format!(", {key} = "),
        ];
        forms.iter().any(|form| REFERENCE.contains(form))
    };
    let missing: Vec<_> = all_keys().filter(|key| !named(key)).collect();
    assert_eq!(missing, Vec::<&str>::new());
}
