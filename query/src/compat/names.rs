//! Names as PostgreSQL writes them: when one needs quotes, what a quoted or dotted one stands for, and the
//! units a size is shown in. Plain text in, plain text out.

/// Words that PostgreSQL 15 does not take as a name without quotes.
const RESERVED: &str = "\
    all analyse analyze and any array as asc asymmetric authorization between bigint binary bit boolean both \
    case cast char character check coalesce collate collation column concurrently constraint create cross \
    current_catalog current_date current_role current_schema current_time current_timestamp current_user dec \
    decimal default deferrable desc distinct do else end except exists extract false fetch float for foreign \
    freeze from full grant greatest group grouping having ilike in initially inner inout int integer intersect \
    interval into is isnull join lateral leading least left like limit localtime localtimestamp national natural \
    nchar none normalize not notnull null nullif numeric offset on only or order out outer overlaps overlay \
    placing position precision primary real references returning right row select session_user setof similar \
    smallint some substring symmetric table tablesample then time timestamp to trailing treat trim true union \
    unique user using values varchar variadic verbose when where window with";

/// `quote_ident`: the name as it must be written in SQL.
pub(super) fn quote_ident(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && !RESERVED.split(' ').any(|word| word == name);
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// `quote_literal`: the text as a string in SQL.
pub(super) fn quote_literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!(" E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

/// `parse_ident`: the parts of a dotted name, unquoted ones in lower case; `None` if it is no name.
pub(super) fn parse_ident(name: &str) -> Option<Vec<String>> {
    let mut parts = Vec::new();
    let mut rest = name.trim();
    loop {
        let (part, after) =
            if let Some(quoted) = rest.strip_prefix('"') { quoted_part(quoted)? } else { plain_part(rest)? };
        parts.push(part);
        let after = after.trim_start();
        if after.is_empty() {
            return Some(parts);
        }
        rest = after.strip_prefix('.')?.trim_start();
    }
}

fn plain_part(text: &str) -> Option<(String, &str)> {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).unwrap_or(text.len());
    let starts_well = text.starts_with(|c: char| c.is_alphabetic() || c == '_');
    starts_well.then(|| (text[..end].to_lowercase(), &text[end..]))
}

/// The part up to the closing quote; a doubled quote stands for one.
fn quoted_part(text: &str) -> Option<(String, &str)> {
    let mut part = String::new();
    let mut rest = text;
    loop {
        let quote = rest.find('"')?;
        part.push_str(&rest[..quote]);
        rest = &rest[quote + 1..];
        let Some(after) = rest.strip_prefix('"') else { break };
        part.push('"');
        rest = after;
    }
    (!part.is_empty()).then_some((part, rest))
}

/// `pg_size_pretty`: bytes in the largest unit that leaves five digits at most, rounded half up.
pub(super) fn size_pretty(bytes: i64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    let (sign, mut size) = (if bytes < 0 { "-" } else { "" }, bytes.unsigned_abs());
    if size < 10 * 1024 {
        return format!("{bytes} bytes");
    }
    // One more bit than is shown is kept until the end, for the rounding.
    size >>= 9;
    let mut unit = 0;
    while size.div_ceil(2) >= 10 * 1024 && unit + 1 < UNITS.len() {
        size >>= 10;
        unit += 1;
    }
    format!("{sign}{} {}", size.div_ceil(2), UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_put_only_where_they_are_needed() {
        for (name, quoted) in [
            ("cpu", "cpu"),
            ("_a1", "_a1"),
            ("user", "\"user\""),
            ("Rack", "\"Rack\""),
            ("a-b", "\"a-b\""),
            ("1a", "\"1a\""),
            ("a\"b", "\"a\"\"b\""),
            ("", "\"\""),
        ] {
            assert_eq!(quote_ident(name), quoted);
        }
        assert_eq!(quote_literal("it's"), "'it''s'");
    }

    #[test]
    fn dotted_names_are_taken_apart() {
        let parts = |name| parse_ident(name).map(|parts| parts.join("|"));
        for (name, expected) in [
            ("cpu", Some("cpu")),
            ("Public.CPU", Some("public|cpu")),
            ("public.\"Cooling Loop\"", Some("public|Cooling Loop")),
            ("\"a\"\"b\" . c", Some("a\"b|c")),
            ("a..b", None),
            ("a.", None),
            ("\"a", None),
            ("1a", None),
            ("", None),
        ] {
            assert_eq!(parts(name).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn sizes_have_a_unit_one_can_read() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (8192, "8192 bytes"),
            (10 * 1024, "10 kB"),
            (10_239 * 1024, "10239 kB"),
            (10 * 1024 * 1024, "10 MB"),
            (-20 * 1024, "-20 kB"),
        ] {
            assert_eq!(size_pretty(bytes), text);
        }
    }
}
