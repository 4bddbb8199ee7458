//! Errors as people read them.

use std::error::Error;

/// An error with its causes, in one line. A cause that the text has told already is not told again.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read the file")]
    struct Outer(#[source] Middle);

    #[derive(Debug, thiserror::Error)]
    #[error("reading failed: {0}")]
    struct Middle(#[source] io::Error);

    #[test]
    fn causes_are_told_once() {
        let error = Outer(Middle(io::Error::other("no disk")));
        assert_eq!(chain(&error), "cannot read the file: reading failed: no disk");
    }
}
