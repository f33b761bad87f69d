//! What the steps of a file come to for one relation: which columns are in its rows and its keys and what they are
//! called there, which headers there are, and by what records find their partition. Decided once per relation
//! version, so that rows pay for nothing of it; start at `Made::of`.

use super::connect::Schema;
use super::disguise::{Disguise, Stand};
use super::hidden::{disguise, keeps_keys_apart, shown_columns};
use super::lexical::number;
use super::mapping::{map, zero};
use super::outbox;
use super::target::{Place, View};
use super::value::{Clock, Type, Zoned};
use super::{Dialect, Envelope, Format};
use crate::error::{Error, Result};
use crate::relation::{Column, Kind, Relation, Shape};
use crate::route;
use crate::route::rule::Route;
use crate::route::step::{Does, Hash, Inserted, Name, Part, Spread, Step};
use crate::route::zone::Zone;

/// A column as a row or a key has it.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    /// Index among the relation's columns.
    pub index: usize,
    pub name: String,
    pub disguise: Option<Disguise>,
    /// What its values become, if not what those of its column do.
    pub r#type: Option<Type>,
}

/// What is made of a relation's records.
#[derive(Debug)]
pub(crate) struct Made {
    pub row: Vec<Member>,
    /// The columns that tell keys apart, under their own names, and the key as it is written.
    pub key_columns: Vec<Member>,
    pub key: Vec<Member>,
    /// A step says what the key is made of.
    pub is_keyed: bool,
    /// Behind the row's fields.
    pub inserted: Vec<Inserted>,
    pub headers: Vec<(String, usize)>,
    pub texts: Vec<(String, String)>,
    pub dropped_headers: Vec<String>,
    pub spread: Option<SpreadPlan>,
    pub is_discarded: bool,
}

impl Made {
    /// Fails where the route or a step names what the relation does not have, or cannot be what is asked for.
    /// `topic` is the relation's, before it is renamed.
    pub(crate) fn of(
        format: &Format,
        route: Option<&Route>,
        relation: &Relation,
        topic: &str,
    ) -> Result<Self> {
        let member = |(index, column): (usize, &Column)| {
            let disguise = disguise(format, relation, column)?;
            Ok(Member { disguise, ..Member::plain(format, index, column) })
        };
        let key_columns = key_members(format, relation, &chosen_key(route, relation)?)?;
        let mut made = Self {
            row: shown_columns(format, relation).map(member).collect::<Result<_>>()?,
            key: key_columns.clone(),
            key_columns,
            is_keyed: false,
            inserted: Vec::new(),
            headers: Vec::new(),
            texts: Vec::new(),
            dropped_headers: Vec::new(),
            spread: None,
            is_discarded: false,
        };
        // An outbox's events are what its route says.
        if format.envelope == Envelope::Outbox {
            keeps_keys_apart(format, relation, &made)?;
            return Ok(made);
        }
        let name = relation.full_name();
        for step in format.steps.iter().filter(|step| step.is_for(&name, topic)) {
            made.take(step, format, relation)?;
            if made.is_discarded {
                return Ok(made);
            }
        }
        made.must_not_tell(relation)?;
        keeps_keys_apart(format, relation, &made)?;
        Ok(made)
    }

    pub(crate) fn is_of_key(&self, index: usize) -> bool {
        self.key_columns.iter().any(|member| member.index == index)
    }

    /// Dead letters hold what chooses a partition, to be replayed by: it must not be a secret behind that step.
    fn must_not_tell(&self, relation: &Relation) -> Result<()> {
        let fields = self.spread.iter().flat_map(|spread| &spread.fields);
        let hidden = |index: usize| {
            let member = self.row.iter().find(|member| member.index == index);
            member.and_then(|member| member.disguise.as_ref()).is_some_and(Disguise::is_secret)
        };
        let Some(field) = fields.into_iter().find(|field| hidden(field.index)) else { return Ok(()) };
        let (table, name) = (relation.full_name(), &field.name);
        Err(Error::config(format!(
            "column {table}.{name} chooses the partition, and a [[step]] behind that hides it"
        ))
        .hint("partition by another field, or drop this one: dead letters would show it"))
    }

    fn take(&mut self, step: &Step, format: &Format, relation: &Relation) -> Result<()> {
        match (&step.does, relation.shape) {
            (Does::Discard, _) => self.is_discarded = true,
            (Does::HeaderTexts(texts), _) => self.texts.extend(texts.iter().cloned()),
            (Does::DropHeaders(names), _) => {
                self.texts.retain(|(name, _)| !names.contains(name));
                self.headers.retain(|(name, _)| !names.contains(name));
                self.dropped_headers.extend(names.iter().cloned());
            }
            (does, Shape::Rows) => return Fields { made: self, format, relation }.take(does),
            // Messages of applications are no rows, and are passed as they are.
            (_, Shape::Messages) => {}
            (_, Shape::Documents) => {
                return Err(Error::config(format!(
                    "collection {} has no columns, and a [[step]] names fields",
                    relation.full_name()
                ))
                .hint("give the step `relations` that leave it out; exclude_fields in [source.mongodb] hides fields"));
            }
        }
        Ok(())
    }

    /// The columns whose values are in headers, or choose a partition.
    pub(crate) fn uses(&self, index: usize) -> bool {
        let spread = self.spread.iter().flat_map(|spread| &spread.fields);
        self.headers.iter().any(|(_, own)| *own == index) || spread.into_iter().any(|own| own.index == index)
    }

    pub(crate) fn drops_header(&self, name: &str) -> bool {
        self.dropped_headers.iter().any(|dropped| dropped == name)
    }
}

impl Member {
    fn plain(format: &Format, index: usize, column: &Column) -> Self {
        let name = format.field_names.field(&column.name).into_owned();
        Self { index, name, disguise: None, r#type: None }
    }

    /// With what its disguise tells.
    pub(crate) fn tell(&self, schema: Schema) -> Schema {
        match &self.disguise {
            None => schema,
            Some(disguise) => disguise.tell(schema),
        }
    }
}

/// Columns as keys have them: under their own names, and hashed where their rows' are.
fn key_members(format: &Format, relation: &Relation, indexes: &[usize]) -> Result<Vec<Member>> {
    let known = indexes.iter().filter_map(|index| Some((*index, relation.columns.get(*index)?)));
    let member = |(index, column): (usize, &Column)| {
        let is_disguised = format.dialect == Dialect::Millrace && relation.shape == Shape::Rows;
        let disguise = if is_disguised { disguise(format, relation, column)? } else { None };
        Ok(Member { disguise, ..Member::plain(format, index, column) })
    };
    known.map(member).collect()
}

/// The key that the route chooses, else the relation's own.
fn chosen_key(route: Option<&Route>, relation: &Relation) -> Result<Vec<usize>> {
    let Some(route) = route.filter(|route| !route.key.is_empty() && route.outbox.is_none()) else {
        return Ok(relation.key.iter().map(|index| usize::from(*index)).collect());
    };
    let find = |name: &String| {
        let at = relation.columns.iter().position(|column| column.name == *name);
        at.ok_or_else(|| outbox::misfit(relation, name))
    };
    route.key.iter().map(find).collect()
}

/// Steps that look at fields.
struct Fields<'a> {
    made: &'a mut Made,
    format: &'a Format,
    relation: &'a Relation,
}

impl Fields<'_> {
    fn take(&mut self, does: &Does) -> Result<()> {
        match does {
            Does::Drop { of, fields } => {
                let found = self.find_all(*of, fields)?;
                let mut at = 0..;
                self.part(*of).retain(|_| at.next().is_some_and(|at| !found.contains(&at)));
                self.must_have_a_key()?;
            }
            Does::Keep { of, fields } => {
                let found = self.find_all(*of, fields)?;
                let mut at = 0..;
                self.part(*of).retain(|_| at.next().is_some_and(|at| found.contains(&at)));
                self.must_have_a_key()?;
            }
            Does::Rename { of, fields } => {
                let mut new = Vec::new();
                for (from, to) in fields {
                    new.extend(self.find(*of, from)?.map(|at| (at, to)));
                }
                for (at, to) in new {
                    if let Some(member) = self.part(*of).get_mut(at) {
                        member.name.clone_from(to);
                    }
                }
                self.must_be_distinct(*of)?;
            }
            Does::Replace { fields, with } => {
                for at in self.find_all(Part::Row, fields)? {
                    self.replace(at, with.as_deref())?;
                }
            }
            Does::Insert(fields) => {
                self.made.inserted.extend(fields.iter().cloned());
                self.must_be_distinct(Part::Row)?;
            }
            Does::Headers { fields, moves } => self.headers(fields, *moves)?,
            Does::Key(fields) => {
                let found = self.find_all(Part::Row, fields)?;
                // All of them may be missing, and are: the key stays what it is.
                if found.is_empty() {
                    return Ok(());
                }
                let key = found.iter().filter_map(|at| self.made.row.get(*at));
                self.made.key =
                    key.map(|member| Member { disguise: None, r#type: None, ..member.clone() }).collect();
                for member in &self.made.key {
                    self.must_be_told(member.index)?;
                }
                let indexes: Vec<usize> = self.made.key.iter().map(|member| member.index).collect();
                self.made.key_columns = key_members(self.format, self.relation, &indexes)?;
                self.made.is_keyed = true;
                self.must_be_distinct(Part::Key)?;
            }
            Does::Partition(spread) => self.made.spread = self.spread(spread)?,
            Does::Timezone { zone, fields } => self.timezone(zone, fields)?,
            // Of no fields.
            Does::Discard | Does::HeaderTexts(_) | Does::DropHeaders(_) => {}
        }
        Ok(())
    }

    fn part(&mut self, of: Part) -> &mut Vec<Member> {
        match of {
            Part::Row => &mut self.made.row,
            Part::Key => &mut self.made.key,
        }
    }

    /// Where the field stands; none where it may be missing and is.
    fn find(&mut self, of: Part, name: &Name) -> Result<Option<usize>> {
        let members = self.part(of);
        let at = members.iter().position(|member| member.name == name.text);
        if at.is_some() || name.optional {
            return Ok(at);
        }
        let known: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
        let known = known.join(", ");
        let (table, field) = (self.relation.full_name(), &name.text);
        let part = if of == Part::Row { "table" } else { "the key of table" };
        Err(Error::config(format!("{part} {table} has no field {field}, which a [[step]] names")).hint(format!(
            "correct the step, or its `relations`; the fields there are {known}. One that may be missing ends in ?"
        )))
    }

    fn find_all(&mut self, of: Part, names: &[Name]) -> Result<Vec<usize>> {
        let mut found = Vec::new();
        for name in names {
            found.extend(self.find(of, name)?);
        }
        Ok(found)
    }

    fn headers(&mut self, fields: &[(String, Name)], moves: bool) -> Result<()> {
        let mut moved = Vec::new();
        for (header, field) in fields {
            let Some(at) = self.find(Part::Row, field)? else { continue };
            let Some(index) = self.made.row.get(at).map(|member| member.index) else { continue };
            self.must_be_told(index)?;
            if !matches!(self.type_of(index), Some(Type::Text | Type::Int16 | Type::Int32 | Type::Int64)) {
                return Err(self.unfit(index, "is no text and no whole number, as headers hold"));
            }
            self.made.headers.push((header.clone(), index));
            moved.push(at);
        }
        if moves {
            let mut at = 0..;
            self.made.row.retain(|_| at.next().is_some_and(|at| !moved.contains(&at)));
        }
        Ok(())
    }

    /// Puts a text in the place of a field's values.
    fn replace(&mut self, at: usize, with: Option<&str>) -> Result<()> {
        let Some(index) = self.made.row.get(at).map(|member| member.index) else { return Ok(()) };
        let r#type = self.type_of(index);
        let r#type = r#type.ok_or_else(|| self.unfit(index, "is not known"))?;
        let is_number = matches!(
            r#type,
            Type::Int16
                | Type::Int32
                | Type::Int64
                | Type::Float32
                | Type::Float64
                | Type::Decimal { .. }
                | Type::DecimalText { .. }
        );
        let is_other = matches!(
            r#type,
            Type::Bool | Type::Date | Type::TimestampMs | Type::TimestampUs | Type::Array(_)
        );
        let text = match with {
            Some(text) if is_number || r#type == Type::Text => text,
            None if is_number || is_other || r#type == Type::Text => zero(&r#type),
            Some(_) => return Err(self.unfit(index, "is no text and no number: `with` does not fit it")),
            None => return Err(self.unfit(index, "is of a type that nothing can stand for")),
        };
        let Some(stand) = Stand::new(text, r#type.clone()) else {
            return Err(self.unfit(index, &format!("cannot hold {text:?}")));
        };
        if let Some(member) = self.made.row.get_mut(at) {
            member.disguise = Some(Disguise::Replace(Box::new(stand)));
        }
        Ok(())
    }

    fn timezone(&mut self, zone: &Zone, fields: &[Name]) -> Result<()> {
        let named = self.find_all(Part::Row, fields)?;
        let all = 0..self.made.row.len();
        for at in if fields.is_empty() { all.collect() } else { named } {
            let Some(index) = self.made.row.get(at).map(|member| member.index) else { continue };
            let of = match self.type_of(index) {
                Some(Type::TimestampTz { precision }) => {
                    // Debezium's converter prints it anew.
                    let is_kept = self.format.dialect == Dialect::Millrace;
                    Clock::Text { precision: is_kept.then_some(precision) }
                }
                Some(Type::TimestampMs) => Clock::Milliseconds,
                Some(Type::TimestampUs) => Clock::Microseconds,
                _ if fields.is_empty() && !self.is_timestamp(index) => continue,
                _ => {
                    return Err(
                        self.unfit(index, "is no timestamp with a zone, nor one in milli- or microseconds")
                    );
                }
            };
            if let Some(member) = self.made.row.get_mut(at) {
                member.r#type = Some(Type::Zoned(Box::new(Zoned { zone: zone.clone(), of })));
            }
        }
        Ok(())
    }

    fn spread(&mut self, spread: &Spread) -> Result<Option<SpreadPlan>> {
        let mut fields = Vec::new();
        for name in &spread.fields {
            let Some(at) = self.find(Part::Row, name)? else { continue };
            let Some(index) = self.made.row.get(at).map(|member| member.index) else { continue };
            self.must_be_told(index)?;
            let form = match self.type_of(index) {
                Some(Type::Text) => Form::Text,
                Some(Type::Int16 | Type::Int32) => Form::Int,
                Some(Type::Int64) => Form::Long,
                Some(Type::Bool) => Form::Bool,
                _ => {
                    return Err(
                        self.unfit(index, "is no text, no whole number and no boolean, as partitions go by")
                    );
                }
            };
            if !name.optional && self.relation.columns.get(index).is_some_and(|column| column.nullable) {
                return Err(self.unfit(
                    index,
                    &format!(
                        "may be NULL, and a NULL chooses no partition: write \"{}?\", and such rows go by what is \
                         left, or by their key",
                        name.text
                    ),
                ));
            }
            fields.push(SpreadField { index, name: name.text.clone(), form, optional: name.optional });
        }
        let (partitions, hash) = (spread.partitions, spread.hash);
        Ok((!fields.is_empty()).then_some(SpreadPlan { fields, partitions, hash }))
    }

    fn is_timestamp(&self, index: usize) -> bool {
        let kind = self.relation.columns.get(index).map(|column| &column.kind);
        matches!(kind, Some(Kind::Timestamp { .. } | Kind::TimestampTz { .. }))
    }

    fn type_of(&self, index: usize) -> Option<Type> {
        self.relation.columns.get(index).map(|column| map(&column.kind, self.format).0)
    }

    /// Of a column whose type is not one that a step works on.
    fn unfit(&self, index: usize, what: &str) -> Error {
        let name = self.relation.columns.get(index).map_or("?", |column| column.name.as_str());
        let table = self.relation.full_name();
        Error::config(format!("column {table}.{name}, which a [[step]] names, {what}"))
            .hint("name other fields in the step, or give it `relations` that leave this table out")
    }

    /// What is shown elsewhere than in the row cannot be hidden there.
    fn must_be_told(&self, index: usize) -> Result<()> {
        let is_it = |member: &&Member| member.index == index;
        let disguise = self.made.row.iter().find(is_it).and_then(|member| member.disguise.as_ref());
        match disguise.is_some_and(Disguise::is_secret) {
            true => Err(self.unfit(index, "is masked, and the step shows it")),
            false => Ok(()),
        }
    }

    fn must_have_a_key(&self) -> Result<()> {
        if !self.made.key.is_empty() || self.made.key_columns.is_empty() {
            return Ok(());
        }
        Err(Error::config(format!("a [[step]] leaves the key of table {} empty", self.relation.full_name()))
            .hint("name other fields in the step: records without a key have no order"))
    }

    fn must_be_distinct(&mut self, of: Part) -> Result<()> {
        let inserted = if of == Part::Row { self.made.inserted.clone() } else { Vec::new() };
        let mut names: Vec<String> = self.part(of).iter().map(|member| member.name.clone()).collect();
        names.extend(inserted.into_iter().map(|field| field.name));
        names.sort_unstable();
        let mut pairs = names.iter().zip(names.iter().skip(1));
        let Some((twice, _)) = pairs.find(|(one, other)| one == other) else { return Ok(()) };
        Err(Error::config(format!(
            "a [[step]] gives table {} a second field {twice}",
            self.relation.full_name()
        ))
        .hint("choose another name in the step"))
    }
}

/// By what the records of a relation find their partition.
#[derive(Clone, Debug)]
pub(crate) struct SpreadPlan {
    fields: Vec<SpreadField>,
    pub partitions: Option<u32>,
    hash: Hash,
}

#[derive(Clone, Debug)]
struct SpreadField {
    index: usize,
    name: String,
    form: Form,
    optional: bool,
}

/// What a value is to Java.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    Int,
    Long,
    Bool,
}

impl SpreadPlan {
    /// The columns that it goes by.
    pub(crate) fn columns(&self) -> impl Iterator<Item = usize> {
        self.fields.iter().map(|field| field.index)
    }

    /// Fails where the topic has too few partitions.
    pub(crate) fn must_fit(&self, place: &Place, table: &str) -> Result<()> {
        let (name, there) = (&place.name, place.topic.partitions);
        match self.partitions.filter(|wanted| *wanted > there) {
            None => Ok(()),
            Some(wanted) => Err(Error::config(format!(
                "a [[step]] spreads table {table} over {wanted} partitions, and topic {name} has {there}"
            ))
            .hint("set partitions in the step to what the topic has, or leave it out: then all are used")),
        }
    }

    /// One of so many partitions; `None`: the key's. The error is a field that was not sent. `room` is memory used
    /// again for every row.
    pub(crate) fn partition(
        &self,
        row: View<'_>,
        of: u32,
        room: &mut Vec<u8>,
    ) -> std::result::Result<Option<u32>, &str> {
        room.clear();
        let (mut sum, mut count) = (0_i32, 0);
        for field in &self.fields {
            let Some(text) = row.text(field.index) else {
                if field.optional {
                    continue;
                }
                return Err(&field.name);
            };
            match self.hash {
                Hash::Java => sum = sum.wrapping_add(java_hash(field.form, text)),
                Hash::Murmur2 => {
                    if count > 0 {
                        room.push(0);
                    }
                    room.extend_from_slice(text);
                }
            }
            count += 1;
        }
        let of = self.partitions.unwrap_or(of).max(1);
        Ok((count > 0).then(|| match self.hash {
            Hash::Murmur2 => route::partition(Some(room), of),
            // As Debezium does it: the greatest number counts as none.
            Hash::Java => match sum & i32::MAX {
                i32::MAX => 0,
                positive => positive.unsigned_abs() % of,
            },
        }))
    }
}

/// `Object.hashCode` of the value that Kafka Connect has for this text.
fn java_hash(form: Form, text: &[u8]) -> i32 {
    let number = || number::int(text).unwrap_or_default();
    match form {
        Form::Bool if text == b"t" => 1231,
        Form::Bool => 1237,
        // Both are of the width that is hashed as it is.
        Form::Int => (number() as u32).cast_signed(),
        Form::Long => {
            let number = number().cast_unsigned();
            ((number ^ number >> 32) as u32).cast_signed()
        }
        Form::Text => String::from_utf8_lossy(text)
            .encode_utf16()
            .fold(0, |hash: i32, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit))),
    }
}

/// Whether a key that a step makes goes without a name for its schema, as Kafka Connect's has none.
pub(crate) fn is_unnamed_key(made: &Made, format: &Format) -> bool {
    made.is_keyed && format.dialect == Dialect::Debezium
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_hash_as_java_s_objects_do() {
        for (form, text, expected) in [
            (Form::Text, "orange", -1_008_851_410),
            (Form::Text, "", 0),
            (Form::Int, "-7", -7),
            (Form::Long, "4294967297", 0),
            (Form::Long, "-1", 0),
            (Form::Long, "12", 12),
            (Form::Bool, "t", 1231),
        ] {
            assert_eq!(java_hash(form, text.as_bytes()), expected, "{text}");
        }
    }
}
