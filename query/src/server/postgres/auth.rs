//! Who may log in: users and SCRAM-SHA-256.
//!
//! With SCRAM the server never sees a password and does not keep one either. What it keeps per user is a verifier in
//! PostgreSQL's own form, `SCRAM-SHA-256$4096:<salt>$<StoredKey>:<ServerKey>`, from which a password cannot be read
//! and with which nobody can log in. `pgwire` wants salted passwords, with which one can, so the exchange is written
//! here; it is two messages each way (RFC 5802 and 7677). A user who does not exist gets an exchange just the same,
//! with a salt that never changes, and fails at the same point, so that nobody learns names by asking.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::{digest, hmac, pbkdf2};
use thiserror::Error;

use super::cancel::same;

/// The only mechanism that is offered.
pub(super) const MECHANISM: &str = "SCRAM-SHA-256";
/// Rounds of hashing for new verifiers, as in PostgreSQL.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(4_096).expect("4096 is not zero");
/// More rounds than this would let a verifier stall every client that logs in.
const MOST_ITERATIONS: u32 = 10_000_000;

/// The users, each with a verifier.
#[derive(Clone)]
pub struct Users {
    verifiers: BTreeMap<String, Verifier>,
    mock_key: [u8; 32],
    mock_iterations: NonZeroU32,
}

impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.verifiers.keys()).finish()
    }
}

/// Why a file of users cannot be used.
#[derive(Debug, Error)]
pub enum UsersError {
    /// It cannot be read.
    #[error("the users file {path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It does not consist of lines such as `ada = "SCRAM-SHA-256$…"`.
    #[error("the users file is not a list of names and verifiers")]
    Form(#[source] toml::de::Error),
    /// Verifiers that are none; plain passwords are not accepted.
    #[error("not a SCRAM-SHA-256 verifier: the entries of {}", .0.join(", "))]
    Verifiers(Vec<String>),
    /// A list of nobody lets nobody in, which is surely not what was meant.
    #[error("the users file names nobody")]
    Empty,
}

impl Users {
    /// Reads the users from a TOML file.
    ///
    /// # Errors
    /// When the file cannot be read or is not what it should be.
    pub fn load(path: &Path) -> Result<Users, UsersError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| UsersError::Read { path: path.to_owned(), source })?;
        Users::from_toml(&text)
    }

    /// Reads the users from TOML: a line `name = "SCRAM-SHA-256$…"` for each.
    ///
    /// # Errors
    /// When the text is not TOML of that form; all entries that are wrong are named at once.
    pub fn from_toml(text: &str) -> Result<Users, UsersError> {
        let entries: BTreeMap<String, String> = toml::from_str(text).map_err(UsersError::Form)?;
        let mut verifiers = BTreeMap::new();
        let mut wrong = Vec::new();
        for (name, entry) in entries {
            match Verifier::parse(&entry) {
                Some(verifier) => {
                    verifiers.insert(name, verifier);
                }
                None => wrong.push(name),
            }
        }
        if !wrong.is_empty() {
            return Err(UsersError::Verifiers(wrong));
        }
        let Some(first) = verifiers.values().next() else { return Err(UsersError::Empty) };
        let mock_iterations = first.iterations;
        // The salt of a user who does not exist must not change from one start to the next, as a real one does not.
        let mut secret = digest::Context::new(&digest::SHA256);
        for verifier in verifiers.values() {
            secret.update(&verifier.server_key);
        }
        let mock_key = bytes32(secret.finish().as_ref());
        Ok(Users { verifiers, mock_key, mock_iterations })
    }

    /// The verifier of a user, and whether there is such a user; if not, one that no password fits.
    fn verifier(&self, user: &str) -> (Verifier, bool) {
        let mock = |purpose: &str| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, &self.mock_key);
            bytes32(hmac::sign(&key, format!("{purpose}\0{user}").as_bytes()).as_ref())
        };
        let made_up = Verifier {
            iterations: self.mock_iterations,
            salt: mock("salt")[..16].to_vec(),
            stored_key: mock("stored"),
            server_key: mock("server"),
        };
        match self.verifiers.get(user) {
            Some(verifier) => (verifier.clone(), true),
            None => (made_up, false),
        }
    }
}

/// What the server keeps of a password.
#[derive(Clone, PartialEq, Eq)]
struct Verifier {
    iterations: NonZeroU32,
    salt: Vec<u8>,
    stored_key: [u8; 32],
    server_key: [u8; 32],
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

impl Verifier {
    fn of(password: &str, salt: &[u8], iterations: NonZeroU32) -> Verifier {
        // As PostgreSQL does: a password that cannot be normalised is taken as it is.
        let password = stringprep::saslprep(password).unwrap_or(password.into());
        let mut salted = [0; 32];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, password.as_bytes(), &mut salted);
        let client_key = sign(&salted, b"Client Key");
        Verifier {
            iterations,
            salt: salt.to_vec(),
            stored_key: bytes32(digest::digest(&digest::SHA256, &client_key).as_ref()),
            server_key: sign(&salted, b"Server Key"),
        }
    }

    fn parse(text: &str) -> Option<Verifier> {
        let rest = text.strip_prefix("SCRAM-SHA-256$")?;
        let (cost, keys) = rest.split_once('$')?;
        let (iterations, salt) = cost.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let iterations: NonZeroU32 = iterations.parse().ok()?;
        let salt = BASE64.decode(salt).ok()?;
        if salt.is_empty() || iterations.get() > MOST_ITERATIONS {
            return None;
        }
        let key = |text: &str| <[u8; 32]>::try_from(BASE64.decode(text).ok()?).ok();
        Some(Verifier { iterations, salt, stored_key: key(stored_key)?, server_key: key(server_key)? })
    }

    fn text(&self) -> String {
        format!(
            "{MECHANISM}${}:{}${}:{}",
            self.iterations,
            BASE64.encode(&self.salt),
            BASE64.encode(self.stored_key),
            BASE64.encode(self.server_key)
        )
    }
}

/// Makes the verifier of a password, in the form that a users file holds and PostgreSQL itself uses.
pub fn scram_verifier(password: &str) -> String {
    Verifier::of(password, &rand::random::<[u8; 16]>(), ITERATIONS).text()
}

/// Why somebody was not let in. The client is told no more than that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum AuthError {
    #[error("a SCRAM message does not have the right form")]
    Form,
    #[error("channel binding is asked for and not offered")]
    ChannelBinding,
    #[error("user or password is wrong")]
    Wrong,
}

/// An exchange of which the first half is done.
#[derive(Debug)]
pub(super) struct Exchange {
    verifier: Verifier,
    known: bool,
    header: String,
    client_first: String,
    server_first: String,
    nonce: String,
}

impl Exchange {
    /// Takes the client's first message and gives the server's first.
    pub(super) fn begin(users: &Users, user: &str, message: &[u8]) -> Result<(Exchange, String), AuthError> {
        Exchange::begin_with(users, user, message, &BASE64.encode(rand::random::<[u8; 18]>()))
    }

    fn begin_with(users: &Users, user: &str, message: &[u8], nonce: &str) -> Result<(Exchange, String), AuthError> {
        let message = std::str::from_utf8(message).map_err(|_| AuthError::Form)?;
        // The flag says what the client makes of channel binding, then may come another name to act for.
        let (flag, rest) = message.split_once(',').ok_or(AuthError::Form)?;
        match flag {
            "n" | "y" => {}
            _ if flag.starts_with("p=") => return Err(AuthError::ChannelBinding),
            _ => return Err(AuthError::Form),
        }
        let client_first = rest.strip_prefix(',').ok_or(AuthError::Form)?;
        let mut attributes = client_first.split(',');
        // The name in here is left empty by clients; the one of the startup message counts.
        attributes.next().and_then(|name| name.strip_prefix("n=")).ok_or(AuthError::Form)?;
        let client_nonce = attributes.next().and_then(|nonce| nonce.strip_prefix("r=")).ok_or(AuthError::Form)?;
        if client_nonce.is_empty() || !client_nonce.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(AuthError::Form);
        }
        let (verifier, known) = users.verifier(user);
        let nonce = format!("{client_nonce}{nonce}");
        let server_first = format!("r={nonce},s={},i={}", BASE64.encode(&verifier.salt), verifier.iterations);
        let exchange = Exchange {
            verifier,
            known,
            header: format!("{flag},,"),
            client_first: client_first.to_owned(),
            server_first: server_first.clone(),
            nonce,
        };
        Ok((exchange, server_first))
    }

    /// Takes the client's last message and gives the server's last, if the password was right.
    pub(super) fn finish(self, message: &[u8]) -> Result<String, AuthError> {
        let message = std::str::from_utf8(message).map_err(|_| AuthError::Form)?;
        let (unproven, proof) = message.rsplit_once(",p=").ok_or(AuthError::Form)?;
        let mut attributes = unproven.split(',');
        let binding = attributes.next().and_then(|text| text.strip_prefix("c=")).ok_or(AuthError::Form)?;
        let nonce = attributes.next().and_then(|text| text.strip_prefix("r=")).ok_or(AuthError::Form)?;
        if BASE64.decode(binding).map_err(|_| AuthError::Form)? != self.header.as_bytes() {
            return Err(AuthError::ChannelBinding);
        }
        if nonce != self.nonce {
            return Err(AuthError::Form);
        }
        let proof = BASE64.decode(proof).map_err(|_| AuthError::Form)?;
        let proof = <[u8; 32]>::try_from(proof).map_err(|_| AuthError::Form)?;
        let exchanged = format!("{},{},{unproven}", self.client_first, self.server_first);
        let signature = sign(&self.verifier.stored_key, exchanged.as_bytes());
        let client_key: Vec<u8> = proof.iter().zip(signature).map(|(proof, mask)| proof ^ mask).collect();
        let fits = same(digest::digest(&digest::SHA256, &client_key).as_ref(), &self.verifier.stored_key);
        if !(fits & self.known) {
            return Err(AuthError::Wrong);
        }
        Ok(format!("v={}", BASE64.encode(sign(&self.verifier.server_key, exchanged.as_bytes()))))
    }
}

fn sign(key: &[u8], message: &[u8]) -> [u8; 32] {
    bytes32(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref())
}

/// What SHA-256 gives, as an array.
fn bytes32(bytes: &[u8]) -> [u8; 32] {
    bytes.try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The client's half, so that both can be played against each other.
    fn client(password: &str, first: &str, server_first: &str) -> String {
        let part = |name: &str| {
            server_first.split(',').find_map(|part| part.strip_prefix(name)).expect("the server's first message")
        };
        let iterations: NonZeroU32 = part("i=").parse().expect("a number");
        let mut salted = [0; 32];
        let salt = BASE64.decode(part("s=")).expect("a salt");
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, password.as_bytes(), &mut salted);
        let key = sign(&salted, b"Client Key");
        let unproven = format!("c=biws,r={}", part("r="));
        let exchanged = format!("{first},{server_first},{unproven}");
        let stored = bytes32(digest::digest(&digest::SHA256, &key).as_ref());
        let proof: Vec<u8> = key.iter().zip(sign(&stored, exchanged.as_bytes())).map(|(a, b)| a ^ b).collect();
        format!("{unproven},p={}", BASE64.encode(proof))
    }

    fn users() -> Users {
        Users::from_toml(&format!("ada = \"{}\"", scram_verifier("pencil"))).expect("users")
    }

    fn log_in(users: &Users, user: &str, password: &str) -> Result<String, AuthError> {
        let first = "n=,r=fyko+d2lbbFgONRv9qkxdawL";
        let (exchange, server_first) = Exchange::begin(users, user, format!("n,,{first}").as_bytes())?;
        exchange.finish(client(password, first, &server_first).as_bytes())
    }

    #[test]
    fn the_right_password_lets_in_and_nothing_else_does() {
        let users = users();
        assert!(log_in(&users, "ada", "pencil").expect("let in").starts_with("v="));
        assert_eq!(log_in(&users, "ada", "pen"), Err(AuthError::Wrong));
        assert_eq!(log_in(&users, "bob", "pencil"), Err(AuthError::Wrong));
    }

    #[test]
    fn the_exchange_is_the_one_of_rfc_7677() {
        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").expect("a salt");
        let verifier = Verifier::of("pencil", &salt, ITERATIONS).text();
        let users = Users::from_toml(&format!("user = \"{verifier}\"")).expect("users");
        let (exchange, first) =
            Exchange::begin_with(&users, "user", b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO", "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
                .expect("begun");
        assert_eq!(first, "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
        let last = exchange.finish(
            b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        );
        assert_eq!(last.as_deref(), Ok("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
    }

    #[test]
    fn a_user_who_does_not_exist_looks_like_one_who_does() {
        let users = users();
        let first = |user| Exchange::begin(&users, user, b"n,,n=,r=abc").expect("begun").1;
        let (bob, carol) = (first("bob"), first("carol"));
        let salt = |text: &str| text.split(',').nth(1).expect("a salt").to_owned();
        assert_eq!(salt(&bob), salt(&first("bob")), "the same every time");
        assert_ne!(salt(&bob), salt(&carol));
        assert_eq!(salt(&bob).len(), salt(&first("ada")).len());
        assert!(bob.ends_with("i=4096"));
    }

    #[test]
    fn messages_of_another_form_are_refused() {
        let users = users();
        for (message, error) in [
            (&b"n,,n=,r=abc,ext"[..], None),
            (b"p=tls-server-end-point,,n=,r=abc", Some(AuthError::ChannelBinding)),
            (b"n,a=root,n=,r=abc", Some(AuthError::Form)),
            (b"n,,m=x,n=,r=abc", Some(AuthError::Form)),
            (b"n,,n=,r=", Some(AuthError::Form)),
            (b"n,,n=", Some(AuthError::Form)),
            (b"", Some(AuthError::Form)),
            (b"\xff", Some(AuthError::Form)),
        ] {
            assert_eq!(Exchange::begin(&users, "ada", message).err(), error, "{message:?}");
        }
        let begin = || Exchange::begin(&users, "ada", b"n,,n=,r=abc").expect("begun");
        for message in [&b""[..], b"c=biws,r=other,p=AAAA", b"c=biws,p=AAAA", b"c=eSws,r=abc,p=AAAA"] {
            assert!(begin().0.finish(message).is_err(), "{message:?}");
        }
    }

    #[test]
    fn a_users_file_holds_verifiers_and_nothing_else() {
        let verifier = scram_verifier("pencil");
        assert_eq!(Verifier::parse(&verifier).expect("parsed").text(), verifier);
        let text = format!("ada = \"{verifier}\"\nbob = \"pencil\"\ncarol = \"SCRAM-SHA-256$0:AA==$AA==:AA==\"");
        match Users::from_toml(&text) {
            Err(UsersError::Verifiers(wrong)) => assert_eq!(wrong, ["bob", "carol"]),
            other => panic!("{other:?}"),
        }
        assert!(matches!(Users::from_toml(""), Err(UsersError::Empty)));
        assert!(matches!(Users::from_toml("ada"), Err(UsersError::Form(_))));
        assert_eq!(format!("{:?}", users()), "{\"ada\"}", "names are printed and keys are not");
    }
}
