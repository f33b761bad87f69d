//! What a file asks of relations that they do not have, told before there is a row of them. Start at `misfits`.

use super::Format;
use super::plan::Draft;
use crate::error::{Error, Result};
use crate::pattern::Pattern;
use crate::relation::{Relation, Shape};

/// Why these relations cannot be what the file asks for, one error a relation at most.
pub fn misfits(format: &Format, relations: &[Relation]) -> Vec<Error> {
    relations.iter().filter_map(|relation| fit(format, relation).err()).collect()
}

fn fit(format: &Format, relation: &Relation) -> Result<()> {
    let (format, route) = format.of(relation);
    Draft::new(format, route, relation, Vec::new())?.asks()?;
    let hiding = format.disguised.iter().map(|disguised| &disguised.columns);
    let named = hiding.chain(&format.columns_excluded).chain(&format.columns_included);
    for (name, column) in named.filter_map(exact) {
        let table = relation.full_name();
        if name == table && !relation.columns.iter().any(|known| known.name == column) {
            let known: Vec<&str> = relation.columns.iter().map(|column| column.name.as_str()).collect();
            return Err(Error::config(format!("table {table} has no column {column}, which [format] names"))
                .hint(format!("correct the list of columns in [format]; they are {}", known.join(", "))));
        }
    }
    Ok(())
}

/// Columns to hide that no relation has, one error each: a name that is mistyped hides nothing. None where no table is
/// known yet. A known table that lacks the column is a misfit.
pub fn hides_nothing(format: &Format, relations: &[Relation]) -> Vec<Error> {
    let tables: Vec<(String, &Relation)> = relations
        .iter()
        .filter(|relation| relation.shape == Shape::Rows)
        .map(|relation| (relation.full_name(), relation))
        .collect();
    let fits = |pattern: &Pattern| {
        let is_misfit = exact(pattern).is_some_and(|(name, _)| tables.iter().any(|(table, _)| table == name));
        let has = |(table, relation): &(String, &Relation)| {
            relation.columns.iter().any(|column| pattern.matches(&format!("{table}.{}", column.name)))
        };
        is_misfit || tables.iter().any(has)
    };
    let named = format.disguised.iter().map(|disguised| &disguised.columns);
    let unfit = named.filter(|pattern| !tables.is_empty() && !fits(pattern));
    let error = |pattern: &Pattern| {
        Error::config(format!("no captured table has a column {pattern}, which [format] is to hide"))
            .hint("correct its name among the columns to mask, hash, encrypt or truncate, or take it out")
    };
    unfit.map(error).collect()
}

/// Table and column of a name that stands for nothing else.
fn exact(pattern: &Pattern) -> Option<(&str, &str)> {
    let is_exact = !pattern.is_expression() && !pattern.text().contains('*');
    pattern.text().rsplit_once('.').filter(|_| is_exact)
}

impl Format {
    /// Whether it asks anything of columns by their names.
    pub fn names_columns(&self) -> bool {
        let lists = [&self.columns_excluded, &self.columns_included];
        !self.routes.is_empty()
            || !self.steps.is_empty()
            || !self.disguised.is_empty()
            || lists.iter().any(|list| !list.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::super::disguise::{Disguise, Disguised};
    use super::super::scene::{column, debezium, relation};
    use super::*;
    use crate::relation::Kind;

    #[test]
    fn a_column_to_hide_that_is_not_there_is_told() {
        let table = relation(vec![column("id", Kind::Int32), column("phone", Kind::Text)], &[0]);
        let said = |name: &str| {
            let columns = Pattern::parse(name).unwrap();
            let disguised = vec![Disguised { columns, by: Disguise::Mask { asterisks: 3 } }];
            let found = misfits(&Format { disguised, ..debezium() }, &[Relation::clone(&table)]);
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(said("public.t.fone"), ["table public.t has no column fone, which [format] names"]);
        for name in ["public.t.phone", "public.other.fone", "*.fone", "/public\\.t\\.fone/"] {
            assert_eq!(said(name), [] as [&str; 0], "{name}");
        }
        let hides = |name: &str| {
            let columns = Pattern::parse(name).unwrap();
            let disguised = vec![Disguised { columns, by: Disguise::Mask { asterisks: 3 } }];
            let format = Format { disguised, ..debezium() };
            assert!(hides_nothing(&format, &[]).is_empty(), "no table is known");
            hides_nothing(&format, &[Relation::clone(&table)]).is_empty()
        };
        for name in ["public.other.fone", "*.fone", "/public\\.t\\.fone/", "other.t.phone"] {
            assert!(!hides(name), "{name}");
        }
        for name in ["public.t.phone", "*.phone", "public.*", "/public\\.t\\.phone/", "public.t.fone"] {
            assert!(hides(name), "{name}");
        }
        // Of a number, which no mask fits.
        assert!(said("public.t.id")[0].contains("public.t.id is no text"));
    }
}
