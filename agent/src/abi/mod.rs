//! Calling C: vendors' libraries, and the few calls of the system that no crate wraps. The one place with `unsafe` code.
//!
//! Every vendor ships a C library with its driver. None is needed to build the agent: what is installed is opened at
//! run time, and of it only the functions asked for are looked up. One that is missing (an older driver, a newer one) is
//! `None`, and costs the columns it would have filled.
//!
//! One file a library, and each is in two halves: the declarations of the C interface (function types, structures,
//! numbers), and safe methods around them that check what a C caller would have to check. What comes out is plain Rust.
//! Each structure has a test of its size and of the places of its fields: one field left out shifts all that follow, and
//! a library that writes beyond what we gave it takes the stack with it.
//!
//! Vendors' libraries are opened in the agent's worker process (see `accelerators::watch`), never in the agent: they may
//! hang or crash. What the kernel is asked (`clock`, `ethtool`, `ipmi`) and the allocator (`memory`) are not theirs.

#![allow(unsafe_code)]

pub(crate) mod capabilities;
pub(crate) mod clock;
pub(crate) mod cndev;
pub(crate) mod dcmi;
pub(crate) mod efml;
pub(crate) mod ethtool;
pub(crate) mod hydmi;
pub(crate) mod ipmi;
pub(crate) mod memory;
pub(crate) mod mtml;
pub(crate) mod mxsml;
pub(crate) mod nvml;
pub(crate) mod rsmi;

use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};

/// A library that is open. It stays so for as long as the process lives: some crash when they are closed.
pub(crate) struct Library {
    /// Never closed: threads of the library's own may still run, and its exit handlers may be registered.
    library: ManuallyDrop<libloading::Library>,
    path: PathBuf,
}

/// Why a library cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// There is none.
    #[error("none of {} is installed", .0.join(", "))]
    NotFound(Vec<String>),
    /// There is one, and it cannot be opened: often because a library it needs is missing.
    #[error("{path} cannot be opened: {why}", path = path.display())]
    Refused {
        /// Which.
        path: PathBuf,
        /// What the system's loader said.
        why: String,
    },
}

impl Library {
    /// Opens the library that was configured, or else the first of `candidates` there is: absolute paths, or names for
    /// the system's loader to find.
    pub(crate) fn open(configured: Option<&Path>, candidates: &[&str]) -> Result<Self, OpenError> {
        let candidates: Vec<PathBuf> = match configured {
            Some(path) => vec![path.to_owned()],
            None => candidates.iter().map(PathBuf::from).collect(),
        };
        let mut refused = None;
        for path in &candidates {
            // SAFETY: opening runs the library's initialisers. That is what it is for, and this process exists to bear it.
            match unsafe { libloading::Library::new(path) } {
                Ok(library) => return Ok(Self { library: ManuallyDrop::new(library), path: path.clone() }),
                Err(error) => {
                    let there = path.is_absolute() && path.exists();
                    // The loader says the same of a file that is missing and of one that a found library needs; the
                    // latter names another file.
                    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
                    // What the loader said is the error's cause.
                    let why = nodescope_service::errors::chain(&error);
                    if there || !why.contains(&format!("{name}: cannot open shared object file")) {
                        refused.get_or_insert(OpenError::Refused { path: path.clone(), why });
                    }
                }
            }
        }
        let named = candidates.iter().map(|path| path.display().to_string()).collect();
        Err(refused.unwrap_or(OpenError::NotFound(named)))
    }

    /// Which one it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The function of that name, if the library has it.
    ///
    /// # Safety
    /// `F` must be the function's type: `unsafe extern "C" fn(…)`, or the `Option` of one.
    pub(crate) unsafe fn function<F: Copy>(&self, name: &str) -> Option<F> {
        // SAFETY: the caller's. The function is copied out and lives as long as the library, which is never closed.
        unsafe { self.library.get::<F>(name.as_bytes()).ok().map(|symbol| *symbol) }
    }
}

/// Declares the part of a library that we call: a structure with an `Option` for every function, and `load`, which looks
/// them up.
///
/// ```ignore
/// functions! {
///     /// What we call of libexample.
///     pub(crate) struct Example {
///         init = "exInit": fn() -> c_int;
///         temperature = "exGetTemperature": fn(device: c_uint, out: *mut c_uint) -> c_int;
///     }
/// }
/// ```
macro_rules! functions {
    (
        $(#[$doc:meta])*
        $visibility:vis struct $name:ident {
            $($field:ident = $symbol:literal : fn($($argument:ident : $type:ty),* $(,)?) $(-> $result:ty)?;)*
        }
    ) => {
        $(#[$doc])*
        $visibility struct $name {
            library: $crate::abi::Library,
            $($field: Option<unsafe extern "C" fn($($type),*) $(-> $result)?>,)*
        }

        impl $name {
            /// Looks up every function.
            fn load(library: $crate::abi::Library) -> Self {
                Self {
                    // SAFETY: the types are those of the library's own declarations.
                    $($field: unsafe { library.function($symbol) },)*
                    library,
                }
            }

            /// Names of the functions that this library does not have.
            #[allow(dead_code, reason = "not every vendor's reader says it")]
            pub(crate) fn missing(&self) -> Vec<&'static str> {
                let mut missing = Vec::new();
                $(if self.$field.is_none() { missing.push($symbol); })*
                missing
            }

            /// Which library it is.
            #[allow(dead_code, reason = "not every vendor's reader says it")]
            pub(crate) fn path(&self) -> &std::path::Path {
                self.library.path()
            }
        }
    };
}
pub(crate) use functions;

/// Text in a C array of characters: up to the first NUL, without white space around it; `None` when nothing remains.
pub(crate) fn text(characters: &[std::ffi::c_char]) -> Option<String> {
    let bytes: Vec<u8> = characters.iter().map(|c| c.to_ne_bytes()[0]).take_while(|b| *b != 0).collect();
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_not_there_is_told_from_one_that_does_not_open() {
        let missing = Library::open(None, &["libnodescope-none.so.1", "/nowhere/libnodescope-none.so"]);
        assert!(matches!(missing, Err(OpenError::NotFound(ref names)) if names.len() == 2));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("libtext.so");
        std::fs::write(&path, "no library").unwrap();
        assert!(matches!(Library::open(Some(&path), &["libc.so.6"]), Err(OpenError::Refused { .. })));
    }

    #[test]
    fn functions_are_there_or_not() {
        let library = Library::open(None, &["libnodescope-none.so", "libc.so.6"]).unwrap();
        // SAFETY: `abs` is `int abs(int)`.
        let abs: Option<unsafe extern "C" fn(i32) -> i32> = unsafe { library.function("abs") };
        // SAFETY: as above.
        assert_eq!(unsafe { abs.unwrap()(-3) }, 3);
        // SAFETY: there is no such function.
        assert!(unsafe { library.function::<unsafe extern "C" fn()>("nodescope_none") }.is_none());
    }

    #[test]
    fn text_ends_at_the_first_nul() {
        let c = |text: &[u8]| text.iter().map(|b| std::ffi::c_char::from_ne_bytes([*b])).collect::<Vec<_>>();
        assert_eq!(text(&c(b" H100 \0rest")).as_deref(), Some("H100"));
        assert_eq!(text(&c(b"no end")).as_deref(), Some("no end"));
        assert_eq!(text(&c(b"\0")), None);
    }
}
