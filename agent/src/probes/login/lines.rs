//! What programs log when somebody comes in, fails to, or becomes somebody else.
//!
//! None of these lines is specified anywhere; they are what the programs' sources print, and the forms here are those
//! of OpenSSH 7 to 10, sudo 1.8 and 1.9, util-linux and shadow, Linux-PAM and systemd-logind.
//!
//! Traps. A user's name in a line is what the other side sent, so it may hold ` from 10.0.0.1 port 22`: the last such
//! words count. sshd tells of one failure in up to four lines; see [`Weight`]. What is typed where a name is asked for
//! is at times a password: a name of nobody's is kept only where it has the form of a name. And the command that sudo
//! logs may hold secrets: it is never taken.

use std::net::IpAddr;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Success,
    Failure,
    SessionOpened,
    SessionClosed,
    Privilege,
}

impl Kind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::SessionOpened => "session_opened",
            Self::SessionClosed => "session_closed",
            Self::Privilege => "privilege",
        }
    }
}

/// One event. What is not known is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) kind: Kind,
    pub(super) service: Option<String>,
    pub(super) user: Option<String>,
    pub(super) user_withheld: bool,
    pub(super) target_user: Option<String>,
    pub(super) method: Option<String>,
    pub(super) key_type: Option<String>,
    pub(super) key_fingerprint: Option<String>,
    pub(super) source_address: Option<String>,
    pub(super) source_port: Option<u16>,
    pub(super) tty: Option<String>,
    pub(super) session: Option<String>,
    pub(super) pid: Option<i64>,
    pub(super) reason: Option<&'static str>,
}

impl Event {
    pub(super) fn new(kind: Kind, service: Option<&str>) -> Self {
        Self {
            kind,
            service: service.map(str::to_owned),
            user: None,
            user_withheld: false,
            target_user: None,
            method: None,
            key_type: None,
            key_fingerprint: None,
            source_address: None,
            source_port: None,
            tty: None,
            session: None,
            pid: None,
            reason: None,
        }
    }

    /// Sets the name of a user who may not exist.
    pub(super) fn set_unknown_user(&mut self, name: &str) {
        if is_name(name) {
            self.user = Some(name.to_owned());
        } else {
            self.user = None;
            self.user_withheld = !name.is_empty();
        }
    }
}

/// How much a line counts. Of one connection to sshd, only some lines are failures of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    /// Counts.
    Full,
    /// Counts unless another line tells more of it soon: `Invalid user`.
    Announcement,
    /// Counts unless the connection's failures have been counted: it is closed before anybody was let in.
    End,
}

/// Longest text taken from a line.
const MAX_TEXT: usize = 256;

/// The programs whose lines are understood, by the name they log under.
pub(super) const IDENTIFIERS: &[&str] = &[
    "sshd",
    "sshd-session",
    "sshd-auth",
    "sudo",
    "su",
    "su-l",
    "login",
    "systemd-logind",
    "gdm-password]",
    "gdm-fingerprint]",
    "lightdm",
    "sddm-helper",
    "cockpit-session",
    "xrdp-sesman",
    "dropbear",
];

fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    text.len() <= 32
        && bytes.next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_')
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'.' | b'-'))
}

fn some(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty()).then(|| text.chars().take(MAX_TEXT).collect())
}

/// A line of that program, if it tells of a login.
pub(super) fn parse(identifier: &str, text: &str) -> Option<(Event, Weight)> {
    match identifier {
        "sshd" | "sshd-session" | "sshd-auth" => parse_sshd(text),
        "sudo" => parse_sudo(text).map(full),
        "su" | "su-l" => parse_su(text).map(full),
        "login" => parse_login(text).or_else(|| parse_pam(text)).map(full),
        "systemd-logind" => parse_logind(text).map(full),
        "dropbear" => parse_dropbear(text).map(full),
        other if IDENTIFIERS.contains(&other) => parse_pam(text).map(full),
        _ => None,
    }
}

fn full(event: Event) -> (Event, Weight) {
    (event, Weight::Full)
}

/// `A port P` at the beginning of a text, and what follows.
fn address(text: &str) -> (Option<String>, Option<u16>, &str) {
    let mut words = text.splitn(4, ' ');
    let (host, port, number) = (words.next().unwrap_or(""), words.next(), words.next());
    let host = host.parse::<IpAddr>().ok().map(|ip| ip.to_string());
    if port == Some("port") {
        let number = number.map(|n| n.trim_end_matches([':', ','])).and_then(|n| n.parse().ok());
        (host, number, words.next().unwrap_or(""))
    } else {
        (host, None, "")
    }
}

fn parse_sshd(text: &str) -> Option<(Event, Weight)> {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    if text.starts_with("pam_") {
        return parse_pam(text).map(full);
    }
    let failure = || Event::new(Kind::Failure, Some("sshd"));
    if let Some(rest) = text.strip_prefix("Accepted ") {
        return sshd_attempt(Event::new(Kind::Success, Some("sshd")), rest).map(full);
    }
    if let Some(rest) = text.strip_prefix("Failed ") {
        // `none` is how a client asks which methods there are.
        return if rest.starts_with("none for") { None } else { sshd_attempt(failure(), rest).map(full) };
    }
    if let Some(rest) = text.strip_prefix("Invalid user ").or_else(|| text.strip_prefix("Illegal user ")) {
        let (user, from) = rest.rsplit_once("from ")?;
        let mut event = failure();
        event.set_unknown_user(user.trim_end());
        (event.source_address, event.source_port, _) = address(from);
        event.reason = Some("invalid user");
        return Some((event, Weight::Announcement));
    }
    if let Some(rest) = text.strip_prefix("User ")
        && let Some((user, rest)) = rest.split_once(" from ")
        && let Some((from, _)) = rest.split_once(" not allowed because ")
    {
        let mut event = failure();
        event.user = some(user);
        (event.source_address, event.source_port, _) = address(from);
        event.reason = Some("not allowed");
        return Some((event, Weight::Announcement));
    }
    if let Some(rest) = text.strip_prefix("maximum authentication attempts exceeded for ") {
        let (user, from) = rest.rsplit_once(" from ")?;
        let mut event = failure();
        set_sshd_user(&mut event, user);
        (event.source_address, event.source_port, _) = address(from);
        event.reason = Some("too many attempts");
        return Some((event, Weight::End));
    }
    if let Some(rest) = text.strip_prefix("fatal: Timeout before authentication for ").or_else(|| {
        text.strip_prefix("Timeout before authentication for ").map(|r| r.strip_prefix("connection from ").unwrap_or(r))
    }) {
        let mut event = failure();
        (event.source_address, event.source_port, _) = address(rest);
        event.reason = Some("timeout");
        return event.source_address.is_some().then_some((event, Weight::End));
    }
    // `Connection closed by authenticating user U A port P [preauth]`
    for (begin, reason) in [
        ("Connection closed by ", "closed before authentication"),
        ("Connection reset by ", "closed before authentication"),
        ("Disconnected from ", "closed before authentication"),
        ("Disconnecting ", "disconnected"),
    ] {
        let Some(rest) = text.strip_prefix(begin) else { continue };
        let who = rest.strip_prefix("authenticating user ").map(|rest| (rest, false));
        let (rest, is_invalid) = who.or_else(|| rest.strip_prefix("invalid user ").map(|rest| (rest, true)))?;
        let (before, _) = rest.rsplit_once(" port ")?;
        let (user, host) = before.rsplit_once(' ')?;
        let mut event = failure();
        if is_invalid {
            event.set_unknown_user(user);
        } else {
            event.user = some(user);
        }
        (event.source_address, event.source_port, _) = address(rest.get(rest.len().min(user.len() + 1)..)?);
        if event.source_address.is_none() {
            event.source_address = host.parse::<IpAddr>().ok().map(|ip| ip.to_string());
        }
        event.reason =
            Some(if rest.contains("Too many authentication failures") { "too many attempts" } else { reason });
        return Some((event, Weight::End));
    }
    None
}

/// `[invalid user ]U`
fn set_sshd_user(event: &mut Event, user: &str) {
    match user.strip_prefix("invalid user ") {
        Some(user) => {
            event.set_unknown_user(user);
            event.reason = Some("invalid user");
        }
        None => event.user = some(user),
    }
}

/// `METHOD for [invalid user ]U from A port P ssh2[: TYPE FINGERPRINT …]`
fn sshd_attempt(mut event: Event, text: &str) -> Option<Event> {
    let (method, rest) = text.split_once(" for ")?;
    event.method = some(method);
    // The id in a certificate is its issuer's to choose, and may hold ` from ` as well: it stands behind `ssh2: `.
    let (rest, key) = match rest.split_once(" ssh2: ") {
        Some((rest, key)) => (rest, Some(key)),
        None => (rest, None),
    };
    let (user, from) = rest.rsplit_once(" from ")?;
    set_sshd_user(&mut event, user);
    (event.source_address, event.source_port, _) = address(from);
    if event.kind == Kind::Failure && event.reason.is_none() {
        event.reason = Some("refused");
    }
    if let Some(key) = key {
        let mut words = key.split_ascii_whitespace();
        event.key_type = words.next().and_then(some);
        event.key_fingerprint =
            words.next().filter(|w| w.starts_with("SHA256:") || w.starts_with("MD5:")).and_then(some);
    }
    Some(event)
}

/// `U : [why ;] TTY=T ; PWD=… ; USER=R ; COMMAND=…`
fn parse_sudo(text: &str) -> Option<Event> {
    if text.starts_with("pam_") || text.contains("(command continued)") {
        return None;
    }
    let (user, rest) = text.split_once(" : ")?;
    let mut event = Event::new(Kind::Privilege, Some("sudo"));
    event.user = some(user);
    event.method = None;
    let before = rest.split("COMMAND=").next().unwrap_or(rest);
    for part in before.split(" ; ") {
        if let Some(tty) = part.strip_prefix("TTY=") {
            event.tty = some(tty).filter(|tty| tty != "unknown");
        } else if let Some(target) = part.strip_prefix("USER=") {
            event.target_user = some(target);
        } else if !part.contains('=') && !part.trim().is_empty() {
            event.kind = Kind::Failure;
            event.reason = Some(if part.contains("incorrect password") {
                "wrong password"
            } else if part.contains("NOT in sudoers") || part.contains("NOT authorized") {
                "not allowed"
            } else if part.contains("command not allowed") {
                "command not allowed"
            } else if part.contains("password is required") {
                "password required"
            } else {
                "refused"
            });
        }
    }
    // Other lines of sudo (`unable to resolve host`) have neither.
    (event.tty.is_some() || event.target_user.is_some()).then_some(event)
}

/// util-linux: `(to R) U on T`, `FAILED SU (to R) U on T`. shadow: `Successful su for R by U`, `FAILED su for R by U`.
fn parse_su(text: &str) -> Option<Event> {
    let (kind, rest) = match text.strip_prefix("FAILED ") {
        Some(rest) => (Kind::Failure, rest),
        None => (Kind::Privilege, text),
    };
    let mut event = Event::new(kind, Some("su"));
    event.reason = (kind == Kind::Failure).then_some("refused");
    let rest = rest.strip_prefix("SU ").unwrap_or(rest);
    if let Some(rest) = rest.strip_prefix("(to ") {
        let (target, rest) = rest.split_once(") ")?;
        event.target_user = some(target);
        let (user, tty) = rest.rsplit_once(" on ").unwrap_or((rest, ""));
        event.user = some(user);
        event.tty = some(tty).filter(|tty| tty != "none");
        return Some(event);
    }
    let rest = rest.strip_prefix("Successful su for ").or_else(|| rest.strip_prefix("su for "))?;
    let (target, user) = rest.rsplit_once(" by ")?;
    event.target_user = some(target);
    event.user = some(user);
    Some(event)
}

/// util-linux: `LOGIN ON T BY U[ FROM H]`, `ROOT LOGIN ON T[ FROM H]`, `FAILED LOGIN N FROM T FOR U, why`.
/// shadow: `ROOT LOGIN  on 'T'`, `FAILED LOGIN (N) on 'T' FOR 'U', why`.
fn parse_login(text: &str) -> Option<Event> {
    let quoted = |text: &str| some(text.trim_matches(['\'', '"', ' ']).trim_start_matches("/dev/"));
    if let Some(rest) = text.strip_prefix("FAILED LOGIN ").or_else(|| text.strip_prefix("TOO MANY LOGIN TRIES ")) {
        let mut event = Event::new(Kind::Failure, Some("login"));
        let (place, who) = rest.split_once(" FOR ")?;
        let (user, why) = who.rsplit_once(", ").unwrap_or((who, ""));
        // Whether there is such a user is only in the words of PAM, so that every name is looked at.
        event.set_unknown_user(user.trim_matches(['\'', '"']));
        let place = place.split_once("FROM ").or_else(|| place.split_once("on ")).map_or("", |(_, place)| place);
        match place.parse::<IpAddr>() {
            Ok(ip) => event.source_address = Some(ip.to_string()),
            Err(_) => event.tty = quoted(place.split(' ').next().unwrap_or("")),
        }
        event.reason = Some(if why.contains("not known") { "invalid user" } else { "refused" });
        return Some(event);
    }
    let mut event = Event::new(Kind::Success, Some("login"));
    let (rest, is_root) = match text.strip_prefix("ROOT LOGIN ") {
        Some(rest) => (rest.trim_start(), true),
        None => (text.strip_prefix("LOGIN ").or_else(|| text.strip_prefix("DIALUP AT "))?, false),
    };
    let rest = rest.strip_prefix("ON ").or_else(|| rest.strip_prefix("on ")).unwrap_or(rest);
    let (rest, from) = rest.split_once(" FROM ").unwrap_or((rest, ""));
    event.source_address = from.trim().parse::<IpAddr>().ok().map(|ip| ip.to_string());
    let (tty, user) = rest.split_once(" BY ").unwrap_or((rest, ""));
    event.tty = quoted(tty);
    event.user = if is_root { Some("root".to_owned()) } else { some(user) };
    Some(event)
}

/// systemd-logind: `New session 5 of user alice.`, since 257 with quotes, class and type; `Removed session 5.`
fn parse_logind(text: &str) -> Option<Event> {
    let bare = |text: &str| some(text.trim_end_matches('.').trim_matches('\''));
    if let Some(rest) = text.strip_prefix("New session ") {
        let (session, rest) = rest.split_once(" of user ")?;
        let mut event = Event::new(Kind::SessionOpened, None);
        event.session = bare(session);
        event.user = bare(rest.split(" with class").next().unwrap_or(rest));
        let is_people = !["'background'", "'manager'", "'manager-early'", "'greeter'"]
            .iter()
            .any(|class| rest.contains(&format!("class {class}")));
        return is_people.then_some(event);
    }
    let mut event = Event::new(Kind::SessionClosed, None);
    event.session = bare(text.strip_prefix("Removed session ")?);
    Some(event)
}

/// `pam_unix(S:session): session opened for user U(uid=N) by …`, `… session closed for user U`,
/// `pam_unix(S:auth): authentication failure; logname=… tty=T … rhost=H  user=U`.
fn parse_pam(text: &str) -> Option<Event> {
    let (module, rest) = text.split_once("): ")?;
    let (_, what) = module.strip_prefix("pam_")?.split_once('(')?;
    let (service, stage) = what.split_once(':')?;
    if stage == "session" {
        let (kind, rest) = match rest.strip_prefix("session opened for user ") {
            Some(rest) => (Kind::SessionOpened, rest),
            None => (Kind::SessionClosed, rest.strip_prefix("session closed for user ")?),
        };
        let mut event = Event::new(kind, Some(service));
        event.user = some(rest.split(['(', ' ']).next().unwrap_or(""));
        return Some(event);
    }
    // sshd and login tell of their failures themselves, and better.
    if stage != "auth" || matches!(service, "sshd" | "login") {
        return None;
    }
    let rest = rest.strip_prefix("authentication failure; ")?;
    let mut event = Event::new(Kind::Failure, Some(service));
    for word in rest.split(' ') {
        match word.split_once('=') {
            Some(("user", user)) => event.set_unknown_user(user),
            Some(("tty", tty)) => event.tty = some(tty.trim_start_matches("/dev/")),
            Some(("rhost", host)) => event.source_address = host.parse::<IpAddr>().ok().map(|ip| ip.to_string()),
            _ => {}
        }
    }
    event.reason = Some("refused");
    Some(event)
}

/// `Password auth succeeded for 'U' from A:P`, `Pubkey auth succeeded for 'U' with … key F from A:P`,
/// `Bad password attempt for 'U' from A:P`, `Login attempt for nonexistent user from A:P`.
fn parse_dropbear(text: &str) -> Option<Event> {
    let (what, from) = text.rsplit_once(" from ")?;
    let name = || what.split_once('\'').and_then(|(_, rest)| rest.rsplit_once('\'')).map(|(name, _)| name);
    let (kind, method) = if what.starts_with("Password auth succeeded") {
        (Kind::Success, Some("password"))
    } else if what.starts_with("Pubkey auth succeeded") {
        (Kind::Success, Some("publickey"))
    } else if what.starts_with("Bad password attempt") {
        (Kind::Failure, Some("password"))
    } else if what.starts_with("Login attempt for nonexistent user") {
        (Kind::Failure, None)
    } else {
        return None;
    };
    let mut event = Event::new(kind, Some("dropbear"));
    event.method = method.map(str::to_owned);
    event.user = name().and_then(some);
    event.reason = match (kind, method) {
        (Kind::Failure, None) => Some("invalid user"),
        (Kind::Failure, _) => Some("refused"),
        _ => None,
    };
    if let Some((host, port)) = from.rsplit_once(':') {
        event.source_address = host.trim_matches(['[', ']']).parse::<IpAddr>().ok().map(|ip| ip.to_string());
        event.source_port = port.parse().ok();
    }
    Some(event)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::probes::testing::garbage;

    fn of(identifier: &str, text: &str) -> (Event, Weight) {
        parse(identifier, text).unwrap_or_else(|| panic!("{text}"))
    }

    fn from(event: &Event) -> (&str, u16) {
        (event.source_address.as_deref().unwrap_or(""), event.source_port.unwrap_or(0))
    }

    #[test]
    fn sshd_lets_in() {
        let (event, weight) =
            of("sshd", "Accepted publickey for alice from 10.0.0.5 port 51514 ssh2: ED25519 SHA256:abcDEF");
        assert_eq!((event.kind, weight), (Kind::Success, Weight::Full));
        assert_eq!(event.user.as_deref(), Some("alice"));
        assert_eq!(event.method.as_deref(), Some("publickey"));
        assert_eq!(event.key_type.as_deref(), Some("ED25519"));
        assert_eq!(event.key_fingerprint.as_deref(), Some("SHA256:abcDEF"));
        assert_eq!(from(&event), ("10.0.0.5", 51514));
        let (event, _) = of("sshd-session", "Accepted keyboard-interactive/pam for bob from 2001:db8::1 port 22 ssh2");
        assert_eq!(event.method.as_deref(), Some("keyboard-interactive/pam"));
        assert_eq!(from(&event), ("2001:db8::1", 22));
        let (event, _) = of(
            "sshd",
            "Accepted publickey for carol from 192.0.2.8 port 5 ssh2: RSA-CERT SHA256:x ID carol from home \
             (serial 7) CA ED25519 SHA256:y",
        );
        assert_eq!((event.user.as_deref(), from(&event)), (Some("carol"), ("192.0.2.8", 5)));
    }

    #[test]
    fn sshd_refuses() {
        let (event, weight) = of("sshd", "Failed password for root from 203.0.113.9 port 4022 ssh2");
        assert_eq!((event.kind, weight, event.reason), (Kind::Failure, Weight::Full, Some("refused")));
        let (event, _) = of("sshd", "Failed password for invalid user admin from 203.0.113.9 port 4022 ssh2");
        assert_eq!((event.user.as_deref(), event.reason), (Some("admin"), Some("invalid user")));
        let (event, weight) = of("sshd", "Invalid user oracle from 203.0.113.9 port 4022");
        assert_eq!((event.user.as_deref(), weight), (Some("oracle"), Weight::Announcement));
        for text in [
            "Connection closed by authenticating user root 203.0.113.9 port 4022 [preauth]",
            "Disconnected from authenticating user root 203.0.113.9 port 4022 [preauth]",
            "Disconnecting authenticating user root 203.0.113.9 port 4022: Too many authentication failures [preauth]",
            "error: maximum authentication attempts exceeded for root from 203.0.113.9 port 4022 ssh2 [preauth]",
        ] {
            let (event, weight) = of("sshd", text);
            assert_eq!((event.user.as_deref(), weight), (Some("root"), Weight::End), "{text}");
            assert_eq!(from(&event), ("203.0.113.9", 4022), "{text}");
        }
        let (event, _) = of("sshd", "User bob from 192.0.2.1 not allowed because not listed in AllowUsers");
        assert_eq!((event.user.as_deref(), event.reason), (Some("bob"), Some("not allowed")));
        let (event, _) = of("sshd", "fatal: Timeout before authentication for 192.0.2.1 port 5");
        assert_eq!(event.reason, Some("timeout"));
        for text in [
            "Failed none for invalid user x from 192.0.2.1 port 5 ssh2",
            "Disconnected from user alice 10.0.0.5 port 51514",
            "Received disconnect from 10.0.0.5 port 51514:11: disconnected by user",
            "Server listening on 0.0.0.0 port 22.",
            "pam_unix(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost=1.2.3.4  user=root",
        ] {
            assert_eq!(parse("sshd", text), None, "{text}");
        }
    }

    #[test]
    fn a_name_cannot_pretend_to_be_an_address_and_a_password_is_not_a_name() {
        let (event, _) =
            of("sshd", "Failed password for invalid user x from 9.9.9.9 port 1 ssh2 from 203.0.113.9 port 7 ssh2");
        assert_eq!(from(&event), ("203.0.113.9", 7));
        assert_eq!((event.user, event.user_withheld), (None, true));
        for typed in ["S3cret!", "Hunter2", "correct horse", "a234567890123456789012345678901234"] {
            let (event, _) = of("sshd", &format!("Invalid user {typed} from 203.0.113.9 port 7"));
            assert_eq!((event.user, event.user_withheld), (None, true), "{typed}");
        }
        let (event, _) = of("sshd", "Invalid user  from 203.0.113.9 port 7");
        assert_eq!((event.user, event.user_withheld), (None, false));
    }

    #[test]
    fn sudo_tells_who_became_whom_and_never_what_was_run() {
        let (event, _) =
            of("sudo", "   alice : TTY=pts/0 ; PWD=/home/alice ; USER=root ; COMMAND=/usr/bin/mysql -psecret");
        assert_eq!(event.kind, Kind::Privilege);
        assert_eq!(event.user.as_deref(), Some("alice"));
        assert_eq!(event.target_user.as_deref(), Some("root"));
        assert_eq!(event.tty.as_deref(), Some("pts/0"));
        assert!(!format!("{event:?}").contains("secret") && !format!("{event:?}").contains("/home"));
        for (why, reason) in [
            ("3 incorrect password attempts", "wrong password"),
            ("user NOT in sudoers", "not allowed"),
            ("command not allowed", "command not allowed"),
            ("a password is required", "password required"),
        ] {
            let (event, _) = of("sudo", &format!("bob : {why} ; TTY=pts/1 ; PWD=/ ; USER=root ; COMMAND=/bin/sh"));
            assert_eq!((event.kind, event.reason), (Kind::Failure, Some(reason)));
        }
        assert_eq!(
            parse("sudo", "pam_unix(sudo:session): session opened for user root(uid=0) by alice(uid=1000)"),
            None
        );
        assert_eq!(parse("sudo", "bob : (command continued) TTY=x ; USER=y"), None);
        assert_eq!(parse("sudo", "bob : unable to resolve host x"), None);
    }

    #[test]
    fn su_and_login_of_both_packages() {
        let (event, _) = of("su", "(to root) alice on pts/0");
        assert_eq!(
            (event.kind, event.user.as_deref(), event.target_user.as_deref()),
            (Kind::Privilege, Some("alice"), Some("root"))
        );
        assert_eq!(of("su", "FAILED SU (to root) alice on pts/0").0.kind, Kind::Failure);
        assert_eq!(of("su", "Successful su for root by alice").0.user.as_deref(), Some("alice"));
        assert_eq!(of("su", "FAILED su for root by alice").0.target_user.as_deref(), Some("root"));
        let (event, _) = of("login", "LOGIN ON tty1 BY alice");
        assert_eq!(
            (event.kind, event.tty.as_deref(), event.user.as_deref()),
            (Kind::Success, Some("tty1"), Some("alice"))
        );
        assert_eq!(of("login", "ROOT LOGIN  on '/dev/tty1'").0.tty.as_deref(), Some("tty1"));
        assert_eq!(of("login", "ROOT LOGIN ON ttyS0").0.user.as_deref(), Some("root"));
        let (event, _) = of("login", "FAILED LOGIN 1 FROM tty1 FOR root, Authentication failure");
        assert_eq!((event.tty.as_deref(), event.user.as_deref()), (Some("tty1"), Some("root")));
        let (event, _) = of("login", "FAILED LOGIN (2) on '/dev/tty1' FOR 'Pass!', Authentication failure");
        assert_eq!((event.tty.as_deref(), event.user_withheld), (Some("tty1"), true));
    }

    #[test]
    fn sessions_of_logind_and_pam() {
        for text in
            ["New session 5 of user alice.", "New session '5' of user 'alice' with class 'user' and type 'tty'."]
        {
            let (event, _) = of("systemd-logind", text);
            assert_eq!((event.session.as_deref(), event.user.as_deref()), (Some("5"), Some("alice")), "{text}");
        }
        assert_eq!(
            parse("systemd-logind", "New session 'c1' of user 'root' with class 'background' and type 'x'."),
            None
        );
        assert_eq!(of("systemd-logind", "Removed session 5.").0.kind, Kind::SessionClosed);
        for by in ["alice(uid=1000) by (uid=0)", "alice by (uid=0)"] {
            let (event, _) = of("sshd", &format!("pam_unix(sshd:session): session opened for user {by}"));
            assert_eq!((event.kind, event.user.as_deref()), (Kind::SessionOpened, Some("alice")));
        }
        let (event, _) = of(
            "gdm-password]",
            "pam_unix(gdm-password:auth): authentication failure; logname= uid=0 euid=0 tty=/dev/tty1 ruser= rhost=  user=al",
        );
        assert_eq!(
            (event.kind, event.service.as_deref(), event.tty.as_deref()),
            (Kind::Failure, Some("gdm-password"), Some("tty1"))
        );
        assert_eq!(parse("CRON", "pam_unix(cron:session): session opened for user root(uid=0) by (uid=0)"), None);
    }

    #[test]
    fn dropbear() {
        let (event, _) =
            of("dropbear", "Pubkey auth succeeded for 'root' with ssh-ed25519 key SHA256:x from 10.0.0.1:40000");
        assert_eq!((event.user.as_deref(), from(&event)), (Some("root"), ("10.0.0.1", 40000)));
        assert_eq!(of("dropbear", "Login attempt for nonexistent user from ::1:5").0.reason, Some("invalid user"));
    }

    proptest! {
        #[test]
        fn any_line_can_be_read(at in 0..IDENTIFIERS.len(), text in garbage()) {
            parse(IDENTIFIERS[at], &text);
        }

        #[test]
        fn any_line_like_sshds_can_be_read(text in
            "(Accepted|Failed|Invalid user|User|Connection closed by|Disconnecting|error: maximum authentication attempts exceeded for)( [a-z0-9.:é]{0,6}| authenticating user| invalid user| for| from| port| ssh2| ssh2:){0,10}"
        ) {
            parse("sshd", &text);
        }
    }
}
