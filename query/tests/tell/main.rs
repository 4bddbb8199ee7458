//! Webhooks and Alertmanagers over HTTP: what is sent, and what an answer means; over TLS: who is trusted.

#![allow(clippy::unwrap_used, reason = "it is for tests")]

mod tls;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use nodescope_query::alerts::alertmanager::Alertmanager;
use nodescope_query::alerts::incident::{About, Incident, State as Stands};
use nodescope_query::alerts::outlets::{Message, Outlet, TellError};
use nodescope_query::alerts::webhook::{Http, Login, SIGNATURE, Webhook};
use parking_lot::Mutex;
use ring::hmac;
use serde_json::Value;

/// One request as it came.
#[derive(Debug, Clone)]
struct Request {
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

/// A server that answers as it is told, and with 200 after that.
#[derive(Debug, Clone, Default)]
struct Server {
    requests: Arc<Mutex<Vec<Request>>>,
    answers: Arc<Mutex<VecDeque<Answer>>>,
}

#[derive(Debug, Clone)]
enum Answer {
    Status(StatusCode, &'static str),
    Elsewhere(String),
    /// Says what it was asked, as some frameworks do.
    Echo,
    /// Text without end. It counts what it has sent, and drops the sender when nobody reads on.
    Endless(Arc<AtomicUsize>, tokio::sync::mpsc::Sender<()>),
    Never,
}

async fn answer(State(server): State<Server>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let asked = format!("Cannot POST {} with {:?}", uri.path(), headers.get("Authorization"));
    server.requests.lock().push(Request { path: uri.path().to_owned(), headers, body });
    let answer = server.answers.lock().pop_front();
    match answer {
        None => StatusCode::OK.into_response(),
        Some(Answer::Status(status, text)) => (status, text).into_response(),
        Some(Answer::Elsewhere(to)) => (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, to)]).into_response(),
        Some(Answer::Echo) => (StatusCode::NOT_FOUND, asked).into_response(),
        Some(Answer::Endless(sent, reads)) => {
            let text = futures::stream::repeat_with(move || {
                assert!(!reads.is_closed(), "it is held until nobody reads");
                sent.fetch_add(1 << 16, Ordering::SeqCst);
                Ok::<_, Infallible>(Bytes::from_static(&[b'x'; 1 << 16]))
            });
            (StatusCode::BAD_GATEWAY, Body::from_stream(text)).into_response()
        }
        Some(Answer::Never) => std::future::pending().await,
    }
}

impl Server {
    async fn start(&self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().fallback(answer).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        address
    }

    fn answers(&self, answers: impl IntoIterator<Item = Answer>) {
        self.answers.lock().extend(answers);
    }
}

fn http(login: Login) -> Http {
    Http::new(Duration::from_secs(2), None, None, login).unwrap()
}

fn webhook(address: SocketAddr, secret: Option<&str>) -> Webhook {
    let url = format!("http://{address}/hooks/s3cret").parse().unwrap();
    Webhook::new("test", url, http(Login::Bearer("t0ken".into())), vec![("site".into(), "a".into())], secret, true)
}

fn message(state: Stands) -> Message {
    let incident = Incident {
        about: Arc::new(About {
            rule: "hot".into(),
            title: "Too hot".into(),
            severity: "warning".into(),
            techniques: "T1496.001,T1071".into(),
        }),
        id: "hot-1".into(),
        sequence: 2,
        state,
        key: [("host".to_owned(), "h".to_owned()), ("device".to_owned(), String::new())].into(),
        found: [("celsius".to_owned(), "99".to_owned())].into(),
        summary: "h is hot".into(),
        began_us: 1_700_000_000_000_000,
        fired_us: Some(1_700_000_060_000_000),
        lapsed_us: None,
        ended_us: (state == Stands::Resolved).then_some(1_700_000_120_500_000),
    };
    Message::Incident(state, Arc::new(incident))
}

/// What any receiver does.
fn is_signed(secret: &str, request: &Request) -> bool {
    let signature = request.headers[SIGNATURE].to_str().unwrap();
    let (time, hex) = signature.split_once(",v1=").unwrap();
    let mut body = format!("{}.", time.strip_prefix("t=").unwrap()).into_bytes();
    body.extend_from_slice(&request.body);
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let bytes =
        hex.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap());
    hmac::verify(&key, &body, &bytes.collect::<Vec<u8>>()).is_ok()
}

#[tokio::test]
async fn a_webhook_is_told_what_by_whom_and_under_which_name() {
    let server = Server::default();
    let webhook = webhook(server.start().await, Some("key"));
    webhook.tell(&[message(Stands::Resolved)]).await.unwrap();
    let request = server.requests.lock()[0].clone();
    assert_eq!(request.path, "/hooks/s3cret");
    assert_eq!(request.headers["Idempotency-Key"], "hot-1/resolved");
    assert_eq!(request.headers["Authorization"], "Bearer t0ken");
    assert!(is_signed("key", &request));
    assert!(!is_signed("another", &request));
    let mut forged = request.clone();
    forged.body = Bytes::from(String::from_utf8_lossy(&forged.body).replace("hot", "not"));
    assert!(!is_signed("key", &forged));
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    assert_eq!(body["ended"], "2023-11-14T22:15:20.500Z");
    assert_eq!(body["techniques"], serde_json::json!(["T1496.001", "T1071"]));
    assert_eq!((&body["key"]["host"], &body["labels"]["site"]), (&Value::from("h"), &Value::from("a")));
}

#[tokio::test]
async fn what_an_answer_means() {
    let server = Server::default();
    let address = server.start().await;
    let webhook = webhook(address, None);
    let later = [500, 502, 429, 401, 403, 404].map(|code| StatusCode::from_u16(code).unwrap());
    for status in later {
        server.answers([Answer::Status(status, "not now")]);
        let told = webhook.tell(&[message(Stands::Firing)]).await;
        assert!(matches!(&told, Err(TellError::Later(why)) if why.contains("not now")), "{status}: {told:?}");
    }
    for status in [400, 413, 422].map(|code| StatusCode::from_u16(code).unwrap()) {
        server.answers([Answer::Status(status, "what is this")]);
        let told = webhook.tell(&[message(Stands::Firing)]).await;
        assert!(matches!(told, Err(TellError::Never(_))), "{status}: {told:?}");
    }
    // Nobody is followed elsewhere, where a token would go with us.
    server.answers([Answer::Elsewhere(format!("http://{address}/elsewhere"))]);
    assert!(matches!(webhook.tell(&[message(Stands::Firing)]).await, Err(TellError::Later(_))));
    assert!(server.requests.lock().iter().all(|request| request.path == "/hooks/s3cret"));
    // Whoever does not answer is not waited for for ever; nor is anybody who is not there.
    server.answers([Answer::Never]);
    let slow = webhook.tell(&[message(Stands::Firing)]).await;
    assert!(
        matches!(&slow, Err(TellError::Later(why)) if !why.contains("s3cret") && !why.contains("t0ken")),
        "{slow:?}"
    );
    let nobody = self::webhook(([127, 0, 0, 1], 1).into(), None);
    let refused = nobody.tell(&[message(Stands::Firing)]).await;
    assert!(matches!(&refused, Err(TellError::Later(why)) if !why.contains("s3cret")), "{refused:?}");
    assert!(!format!("{webhook:?}").contains("s3cret") && !format!("{webhook:?}").contains("t0ken"));
}

#[tokio::test]
async fn what_a_server_repeats_is_no_way_for_secrets_to_get_out() {
    let server = Server::default();
    let address = server.start().await;
    let telling = webhook(address, Some("key"));
    for answer in [
        Answer::Echo,
        Answer::Status(StatusCode::BAD_REQUEST, "no hook at http://x/hooks/s3cret?"),
        Answer::Status(StatusCode::UNAUTHORIZED, "t0ken is not a token"),
    ] {
        server.answers([answer]);
        let Err(TellError::Later(why) | TellError::Never(why)) = telling.tell(&[message(Stands::Firing)]).await else {
            panic!("it was refused");
        };
        assert!(why.contains("repeats a secret") && !why.contains("s3cret") && !why.contains("t0ken"), "{why}");
    }
}

#[tokio::test]
async fn a_refusal_without_end_is_not_read_to_its_end() {
    let server = Server::default();
    let telling = webhook(server.start().await, None);
    let (held, mut reads) = tokio::sync::mpsc::channel(1);
    let sent = Arc::new(AtomicUsize::new(0));
    server.answers([Answer::Endless(Arc::clone(&sent), held)]);
    let told = telling.tell(&[message(Stands::Firing)]).await;
    assert!(matches!(&told, Err(TellError::Later(why)) if why.starts_with("502") && why.len() < 300), "{told:?}");
    assert_eq!(reads.recv().await, None, "the connection is given up");
    // What is on its way in buffers, and no more.
    assert!(sent.load(Ordering::SeqCst) < 32 << 20, "{} bytes", sent.load(Ordering::SeqCst));
}

#[tokio::test]
async fn an_alert_that_is_refused_lets_no_other_expire() {
    let server = Server::default();
    let url = format!("http://{}/", server.start().await).parse().unwrap();
    let (resend, expire) = (Duration::from_secs(60), Duration::from_secs(3_600));
    let alertmanager = Alertmanager::new(&url, http(Login::Nobody), Vec::new(), resend, expire);
    let Message::Incident(_, incident) = message(Stands::Firing) else { unreachable!() };
    server.answers([Answer::Status(StatusCode::BAD_REQUEST, "one of them")]);
    let reminded = alertmanager.remind(&vec![incident; 150]).await;
    assert!(matches!(&reminded, Err(TellError::Never(why)) if why.contains("one of them")), "{reminded:?}");
    let count = |request: &Request| serde_json::from_slice::<Value>(&request.body).unwrap().as_array().unwrap().len();
    assert_eq!(server.requests.lock().iter().map(count).sum::<usize>(), 150);
}

#[tokio::test]
async fn an_alertmanager_is_told_labels_and_times() {
    let server = Server::default();
    let url = format!("http://{}/prefix/", server.start().await).parse().unwrap();
    let login = Login::Basic("user".into(), "pass".into());
    let labels = vec![("a-b".to_owned(), "c".to_owned())];
    let alertmanager =
        Alertmanager::new(&url, http(login), labels, Duration::from_secs(60), Duration::from_secs(3_600));
    alertmanager.tell(&[message(Stands::Firing), message(Stands::Resolved)]).await.unwrap();
    let request = server.requests.lock()[0].clone();
    assert_eq!(request.path, "/prefix/api/v2/alerts");
    assert_eq!(request.headers["Authorization"], "Basic dXNlcjpwYXNz");
    let alerts: Value = serde_json::from_slice(&request.body).unwrap();
    let wanted =
        serde_json::json!({"alertname": "hot", "severity": "warning", "incident": "hot-1", "host": "h", "a_b": "c"});
    assert_eq!(alerts[0]["labels"], wanted, "an empty value is no label");
    assert_eq!(alerts[0]["startsAt"], "2023-11-14T22:14:20Z");
    assert!(alerts[0]["endsAt"].as_str().unwrap() > "2025", "it lies ahead");
    assert_eq!(alerts[1]["endsAt"], "2023-11-14T22:15:20.500Z");
    assert_eq!(alerts[1]["annotations"]["techniques"], "T1496.001,T1071");
}
