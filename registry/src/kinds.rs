//! The kinds of things that are registered.
//!
//! Their fields are the columns of the catalogue's tables `registry_…`: names, types and sentences stand there and
//! nowhere else. What a catalogue cannot say stands here: which fields an entry must have, which words a field knows,
//! which fields name a node, and from when an entry is valid that does not say.

use std::sync::Arc;

use nodescope_model::catalogue::{Catalogue, Column, ColumnType, Table};

/// Whether an entry names a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Host {
    /// It is about a node.
    Never,
    /// It is about a host, or about any.
    Maybe,
    /// It is about a host.
    Always,
}

/// From when an entry is valid that does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begins {
    /// From the import on.
    Now,
    /// From what this field says, if that is earlier than the import.
    NoLaterThan(&'static str),
    /// From what this field says.
    With(&'static str),
}

/// What the catalogue does not say of a kind.
struct Rules {
    name: &'static str,
    /// Whether every entry names a node.
    node: bool,
    host: Host,
    /// Parts of the key that may be empty.
    empty: &'static [&'static str],
    /// Fields that every entry must have, beside its key.
    needed: &'static [&'static str],
    /// Fields that know only these words.
    words: &'static [(&'static str, &'static [&'static str])],
    /// Fields beside `node` that name a node.
    nodes: &'static [&'static str],
    /// What they name must be there as long as the entry. If not, it must have been there at some time.
    lasting: bool,
    /// Begin and end of a time.
    span: Option<(&'static str, &'static str)>,
    begins: Begins,
}

const RULES: [Rules; 7] = [
    Rules {
        name: "node",
        node: true,
        host: Host::Never,
        empty: &[],
        needed: &["kind"],
        words: &[("kind", &["national", "regional", "industry", "site"])],
        nodes: &["parent"],
        lasting: true,
        span: None,
        begins: Begins::Now,
    },
    Rules {
        name: "resource",
        node: true,
        host: Host::Never,
        empty: &[],
        needed: &["class", "precision", "sparsity", "basis", "devices"],
        words: &[
            ("class", &["general", "intelligent", "super"]),
            ("precision", &["fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "int8"]),
            ("sparsity", &["dense", "sparse"]),
            ("basis", &["nominal", "measured"]),
        ],
        nodes: &[],
        lasting: true,
        span: None,
        begins: Begins::Now,
    },
    Rules {
        name: "registration",
        node: true,
        host: Host::Always,
        empty: &["device"],
        needed: &["status"],
        words: &[("status", &["in_service", "cordoned", "repair", "retired"])],
        nodes: &[],
        lasting: true,
        span: None,
        begins: Begins::Now,
    },
    Rules {
        name: "peer",
        node: true,
        host: Host::Maybe,
        empty: &[],
        needed: &[],
        words: &[],
        nodes: &["to_node"],
        lasting: true,
        span: None,
        begins: Begins::Now,
    },
    Rules {
        name: "maintenance",
        node: true,
        host: Host::Maybe,
        empty: &[],
        needed: &["starts", "ends"],
        words: &[],
        nodes: &[],
        lasting: false,
        span: Some(("starts", "ends")),
        // Work that is told of afterwards counted from its beginning.
        begins: Begins::NoLaterThan("starts"),
    },
    Rules {
        name: "approved",
        node: false,
        host: Host::Maybe,
        empty: &[],
        needed: &[],
        words: &[(
            "kind",
            &[
                "firmware",
                "driver",
                "module",
                "executable",
                "listener",
                "config",
                "account",
                "source",
                "transfer",
                "power_limit",
            ],
        )],
        nodes: &[],
        lasting: false,
        span: None,
        begins: Begins::Now,
    },
    Rules {
        name: "billed",
        node: true,
        host: Host::Never,
        empty: &["project"],
        needed: &["period_starts", "period_ends", "accelerator_hours"],
        words: &[],
        nodes: &[],
        lasting: false,
        span: Some(("period_starts", "period_ends")),
        // One identifier is billed month after month: each month is an entry of its own.
        begins: Begins::With("period_starts"),
    },
];

/// What a field is within its entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A part of the key: which.
    Key(usize),
    /// From when the entry is valid.
    ValidFrom,
    /// Whether it ends what came before.
    Revoked,
    /// One of the values: which.
    Value(usize),
}

/// One field of a kind: a column of its files.
#[derive(Debug, Clone)]
pub struct Field {
    /// Its name, as in the catalogue.
    pub name: String,
    /// Type of its values.
    pub column_type: ColumnType,
    /// What it is within the entry.
    pub role: Role,
    /// Whether it may not be empty.
    pub needed: bool,
    /// The words it knows; empty when it takes any.
    pub words: &'static [&'static str],
    /// Smallest and largest number.
    pub range: Option<(f64, f64)>,
    /// The catalogue's sentence.
    pub help: String,
}

/// One kind of things.
#[derive(Debug, Clone)]
pub struct Kind {
    /// Its name: the table's without `registry_`, and the view's.
    pub name: &'static str,
    /// Its table.
    pub table: Arc<Table>,
    /// Its fields, in the order of its files: the key, `valid_from`, `revoked`, the values.
    pub fields: Vec<Field>,
    /// How many fields the key has.
    pub keys: usize,
    /// From when an entry is valid that does not say.
    pub begins: Begins,
    /// Values that are begin and end of a time.
    pub span: Option<(usize, usize)>,
    /// Whether the nodes it names must last as long as the entry.
    pub lasting: bool,
    /// Values that name a node.
    nodes: Vec<usize>,
    takes_host: bool,
}

/// Which fields hold what every table has, beside what tells its entries apart.
const COMMON: [&str; 3] = ["valid_from", "revoked", "import"];

impl Kind {
    fn new(rules: &Rules, table: &Arc<Table>) -> Self {
        let words = |name: &str| rules.words.iter().find(|(of, _)| *of == name).map_or(&[][..], |(_, words)| words);
        let mut fields = Vec::new();
        let mut key = |name: &str, needed: bool, help: String| {
            let role = Role::Key(fields.len());
            let column_type = ColumnType::Text;
            fields.push(Field {
                name: name.to_owned(),
                column_type,
                role,
                needed,
                words: words(name),
                range: None,
                help,
            });
        };
        key("node", rules.node, table.column_comment("node").unwrap_or_default());
        if rules.host != Host::Never {
            key("host", rules.host == Host::Always, table.column_comment("host").unwrap_or_default());
        }
        for name in &table.entity {
            key(name, !rules.empty.contains(&name.as_str()), table.column_comment(name).unwrap_or_default());
        }
        let keys = fields.len();
        let field = |column: &Column, role| Field {
            name: column.name.clone(),
            column_type: column.column_type,
            role,
            needed: rules.needed.contains(&column.name.as_str()),
            words: words(&column.name),
            range: range(column),
            help: column.help.clone(),
        };
        for (name, role) in [("valid_from", Role::ValidFrom), ("revoked", Role::Revoked)] {
            fields.extend(table.column(name).map(|column| field(column, role)));
        }
        let values = table.columns.iter().skip(table.entity.len()).filter(|c| !COMMON.contains(&c.name.as_str()));
        fields.extend(values.enumerate().map(|(at, column)| field(column, Role::Value(at))));
        let value = |name: &str| {
            fields.iter().find_map(|field| match field.role {
                Role::Value(at) if field.name == name => Some(at),
                _ => None,
            })
        };
        Self {
            name: rules.name,
            table: Arc::clone(table),
            keys,
            begins: rules.begins,
            span: rules.span.and_then(|(from, to)| Some((value(from)?, value(to)?))),
            lasting: rules.lasting,
            nodes: rules.nodes.iter().filter_map(|name| value(name)).collect(),
            takes_host: rules.host != Host::Never,
            fields,
        }
    }

    /// The field of that name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// Fields of the key, in order.
    pub fn key_fields(&self) -> &[Field] {
        &self.fields[..self.keys]
    }

    /// Fields that are values, in order.
    pub fn value_fields(&self) -> &[Field] {
        &self.fields[self.keys + 2..]
    }

    /// Where among the values that field is.
    pub fn value_at(&self, name: &str) -> Option<usize> {
        self.value_fields().iter().position(|field| field.name == name)
    }

    /// Values that name a node.
    pub fn value_nodes(&self) -> &[usize] {
        &self.nodes
    }

    /// The host of a key; empty when it names none.
    pub fn host<'k>(&self, key: &'k [String]) -> &'k str {
        if self.takes_host { key.get(1).map_or("", String::as_str) } else { "" }
    }

    /// The parts of a key after node and host.
    pub fn entity<'k>(&self, key: &'k [String]) -> &'k [String] {
        key.get(1 + usize::from(self.takes_host)..).unwrap_or_default()
    }

    /// A key out of its parts.
    pub(crate) fn key(&self, node: &str, host: &str, entity: impl Iterator<Item = String>) -> Vec<String> {
        let host = self.takes_host.then(|| host.to_owned());
        std::iter::once(node.to_owned()).chain(host).chain(entity).collect()
    }
}

/// Numbers of a registry are amounts and limits: never less than nothing, and a share is at most one.
fn range(column: &Column) -> Option<(f64, f64)> {
    let number = matches!(column.column_type, ColumnType::Int | ColumnType::Float);
    number.then_some((0.0, if column.unit == "ratio" { 1.0 } else { f64::MAX }))
}

/// All kinds.
#[derive(Debug, Clone)]
pub struct Kinds(Vec<Kind>);

impl Kinds {
    /// The kinds of a catalogue.
    pub fn new(catalogue: &Catalogue) -> Self {
        let table = |rules: &Rules| catalogue.get(&format!("registry_{}", rules.name));
        Self(RULES.iter().filter_map(|rules| Some(Kind::new(rules, table(rules)?))).collect())
    }

    /// All of them, in the order in which one speaks of the other.
    pub fn all(&self) -> &[Kind] {
        &self.0
    }

    /// Which of them has that name.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|kind| kind.name == name)
    }

    /// Their names, for messages.
    pub fn names(&self) -> String {
        self.0.iter().map(|kind| kind.name).collect::<Vec<_>>().join(", ")
    }
}

/// The one of `known` that was probably meant.
pub(crate) fn nearest<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let word = word.to_lowercase();
    let near = known.map(|name| (strsim::damerau_levenshtein(&word, name), name)).min()?;
    // So near that it is one or two slips of the hand, or one is a part of the other.
    let (distance, name) = near;
    (distance <= 1.max(name.len() / 3)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_the_catalogue_s_and_every_rule_names_one() {
        let catalogue = Catalogue::built_in();
        let kinds = Kinds::new(&catalogue);
        assert_eq!(kinds.all().len(), RULES.len());
        let tables = catalogue.tables().filter(|table| table.name.starts_with("registry_")).count();
        assert_eq!(tables, RULES.len(), "every table of the registry is a kind");
        for (kind, rules) in kinds.all().iter().zip(&RULES) {
            let name = kind.name;
            assert_eq!(kind.fields[kind.keys].role, Role::ValidFrom, "{name}");
            assert_eq!(kind.fields[kind.keys + 1].role, Role::Revoked, "{name}");
            let values = kind.table.columns.len() - kind.table.entity.len() - COMMON.len();
            assert_eq!(kind.value_fields().len(), values, "{name}");
            for column in kind.table.columns.iter().filter(|c| kind.table.entity.contains(&c.name)) {
                assert_eq!(column.column_type, ColumnType::Text, "{name}.{}: keys are texts", column.name);
            }
            let words = rules.words.iter().map(|(field, _)| field);
            let begins = match rules.begins {
                Begins::Now => None,
                Begins::NoLaterThan(field) | Begins::With(field) => Some(field),
            };
            let named = rules.needed.iter().chain(rules.empty).chain(rules.nodes).chain(words);
            for field in named.copied().chain(begins) {
                assert!(kind.field(field).is_some(), "{name} has no field {field}");
            }
            assert_eq!(kind.span.is_some(), rules.span.is_some(), "{name}");
        }
    }

    #[test]
    fn the_catalogue_says_the_words_that_are_known() {
        for kind in Kinds::new(&Catalogue::built_in()).all() {
            for field in &kind.fields {
                for word in field.words {
                    assert!(field.help.contains(&format!("`{word}`")), "{}.{}: {word}", kind.name, field.name);
                }
            }
        }
    }

    #[test]
    fn what_was_probably_meant_is_found() {
        let known = ["regional", "national", "site"];
        assert_eq!(nearest("Regionl", known.into_iter()), Some("regional"));
        assert_eq!(nearest("sites", known.into_iter()), Some("site"));
        assert_eq!(nearest("planet", known.into_iter()), None);
    }
}
