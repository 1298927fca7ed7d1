//! What is an answer, and what is none.

use super::*;
use crate::upstream::BrokenAnswer;

/// The status and the body, or how it went wrong.
type Got = Result<(u16, &'static str), &'static str>;

#[tokio::test]
async fn an_answer_is_read_in_one_way_and_its_connection_kept_when_nothing_is_left_of_it() {
    const BROKEN: Got = Err("the answer of the upstream is broken off");
    let no = |reason: &'static str| Err(reason);
    let cases: &[(&str, Method, Got, bool)] = &[
        // what the server answers and keeps its connection, to what; what the client gets, whether it is used again
        ("HTTP/1.1 200 OK\nContent-Length: 2\n\nok", Method::GET, Ok((200, "ok")), true),
        ("HTTP/1.1 200 OK\nContent-Length: 0\n\n", Method::GET, Ok((200, "")), true),
        ("HTTP/1.1 200 OK\nContent-Length: 2\n\nok\n", Method::GET, Ok((200, "ok")), false),
        ("HTTP/1.1 200 OK\nContent-Length: 2\n\nokHTTP/1.1 200 OK\n\n", Method::GET, Ok((200, "ok")), false),
        ("HTTP/1.1 200 OK\nContent-Length: 2\nConnection: close\n\nok", Method::GET, Ok((200, "ok")), false),
        ("HTTP/1.0 200 OK\nContent-Length: 2\n\nok", Method::GET, Ok((200, "ok")), false),
        (
            "HTTP/1.0 200 OK\nContent-Length: 2\nConnection: keep-alive\n\nok",
            Method::GET,
            Ok((200, "ok")),
            true,
        ),
        ("HTTP/1.1 200 OK\nContent-Length: 9\n\n", Method::HEAD, Ok((200, "")), true),
        ("HTTP/1.1 200 OK\nContent-Length: 2\n\nok", Method::HEAD, Ok((200, "")), false),
        ("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n", Method::HEAD, Ok((200, "")), true),
        ("HTTP/1.1 204 No Content\n\n", Method::GET, Ok((204, "")), true),
        ("HTTP/1.1 204 No Content\n\n0\n\n", Method::GET, Ok((204, "")), false),
        ("HTTP/1.1 304 Not Modified\nContent-Length: 9\n\n", Method::GET, Ok((304, "")), true),
        ("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nok\n0\n\n", Method::GET, Ok((200, "ok")), true),
        (
            "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nok\n0\nX: y\n\n",
            Method::GET,
            Ok((200, "ok")),
            true,
        ),
        (
            "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nok\n0\n\n\n",
            Method::GET,
            Ok((200, "ok")),
            false,
        ),
        ("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nokk\n0\n\n", Method::GET, BROKEN, false),
        ("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\nzz\n", Method::GET, BROKEN, false),
        (
            "HTTP/1.1 100 Continue\n\nHTTP/1.1 200 OK\nContent-Length: 2\n\nok",
            Method::GET,
            Ok((200, "ok")),
            true,
        ),
        ("HTTP/1.1 103 H\nLink: </a>\n\nHTTP/1.1 204 No Content\n\n", Method::GET, Ok((204, "")), true),
        (
            "HTTP/1.1 200 OK\nContent-Length: 2\nTransfer-Encoding: chunked\n\n2\nok\n0\n\n",
            Method::GET,
            no("its length is none, or there are two"),
            false,
        ),
        (
            "HTTP/1.1 200 OK\nTransfer-Encoding: gzip, chunked\n\n0\n\n",
            Method::GET,
            no("its transfer coding is not `chunked` alone"),
            false,
        ),
        ("HTTP/1.1 200 OK\nContent-Length : 2\n\nok", Method::GET, no("it is malformed"), false),
        ("HTTP/1.1 200 OK\nX: a\n b\n\n", Method::GET, no("it is malformed"), false),
        ("SMTP ready\n", Method::GET, no("it is malformed"), false),
    ];
    local(async {
        for (answer, method, expected, is_kept) in cases {
            let answer: &'static str = answer.replace('\n', "\r\n").leak();
            let (bed, (url, seen)) = (Bed::new(), serve(vec![Does::Answers(answer)]).await);
            let upstream = bed.upstream(&[url], |_| ());
            let got = match bed.send(&upstream, method, NO_BODY()).await {
                Ok(response) => {
                    let status = response.status().as_u16();
                    let body = response.into_body().collect().await.map(http_body_util::Collected::to_bytes);
                    body.map_err(|error| error.to_string())
                        .map(|body| (status, String::from_utf8(body.to_vec()).unwrap()))
                }
                Err(UpstreamError::BadResponse(reason)) => Err(reason.to_owned()),
                Err(error) => panic!("{answer:?}: {error}"),
            };
            let expected = expected.map(|(status, body)| (status, body.to_owned())).map_err(str::to_owned);
            assert_eq!(got, expected, "{method} {answer:?}");
            drop(bed.send(&upstream, method, NO_BODY()).await);
            let connection = u8::from(!*is_kept);
            assert_eq!(
                *seen.borrow(),
                [format!("0: {method} / HTTP/1.1"), format!("{connection}: {method} / HTTP/1.1")],
                "{answer:?}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_never_has_a_body_says_no_length() {
    let cases = [
        ("204 No Content", Method::GET, None),
        ("204 No Content", Method::HEAD, None),
        ("304 Not Modified", Method::GET, Some("5")),
        ("200 OK", Method::HEAD, Some("5")),
    ];
    local(async {
        for (status, method, length) in cases {
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\n").leak();
            let (bed, (url, _)) = (Bed::new(), serve(vec![Does::Answers(answer)]).await);
            let upstream = bed.upstream(&[url], |_| ());
            let answer = bed.send(&upstream, &method, NO_BODY()).await.unwrap();
            let found = answer.headers().get(CONTENT_LENGTH).map(|length| length.to_str().unwrap());
            assert_eq!(found, length, "{method} {status}");
        }
    })
    .await;
}

#[tokio::test]
async fn what_is_no_answer_is_a_502() {
    let cases = [
        "SMTP ready\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        "",
    ];
    local(async {
        for answer in cases {
            let (bed, (url, _)) = (Bed::new(), serve(vec![Does::AnswersOnce(answer)]).await);
            let upstream = bed.upstream(&[url], |_| ());
            let error = bed.get(&upstream).await.unwrap_err();
            assert_eq!(error.status(), StatusCode::BAD_GATEWAY, "{answer}: {error}");
        }
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_is_cut_off_is_an_error() {
    let cases = [
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n",
    ];
    local(async {
        for answer in cases {
            let (bed, (url, _)) = (Bed::new(), serve(vec![Does::AnswersOnce(answer)]).await);
            let upstream = bed.upstream(&[url], |_| ());
            let answer = bed.send(&upstream, &Method::GET, NO_BODY()).await.unwrap();
            let error = answer.into_body().collect().await.unwrap_err();
            assert_eq!(error, BrokenAnswer::Truncated);
            assert!(bed.metric("anteroom_upstream_broken_answers_total{upstream=\"app\"} 1"));
        }
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_stops_coming_times_out() {
    local(async {
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok";
        let (bed, (url, _)) = (Bed::new(), serve(vec![Does::Answers(answer)]).await);
        let upstream = bed.upstream(&[url], |settings| settings.response_timeout = Duration::from_millis(50));
        let answer = bed.send(&upstream, &Method::GET, NO_BODY()).await.unwrap();
        let error = answer.into_body().collect().await.unwrap_err();
        assert_eq!(error, BrokenAnswer::Timeout);
    })
    .await;
}

#[tokio::test]
async fn a_stuck_server_is_a_504_and_a_silent_client_is_not() {
    local(async {
        let (bed, (url, _)) = (Bed::new(), serve(vec![Does::Sits]).await);
        let upstream = bed.upstream(&[url], |settings| settings.response_timeout = Duration::from_millis(60));
        let error = bed.get(&upstream).await.unwrap_err();
        assert!(matches!(error, UpstreamError::ResponseTimeout), "{error}");
        assert_eq!(error.status(), StatusCode::GATEWAY_TIMEOUT);
        let silent = bed.ask(&upstream, Method::POST, Pieces::Silent);
        assert!(time::timeout(Duration::from_millis(300), silent).await.is_err());
        let sent = bed.ask(&upstream, Method::POST, Pieces::Of(vec!["a"])).await.unwrap_err();
        assert!(matches!(sent, UpstreamError::ResponseTimeout), "{sent}");
    })
    .await;
}
