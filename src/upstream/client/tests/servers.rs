//! Which server a request goes to, and how it is reached.

use std::net::SocketAddr;

use rustls::pki_types::PrivateKeyDer;
use socket2::{Domain, Socket, Type};
use tokio::net::UnixListener;

use super::*;
use crate::tls::CaFile;
use crate::upstream::{HealthCheck, TlsSettings};

#[tokio::test]
async fn the_server_with_the_fewest_requests_is_next() {
    local(async {
        let bed = Bed::new();
        let (one, seen_one) = serve(vec![Does::Sits]).await;
        let (two, seen_two) = serve(vec![Does::Sits]).await;
        let upstream = bed.upstream(&[one, two], |_| ());
        for _ in 0..6 {
            bed.spawn_get(&upstream);
        }
        time::sleep(Duration::from_millis(200)).await;
        assert_eq!((seen_one.borrow().len(), seen_two.borrow().len()), (3, 3));
    })
    .await;
}

#[tokio::test]
async fn a_server_that_refuses_is_passed_over_with_the_body_in_hand() {
    local(async {
        let (bed, (url, seen)) = (Bed::new(), serve(vec![Does::Answers(OK)]).await);
        let down = refusing().await;
        let upstream = bed.upstream(&[down.clone(), url], |_| ());
        for _ in 0..4 {
            assert_eq!(bed.ask(&upstream, Method::POST, Pieces::Of(vec!["a"])).await.unwrap(), "ok");
        }
        assert_eq!(seen.borrow().len(), 4);
        let gauge = format!("anteroom_upstream_server_up{{server=\"{down}\",upstream=\"app\"}} 0");
        assert!(bed.metric(&gauge));
    })
    .await;
}

#[tokio::test]
async fn without_a_server_there_is_a_502_at_once() {
    local(async {
        let bed = Bed::new();
        let upstream = bed.upstream(&[refusing().await, refusing().await], |_| ());
        for _ in 0..3 {
            let error = bed.get(&upstream).await.unwrap_err();
            assert!(matches!(error, UpstreamError::Connect(_)), "{error}");
            assert_eq!(error.status(), StatusCode::BAD_GATEWAY);
        }
        assert!(bed.metric("anteroom_upstream_inflight_requests{upstream=\"app\"} 0"));
    })
    .await;
}

#[tokio::test]
async fn a_restarted_server_is_back_when_all_were_out() {
    local(async {
        let (bed, (url, _)) = (Bed::new(), serve(vec![Does::AnswersOnce(""), Does::Answers(OK)]).await);
        let upstream = bed.upstream(&[url, refusing().await], |_| ());
        // Whichever comes first, both have failed after this.
        assert!(bed.get(&upstream).await.is_err());
        assert_eq!(bed.get(&upstream).await.unwrap(), "ok");
    })
    .await;
}

#[tokio::test]
async fn a_server_that_is_taken_out_comes_back() {
    local(async {
        let (bed, (good, _)) = (Bed::new(), serve(vec![Does::Answers(OK)]).await);
        let (poor, seen) = serve(vec![Does::AnswersOnce(""), Does::Answers(OK)]).await;
        let upstream = bed.upstream(&[poor.clone(), good], |settings| {
            settings.fail_timeout = Duration::from_millis(200);
        });
        let up =
            |value: u8| format!("anteroom_upstream_server_up{{server=\"{poor}\",upstream=\"app\"}} {value}");
        for _ in 0..6 {
            assert_eq!(bed.get(&upstream).await.unwrap(), "ok");
        }
        assert_eq!(seen.borrow().len(), 1);
        assert!(bed.metric(&up(0)));
        time::sleep(Duration::from_millis(250)).await;
        for _ in 0..2 {
            assert_eq!(bed.get(&upstream).await.unwrap(), "ok");
        }
        assert!(bed.metric(&up(1)));
        assert_eq!(seen.borrow().len(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_server_has_all_its_time_after_another_has_failed() {
    const LONG: Duration = Duration::from_millis(300);
    local(async {
        let ((kept, kept_url), (poor, poor_url)) = (bind().await, bind().await);
        let bed = Bed::new();
        let upstream =
            bed.upstream(&[kept_url, poor_url], |settings| settings.response_timeout = LONG * 3 / 2);
        let serving = spawn_local(async move {
            let (mut stream, _) = kept.accept().await.unwrap();
            read_head(&mut stream).await.unwrap();
            stream.write_all(OK.as_bytes()).await.unwrap();
            let (mut other, _) = poor.accept().await.unwrap();
            read_head(&mut other).await.unwrap();
            time::sleep(LONG).await;
            drop(other);
            read_head(&mut stream).await.unwrap();
            time::sleep(LONG).await;
            stream.write_all(OK.as_bytes()).await.unwrap();
        });
        for _ in 0..2 {
            assert_eq!(bed.get(&upstream).await.unwrap(), "ok");
        }
        serving.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_health_check_takes_a_server_out_and_back_in() {
    local(async {
        let bed = Bed::new();
        let bad = "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n";
        let (url, _) = serve(vec![Does::Answers(bad), Does::Answers(bad), Does::Answers(OK)]).await;
        let upstream = bed.upstream(&[url], |settings| {
            settings.health = Some(HealthCheck {
                path: "/healthz".to_owned(),
                host: None,
                every: Duration::from_millis(100),
                timeout: Duration::from_secs(1),
                status: 200,
            });
        });
        time::sleep(Duration::from_millis(50)).await;
        let error = bed.get(&upstream).await.unwrap_err();
        assert!(matches!(error, UpstreamError::NoServer), "{error}");
        time::sleep(Duration::from_millis(300)).await;
        assert_eq!(bed.get(&upstream).await.unwrap(), "ok");
        assert!(bed.metric(
            "anteroom_upstream_requests_total{kind=\"health\",result=\"refused\",upstream=\"app\"} 2"
        ));
    })
    .await;
}

#[tokio::test]
async fn a_health_check_is_for_the_host_that_it_is_given() {
    local(async {
        for given in [None, Some("example.com".to_owned())] {
            let (bed, (listener, url)) = (Bed::new(), bind().await);
            let host = given.clone().unwrap_or_else(|| address(&url).to_string());
            let _upstream = bed.upstream(&[url], |settings| {
                settings.health = Some(HealthCheck {
                    path: "/healthz".to_owned(),
                    host: given,
                    every: Duration::from_secs(1),
                    timeout: Duration::from_secs(1),
                    status: 200,
                });
            });
            let (mut stream, _) = listener.accept().await.unwrap();
            let head = read_head(&mut stream).await.unwrap();
            assert!(head.contains(&format!("\r\nhost: {host}\r\n")), "{head}");
        }
    })
    .await;
}

#[tokio::test]
async fn only_the_latest_of_a_name_is_checked() {
    local(async {
        let (bed, (url, seen)) = (Bed::new(), serve(vec![Does::Answers(OK)]).await);
        let upstream = |path: &str| {
            bed.upstream(std::slice::from_ref(&url), |settings| {
                settings.health = Some(HealthCheck {
                    path: path.to_owned(),
                    host: None,
                    every: Duration::from_millis(5),
                    timeout: Duration::from_secs(1),
                    status: 200,
                });
            })
        };
        let checks = |path: &str| seen.borrow().iter().filter(|line| line.contains(path)).count();
        // As one with tunnels lives on.
        let _replaced = upstream("/old");
        until(|| checks("/old") == 2).await;
        let latest = upstream("/new");
        until(|| 2 <= checks("/new")).await;
        let before = checks("/old");
        until(|| 6 <= checks("/new")).await;
        assert_eq!(checks("/old"), before);
        // One that came to nothing.
        drop(latest);
        until(|| before < checks("/old")).await;
    })
    .await;
}

#[tokio::test]
async fn beyond_max_inflight_requests_are_refused() {
    local(async {
        let (bed, (url, _)) = (Bed::new(), serve(vec![Does::Sits]).await);
        let upstream = bed.upstream(&[url], |settings| settings.inflight_max = Some(1));
        let first = bed.spawn_get(&upstream);
        time::sleep(Duration::from_millis(50)).await;
        let error = bed.get(&upstream).await.unwrap_err();
        assert!(matches!(error, UpstreamError::Busy), "{error}");
        assert_eq!(error.status(), StatusCode::SERVICE_UNAVAILABLE);
        first.abort();
        time::sleep(Duration::from_millis(50)).await;
        assert!(upstream.enter().is_ok());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_client_leaves_is_counted_with_the_time_that_it_waited() {
    local(async {
        let (bed, (url, _)) = (Bed::new(), serve(vec![Does::Sits]).await);
        let upstream = bed.upstream(&[url], |_| ());
        let waits = Duration::from_secs(3);
        assert!(time::timeout(waits, bed.get(&upstream)).await.is_err());
        assert!(time::timeout(waits, bed.handshake(&upstream)).await.is_err());
        for kind in ["http", "tunnel"] {
            let labels = format!("kind=\"{kind}\",result=\"client\",upstream=\"app\"");
            assert!(bed.metric(&format!("anteroom_upstream_requests_total{{{labels}}} 1")), "{kind}");
            let duration = "anteroom_upstream_request_duration_seconds_bucket";
            for (below, count) in [("2.5", 0), ("5", 1)] {
                let labels = format!("kind=\"{kind}\",upstream=\"app\",le=\"{below}\"");
                assert!(bed.metric(&format!("{duration}{{{labels}}} {count}")), "{kind} {below}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn what_an_upstream_has_counts_after_it_was_changed_too() {
    local(async {
        let (bed, (url, seen)) = (Bed::new(), serve(vec![Does::Sits]).await);
        let upstream = |keepalive| {
            bed.upstream(std::slice::from_ref(&url), |settings| {
                settings.inflight_max = Some(1);
                settings.keepalive = keepalive;
            })
        };
        let first = bed.spawn_get(&upstream(1));
        until(|| seen.borrow().len() == 1).await;
        let changed = upstream(2);
        let error = bed.get(&changed).await.unwrap_err();
        assert!(matches!(error, UpstreamError::Busy), "{error}");
        first.abort();
        until(|| changed.enter().is_ok()).await;
    })
    .await;
}

#[tokio::test]
async fn a_server_behind_a_unix_socket_is_reached() {
    local(async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.sock");
        let listener = UnixListener::bind(&path).unwrap();
        spawn_local(async move {
            let (stream, _) = listener.accept().await.unwrap();
            behave(stream, &Does::Answers(OK), 0, &RefCell::default()).await;
        });
        let bed = Bed::new();
        let upstream = bed.upstream(&[format!("unix:{}", path.display())], |_| ());
        assert_eq!(bed.get(&upstream).await.unwrap(), "ok");
    })
    .await;
}

#[tokio::test]
async fn a_server_shows_a_certificate_for_its_name() {
    local(async {
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = ca.self_signed(&ca_key).unwrap().pem();
        let issuer = rcgen::Issuer::new(ca, ca_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["app.internal".to_owned()])
            .unwrap()
            .signed_by(&key, &issuer)
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let (listener, url) = bind().await;
        let url = url.replace("http:", "https:");
        spawn_local(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                spawn_local(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        behave(stream, &Does::Answers(OK), 0, &RefCell::default()).await;
                    }
                });
            }
        });
        let ca = Some(CaFile { path: "ca.pem".to_owned(), pem });
        let cases = [
            (ca.clone(), Some("app.internal"), true, true),
            (ca.clone(), Some("other.internal"), true, false),
            (ca, None, true, false),
            (None, None, false, true),
        ];
        for (ca, name, verify, reached) in cases {
            let bed = Bed::new();
            let upstream = bed.upstream(std::slice::from_ref(&url), |settings| {
                settings.tls = TlsSettings { ca, server_name: name.map(str::to_owned), verify };
            });
            let got = bed.get(&upstream).await;
            assert_eq!(got.is_ok(), reached, "{name:?} {got:?}");
        }
    })
    .await;
}

/// An address that never answers: no more connections fit into the backlog of its listener.
fn deaf() -> (SocketAddr, Socket, Vec<std::net::TcpStream>) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let dial = || std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100));
    let waiting: Vec<_> = std::iter::from_fn(|| dial().ok()).collect();
    (address, listener, waiting)
}

/// Lets a name have these addresses, as if they had just been looked up.
fn resolve_to(upstream: &Upstream, addresses: &[SocketAddr]) {
    *upstream.servers[0].resolved.lock().unwrap() = Some((Instant::now(), addresses.into()));
}

fn address(url: &str) -> SocketAddr {
    url.strip_prefix("http://").unwrap().parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_name_is_looked_up_again_after_ten_seconds_and_after_a_failure() {
    local(async {
        let (bed, (url, _)) = (Bed::new(), serve(vec![Does::Answers(OK)]).await);
        let (former, _) =
            serve(vec![Does::Answers("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nformer")]).await;
        // A name that every resolver knows.
        let name = format!("http://localhost:{}", address(&url).port());
        let upstream = bed.upstream(&[name], |settings| settings.keepalive = 0);
        resolve_to(&upstream, &[address(&former)]);
        time::advance(Duration::from_millis(9_900)).await;
        assert_eq!(bed.get(&upstream).await.unwrap(), "former");
        time::advance(Duration::from_millis(100)).await;
        assert_eq!(bed.get(&upstream).await.unwrap(), "ok");

        resolve_to(&upstream, &[address(&refusing().await)]);
        let error = bed.get(&upstream).await.unwrap_err();
        assert!(matches!(error, UpstreamError::Connect(_)), "{error}");
        assert_eq!(bed.get(&upstream).await.unwrap(), "ok");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_address_that_does_not_answer_leaves_time_for_the_others_of_its_name() {
    local(async {
        let (bed, (url, _)) = (Bed::new(), serve(vec![Does::Answers(OK)]).await);
        let (deaf, _listener, _waiting) = deaf();
        let upstream = bed.upstream(&["http://app.example".to_owned()], |settings| settings.keepalive = 0);
        let refusing = address(&refusing().await);
        for (addresses, seconds) in [
            (&[deaf, address(&url)][..], 0.25),
            (&[deaf, deaf, deaf, address(&url)], 0.75),
            (&[refusing, deaf, refusing, address(&url)], 0.25),
        ] {
            resolve_to(&upstream, addresses);
            // Only the first connection has to find out.
            for seconds in [seconds, 0.0] {
                let began_at = Instant::now();
                assert_eq!(bed.get(&upstream).await.unwrap(), "ok");
                let elapsed = began_at.elapsed().as_secs_f64();
                assert!((elapsed - seconds).abs() < 0.1, "{elapsed} s, {addresses:?}");
            }
        }
        resolve_to(&upstream, &[deaf, deaf]);
        let began_at = Instant::now();
        let error = bed.get(&upstream).await.unwrap_err();
        assert!(matches!(error, UpstreamError::ConnectTimeout), "{error}");
        assert!((began_at.elapsed().as_secs_f64() - 5.0).abs() < 0.1, "{:?}", began_at.elapsed());
        resolve_to(&upstream, &[deaf, refusing]);
        let error = bed.get(&upstream).await.unwrap_err();
        assert!(matches!(error, UpstreamError::ConnectTimeout), "{error}");
        resolve_to(&upstream, &[refusing, refusing]);
        let error = bed.get(&upstream).await.unwrap_err();
        assert!(matches!(error, UpstreamError::Connect(_)), "{error}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_short_connect_timeout_leaves_time_for_all_addresses() {
    local(async {
        let (bed, (url, _)) = (Bed::new(), serve(vec![Does::Answers(OK)]).await);
        let (deaf, _listener, _waiting) = deaf();
        let upstream = bed.upstream(&["http://app.example".to_owned()], |settings| {
            settings.connect_timeout = Duration::from_millis(200);
        });
        resolve_to(&upstream, &[deaf, deaf, deaf, address(&url)]);
        assert_eq!(bed.get(&upstream).await.unwrap(), "ok");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_health_check_leaves_time_for_all_addresses_too() {
    local(async {
        let (bed, (url, seen)) = (Bed::new(), serve(vec![Does::Answers(OK)]).await);
        let (deaf, _listener, _waiting) = deaf();
        let (every, timeout) = (Duration::from_secs(5), Duration::from_secs(2));
        let upstream = bed.upstream(&["http://app.example".to_owned()], |settings| {
            let path = "/healthz".to_owned();
            settings.health = Some(HealthCheck { path, host: None, every, timeout, status: 200 });
        });
        resolve_to(&upstream, &[deaf, address(&url)]);
        time::sleep(timeout).await;
        assert_eq!(*seen.borrow(), ["0: GET /healthz HTTP/1.1"]);
    })
    .await;
}

#[tokio::test]
async fn an_upstream_stays_the_same_over_a_reload_that_does_not_change_it() {
    local(async {
        let bed = Bed::new();
        let (one, two) = ("http://127.0.0.1:1".to_owned(), "http://127.0.0.1:2".to_owned());
        let first = bed.upstream(std::slice::from_ref(&one), |_| ());
        assert!(Arc::ptr_eq(&first, &bed.upstream(std::slice::from_ref(&one), |_| ())));
        let second = bed.upstream(&[one, two], |_| ());
        assert!(!Arc::ptr_eq(&first, &second));
        assert!(Arc::ptr_eq(&first.servers[0], &second.servers[0]));
        assert_eq!(bed.upstreams.gone(), Vec::<Arc<str>>::new());
        drop((first, second));
        let gone = bed.upstreams.gone();
        assert_eq!(gone, [Arc::from("app")]);
        bed.upstreams.forget(&gone);
        assert!(bed.registry.gather().iter().all(|family| family.get_metric().is_empty()));
    })
    .await;
}

#[tokio::test]
async fn an_upstream_keeps_its_series_whatever_becomes_of_later_ones() {
    local(async {
        let bed = Bed::new();
        let (one, two, three) = ("http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3");
        let upstream = |servers: [&str; 2]| bed.upstream(&servers.map(str::to_owned), |_| ());
        let scrape = || {
            let gone = bed.upstreams.gone();
            bed.upstreams.forget(&gone);
            let up = |server: &str, value: u8| {
                bed.metric(&format!(
                    "anteroom_upstream_server_up{{server=\"{server}\",upstream=\"app\"}} {value}"
                ))
            };
            let all = bed.metric("anteroom_upstream_retries_total{upstream=\"app\"} 0");
            (all, up(one, 0), up(two, 1), up(three, 1))
        };
        let in_force = upstream([one, two]);
        in_force.failed(&in_force.servers[0], &UpstreamError::Closed);
        assert_eq!(scrape(), (true, true, true, false));

        // It is shown while it may come into force, and is then dropped with the snapshot that was refused.
        let refused = upstream([one, three]);
        assert_eq!(scrape(), (true, true, false, true));
        drop(refused);
        assert_eq!(scrape(), (true, true, true, false));
        assert!(Arc::ptr_eq(&in_force, &upstream([one, two])));

        // It still has tunnels when the next one is gone, too.
        drop(upstream([three, two]));
        assert_eq!(scrape(), (true, true, true, false));
        drop(in_force);
        assert_eq!(scrape(), (false, false, false, false));
    })
    .await;
}
