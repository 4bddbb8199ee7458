//! Who holds which accelerator: seen from outside, and as told by the scheduler.
//!
//! Three sources, none of which needs a scheduler's API:
//!
//! * `holders`: which processes have an accelerator's device file open, by `/proc/PID/fd`. Needs no cooperation, and
//!   the privilege to look into other users' processes.
//! * `endpoint`: a scheduler's prolog and epilog tell it over HTTP on a loopback address.
//! * `folder`: a prolog writes a file, the epilog removes it. Works while the agent is down.
//!
//! [`Allocation`] is what the last two say, in one JSON form.

pub(crate) mod endpoint;
pub(crate) mod folder;
pub(crate) mod holders;

use serde::{Deserialize, Serialize};

/// The longest body or file that is read.
pub(crate) const MAX_BYTES: usize = 64 << 10;

/// How many allocations of one source are kept.
pub(crate) const MAX_ALLOCATIONS: usize = 4096;

/// The most accelerators one allocation may have: 16 cards cut into 7 parts each are 112.
const MAX_ACCELERATORS: usize = 256;

/// The longest text of any field.
const MAX_TEXT: usize = 256;

/// What a scheduler says of an allocation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Allocation {
    /// Its name on this host. The name of the file, where it comes from one.
    #[serde(default)]
    pub(crate) id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) scheduler: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) job: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) step: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) project: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pod: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) container: Option<String>,
    #[serde(default)]
    pub(crate) accelerators: Vec<Accelerator>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cpus: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) memory_bytes: Option<u64>,
    /// When it began, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) began: Option<f64>,
}

/// How a scheduler names an accelerator: by the vendor's UUID, by PCI address, or by number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Accelerator {
    /// `3`
    Index(u32),
    /// Anything else; a number in quotes is a number.
    Name(String),
}

impl Allocation {
    /// About how much memory it takes.
    pub(crate) fn size(&self) -> usize {
        let texts = [&self.scheduler, &self.job, &self.step, &self.user, &self.project, &self.pod, &self.container];
        let texts: usize = texts.into_iter().flatten().map(String::len).sum();
        let names = self.accelerators.iter().map(|accelerator| match accelerator {
            Accelerator::Name(name) => size_of::<Accelerator>() + name.len(),
            Accelerator::Index(_) => size_of::<Accelerator>(),
        });
        size_of::<Self>() + self.id.len() + texts + names.sum::<usize>()
    }
}

impl Accelerator {
    /// Its number, if that is how it is named.
    pub(crate) fn index(&self) -> Option<u32> {
        match self {
            Self::Index(index) => Some(*index),
            Self::Name(name) => name.parse().ok(),
        }
    }

    /// Its PCI address in the kernel's form, if that is how it is named.
    pub(crate) fn pci_bdf(&self) -> Option<String> {
        match self {
            Self::Index(_) => None,
            Self::Name(name) => bdf(name),
        }
    }

    /// Its name in the column `device`.
    pub(crate) fn device(&self) -> String {
        match (self, self.index(), self.pci_bdf()) {
            (_, Some(index), _) => index.to_string(),
            (_, _, Some(bdf)) => bdf,
            (Self::Name(name), ..) => name.clone(),
            (Self::Index(index), ..) => index.to_string(),
        }
    }
}

/// `0000:17:00.0` out of `17:00.0`, `0000:17:00.0` and NVML's `00000000:17:00.0`, in small letters.
pub(crate) fn bdf(text: &str) -> Option<String> {
    let text = text.to_ascii_lowercase();
    let parts: Vec<&str> = text.split([':', '.']).collect();
    let (domain, [bus, device, function]) = match parts.as_slice() {
        [bus, device, function] => ("0", [*bus, *device, *function]),
        [domain, bus, device, function] => (*domain, [*bus, *device, *function]),
        _ => return None,
    };
    let is_address = text.rsplit_once('.').is_some_and(|(rest, _)| !rest.contains('.'));
    let (domain, bus, device, function) = (
        u32::from_str_radix(domain, 16).ok()?,
        u8::from_str_radix(bus, 16).ok()?,
        u8::from_str_radix(device, 16).ok().filter(|device| *device < 32)?,
        u8::from_str_radix(function, 16).ok().filter(|function| *function < 8)?,
    );
    is_address.then(|| format!("{domain:04x}:{bus:02x}:{device:02x}.{function:x}"))
}

/// Reads what a scheduler says. `id` is the name it must have, if that is known from elsewhere.
///
/// # Errors
/// A sentence for whoever wrote it.
pub(crate) fn parse_allocation(bytes: &[u8], id: Option<&str>) -> Result<Allocation, String> {
    if bytes.len() > MAX_BYTES {
        return Err(format!("longer than {MAX_BYTES} bytes"));
    }
    // serde takes a list for a structure as well.
    if bytes.trim_ascii_start().first().is_some_and(|byte| *byte != b'{') {
        return Err("not a JSON object".to_owned());
    }
    let mut allocation: Allocation = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    match id {
        Some(id) if allocation.id.is_empty() => id.clone_into(&mut allocation.id),
        Some(id) if allocation.id != id => {
            return Err(format!("`id` is `{}`, which is not the name of the file", shown(&allocation.id)));
        }
        _ => {}
    }
    check(&allocation)?;
    Ok(allocation)
}

fn check(allocation: &Allocation) -> Result<(), String> {
    if !is_id(&allocation.id) {
        return Err("`id`: 1 to 128 letters, digits and . _ : @ = + , ~ -".to_owned());
    }
    let texts = [
        ("scheduler", &allocation.scheduler),
        ("job", &allocation.job),
        ("step", &allocation.step),
        ("user", &allocation.user),
        ("project", &allocation.project),
        ("pod", &allocation.pod),
        ("container", &allocation.container),
    ];
    let is_text = |text: &str| text.len() <= MAX_TEXT && !text.is_empty() && !text.contains(char::is_control);
    for (name, text) in texts {
        if text.as_deref().is_some_and(|text| !is_text(text)) {
            return Err(format!("`{name}`: 1 to {MAX_TEXT} bytes, and no control characters"));
        }
    }
    if allocation.accelerators.len() > MAX_ACCELERATORS {
        return Err(format!("`accelerators`: at most {MAX_ACCELERATORS}"));
    }
    for accelerator in &allocation.accelerators {
        if let Accelerator::Name(name) = accelerator
            && !is_text(name)
        {
            return Err(format!("`accelerators`: names of 1 to {MAX_TEXT} bytes, and no control characters"));
        }
    }
    let is_size = |number: f64| number.is_finite() && number >= 0.0;
    if allocation.cpus.is_some_and(|cpus| !is_size(cpus)) {
        return Err("`cpus`: a number from 0 up".to_owned());
    }
    // The year 2262 is where microseconds in many programs end; ours go further, but a date there is a mistake.
    if allocation.began.is_some_and(|began| !is_size(began) || began > 9.2e9) {
        return Err("`began`: seconds since 1970".to_owned());
    }
    Ok(())
}

/// Whether it may name an allocation: it stands in paths and in names of files.
pub(crate) fn is_id(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && !text.starts_with('.')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:@=+,~-".contains(&b))
}

/// A text of somebody else's, short enough for a message.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}

/// Seconds since 1970 as microseconds.
#[allow(clippy::cast_possible_truncation, reason = "what is read is checked to be a date")]
pub(crate) fn micros(seconds: f64) -> i64 {
    (seconds * 1e6).round() as i64
}

/// Writes a file so that it is there whole or as it was before, and stays through a power cut.
pub(crate) fn write_whole(path: &std::path::Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let new = path.with_extension("new");
    let mut file = std::fs::File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    std::fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::probes::testing::garbage;

    #[test]
    fn what_a_prolog_writes_is_read() {
        let text = br#"{"id":"slurm-42","scheduler":"slurm","job":"42","user":"alice","project":"chem",
            "accelerators":["GPU-6b1f", 3, "2", "00000000:17:00.0", "C1:00.0"],"cpus":8,"memory_bytes":1024,
            "began":1700000000.5}"#;
        let allocation = parse_allocation(text, None).unwrap();
        assert_eq!(allocation.id, "slurm-42");
        let devices: Vec<String> = allocation.accelerators.iter().map(Accelerator::device).collect();
        assert_eq!(devices, ["GPU-6b1f", "3", "2", "0000:17:00.0", "0000:c1:00.0"]);
        assert_eq!(allocation.accelerators[2].index(), Some(2));
        assert_eq!(allocation.accelerators[4].pci_bdf().as_deref(), Some("0000:c1:00.0"));
        assert_eq!(micros(allocation.began.unwrap()), 1_700_000_000_500_000);
        assert_eq!(parse_allocation(b"{}", Some("a")).unwrap().id, "a");
        let again = serde_json::to_vec(&allocation).unwrap();
        assert_eq!(parse_allocation(&again, None).unwrap(), allocation);
    }

    #[test]
    fn mistakes_are_said() {
        let long = format!("{{\"id\":\"a\",\"job\":\"{}\"}}", "x".repeat(300));
        let many = format!("{{\"id\":\"a\",\"accelerators\":[{}]}}", ["1"; 300].join(","));
        let cases = [
            ("", "EOF"),
            ("[]", "object"),
            ("{}", "`id`"),
            (r#"{"id":"../x"}"#, "`id`"),
            (r#"{"id":"a/b"}"#, "`id`"),
            (r#"{"id":"a","gpus":[1]}"#, "unknown field `gpus`"),
            (r#"{"id":"a","job":""}"#, "`job`"),
            (r#"{"id":"a","user":"a\nb"}"#, "`user`"),
            (r#"{"id":"a","accelerators":["\u0000"]}"#, "`accelerators`"),
            (r#"{"id":"a","cpus":-1}"#, "`cpus`"),
            (r#"{"id":"a","began":1700000000000}"#, "`began`"),
            (&long, "`job`"),
            (&many, "`accelerators`"),
        ];
        for (text, part) in cases {
            let error = parse_allocation(text.as_bytes(), None).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(parse_allocation(br#"{"id":"a"}"#, Some("b")).unwrap_err().contains("name of the file"));
        assert!(parse_allocation(&vec![b' '; MAX_BYTES + 1], None).unwrap_err().contains("longer"));
    }

    #[test]
    fn addresses_have_one_form() {
        let cases = [
            ("0000:17:00.0", Some("0000:17:00.0")),
            ("00000001:AF:1F.7", Some("0001:af:1f.7")),
            ("17:00.0", Some("0000:17:00.0")),
            ("17:00", None),
            ("17.00.0", None),
            ("1.2.3.4", None),
            ("17:20.0", None),
            ("GPU-1", None),
            ("", None),
        ];
        for (text, wanted) in cases {
            assert_eq!(bdf(text).as_deref(), wanted, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_bring_it_down(bytes in prop::collection::vec(any::<u8>(), 0..200), text in garbage()) {
            let _ = parse_allocation(&bytes, None);
            let _ = parse_allocation(text.as_bytes(), Some("a"));
            bdf(&text);
            is_id(&text);
        }
    }
}
