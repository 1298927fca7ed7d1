//! Who may import whom. The compiler keeps crates acyclic; this keeps our modules so.

use std::fs;
use std::path::{Path, PathBuf};

/// From the ground up: a module may import only modules of an earlier line.
const LADDER: &[&[&str]] = &[
    // What those above it say to servers of their own.
    &["tls"],
    &["channel_layer", "files", "listener", "websocket"],
    &["scope"],
    &["handler", "upstream"],
    &["route", "session"],
    &["request"],
    &["config"],
    &["reload"],
    // Shows what the last reload did.
    &["admin"],
    &["server"],
    &["cli"],
];

/// Decisions without I/O …
const PURE: &[&str] = &[
    "channel_layer/message.rs",
    "channel_layer/name.rs",
    "channel_layer/redis/checkup/facts.rs",
    "channel_layer/redis/core/capacity.rs",
    "channel_layer/redis/core/envelope.rs",
    "channel_layer/redis/core/names.rs",
    "channel_layer/redis/core/post.rs",
    "channel_layer/redis/encryption.rs",
    "channel_layer/redis/keys.rs",
    "channel_layer/redis/server.rs",
    "channel_layer/redis/shard.rs",
    "channel_layer/redis/slots.rs",
    "channel_layer/redis/url.rs",
    "channel_layer/redis/wire",
    "cli/doctor/checks.rs",
    "cli/doctor/finding.rs",
    "config",
    "handler",
    "listener/address.rs",
    "listener/proxy_protocol.rs",
    "listener/tls/certificate.rs",
    "listener/tls/choice.rs",
    "request/admit.rs",
    "request/forwarded.rs",
    "request/host.rs",
    "request/origin.rs",
    "request/rejection.rs",
    "route",
    "scope",
    "session/rate.rs",
    "upstream/answer.rs",
    "upstream/forward.rs",
    "upstream/settings.rs",
    "websocket",
];

/// … which therefore never name these.
const IMPURE: &[&str] =
    &["arc_swap", "hyper::", "Mutex", "RwLock", "std::time::", "TcpListener", "TcpStream", "tokio::"];

#[test]
fn modules_import_only_what_lies_below_them() {
    let mut wrong = Vec::new();
    for path in sources(Path::new("src")) {
        let own = module_of(&path);
        let Some(own_rank) = rank(&own) else { continue };
        for (line_no, line) in code_lines(&path) {
            for rest in line.split("crate::").skip(1) {
                let name: String = rest.chars().take_while(|ch| is_ident(*ch)).collect();
                // A grouped `crate::{…}` or a name re-exported at the root would slip through.
                let below = rank(&name).is_some_and(|rank| rank < own_rank);
                if name != own && !below {
                    wrong.push(format!("{}:{line_no}: crate::{name}", path.display()));
                }
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn pure_modules_do_no_io() {
    let mut wrong = Vec::new();
    for path in PURE.iter().flat_map(|pure| sources(&Path::new("src").join(pure))) {
        for (line_no, line) in code_lines(&path) {
            if let Some(word) = IMPURE.iter().find(|word| line.contains(**word)) {
                wrong.push(format!("{}:{line_no}: {word}", path.display()));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn every_module_stands_on_the_ladder() {
    let lib = fs::read_to_string("src/lib.rs").unwrap();
    let modules = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let without: Vec<_> = modules.filter(|name| rank(name).is_none()).collect();
    assert_eq!(without, Vec::<&str>::new());
}

fn rank(module: &str) -> Option<usize> {
    LADDER.iter().position(|step| step.contains(&module))
}

/// `src/route/table.rs` and `src/route.rs` are both of module `route`.
fn module_of(path: &Path) -> String {
    let below_src: PathBuf = path.iter().skip(1).take(1).collect();
    below_src.with_extension("").display().to_string()
}

/// The lines with their numbers, up to the tests and without comments.
fn code_lines(path: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(path).unwrap();
    // One that is for tests may stand above.
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let lines = code.lines().map(str::trim).enumerate().filter(|(_, line)| !line.starts_with("//"));
    lines.map(|(at, line)| (at + 1, line.to_owned())).collect()
}

fn is_ident(ch: char) -> bool {
    ch.is_alphanumeric() || ch == '_'
}

/// The source files at a path, without those of tests.
fn sources(at: &Path) -> Vec<PathBuf> {
    if at.is_file() {
        let is_source =
            at.extension().is_some_and(|extension| extension == "rs") && !at.ends_with("tests.rs");
        return if is_source { vec![at.to_owned()] } else { Vec::new() };
    }
    let mut below: Vec<_> = fs::read_dir(at).unwrap().map(|entry| entry.unwrap().path()).collect();
    below.sort();
    below.iter().flat_map(|path| sources(path)).collect()
}
