//! TLS towards Alertmanagers and webhooks, by the settings: who is trusted, who is not, and what is said of it.

use std::io;

use axum::routing::post;
use nodescope_query::alerts::AlertSettings;
use nodescope_service::settings::Settings;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::*;

/// Somebody who vouches for others.
struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
struct Identity {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn vouches_for(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        Identity { certificate: params.signed_by(&key, &self.0).unwrap(), key }
    }

    fn server(&self, name: &str) -> Identity {
        self.vouches_for(name, |_| {})
    }

    fn certificate(&self) -> &rcgen::Certificate {
        self.0.as_ref()
    }
}

/// A server that takes what it is told over TLS.
struct Receiver {
    address: SocketAddr,
    taken: Arc<AtomicUsize>,
}

struct Tls(TcpListener, TlsAcceptor);

impl axum::serve::Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            // Who does not like us, or whom we do not like, is gone again.
            if let Ok((stream, address)) = self.0.accept().await
                && let Ok(stream) = self.1.accept(stream).await
            {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.0.local_addr()
    }
}

impl Receiver {
    /// One that shows this, and asks for certificates of somebody's if told to.
    async fn start(identity: &Identity, clients: Option<&Authority>) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let config = match clients {
            None => config.unwrap().with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.certificate().der().clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                config.unwrap().with_client_cert_verifier(verifier.unwrap())
            }
        };
        let chain: Vec<CertificateDer<'static>> = vec![identity.certificate.der().clone()];
        let key = PrivateKeyDer::try_from(identity.key.serialize_der()).unwrap();
        let config = config.with_single_cert(chain, key).unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let taken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&taken);
        let app = Router::new().fallback(post(async move || {
            count.fetch_add(1, Ordering::SeqCst);
        }));
        let tls = Tls(tcp, TlsAcceptor::from(Arc::new(config)));
        tokio::spawn(async move { axum::serve(tls, app).await });
        Self { address, taken }
    }

    fn taken(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }

    /// Tells it something as an Alertmanager and as a webhook, under this name and with these settings.
    async fn told_as(&self, name: &str, files: &[(&str, &str)]) -> Result<(), Vec<String>> {
        let server = format!("https://{name}:{}", self.address.port());
        let webhook = format!("test={server}/hook");
        let (settings, mistakes) = read(files, &[("alerts.alertmanagers", &server), ("alerts.webhooks", &webhook)]);
        assert!(mistakes.is_empty(), "{mistakes:?}");
        let mut errors = Vec::new();
        for outlet in settings.outlets(&[]).unwrap() {
            match outlet.tell(&[message(Stands::Firing)]).await {
                Ok(()) => {}
                Err(TellError::Later(why)) => errors.push(why),
                Err(TellError::Never(why)) => panic!("it might be right tomorrow: {why}"),
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// Nobody who is told anything under this name takes it, because of this.
    async fn refuses(&self, name: &str, files: &[(&str, &str)], because: &str) {
        let before = self.taken();
        let errors = self.told_as(name, files).await.unwrap_err();
        assert!(errors.len() == 2 && errors.iter().all(|why| why.contains(because)), "{because}: {errors:?}");
        assert_eq!(self.taken(), before, "something was said to somebody who is not trusted");
    }
}

/// The settings, with files of these contents.
fn read(files: &[(&str, &str)], values: &[(&str, &str)]) -> (AlertSettings, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = Settings::default();
    for (key, text) in files {
        let path = folder.path().join(key);
        std::fs::write(&path, text).unwrap();
        settings.flag(key, Some(path.display()));
    }
    for (key, value) in values {
        settings.flag(key, Some(value));
    }
    let read = AlertSettings::read(&mut settings, &[]);
    (read, settings.finish().map_or_else(|errors| errors.0, |()| Vec::new()))
}

#[tokio::test]
async fn an_authority_is_trusted_when_we_are_told_to() {
    let ours = Authority::new("ours");
    let receiver = Receiver::start(&ours.server("localhost"), None).await;
    receiver.told_as("localhost", &[("alerts.ca_file", &ours.certificate().pem())]).await.unwrap();
    assert_eq!(receiver.taken(), 2);
    // A file may hold several.
    let both = format!("{}\n{}", Authority::new("another").certificate().pem(), ours.certificate().pem());
    receiver.told_as("localhost", &[("alerts.ca_file", &both)]).await.unwrap();
    assert_eq!(receiver.taken(), 4);
}

#[tokio::test]
async fn whom_nobody_vouches_for_is_told_nothing() {
    let ours = Authority::new("ours");
    let receiver = Receiver::start(&ours.server("localhost"), None).await;
    let hint = "alerts.ca_file names more";
    receiver.refuses("localhost", &[], hint).await;
    receiver.refuses("localhost", &[("alerts.ca_file", &Authority::new("another").certificate().pem())], hint).await;
    // One that only bears the name of ours.
    receiver
        .refuses("localhost", &[("alerts.ca_file", &Authority::new("ours").certificate().pem())], "certificate")
        .await;
}

#[tokio::test]
async fn who_is_somebody_else_is_told_nothing() {
    let ours = Authority::new("ours");
    let trusted = ours.certificate().pem();
    let receiver = Receiver::start(&ours.server("alertmanager.example"), None).await;
    receiver.refuses("localhost", &[("alerts.ca_file", &trusted)], "not valid for name \"localhost\"").await;
    receiver.refuses("127.0.0.1", &[("alerts.ca_file", &trusted)], "not valid for name \"127.0.0.1\"").await;
    let old = ours.vouches_for("localhost", |params| params.not_after = date_time_ymd(2020, 1, 1));
    let receiver = Receiver::start(&old, None).await;
    receiver.refuses("localhost", &[("alerts.ca_file", &trusted)], "certificate expired").await;
}

#[tokio::test]
async fn we_show_who_we_are() {
    let ours = Authority::new("ours");
    let authority = ours.certificate().pem();
    let trusted = ("alerts.ca_file", authority.as_str());
    let receiver = Receiver::start(&ours.server("localhost"), Some(&ours)).await;
    let us = ours.server("nodescope");
    let (certificate, key) = (us.certificate.pem(), us.key.serialize_pem());
    let shown = [trusted, ("alerts.certificate_file", certificate.as_str()), ("alerts.key_file", key.as_str())];
    receiver.told_as("localhost", &shown).await.unwrap();
    assert_eq!(receiver.taken(), 2);
    // Who shows nothing, or what a stranger vouches for, is let in nowhere.
    assert_eq!(receiver.told_as("localhost", &[trusted]).await.unwrap_err().len(), 2);
    let stranger = Authority::new("another").server("nodescope");
    let (certificate, key) = (stranger.certificate.pem(), stranger.key.serialize_pem());
    let shown = [trusted, ("alerts.certificate_file", certificate.as_str()), ("alerts.key_file", key.as_str())];
    assert_eq!(receiver.told_as("localhost", &shown).await.unwrap_err().len(), 2);
    assert_eq!(receiver.taken(), 2);
}

#[test]
fn certificates_that_are_none_are_mistakes() {
    let ours = Authority::new("ours");
    let (us, another) = (ours.server("nodescope"), ours.server("nodescope"));
    let (certificate, key) = (us.certificate.pem(), us.key.serialize_pem());
    let mistakes = |files: &[(&str, &str)]| read(files, &[]).1;
    let wrong = [
        (vec![("alerts.ca_file", "")], "alerts.ca_file: it holds no certificate"),
        (vec![("alerts.ca_file", key.as_str())], "alerts.ca_file: it holds no certificate"),
        (
            vec![("alerts.ca_file", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")],
            "the certificates cannot be used",
        ),
        (vec![("alerts.certificate_file", certificate.as_str())], "go together"),
    ];
    for (files, what) in wrong {
        let told = mistakes(&files);
        assert!(told.len() == 1 && told[0].contains(what), "{what}: {told:?}");
    }
    let anothers = another.key.serialize_pem();
    let told = mistakes(&[("alerts.certificate_file", &certificate), ("alerts.key_file", &anothers)]);
    assert!(told.len() == 1 && told[0].contains("cannot be used"), "{told:?}");
    let secret: String = anothers.lines().nth(1).unwrap().to_owned();
    assert!(!told[0].contains(&secret));
}
