//! The bodies of requests on their way.

use super::*;
use crate::upstream::BrokenAnswer;

#[tokio::test]
async fn a_broken_body_is_the_clients_fault() {
    local(async {
        let (bed, (url, _)) = (Bed::new(), serve(vec![Does::Sits]).await);
        let upstream = bed.upstream(&[url, refusing().await], |_| ());
        let error = bed.ask(&upstream, Method::POST, Pieces::Broken).await.unwrap_err();
        assert!(matches!(&error, UpstreamError::ClientBody(why) if why.to_string() == "the client left"));
        assert_eq!(error.status(), StatusCode::BAD_REQUEST);
        assert!(
            bed.metric(
                "anteroom_upstream_requests_total{kind=\"http\",result=\"client\",upstream=\"app\"} 1"
            )
        );
    })
    .await;
}

#[tokio::test]
async fn an_early_answer_is_passed_on_while_the_body_still_comes() {
    local(async {
        let (bed, (listener, url)) = (Bed::new(), bind().await);
        let upstream = bed.upstream(&[url], |_| ());
        let serving = spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut byte = [0];
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                stream.read_exact(&mut byte).await.unwrap();
                head.extend_from_slice(&byte);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nea").await.unwrap();
            // The rest of the answer comes behind the whole request.
            let mut body = Vec::new();
            while !body.ends_with(b"0\r\n\r\n") {
                stream.read_exact(&mut byte).await.unwrap();
                body.extend_from_slice(&byte);
            }
            stream.write_all(b"rl").await.unwrap();
            String::from_utf8(body).unwrap()
        });
        let (sender, receiver) = mpsc::channel(2);
        let mut answer =
            bed.send(&upstream, &Method::POST, Pieces::Channel(receiver)).await.unwrap().into_body();
        assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), "ea");
        sender.send("abc").await.unwrap();
        sender.send("defg").await.unwrap();
        drop(sender);
        assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), "rl");
        assert!(answer.frame().await.is_none());
        assert_eq!(serving.await.unwrap(), "3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n");
    })
    .await;
}

#[tokio::test]
async fn an_answer_counts_as_broken_unless_the_client_broke_its_request_off() {
    local(async {
        for by_client in [true, false] {
            let (bed, (listener, url)) = (Bed::new(), bind().await);
            let upstream = bed.upstream(&[url], |_| ());
            let serving = spawn_local(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nea").await.unwrap();
                stream
            });
            let (sender, receiver) = mpsc::channel(1);
            let answer = bed.send(&upstream, &Method::POST, Pieces::BrokenOff(receiver)).await.unwrap();
            let mut answer = answer.into_body();
            assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), "ea");
            let stream = serving.await.unwrap();
            let (broken, count) = if by_client {
                drop(sender);
                (BrokenAnswer::Client, 0)
            } else {
                drop(stream);
                (BrokenAnswer::Truncated, 1)
            };
            assert_eq!(answer.frame().await.unwrap().unwrap_err(), broken);
            assert!(
                bed.metric(&format!("anteroom_upstream_broken_answers_total{{upstream=\"app\"}} {count}"))
            );
        }
    })
    .await;
}

#[tokio::test]
async fn a_server_that_refuses_a_body_before_it_has_read_it_is_heard() {
    local(async {
        let refusal = "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno!";
        let (bed, (listener, url)) = (Bed::new(), bind().await);
        let upstream = bed.upstream(&[url], |_| ());
        let serving = spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(refusal.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            // It reads no more, and does not reset what it has said either.
            std::future::pending::<()>().await;
        });
        let sent = Rc::new(Cell::new(0));
        let answer = bed.send(&upstream, &Method::POST, Pieces::Flood(Rc::clone(&sent))).await.unwrap();
        assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "no!");
        serving.abort();
    })
    .await;
}

#[tokio::test]
async fn neither_way_is_more_held_than_the_slower_side_takes() {
    local(async {
        let (bed, (url, _)) = (Bed::new(), serve(vec![Does::Sits]).await);
        let upstream = bed.upstream(&[url], |_| ());
        let sent = Rc::new(Cell::new(0));
        let flood = bed.send(&upstream, &Method::POST, Pieces::Flood(Rc::clone(&sent)));
        assert!(time::timeout(Duration::from_millis(300), flood).await.is_err());
        // The buffers of two sockets, and not much of ours.
        let (before, now) = (sent.get(), 16 << 20);
        assert!((1..now).contains(&before), "{before}");

        let (listener, url) = bind().await;
        let written = Rc::new(Cell::new(0));
        let count = Rc::clone(&written);
        spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_head(&mut stream).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n").await.unwrap();
            let piece = vec![0; 64 << 10];
            while stream.write_all(&piece).await.is_ok() {
                count.set(count.get() + (64 << 10));
            }
        });
        let bed = Bed::new();
        let upstream = bed.upstream(&[url], |_| ());
        let mut answer = bed.send(&upstream, &Method::GET, NO_BODY()).await.unwrap().into_body();
        assert!(answer.frame().await.unwrap().is_ok());
        time::sleep(Duration::from_millis(300)).await;
        assert!((1..16 << 20).contains(&written.get()), "{}", written.get());
    })
    .await;
}
