//! What the admin listener answers.

use std::fs;

use serde_json::{Value, json};

use crate::support::client::{Response, request};
use crate::support::redis::RedisServer;
use crate::support::server::TestServer;
use crate::support::wait_until;

const ROUTES: &str = r#"
[[route]]
name = "echo"
path = '/echo/'
handler = "echo"

[[route]]
name = "page"
path = '/'
handler = "respond"
"#;

fn json_of(answer: &Response) -> Value {
    assert_eq!(answer.header("content-type"), Some("application/json"));
    serde_json::from_str(&answer.body).unwrap()
}

fn ask(server: &TestServer, method: &str, path: &str) -> Response {
    request(server.admin, &format!("{method} {path} HTTP/1.1\r\nHost: anything\r\nConnection: close\r\n\r\n"))
}

#[test]
fn each_page_has_its_content_type_and_all_else_is_refused() {
    let server = TestServer::start(ROUTES);
    let cases = [
        ("/healthz", "text/plain; charset=utf-8"),
        ("/healthz?verbose", "text/plain; charset=utf-8"),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
        ("/readyz", "application/json"),
        ("/config", "application/json"),
    ];
    for (path, content_type) in cases {
        let answer = ask(&server, "GET", path);
        assert_eq!((answer.status, answer.header("content-type")), (200, Some(content_type)), "{path}");
        assert!(answer.body.ends_with('\n'), "{path}");
        let head = ask(&server, "HEAD", path);
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let answer = ask(&server, method, path);
            assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")), "{method} {path}");
        }
    }
    for path in ["/", "/metrics/", "/Metrics", "/config/reload", "/echo/", "//metrics"] {
        let answer = ask(&server, "GET", path);
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.body.contains("/metrics"), "{path}: {}", answer.body);
    }
    assert_eq!(server.admin("/healthz").body, "ok\n");
    server.stop();
}

#[test]
fn public_listeners_show_none_of_it() {
    let server = TestServer::start(ROUTES);
    for path in ["/metrics", "/healthz", "/readyz", "/config"] {
        assert_eq!(server.get(path).status, 404, "{path}");
    }
    server.stop();
}

#[test]
fn readiness_names_each_check() {
    let server = TestServer::start(ROUTES);
    let page = json_of(&server.admin("/readyz"));
    assert_eq!(
        page,
        json!({
            "ready": true,
            "checks": {
                "config": { "ok": true, "generation": 1, "last_reload_successful": true },
                "layer": { "ok": true, "backend": "memory", "error": null },
                "draining": { "ok": true },
            },
        })
    );
    server.stop();
}

#[tokio::test]
async fn without_its_redis_a_server_is_alive_but_not_ready_and_ready_once_it_is_there() {
    let mut redis = RedisServer::stopped();
    let server = TestServer::start(&format!(
        "{ROUTES}[layer]\nbackend = \"channels_redis.pubsub\"\nhosts = [\"{}\"]\n",
        redis.url()
    ));
    assert_eq!(server.admin("/healthz").status, 200);
    let answer = server.admin("/readyz");
    assert_eq!(answer.status, 503);
    let page = json_of(&answer);
    assert_eq!(page["ready"], false);
    assert_eq!(
        (&page["checks"]["layer"]["ok"], &page["checks"]["config"]["ok"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(page["checks"]["layer"]["backend"], "channels_redis.pubsub");
    wait_until("the error of the layer is told", || {
        json_of(&server.admin("/readyz"))["checks"]["layer"]["error"].is_string()
    });
    redis.restart().await;
    wait_until("the server is ready", || server.admin("/readyz").status == 200);
    assert_eq!(json_of(&server.admin("/readyz"))["checks"]["layer"]["error"], Value::Null);
    server.stop();
}

#[test]
fn the_config_page_tells_what_is_in_force_and_what_became_of_the_last_edit() {
    let server = TestServer::start(ROUTES);
    let file = server.config_path();
    let first = json_of(&server.admin("/config"));
    assert_eq!((&first["generation"], &first["routes"]), (&json!(1), &json!(["echo", "page"])));
    assert_eq!(first["file"], file.to_str().unwrap());
    assert_eq!(first["last_reload"], json!({ "at": null, "successful": true, "errors": null }));
    assert_eq!(first["restart_pending"], json!([]));
    let hash = first["sha256"].as_str().unwrap().to_owned();
    assert!(hash.len() == 8 && hash.chars().all(|ch| ch.is_ascii_hexdigit()), "{hash}");
    assert_eq!(server.metric(&format!("anteroom_config_info{{sha256=\"{hash}\"}}")), 1.0);

    let good = fs::read_to_string(&file).unwrap();
    fs::write(&file, good.replace("handler = \"echo\"", "handler = \"ehco\"")).unwrap();
    server.wait_metric("anteroom_config_last_reload_successful", 0.0);
    let wrong = json_of(&server.admin("/config"));
    assert_eq!((&wrong["generation"], &wrong["sha256"]), (&json!(1), &json!(hash)));
    assert_eq!(wrong["last_reload"]["successful"], false);
    let at = wrong["last_reload"]["at"].as_str().unwrap();
    assert!("2026-01-01T00:00:00Z" < at && at.len() == "2026-01-01T00:00:00.000000Z".len(), "{at}");
    let ready = server.admin("/readyz");
    assert_eq!(ready.status, 200);
    let check = &json_of(&ready)["checks"]["config"];
    assert_eq!(*check, json!({ "ok": true, "generation": 1, "last_reload_successful": false }));
    let errors = wrong["last_reload"]["errors"].as_array().unwrap();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0]["message"].as_str().unwrap().contains("ehco"), "{errors:?}");
    let line = 1 + good.lines().position(|line| line == "handler = \"echo\"").unwrap();
    assert_eq!((&errors[0]["line"], &errors[0]["file"]), (&json!(line), &json!(file)));

    fs::write(&file, good.replace("\"page\"", "\"home\"")).unwrap();
    server.wait_metric("anteroom_config_generation", 2.0);
    let second = json_of(&server.admin("/config"));
    assert_eq!((&second["generation"], &second["routes"]), (&json!(2), &json!(["echo", "home"])));
    assert_eq!(
        (&second["last_reload"]["successful"], &second["last_reload"]["errors"]),
        (&json!(true), &Value::Null)
    );
    assert_ne!(second["sha256"], hash.as_str());
    // One configuration is in force, so there is one series.
    let info = server.metrics().into_keys().filter(|name| name.starts_with("anteroom_config_info"));
    assert_eq!(info.collect::<Vec<_>>(), [format!("anteroom_config_info{{sha256={}}}", second["sha256"])]);
    server.stop();
}
