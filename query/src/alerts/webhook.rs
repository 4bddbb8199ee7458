//! Webhooks: a POST of JSON for each incident that is raised or over, and for each report.
//!
//! `Idempotency-Key` names what is told (incident and state): a message that comes twice has the same. With a secret,
//! `X-Nodescope-Signature: t=SECONDS,v1=HEX` proves who sent it: HMAC-SHA256 of `SECONDS.BODY`. A receiver reckons the
//! same, compares, and turns away what is older than it likes.

use std::time::Duration;

use async_trait::async_trait;
use nodescope_service::errors::chain;
use reqwest::{Client, Response, StatusCode, Url, redirect};
use ring::hmac;

use super::outlets::{Message, Outlet, TellError};
use crate::schedule::now_us;

/// Header of the signature.
pub const SIGNATURE: &str = "X-Nodescope-Signature";

/// Of a refusal's text so many bytes are read, and so many characters told.
const REFUSAL: (usize, usize) = (4_096, 200);

/// What is longer in an address may be a secret.
const SHORTEST_SECRET: usize = 6;

/// How requests are made: the client, and who we say we are. Shows no secret.
#[derive(Clone)]
pub struct Http {
    /// Connections.
    pub client: Client,
    /// Who we say we are.
    pub login: Login,
}

/// What a server is shown of us.
#[derive(Clone, Default)]
pub enum Login {
    /// Nothing.
    #[default]
    Nobody,
    /// User and password.
    Basic(String, String),
    /// A token.
    Bearer(String),
}

impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let login = match self.login {
            Login::Nobody => "nobody",
            Login::Basic(..) => "user and password",
            Login::Bearer(_) => "a token",
        };
        f.debug_struct("Http").field("login", &login).finish_non_exhaustive()
    }
}

impl Http {
    /// A client that gives up after a while, and follows no one elsewhere: secrets stay with whom they are for. Servers
    /// are checked against these authorities beside those of the system, and shown this identity; all of it is PEM.
    ///
    /// # Errors
    /// When certificates cannot be used.
    pub fn new(
        timeout: Duration,
        authorities: Option<&str>,
        identity: Option<&str>,
        login: Login,
    ) -> Result<Self, reqwest::Error> {
        let mut builder = Client::builder()
            .timeout(timeout)
            .connect_timeout(timeout)
            .redirect(redirect::Policy::none())
            .user_agent(concat!("nodescope/", env!("CARGO_PKG_VERSION")));
        for authority in reqwest::Certificate::from_pem_bundle(authorities.unwrap_or_default().as_bytes())? {
            builder = builder.add_root_certificate(authority);
        }
        if let Some(identity) = identity {
            builder = builder.identity(reqwest::Identity::from_pem(identity.as_bytes())?);
        }
        Ok(Self { client: builder.build()?, login })
    }
}

/// Sends a body of JSON.
///
/// # Errors
/// `Never` when the server says that this body will never do; `Later` for everything else.
pub(crate) async fn post(http: &Http, url: &Url, body: Vec<u8>, headers: &[(&str, String)]) -> Result<(), TellError> {
    let mut request = http.client.post(url.clone()).header("Content-Type", "application/json").body(body);
    request = match &http.login {
        Login::Nobody => request,
        Login::Basic(user, password) => request.basic_auth(user, Some(password)),
        Login::Bearer(token) => request.bearer_auth(token),
    };
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let answer = request.send().await.map_err(|error| TellError::Later(failure(error)))?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    if status.is_redirection() {
        return Err(TellError::Later(format!("{status}: it points elsewhere, and is not followed there")));
    }
    let text = beginning(answer).await;
    let why = if secrets(http, url).any(|secret| text.contains(secret)) {
        format!("{status}: its text repeats a secret of ours, and is left out")
    } else {
        format!("{status}: {}", text.chars().take(REFUSAL.1).collect::<String>().trim())
    };
    match status {
        StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
            Err(TellError::Never(why))
        }
        _ => Err(TellError::Later(why)),
    }
}

/// How a refusal begins. It may have no end.
async fn beginning(mut answer: Response) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < REFUSAL.0
        && let Ok(Some(more)) = answer.chunk().await
    {
        bytes.extend_from_slice(&more[..more.len().min(REFUSAL.0 - bytes.len())]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What a server was shown and nobody else may see. Some repeat it when they refuse: "Cannot POST /hooks/…".
fn secrets<'a>(http: &'a Http, url: &'a Url) -> impl Iterator<Item = &'a str> {
    let login = match &http.login {
        Login::Nobody => None,
        Login::Basic(_, secret) | Login::Bearer(secret) => Some(secret.as_str()),
    };
    let address = [Some(url.path()), url.query()].into_iter().flatten().filter(|part| part.len() >= SHORTEST_SECRET);
    login.into_iter().chain(address)
}

/// Why nobody answered. The address is left out: it may be a secret.
fn failure(error: reqwest::Error) -> String {
    let mut text = chain(&error.without_url());
    if text.contains("UnknownIssuer") {
        text.push_str(" (no authority that we know vouches for it; alerts.ca_file names more)");
    }
    text
}

/// One webhook.
pub struct Webhook {
    name: String,
    url: Url,
    http: Http,
    labels: Vec<(String, String)>,
    secret: Option<hmac::Key>,
    takes_incidents: bool,
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Of the address not everything: the path of a webhook is often its secret.
        f.debug_struct("Webhook").field("name", &self.name).field("host", &self.url.host_str()).finish_non_exhaustive()
    }
}

impl Webhook {
    /// The webhook of that name.
    pub fn new(
        name: &str,
        url: Url,
        http: Http,
        labels: Vec<(String, String)>,
        secret: Option<&str>,
        takes_incidents: bool,
    ) -> Self {
        let secret = secret.map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()));
        Self { name: format!("webhook:{name}"), url, http, labels, secret, takes_incidents }
    }
}

/// The signature of a body sent at a time.
fn signature(secret: &hmac::Key, seconds: i64, body: &[u8]) -> String {
    let mut signing = hmac::Context::with_key(secret);
    signing.update(format!("{seconds}.").as_bytes());
    signing.update(body);
    let hex: String = signing.sign().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={seconds},v1={hex}")
}

#[async_trait]
impl Outlet for Webhook {
    fn name(&self) -> &str {
        &self.name
    }

    fn takes_incidents(&self) -> bool {
        self.takes_incidents
    }

    async fn tell(&self, messages: &[Message]) -> Result<(), TellError> {
        for message in messages {
            let body = message.body(&self.labels).to_string().into_bytes();
            let mut headers = vec![("Idempotency-Key", format!("{}/{}", message.about(), message.state()))];
            if let Some(secret) = &self.secret {
                headers.push((SIGNATURE, signature(secret, now_us() / 1_000_000, &body)));
            }
            post(&self.http, &self.url, body, &headers).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_what_others_reckon() {
        // openssl: printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac secret
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
        assert_eq!(
            signature(&key, 1_700_000_000, b"{\"a\":1}"),
            "t=1700000000,v1=49f24e537407743fa4a0242bb63b94b9a47ee99cbbe071ccd8a22550ae411686"
        );
    }
}
