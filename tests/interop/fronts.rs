//! Each of the configurations that operators are given for a proxy in front, used as it is: what holds behind one
//! holds behind all.

use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::application::{Application, Reply};
use crate::support::client::{Client, Frame, Response, Wire, dial_from, exchange, handshake};
use crate::support::server::{TestServer, complete};
use crate::support::tls::{Authority, TlsClient};
use crate::support::wait_until;
use crate::tools::{Process, free_port};

/// Another address of this machine than that of the proxy, so that the two cannot be mistaken.
const CLIENT: &str = "127.0.0.7";
/// The name that clients know the site by.
const NAME: &str = "app.example";
/// What a client would write who took itself for a proxy.
const LIE: &str = "PROXY TCP4 6.6.6.6 192.0.2.1 56324 443\r\n";
/// How many requests show that a connection is kept.
const REQUESTS: u8 = 40;

/// A proxy, and the server and the application behind it.
struct Front {
    _proxy: Process,
    address: SocketAddr,
    /// The client's side of TLS, wherever the other side is.
    tls: Option<TlsClient>,
    /// Whether that is anteroom.
    ends_tls: bool,
    server: TestServer,
    application: Application,
    _folder: TempDir,
}

/// What anteroom is told, and what it is before.
struct Behind {
    /// More keys of the listener.
    listener: &'static str,
    /// `trust.headers`.
    headers: &'static str,
    /// Whether clients speak TLS, with the proxy or with anteroom.
    tls: bool,
}

impl Front {
    /// Starts all of it: `places` are what stands in the file for one machine and another, here the address to listen
    /// on, that of anteroom, and the folder with `site.pem` and `site.key`.
    fn start(
        config: &str,
        behind: &Behind,
        places: impl Fn(SocketAddr, SocketAddr, &Path) -> Vec<(&'static str, String)>,
        command: impl Fn(&Path) -> Command,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let site = authority.issue(&[NAME]);
        site.write(folder.path(), "site");
        // HAProxy reads both from one file.
        fs::write(folder.path().join("both.pem"), format!("{}{}", site.cert, site.key)).unwrap();
        let application = Application::start(|_| Reply::ok("the application"));
        let server = Self::server(behind, &application, folder.path());
        let address: SocketAddr = format!("127.0.0.1:{}", free_port()).parse().unwrap();
        let mut text = config.to_owned();
        for (from, to) in places(address, server.address(), folder.path()) {
            assert_eq!(text.matches(from).count(), 1, "{from}");
            text = text.replace(from, &to);
        }
        fs::write(folder.path().join("config"), text).unwrap();
        let proxy = Process::spawn(command(folder.path()).stdin(Stdio::null()));
        wait_until("the proxy listens", || TcpStream::connect(address).is_ok());
        let tls = behind.tls.then(|| authority.client());
        let ends_tls = behind.listener.contains("tls =");
        Self { _proxy: proxy, address, tls, ends_tls, server, application, _folder: folder }
    }

    fn server(behind: &Behind, application: &Application, certificates: &Path) -> TestServer {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("routes.toml");
        let routes = format!(
            "[server]\nadmin = \"127.0.0.1:0\"\ndrain = {{ grace = \"0s\", shutdown = \"0s\" }}\n\
             [[listener]]\nname = \"public\"\naddress = \"127.0.0.1:0\"\n{}\n\
             [trust]\nproxies = [\"127.0.0.1/32\"]\nheaders = \"{}\"\n\
             [upstream.app]\nservers = [\"http://{}\"]\n\
             [defaults]\nhosts = [\"{NAME}\"]\n\
             [[route]]\nname = \"chat\"\npath = '/chat/'\nhandler = \"room\"\ngroup = \"chat\"\nformat = \"text\"\n\
             username = \"{{client}}\"\n\
             [[route]]\nname = \"site\"\npath = '/.*'\nhandler = \"proxy\"\nupstream = \"app\"\n",
            behind.listener.replace("site.", &format!("{}/site.", certificates.display())),
            behind.headers,
            application.address,
        );
        fs::write(&path, complete(&routes)).unwrap();
        TestServer::start_at(folder, &path, &[])
    }

    /// A connection from [`CLIENT`].
    fn dial(&self) -> Box<dyn Wire> {
        let stream = dial_from(CLIENT.parse().unwrap(), self.address);
        match &self.tls {
            Some(tls) => Box::new(tls.connect_over(stream, NAME).unwrap()),
            None => Box::new(stream),
        }
    }

    fn connect(&self, headers: &[(&str, &str)]) -> Result<Client<Box<dyn Wire>>, Response> {
        Client::handshake_over(self.dial(), &handshake("/chat/", headers))
    }

    fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }
}

/// All that must hold, whatever the proxy is.
fn everything_holds(front: Front) {
    let lies = [
        ("Host", NAME),
        ("X-Forwarded-For", "6.6.6.6"),
        ("X-Forwarded-For", "7.7.7.7, 127.0.0.1"),
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Proto", "gopher"),
        ("Forwarded", "for=8.8.8.8;host=evil.example"),
        ("X-Real-IP", "9.9.9.9"),
    ];
    let mut client = front.connect(&lies).unwrap();
    assert_eq!(client.next_text(), format!("[Welcome {CLIENT}!]"));
    front.server.wait_log(&["accepted", &format!("client={CLIENT}"), "route=\"chat\""]);

    let own = format!("{}://{NAME}", front.scheme());
    for (host, origin, status) in [
        (NAME, own.as_str(), 101),
        (NAME, "https://evil.example", 403),
        (NAME, "null", 403),
        (NAME, &format!("{own}:1"), 403),
        // Not the name that TLS was asked for, where anteroom is who was asked.
        ("evil.example", &own, if front.ends_tls { 421 } else { 400 }),
    ] {
        let seen = match front.connect(&[("Host", host), ("Origin", origin)]) {
            Ok(client) => client.handshake.status,
            Err(refused) => refused.status,
        };
        assert_eq!(seen, status, "{host} {origin}");
    }

    let mut stream = front.dial();
    for target in ["/one", "/two"] {
        let answer = exchange(
            &mut stream,
            &format!(
                "GET {target} HTTP/1.1\r\nHost: {NAME}\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: gopher\r\n\r\n"
            ),
        );
        assert_eq!((answer.status, answer.body.as_str()), (200, "the application"));
    }
    for seen in front.application.take() {
        assert_eq!(seen.header("host"), [NAME], "{}", seen.head);
        assert_eq!(seen.header("x-real-ip"), [CLIENT], "{}", seen.head);
        assert_eq!(seen.header("x-forwarded-proto"), [front.scheme()], "{}", seen.head);
        assert!(!seen.head.contains("6.6.6.6"), "{}", seen.head);
    }

    // Behind the proxy's own header, or where none is expected, it is no HTTP.
    let lying = [LIE.as_bytes(), &handshake("/chat/", &[("Host", NAME)])].concat();
    assert_eq!(Client::handshake_over(front.dial(), &lying).err().map(|refused| refused.status), Some(400));

    // Connections to anteroom are kept, too. Checks of the proxy's are among those counted.
    let accepted = "anteroom_tcp_connections_accepted_total{listener=\"public\"}";
    let before = front.server.metric(accepted);
    for _ in 0..REQUESTS {
        let answer = exchange(&mut stream, &format!("GET /kept HTTP/1.1\r\nHost: {NAME}\r\n\r\n"));
        assert_eq!(answer.status, 200);
    }
    let opened = front.server.metric(accepted) - before;
    assert!(opened < f64::from(REQUESTS) / 4.0, "{opened} connections for {REQUESTS} requests");

    client.send_text("hi");
    assert_eq!(client.next_text(), format!("{CLIENT}: hi"));
    let mut server = front.server;
    server.signal(Signal::TERM);
    assert_eq!(client.next(), Frame::Close(1012, "restart".to_owned()));
    client.close(1012);
    assert!(server.wait_exit().success());
}

/// Where a PROXY header is required: who is not the proxy is turned away, and who comes through it cannot speak for it.
fn only_the_proxy_is_served(front: &Front) {
    let refused = "anteroom_tcp_connections_refused_total{listener=\"public\",reason=\"proxy_protocol\"}";
    let tls = front.tls.as_ref().unwrap();
    for (from, header) in [("127.0.0.1", ""), (CLIENT, ""), (CLIENT, LIE)] {
        let before = front.server.metric(refused);
        let mut stream = dial_from(from.parse().unwrap(), front.server.address());
        stream.write_all(header.as_bytes()).unwrap();
        assert!(tls.connect_over(stream, NAME).is_err(), "{from} {header}");
        wait_until("the connection was refused", || before < front.server.metric(refused));
    }
    // Behind the proxy's own header it is a word in clear, where TLS should begin.
    let answer = exchange(&mut dial_from(CLIENT.parse().unwrap(), front.address), LIE);
    assert_eq!((answer.status, answer.body.as_str()), (400, "bad_request: this port speaks TLS\n"));
    assert!(!front.server.log().contains("6.6.6.6"), "{}", front.server.log());
}

const READS_HTTP: Behind = Behind { listener: "", headers: "x-forwarded", tls: false };
const ENDS_TLS: Behind = Behind { tls: true, ..READS_HTTP };
/// Passes on bytes, with a PROXY header before them.
const PASSES_BYTES: Behind = Behind {
    listener: "proxy_protocol = \"require\"\ntls = [{ cert = \"site.pem\", key = \"site.key\" }]",
    headers: "none",
    tls: true,
};

/// nginx with a file, inside of `http` or beside it.
fn nginx(folder: &Path, inside: bool) -> Command {
    let path = folder.display();
    let (http, beside) = if inside {
        (format!("include {path}/config;"), String::new())
    } else {
        let module = "load_module /usr/lib/nginx/modules/ngx_stream_module.so;";
        (String::new(), format!("{module}\ninclude {path}/config;"))
    };
    let main = format!(
        "{beside}\ndaemon off;\nmaster_process off;\npid {path}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n\
         access_log off;\nclient_body_temp_path {path}/body;\nproxy_temp_path {path}/proxy;\n\
         fastcgi_temp_path {path}/fastcgi;\nuwsgi_temp_path {path}/uwsgi;\nscgi_temp_path {path}/scgi;\n{http}\n}}\n"
    );
    fs::write(folder.join("nginx.conf"), main).unwrap();
    let mut command = Command::new("/usr/sbin/nginx");
    command.arg("-p").arg(folder).arg("-c").arg(folder.join("nginx.conf")).args(["-e", "stderr"]);
    command
}

fn haproxy(folder: &Path) -> Command {
    let mut command = Command::new("/usr/sbin/haproxy");
    command.arg("-db").arg("-f").arg(folder.join("config"));
    command
}

fn caddy(folder: &Path) -> Command {
    let mut command = Command::new("/usr/bin/caddy");
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(folder.join("config"));
    // It keeps what it makes in its home.
    command.env("HOME", folder).env("XDG_DATA_HOME", folder).env("XDG_CONFIG_HOME", folder);
    command.stderr(Stdio::null());
    command
}

#[test]
fn everything_holds_behind_nginx() {
    let config = include_str!("../../nginx/anteroom.conf");
    let places = |listen: SocketAddr, server: SocketAddr, folder: &Path| {
        vec![
            ("listen 80;", format!("listen {listen};")),
            ("server 127.0.0.1:8000;", format!("server {server};")),
            ("root /var/www/html;", format!("root {}/files;", folder.display())),
        ]
    };
    everything_holds(Front::start(config, &READS_HTTP, places, |folder| nginx(folder, true)));
}

#[test]
fn everything_holds_behind_nginx_that_ends_tls() {
    let config = include_str!("../../nginx/anteroom-tls.conf");
    let places = |listen: SocketAddr, server: SocketAddr, folder: &Path| {
        let path = folder.display();
        vec![
            ("listen 443 ssl http2;", format!("listen {listen} ssl http2;")),
            ("server 127.0.0.1:8000;", format!("server {server};")),
            ("root /var/www/html;", format!("root {path}/files;")),
            ("/etc/ssl/certs/example.pem;", format!("{path}/site.pem;")),
            ("/etc/ssl/private/example.key;", format!("{path}/site.key;")),
        ]
    };
    everything_holds(Front::start(config, &ENDS_TLS, places, |folder| nginx(folder, true)));
}

#[test]
fn everything_holds_behind_nginx_that_passes_on_bytes() {
    let config = include_str!("../../nginx/anteroom-proxy-protocol.conf");
    let places = |listen: SocketAddr, server: SocketAddr, _: &Path| {
        vec![
            ("listen 443;", format!("listen {listen};")),
            ("        server 127.0.0.1:8000;", format!("        server {server};")),
        ]
    };
    let front = Front::start(config, &PASSES_BYTES, places, |folder| nginx(folder, false));
    only_the_proxy_is_served(&front);
    everything_holds(front);
}

#[test]
fn everything_holds_behind_haproxy_that_reads_http() {
    let config = include_str!("../../haproxy/anteroom-http.cfg");
    let places = |listen: SocketAddr, server: SocketAddr, _: &Path| {
        vec![("bind :80\n", format!("bind {listen}\n")), ("127.0.0.1:8000 check", format!("{server} check"))]
    };
    everything_holds(Front::start(config, &READS_HTTP, places, haproxy));
}

#[test]
fn everything_holds_behind_haproxy_that_ends_tls() {
    let config = include_str!("../../haproxy/anteroom-http.cfg");
    let places = |listen: SocketAddr, server: SocketAddr, folder: &Path| {
        let tls = format!("bind {listen} ssl crt {}/both.pem alpn h2,http/1.1\n", folder.display());
        vec![("bind :80\n", tls), ("127.0.0.1:8000 check", format!("{server} check"))]
    };
    everything_holds(Front::start(config, &ENDS_TLS, places, haproxy));
}

#[test]
fn everything_holds_behind_haproxy_that_passes_on_bytes() {
    let config = include_str!("../../haproxy/anteroom-tcp.cfg");
    let places = |listen: SocketAddr, server: SocketAddr, _: &Path| {
        vec![("bind :443\n", format!("bind {listen}\n")), ("127.0.0.1:8443 send", format!("{server} send"))]
    };
    let front = Front::start(config, &PASSES_BYTES, places, haproxy);
    only_the_proxy_is_served(&front);
    everything_holds(front);
}

#[test]
fn everything_holds_behind_caddy() {
    let config = include_str!("../../caddy/Caddyfile");
    let places = |listen: SocketAddr, server: SocketAddr, _: &Path| {
        let port = listen.port();
        // For the test alone: no API on a port that others use, and this address only.
        let site = format!("{{\n\tadmin off\n\tauto_https off\n}}\n\nhttp://:{port} {{\n\tbind 127.0.0.1\n");
        vec![
            ("\n:80 {\n", format!("\n{site}")),
            ("reverse_proxy 127.0.0.1:8000 {", format!("reverse_proxy {server} {{")),
        ]
    };
    everything_holds(Front::start(config, &READS_HTTP, places, caddy));
}

#[test]
fn everything_holds_behind_caddy_that_ends_tls() {
    let config = include_str!("../../caddy/Caddyfile");
    let places = |listen: SocketAddr, server: SocketAddr, folder: &Path| {
        let (port, path) = (listen.port(), folder.display());
        let site = format!(
            "{{\n\tadmin off\n\tauto_https off\n}}\n\nhttps://:{port} {{\n\tbind 127.0.0.1\n\ttls {path}/site.pem {path}/site.key\n"
        );
        vec![
            ("\n:80 {\n", format!("\n{site}")),
            ("reverse_proxy 127.0.0.1:8000 {", format!("reverse_proxy {server} {{")),
        ]
    };
    everything_holds(Front::start(config, &ENDS_TLS, places, caddy));
}
