//! Which connection a request goes over, and which are kept.

use super::*;

#[tokio::test]
async fn a_connection_is_used_again() {
    local(async {
        let (bed, (url, seen)) = (Bed::new(), serve(vec![Does::Answers(OK)]).await);
        let upstream = bed.upstream(&[url], |_| ());
        for _ in 0..3 {
            assert_eq!(bed.get(&upstream).await.unwrap(), "ok");
        }
        assert_eq!(*seen.borrow(), ["0: GET / HTTP/1.1"; 3]);
        assert!(bed.metric("anteroom_upstream_inflight_requests{upstream=\"app\"} 0"));
        assert!(
            bed.metric("anteroom_upstream_requests_total{kind=\"http\",result=\"ok\",upstream=\"app\"} 3")
        );
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_died_is_replaced_for_what_may_be_repeated() {
    local(async {
        let (bed, (url, seen)) = (Bed::new(), serve(vec![Does::DropsSecond, Does::Answers(OK)]).await);
        let upstream = bed.upstream(&[url], |_| ());
        assert_eq!(bed.get(&upstream).await.unwrap(), "ok");
        assert_eq!(bed.get(&upstream).await.unwrap(), "ok");
        assert_eq!(*seen.borrow(), ["0: GET / HTTP/1.1", "0: GET / HTTP/1.1", "1: GET / HTTP/1.1"]);
        assert!(bed.metric("anteroom_upstream_retries_total{upstream=\"app\"} 1"));
    })
    .await;
}

#[tokio::test]
async fn a_post_that_was_sent_is_not_sent_again() {
    local(async {
        for body in [NO_BODY(), Pieces::Of(vec!["a"])] {
            let (bed, (url, seen)) = (Bed::new(), serve(vec![Does::DropsSecond, Does::Answers(OK)]).await);
            let upstream = bed.upstream(&[url], |_| ());
            assert_eq!(bed.get(&upstream).await.unwrap(), "ok");
            let error = bed.ask(&upstream, Method::POST, body).await.unwrap_err();
            assert!(matches!(error, UpstreamError::Closed), "{error}");
            assert_eq!(*seen.borrow(), ["0: GET / HTTP/1.1", "0: POST / HTTP/1.1"]);
        }
    })
    .await;
}

#[tokio::test]
async fn a_post_goes_over_a_new_connection_when_the_old_one_is_closed() {
    local(async {
        let (bed, (url, seen)) = (Bed::new(), serve(vec![Does::AnswersOnce(OK), Does::Answers(OK)]).await);
        let upstream = bed.upstream(&[url], |_| ());
        assert_eq!(bed.get(&upstream).await.unwrap(), "ok");
        time::sleep(Duration::from_millis(50)).await;
        assert_eq!(bed.ask(&upstream, Method::POST, Pieces::Of(vec!["a"])).await.unwrap(), "ok");
        assert_eq!(*seen.borrow(), ["0: GET / HTTP/1.1", "1: POST / HTTP/1.1"]);
    })
    .await;
}

#[tokio::test]
async fn what_a_server_says_unasked_is_nobodys_answer() {
    local(async {
        let (bed, (listener, url)) = (Bed::new(), bind().await);
        let upstream = bed.upstream(&[url], |_| ());
        let serving = spawn_local(async move {
            let (mut first, _) = listener.accept().await.unwrap();
            read_head(&mut first).await.unwrap();
            first.write_all(OK.as_bytes()).await.unwrap();
            time::sleep(Duration::from_millis(20)).await;
            first.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil").await.unwrap();
            let (second, _) = listener.accept().await.unwrap();
            behave(second, &Does::Answers(OK), 1, &RefCell::default()).await;
        });
        assert_eq!(bed.get(&upstream).await.unwrap(), "ok");
        time::sleep(Duration::from_millis(60)).await;
        assert_eq!(bed.get(&upstream).await.unwrap(), "ok");
        serving.abort();
    })
    .await;
}

#[tokio::test]
async fn idle_connections_are_bounded_in_number_and_time() {
    local(async {
        let (bed, (url, seen)) = (Bed::new(), serve(vec![Does::Answers(OK)]).await);
        let upstream = bed.upstream(&[url], |settings| {
            settings.keepalive = 2;
            settings.idle_timeout = Duration::from_millis(100);
        });
        // All have begun before the first is answered.
        let all: Vec<_> = (0..4).map(|_| bed.spawn_get(&upstream)).collect();
        for one in all {
            assert_eq!(one.await.unwrap().unwrap(), "ok");
        }
        assert_eq!(seen.borrow().len(), 4);
        let kept = || bed.client.idle.borrow().values().map(Vec::len).sum::<usize>();
        assert_eq!(kept(), 2);
        time::sleep(SWEEP + Duration::from_millis(200)).await;
        assert_eq!(kept(), 0);
        assert!(!bed.client.swept.get());
    })
    .await;
}
