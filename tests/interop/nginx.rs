//! nginx in front, with the configuration that operators are given.

use std::fs;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use crate::support::client::{Client, Frame, Response, handshake, request};
use crate::support::server::{TestServer, complete};
use crate::support::wait_until;
use crate::tools::{Process, free_port};

/// Another address of this machine than that of the proxy, so that the two cannot be mistaken.
const CLIENT: &str = "127.0.0.7";

const ROUTES: &str = r#"
[trust]
proxies = ["127.0.0.1/32"]
headers = "x-forwarded"

[[route]]
name = "chat"
re_path = '^chat/(?P<room_name>[A-Za-z0-9_-]{1,64})/$'
handler = "room"
format = "text"
group = "chat_{room_name}"
username = "{client}"

[[route]]
name = "home"
path = '/.*'
handler = "respond"
body = "the application\n"
"#;

/// nginx, and the server behind it.
struct Site {
    _nginx: Process,
    address: SocketAddr,
    server: TestServer,
    _folder: TempDir,
}

impl Site {
    fn start(routes: &str) -> Self {
        let server = TestServer::start(routes);
        let upstream = server.address().to_string();
        Self::before(server, &upstream)
    }

    /// In front of a server that nginx finds at `upstream`.
    fn before(server: TestServer, upstream: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files = folder.path().join("files");
        fs::create_dir(&files).unwrap();
        fs::write(files.join("style.css"), "body {}\n").unwrap();
        let address: SocketAddr = format!("127.0.0.1:{}", free_port()).parse().unwrap();
        let config = include_str!("../../nginx/anteroom.conf");
        let places = [
            ("server 127.0.0.1:8000;", format!("server {upstream};")),
            ("listen 80;", format!("listen {address};")),
            ("root /var/www/html;", format!("root {};", files.display())),
        ];
        let replace = |config: String, (from, to): &(&str, String)| {
            assert_eq!(config.matches(from).count(), 1, "{from}");
            config.replace(from, to)
        };
        let config = places.iter().fold(config.to_owned(), replace);
        fs::write(folder.path().join("anteroom.conf"), config).unwrap();
        fs::write(folder.path().join("nginx.conf"), minimal(&folder)).unwrap();
        let mut command = Command::new("/usr/sbin/nginx");
        command.arg("-p").arg(folder.path()).arg("-c").arg(folder.path().join("nginx.conf"));
        command.args(["-e", "stderr"]).stdin(Stdio::null());
        let nginx = Process::spawn(&mut command);
        wait_until("nginx listens", || std::net::TcpStream::connect(address).is_ok());
        Self { _nginx: nginx, address, server, _folder: folder }
    }

    /// Opens a WebSocket from [`CLIENT`].
    fn connect(&self, path: &str, headers: &[(&str, &str)]) -> Result<Client, Response> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(CLIENT.parse().unwrap(), 0).into()).unwrap();
        socket.connect(&self.address.into()).unwrap();
        Client::handshake_over(socket.into(), &handshake(path, headers))
    }

    fn get(&self, path: &str, headers: &str) -> Response {
        let host = self.address;
        request(
            self.address,
            &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n"),
        )
    }
}

/// What an installed nginx has around the file.
fn minimal(folder: &TempDir) -> String {
    let path = folder.path().display();
    format!(
        "daemon off;\nmaster_process off;\npid {path}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n\
         access_log off;\ntypes {{ text/css css; }}\n\
         client_body_temp_path {path}/body;\nproxy_temp_path {path}/proxy;\nfastcgi_temp_path {path}/fastcgi;\n\
         uwsgi_temp_path {path}/uwsgi;\nscgi_temp_path {path}/scgi;\ninclude {path}/anteroom.conf;\n}}\n"
    )
}

#[test]
fn nginx_reaches_the_server_by_a_unix_socket_and_is_believed() {
    let folder = tempfile::tempdir().unwrap();
    let (path, socket) = (folder.path().join("routes.toml"), folder.path().join("public.sock"));
    let listener = format!(
        "[[listener]]\nname = \"public\"\naddress = \"unix:{}\"\nmode = \"0666\"\n",
        socket.display()
    );
    let routes = ROUTES.replace("127.0.0.1/32", "unix");
    fs::write(&path, complete(&(listener + &routes))).unwrap();
    let server = TestServer::start_at(folder, &path, &[]);
    let site = Site::before(server, &format!("unix:{}", socket.display()));
    let page = site.get("/", "");
    assert_eq!((page.status, page.body.as_str()), (200, "the application\n"));
    let host = site.address.to_string();
    let mut client = site.connect("/chat/lobby/", &[("Host", &host)]).unwrap();
    assert_eq!(client.next(), Frame::Text(format!("[Welcome {CLIENT}!]")));
}

#[test]
fn nginx_serves_files_and_passes_everything_else_on() {
    let site = Site::start(ROUTES);
    let style = site.get("/style.css", "");
    assert_eq!((style.status, style.body.as_str()), (200, "body {}\n"));
    assert_eq!(style.header("content-type"), Some("text/css"));
    let page = site.get("/anything/else", "");
    assert_eq!((page.status, page.body.as_str()), (200, "the application\n"));
    site.server.stop();
}

#[test]
fn a_websocket_goes_through_nginx_and_says_goodbye_through_it() {
    let site = Site::start(ROUTES);
    let host = site.address.to_string();
    let headers = [("Host", host.as_str()), ("Origin", &format!("http://{host}"))];
    let mut ann = site.connect("/chat/lobby/", &headers).unwrap();
    let mut bob = Client::connect(site.address, "/chat/lobby/", &headers).unwrap();
    assert_eq!(ann.next_text(), "[Welcome 127.0.0.7!]");
    assert_eq!(bob.next_text(), "[Welcome 127.0.0.1!]");
    ann.send_text("hi");
    for client in [&mut ann, &mut bob] {
        assert_eq!(client.next_text(), "127.0.0.7: hi");
    }
    ann.close(1000);
    assert_eq!(ann.next(), Frame::Close(1000, String::new()));
    assert_eq!(ann.next(), Frame::End);
    drop(bob);
    site.server.stop();
}

#[test]
fn the_log_has_the_address_of_the_client_whatever_the_client_says_of_itself() {
    let site = Site::start(ROUTES);
    let host = site.address.to_string();
    let lies = [
        ("Host", host.as_str()),
        ("X-Forwarded-For", "6.6.6.6"),
        ("X-Forwarded-For", "7.7.7.7, 127.0.0.1"),
        ("Forwarded", "for=8.8.8.8;host=evil.example"),
        ("X-Real-IP", "9.9.9.9"),
        ("X-Forwarded-Host", "evil.example"),
    ];
    let mut client = site.connect("/chat/lobby/", &lies).unwrap();
    assert_eq!(client.next_text(), "[Welcome 127.0.0.7!]");
    site.server.wait_log(&["anteroom::handshake", "accepted", "client=127.0.0.7", "route=\"chat\""]);
    client.close(1000);
    assert_eq!(client.next(), Frame::Close(1000, String::new()));
    site.server.wait_log(&["anteroom::close", "client=127.0.0.7"]);
    assert!(!site.server.log().contains("client=127.0.0.1"), "{}", site.server.log());
    site.server.stop();
}

#[test]
fn origin_and_host_are_judged_as_the_client_sent_them() {
    let site = Site::start(ROUTES);
    let host = site.address.to_string();
    let port = site.address.port();
    let own = format!("http://{host}");
    let named = format!("localhost:{port}");
    let named_origin = format!("http://{named}");
    let other_port = format!("http://127.0.0.1:{}", port ^ 1);
    let cases = [
        // Host, Origin, status
        (host.as_str(), own.as_str(), 101),
        (&named, &named_origin, 101),
        (&named, &own, 403),
        (&host, "https://evil.example", 403),
        (&host, &other_port, 403),
        (&host, "null", 403),
        ("evil.example", "http://evil.example", 400),
    ];
    for (host, origin, status) in cases {
        // A client that says what it would like to be compared with is not believed.
        let headers = [("Host", host), ("Origin", origin), ("X-Forwarded-Host", "evil.example")];
        let seen = match site.connect("/chat/lobby/", &headers) {
            Ok(client) => client.handshake.status,
            Err(refused) => refused.status,
        };
        assert_eq!(seen, status, "{host} {origin}");
    }
    site.server.stop();
}

#[test]
fn without_trust_the_client_is_nginx() {
    let site = Site::start(&ROUTES.replace("headers = \"x-forwarded\"", "headers = \"none\""));
    let host = site.address.to_string();
    let mut client = site.connect("/chat/lobby/", &[("Host", &host)]).unwrap();
    assert_eq!(client.next_text(), "[Welcome 127.0.0.1!]");
    drop(client);
    site.server.stop();
}
