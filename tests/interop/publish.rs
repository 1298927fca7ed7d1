//! `anteroom publish`, heard by consumers in Python.

use std::fs;

use serde_json::json;

use crate::django::Django;
use crate::rooms::ROUTES;
use crate::support::command::{err, out, run};
use crate::support::redis::RedisServer;
use crate::support::server::complete;

#[tokio::test]
async fn consumers_in_python_hear_what_is_published() {
    let redis = RedisServer::start().await;
    let event = r#"{"type": "chat.message", "message": "é\u0000", "n": [1, -7, 2.5, null, {"big": 18446744073709551615}]}"#;
    let values: serde_json::Value = serde_json::from_str(event).unwrap();
    let keys = json!({ "hosts": [redis.url()], "symmetric_encryption_keys": ["new", "old"] });
    for (layer, consumers, said) in [("pubsub", 1, "1 subscriber"), ("core", 2, "2 members in 1 inbox")] {
        let folder = tempfile::tempdir().unwrap();
        let settings = format!(
            "[layer]\nbackend = \"channels_redis.{layer}\"\nhosts = [\"{}\"]\nsymmetric_encryption_keys = [\"new\"]\n",
            redis.url()
        );
        fs::write(folder.path().join("routes.toml"), complete(&(settings + ROUTES))).unwrap();
        let mut django = Django::start(layer, &keys);
        (0..consumers).for_each(|_| django.join("chat_lobby"));
        for _ in 0..3 {
            let output = run(folder.path(), &["publish", "chat_lobby", event]);
            let line = format!("sent to chat_lobby: {said}\n");
            assert_eq!((output.status.code(), out(&output), err(&output)), (Some(0), &*line, ""));
            (0..consumers).for_each(|_| assert_eq!(django.received(), values));
        }
    }
}
