//! The rules of the file: from its shape to values that the stages can use as they are.

mod listener;
mod trust;
mod layer;
mod redis_host;
mod upstream;
mod route;
mod room;
mod proxy;
mod direct;
mod files;
mod respond;

use core::time::Duration;
use std::collections::HashMap;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::ops::Range;

use crate::config::diagnostic::{Code, Diagnostic, Findings, Span};
use crate::config::file::{File, ServerTable};
use crate::config::read_files::Noting;
use crate::config::table::At;
use crate::config::{Config, DrainConfig, LogConfig, LogFormat, LogLevel, Secrets, ServerConfig};
use crate::request::{HeadSizes, LimitSettings};

/// Applies the rules; `None` only together with an error.
pub(super) fn compile(file: &File, text: &str, secrets: &Noting<'_>, findings: &Findings) -> Option<Config> {
    let compiler = Compiler { text, secrets, findings };
    let server = compiler.server(&file.server);
    // Their files are followed one by one, and no change of these is one of the configuration.
    let listeners = Compiler { secrets: secrets.unnoted(), ..compiler }.listeners(file);
    let trust = compiler.trust(&file.trust, &file.listeners);
    let layer = compiler.layer(&file.layer);
    let upstreams = compiler.upstreams(&file.upstreams);
    let routes = compiler.routes(&file.routes, &file.defaults, &file.upstreams);
    compiler.has_senders(&file.routes, &file.layer);
    Some(Config {
        server: server?,
        listeners: listeners?,
        trust,
        layer: layer?,
        upstreams: upstreams?,
        routes: routes?,
    })
}

/// Where the admin listener is unless the file says otherwise.
const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9180);

#[derive(Clone, Copy)]
struct Compiler<'a> {
    text: &'a str,
    secrets: &'a dyn Secrets,
    findings: &'a Findings,
}

/// `[server]`, and what names and addresses are.
impl Compiler<'_> {
    fn server(&self, table: &ServerTable) -> Option<ServerConfig> {
        let admin = table.admin.as_ref().map_or(Some(ADMIN), |at| self.address(at));
        let workers = table.workers.as_ref().and_then(|at| NonZeroUsize::new(to_usize(at.value)));
        let sizes = HeadSizes::default();
        let handshakes = value(table.handshakes_per_second.as_ref()).unwrap_or(500);
        Some(ServerConfig {
            admin: admin?,
            workers,
            log: LogConfig {
                level: value(table.log_level.as_ref()).unwrap_or(LogLevel::Info),
                format: value(table.log_format.as_ref()).unwrap_or(LogFormat::Text),
            },
            drain: DrainConfig {
                shutdown: value(table.drain_shutdown.as_ref()).unwrap_or(Duration::from_secs(30)),
                grace: value(table.drain_grace.as_ref()).unwrap_or(Duration::from_secs(5)),
            },
            limits: LimitSettings {
                connections: to_usize(value(table.connections.as_ref()).unwrap_or(50_000)),
                per_ip: to_usize(value(table.per_ip.as_ref()).unwrap_or(200)),
                handshakes_per_second: u32::try_from(handshakes).unwrap_or(u32::MAX),
            },
            sizes: HeadSizes {
                target_bytes_max: value(table.uri.as_ref()).map_or(sizes.target_bytes_max, to_usize),
                head_bytes_max: value(table.head.as_ref()).map_or(sizes.head_bytes_max, to_usize),
                headers_max: value(table.headers.as_ref()).map_or(sizes.headers_max, to_usize),
            },
        })
    }

    fn address(&self, at: &At<String>) -> Option<SocketAddr> {
        let text = at.value.as_str();
        if let Ok(address) = text.parse() {
            return Some(address);
        }
        let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
        let port = port.parse::<u16>().ok();
        let help = match (host, port) {
            ("" | "*", Some(port)) => {
                format!(
                    "write `127.0.0.1:{port}` for this machine alone, `0.0.0.0:{port}` for every interface"
                )
            }
            ("localhost", Some(port)) => format!("write `127.0.0.1:{port}`"),
            _ => match text.parse() {
                Ok(ip) => format!("add the port: `{}`", SocketAddr::new(ip, 8000)),
                Err(_) => {
                    "write an IP address and a port, such as `127.0.0.1:8000` or `[::1]:8000`".to_owned()
                }
            },
        };
        let message = format!("`{text}` is no address to listen on");
        self.push(Diagnostic::new(Code::Address, at.span.clone(), message).help(help));
        None
    }

    /// A name becomes a metric label: 1 to 64 ASCII letters, digits, `-`, `_` or `.`, a letter or digit first.
    fn is_name(&self, what: &str, at: &At<String>) -> bool {
        let text = at.value.as_str();
        let fits = (1..=64).contains(&text.len())
            && text.starts_with(|ch: char| ch.is_ascii_alphanumeric())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if !fits {
            let message = format!("`{text}` is no name for {what}");
            let help = "use 1 to 64 ASCII letters, digits, `-`, `_` or `.`, and begin with a letter or digit";
            let diagnostic = Diagnostic::new(Code::Name, at.span.clone(), message).help(help);
            let len = text.chars().count();
            self.push(if len <= 64 { diagnostic } else { diagnostic.label(format!("{len} characters")) });
        }
        fits
    }
}

impl Compiler<'_> {
    fn push(&self, diagnostic: Diagnostic) {
        self.findings.push(diagnostic);
    }

    /// Reports a text that a constructor of another stage refused.
    fn refuse(&self, code: Code, at: &At<String>, help: impl Into<String>, error: &impl Display) {
        let message = format!("`{}`: {error}", at.value);
        self.push(Diagnostic::new(code, at.span.clone(), message).help(help));
    }

    /// The place of a part of a string; the whole string where escapes stand in the way.
    fn inside(&self, at: &At<String>, part: &Range<usize>) -> Span {
        let raw = self.text.get(at.span.clone()).unwrap_or_default();
        let opening = ["'''\r\n", "'''\n", "'''", "\"\"\"\r\n", "\"\"\"\n", "\"\"\"", "'", "\""];
        let opening = opening.iter().find(|opening| raw.starts_with(**opening));
        let Some((opening, content)) =
            opening.and_then(|opening| Some((opening, raw.strip_prefix(opening)?)))
        else {
            return at.span.clone();
        };
        if !content.starts_with(&at.value) {
            return at.span.clone();
        }
        let start = at.span.start + opening.len();
        start + part.start..start + part.end
    }
}

/// What must not be there twice.
struct Unique<'a> {
    what: &'static str,
    first: HashMap<&'a str, &'a Span>,
}

impl<'a> Unique<'a> {
    fn new(what: &'static str) -> Self {
        Self { what, first: HashMap::new() }
    }

    fn add(&mut self, compiler: &Compiler<'_>, at: &'a At<String>) -> bool {
        let Some(first) = self.first.get(at.value.as_str()) else {
            self.first.insert(&at.value, &at.span);
            return true;
        };
        let message = format!("the {} `{}` stands here a second time", self.what, at.value);
        let diagnostic = Diagnostic::new(Code::Duplicate, at.span.clone(), message);
        compiler.push(diagnostic.with((*first).clone(), "first here"));
        false
    }
}

/// Whether two sockets cannot listen on these at once. Port 0 is another port each time.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let any = |ip: IpAddr| ip.is_unspecified();
    one.port() == other.port()
        && one.port() != 0
        && (one.ip() == other.ip()
            || (one.is_ipv4() == other.is_ipv4() && (any(one.ip()) || any(other.ip()))))
}

fn value<T: Copy>(at: Option<&At<T>>) -> Option<T> {
    at.map(|at| at.value)
}

fn items<T>(at: Option<&At<Vec<At<T>>>>) -> impl Iterator<Item = &At<T>> {
    at.into_iter().flat_map(|at| &at.value)
}

/// All values, if each of them is one; each is made in any case, so that all errors are reported.
fn all<T>(values: impl IntoIterator<Item = Option<T>>) -> Option<Vec<T>> {
    let values: Vec<_> = values.into_iter().collect();
    values.into_iter().collect()
}

fn to_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
