//! A file's text becomes sheets: rows of one kind, each with its place.
//!
//! A CSV file holds one kind. Its first line names the fields, in any order; those that are left out are empty. A JSON
//! file holds one kind as an array of objects, or several as an object of such arrays:
//!
//! ```json
//! { "node": [ { "node": "310101", "kind": "site" } ], "resource": [ … ] }
//! ```
//!
//! What kind a CSV file or an array is of, says whoever imports it; if nobody does, the file's name
//! (`registration.csv`). Only the form is looked at here; [`crate::value`] and [`crate::check`] look at what it says.

use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value as Json;

use crate::kinds::{Kind, Kinds, nearest};
use crate::value::Cell;
use crate::{Mistakes, RegistryError};

/// Largest file, in bytes.
pub const MAX_BYTES: u64 = 256 << 20;

/// Rows of one import at the most.
pub const MAX_ROWS: usize = 2_000_000;

/// Where a row stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a CSV file.
    Line(u64),
    /// In a JSON array, counted from 1.
    Row(usize),
    /// Not in a file, but on the command line.
    Command,
}

/// One row, as it stands in the file.
#[derive(Debug, Clone)]
pub struct Row {
    /// Where.
    pub place: Place,
    /// Which of the sheet's columns, and what stands there.
    pub cells: Vec<(usize, Cell)>,
}

/// Rows of one kind.
#[derive(Debug, Clone)]
pub struct Sheet {
    /// Which of the kinds.
    pub kind: usize,
    /// The file.
    pub file: String,
    /// Names of the columns, in order of appearance, whether the kind has such a field or not.
    pub columns: Vec<String>,
    /// The rows.
    pub rows: Vec<Row>,
}

impl Sheet {
    /// The place of a row, for messages.
    pub fn place(&self, kinds: &Kinds, row: &Row) -> String {
        match row.place {
            Place::Line(line) => format!("{}, line {line}", self.file),
            Place::Row(at) => format!("{}, {} {at}", self.file, kinds.all()[self.kind].name),
            Place::Command => self.file.clone(),
        }
    }
}

/// Reads a file's bytes. `named` is the kind that its rows are of, as far as somebody has said so.
///
/// What is wrong is noted, and what can be read in spite of it is given back, so that all mistakes are told at once.
pub fn parse(kinds: &Kinds, file: &str, bytes: &[u8], named: Option<usize>, mistakes: &mut Mistakes) -> Vec<Sheet> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else {
        mistakes.add(file, "is not UTF-8; a spreadsheet saves it as \"CSV UTF-8\"");
        return Vec::new();
    };
    let stem = Path::new(file).file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let named = named.or_else(|| kinds.position(&stem));
    if matches!(text.trim_start().bytes().next(), Some(b'{' | b'[')) {
        json(kinds, file, text, named, mistakes)
    } else {
        let Some(kind) = named else {
            mistakes.add(file, no_kind(kinds));
            return Vec::new();
        };
        csv(kind, file, text, mistakes).into_iter().collect()
    }
}

fn no_kind(kinds: &Kinds) -> String {
    format!("of what kind are its rows? Say so with --kind, or name the file after it: {}", kinds.names())
}

fn csv(kind: usize, file: &str, text: &str, mistakes: &mut Mistakes) -> Option<Sheet> {
    // A row of another length is told with its line, not by the reader.
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(text.as_bytes());
    let columns: Vec<String> = match reader.headers() {
        Ok(header) => header.iter().map(|name| name.trim().to_owned()).collect(),
        Err(error) => {
            mistakes.add(file, error);
            return None;
        }
    };
    if columns.iter().all(String::is_empty) {
        mistakes.add(file, "is empty; the first line names the fields");
        return None;
    }
    if let [only] = columns.as_slice()
        && only.contains([';', '\t'])
    {
        mistakes.add(file, "fields are separated by commas, not by semicolons or tabs");
        return None;
    }
    let mut sheet = Sheet { kind, file: file.to_owned(), columns, rows: Vec::new() };
    let mut record = csv::StringRecord::new();
    let mut lines = Lines { text: text.as_bytes(), at: 0, line: 1 };
    loop {
        match reader.read_record(&mut record) {
            Ok(true) => {}
            Ok(false) => return Some(sheet),
            Err(error) => {
                mistakes.add(file, error);
                return Some(sheet);
            }
        }
        let from = record.position().map_or(0, |at| usize::try_from(at.byte()).unwrap_or(usize::MAX));
        let line = lines.of(from);
        if record.len() != sheet.columns.len() {
            let (found, wanted) = (record.len(), sheet.columns.len());
            mistakes.add(format!("{file}, line {line}"), format!("has {found} fields where the header has {wanted}"));
            continue;
        }
        // A line of commas alone is what spreadsheets leave below a table.
        if record.iter().all(str::is_empty) {
            continue;
        }
        let cells = record.iter().enumerate().filter(|(_, text)| !text.is_empty());
        let cells = cells.map(|(at, text)| (at, Cell::Text(text.to_owned()))).collect();
        sheet.rows.push(Row { place: Place::Line(line), cells });
    }
}

/// Counts lines as an editor does. The reader's own count takes an empty line, and the second half of the end of a
/// line on Windows, to be the beginning of the row that follows.
struct Lines<'t> {
    text: &'t [u8],
    at: usize,
    line: u64,
}

impl Lines<'_> {
    /// The line of the row that the reader says begins at `from`. Rows are asked for in their order.
    fn of(&mut self, from: usize) -> u64 {
        while let Some(byte) = self.text.get(self.at).filter(|b| self.at < from || matches!(b, b'\r' | b'\n')) {
            self.line += u64::from(*byte == b'\n');
            self.at += 1;
        }
        self.line
    }
}

fn json(kinds: &Kinds, file: &str, text: &str, named: Option<usize>, mistakes: &mut Mistakes) -> Vec<Sheet> {
    let parsed = if text.trim_start().starts_with('[') {
        serde_json::from_str(text).map(|rows| (None, rows))
    } else {
        serde_json::from_str(text).map(|kinds| (Some(kinds), Vec::new()))
    };
    let (several, rows): (Option<Pairs<Vec<Object>>>, Vec<Object>) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            mistakes.add(file, format!("{error}; wanted is an array of objects, or an object of such arrays by kind"));
            return Vec::new();
        }
    };
    let Some(several) = several else {
        let Some(kind) = named else {
            mistakes.add(file, no_kind(kinds));
            return Vec::new();
        };
        return vec![sheet(kinds, kind, file, rows, mistakes)];
    };
    let mut sheets: Vec<Sheet> = Vec::new();
    for (name, rows) in several.0 {
        let Some(kind) = kinds.position(&name) else {
            let meant = nearest(&name, kinds.all().iter().map(|kind| kind.name));
            let hint = meant.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default();
            mistakes.add(file, format!("`{name}` is no kind{hint} There are {}", kinds.names()));
            continue;
        };
        if sheets.iter().any(|sheet| sheet.kind == kind) {
            mistakes.add(file, format!("`{name}` is there twice"));
            continue;
        }
        sheets.push(sheet(kinds, kind, file, rows, mistakes));
    }
    sheets
}

fn sheet(kinds: &Kinds, kind: usize, file: &str, objects: Vec<Object>, mistakes: &mut Mistakes) -> Sheet {
    let mut sheet = Sheet { kind, file: file.to_owned(), columns: Vec::new(), rows: Vec::with_capacity(objects.len()) };
    for (at, object) in objects.into_iter().enumerate() {
        let mut row = Row { place: Place::Row(at + 1), cells: Vec::with_capacity(object.0.len()) };
        for (name, value) in object.0 {
            let column = sheet.columns.iter().position(|column| *column == name).unwrap_or_else(|| {
                sheet.columns.push(name);
                sheet.columns.len() - 1
            });
            if row.cells.iter().any(|(other, _)| *other == column) {
                mistakes.add(sheet.place(kinds, &row), format!("{}: is there twice", sheet.columns[column]));
            } else {
                row.cells.push((column, Cell::Json(value)));
            }
        }
        sheet.rows.push(row);
    }
    sheet
}

/// A sheet of one row, made of an entry's key and more cells. For commands that name one entry.
pub(crate) fn one_row(kinds: &Kinds, kind: usize, cells: Vec<(String, Cell)>) -> Sheet {
    let of: &Kind = &kinds.all()[kind];
    let (columns, cells) = cells.into_iter().enumerate().map(|(at, (name, cell))| (name, (at, cell))).unzip();
    Sheet { kind, file: of.name.to_owned(), columns, rows: vec![Row { place: Place::Command, cells }] }
}

/// Refuses more rows than an import may have.
///
/// # Errors
/// That mistake.
pub(crate) fn bounded(sheets: &[Sheet]) -> Result<(), RegistryError> {
    let rows: usize = sheets.iter().map(|sheet| sheet.rows.len()).sum();
    if rows <= MAX_ROWS {
        return Ok(());
    }
    let mut mistakes = Mistakes::default();
    mistakes.add("all files", format!("hold {rows} rows; one import takes {MAX_ROWS}: divide them"));
    Err(mistakes.into())
}

/// An object's entries in order, also those whose name comes twice, which a map would hide.
struct Pairs<V>(Vec<(String, V)>);

type Object = Pairs<Json>;

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Pairs<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder<V>(std::marker::PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for InOrder<V> {
            type Value = Pairs<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(InOrder(std::marker::PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use nodescope_model::catalogue::Catalogue;

    use super::*;

    fn read(file: &str, text: &str) -> (Vec<Sheet>, Vec<String>) {
        let kinds = Kinds::new(&Catalogue::built_in());
        let mut mistakes = Mistakes::default();
        let sheets = parse(&kinds, file, text.as_bytes(), None, &mut mistakes);
        (sheets, mistakes.0.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn csv_is_read_with_its_lines() {
        // With a mark of byte order, lines of Windows, a name with a comma and a line of commas.
        let (sheets, mistakes) =
            read("a/node.csv", "\u{feff}node,kind, name\r\n1,site,\"a, b\nc\"\r\n,,\r\n\r\n2,site,\r\n");
        assert!(mistakes.is_empty(), "{mistakes:?}");
        let [sheet] = sheets.as_slice() else { panic!("{sheets:?}") };
        assert_eq!(sheet.columns, ["node", "kind", "name"]);
        assert_eq!(
            sheet.rows.iter().map(|row| row.place.clone()).collect::<Vec<_>>(),
            [Place::Line(2), Place::Line(6)]
        );
        assert_eq!(sheet.rows[0].cells[2], (2, Cell::Text("a, b\nc".to_owned())));
        assert_eq!(sheet.rows[1].cells.len(), 2);
    }

    #[test]
    fn json_holds_one_kind_or_several() {
        let (sheets, mistakes) = read("node.json", r#"[{"node": "1", "kind": "site"}, {"kind": "site"}]"#);
        assert!(mistakes.is_empty() && sheets.len() == 1 && sheets[0].rows.len() == 2, "{mistakes:?}");
        let (sheets, mistakes) = read("all.json", r#"{"peer": [{"node": "1"}], "node": []}"#);
        assert!(mistakes.is_empty(), "{mistakes:?}");
        assert_eq!(sheets.iter().map(|sheet| (sheet.kind, sheet.rows.len())).collect::<Vec<_>>(), [(3, 1), (0, 0)]);
    }

    #[test]
    fn what_is_wrong_with_the_form_is_told() {
        for (file, text, wrong) in [
            ("nodes.csv", "node,kind\n", "--kind"),
            ("nodes.json", "[]", "--kind"),
            ("node.csv", "", "empty"),
            ("node.csv", "node;kind\n1;site\n", "commas"),
            ("node.csv", "node,kind\n1\n", "node.csv, line 2: has 1 fields where the header has 2"),
            ("node.json", "[{\"node\": 1,,}]", "line 1 column"),
            ("node.json", "[1]", "an object"),
            ("all.json", r#"{"nodes": [], "node": [], "node": []}"#, "did you mean `node`?"),
            ("all.json", r#"{"nodes": [], "node": [], "node": []}"#, "`node` is there twice"),
            ("node.json", r#"[{"node": "1", "node": "2"}]"#, "node.json, node 1: node: is there twice"),
        ] {
            let (_, mistakes) = read(file, text);
            assert!(mistakes.iter().any(|mistake| mistake.contains(wrong)), "{file} {text}: {mistakes:?}");
        }
        let mut mistakes = Mistakes::default();
        let kinds = Kinds::new(&Catalogue::built_in());
        assert!(parse(&kinds, "node.csv", b"node\n\xc9\xcf", None, &mut mistakes).is_empty());
        assert!(mistakes.to_string().contains("UTF-8"));
    }
}
