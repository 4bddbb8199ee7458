//! The list of the built-in rules: every file of `rules/`, compiled in.

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$((concat!("rules/", $name, ".sql"), include_str!(concat!("../../../rules/", $name, ".sql")))),*]
    };
}

/// Path and text of each file, by name.
pub(crate) const BUILT_IN: &[(&str, &str)] = files!["availability_1h", "availability_1m",];

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn every_file_of_the_folder_is_listed() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../rules");
        let mut found: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| format!("rules/{}", entry.unwrap().file_name().into_string().unwrap()))
            .filter(|file| file.ends_with(".sql"))
            .collect();
        found.sort();
        let listed: Vec<&str> = super::BUILT_IN.iter().map(|(file, _)| *file).collect();
        assert_eq!(listed, found, "in the order of their names");
    }
}
