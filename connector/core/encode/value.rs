//! Writes one value, from its text, in either encoding.

use super::disguise::Disguise;
use super::lexical::array::Elements;
use super::lexical::decimal::{self, Decimal};
use super::lexical::{Bad, hex, hstore, interval, number, time};
use super::shapes;
use crate::route::zone::Zone;

/// What a value becomes. Chosen once per column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Bool,
    Int16,
    Int32,
    Int64,
    Float32,
    Float64,
    Decimal {
        scale: usize,
    },
    /// `stripped`: without the zeros at the end of its fraction.
    VariableDecimal {
        stripped: bool,
    },
    /// Decimals as text; `java` spells NaN and the infinities as Debezium does.
    DecimalText {
        java: bool,
    },
    Text,
    Bytes,
    Date,
    TimeMs,
    TimeUs,
    TimeTz,
    TimestampMs,
    TimestampUs,
    TimestampTz {
        precision: u8,
    },
    Interval,
    Array(Box<Items>),
    /// A text that is not for every reader.
    Disguised(Box<Disguise>),
    /// A timestamp by the clocks of a zone.
    Zoned(Box<Zoned>),
    Rare(Rare),
}

/// What is written apart, by `shapes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rare {
    /// One bit, as a boolean.
    Bit,
    /// Little-endian bytes, as short as they can be.
    Bits,
    /// Two digits after the point.
    Money,
    MoneyText,
    MoneyDouble,
    /// A number as it is printed, in JSON alone.
    Digits,
    /// Bytes as text.
    Hex,
    Base64 {
        url_safe: bool,
    },
    HstoreJson,
    HstoreMap,
    Point,
    Geometry,
    Vector {
        is_single: bool,
    },
    SparseVector,
    TimeNs,
    TimestampNs,
    /// Milliseconds, as Kafka Connect's own type has them: the infinities too.
    TimestampConnect,
    /// `java`: an infinity is the date that Java makes of it.
    DateIso {
        java: bool,
    },
    TimeIso,
    TimestampIso,
    IntervalIso,
}

/// Which timestamps, in which zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Zoned {
    pub zone: Zone,
    pub of: Clock,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clock {
    /// With an offset, as text; with as many fraction digits as it needs where no precision is said.
    Text {
        precision: Option<u8>,
    },
    /// Without one: the instant at which the zone's clocks showed it.
    Milliseconds,
    Microseconds,
}

/// The elements of an array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Items {
    pub element: Type,
    pub optional: bool,
    pub delimiter: u8,
}

/// Memory used again for every value.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    pub elements: Elements,
    pub number: decimal::Room,
    pub bytes: Vec<u8>,
    pub text: Vec<u8>,
    pub pairs: hstore::Pairs,
}

/// How an encoding writes the parts of a value.
pub(crate) trait Writer {
    fn boolean(out: &mut Vec<u8>, value: bool);
    fn int(out: &mut Vec<u8>, value: i32);
    fn long(out: &mut Vec<u8>, value: i64);
    fn float(out: &mut Vec<u8>, text: &[u8]) -> Result<(), Bad>;
    fn double(out: &mut Vec<u8>, text: &[u8]) -> Result<(), Bad>;
    /// UTF-8.
    fn string(out: &mut Vec<u8>, text: &[u8]);
    fn bytes(out: &mut Vec<u8>, bytes: &[u8]);
    fn hex(out: &mut Vec<u8>, text: &[u8], scratch: &mut Vec<u8>) -> Result<(), Bad> {
        scratch.clear();
        hex::decode(text, scratch)?;
        Self::bytes(out, scratch);
        Ok(())
    }
    /// Before a struct's field. `present` as in `element`.
    fn member(out: &mut Vec<u8>, index: usize, name: &str, present: Option<bool>);
    fn map_start(out: &mut Vec<u8>, count: usize);
    /// A key, and what stands before its value.
    fn map_key(out: &mut Vec<u8>, index: usize, key: &[u8], present: Option<bool>);
    fn map_end(out: &mut Vec<u8>, count: usize);
    /// Around the key and the value of a map whose keys are no strings: it is an array of entries.
    const ENTRY_OPEN: &[u8];
    const ENTRY_MIDDLE: &[u8];
    const ENTRY_CLOSE: &[u8];
    fn array_start(out: &mut Vec<u8>, count: usize);
    /// Before each element. `present` says whether it is a value; `None` where elements are never null.
    fn element(out: &mut Vec<u8>, index: usize, present: Option<bool>);
    fn array_end(out: &mut Vec<u8>, count: usize);

    // What stands around values. Built once per plan, so these may allocate.

    const STRUCT_OPEN: &[u8];
    const STRUCT_CLOSE: &[u8];
    /// Before a field's value.
    fn lead(name: &str, is_first: bool, union: Union) -> Vec<u8>;
    /// A field that is null, `lead` included.
    fn null(name: &str, is_first: bool, union: Union) -> Vec<u8>;
    /// Before and after the operation's letter.
    const OP_OPEN: &[u8];
    const OP_CLOSE: &[u8];
}

/// What a field's schema says about null.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Union {
    Required,
    /// Optional.
    NullFirst,
    /// Optional with a default.
    NullLast,
}

/// Writes a value from its text. After an error the tail of `out` is to be cut off.
#[inline]
pub(crate) fn write<W: Writer>(
    r#type: &Type,
    text: &[u8],
    out: &mut Vec<u8>,
    scratch: &mut Scratch,
) -> Result<(), Bad> {
    match r#type {
        Type::Text => W::string(out, text),
        Type::Int32 => W::int(out, narrow(number::int(text)?)?),
        Type::Int64 => W::long(out, number::int(text)?),
        Type::Bool => match text {
            b"t" => W::boolean(out, true),
            b"f" => W::boolean(out, false),
            _ => return Err(Bad::Malformed),
        },
        Type::Int16 => W::int(out, i32::from(narrow::<i16>(number::int(text)?)?)),
        Type::Float32 => W::float(out, text)?,
        Type::Float64 => W::double(out, text)?,
        Type::Decimal { scale } => {
            if let Some(value) = decimal::short_unscaled(text, *scale) {
                W::bytes(out, decimal::short_form(&value.to_be_bytes()));
                return Ok(());
            }
            W::bytes(out, Decimal::parse(text)?.unscaled(*scale, &mut scratch.number)?);
        }
        Type::VariableDecimal { stripped } => {
            let decimal = Decimal::parse(text)?;
            let decimal = if *stripped { decimal.stripped() } else { decimal };
            let scale = decimal.scale();
            let unscaled = decimal.unscaled(scale, &mut scratch.number)?;
            out.extend_from_slice(W::STRUCT_OPEN);
            W::member(out, 0, "scale", None);
            W::int(out, i32::try_from(scale).map_err(|_| Bad::OutOfRange)?);
            W::member(out, 1, "value", None);
            W::bytes(out, unscaled);
            out.extend_from_slice(W::STRUCT_CLOSE);
        }
        Type::DecimalText { java } => W::string(out, decimal_text(text, *java)?),
        Type::Bytes => W::hex(out, text, &mut scratch.bytes)?,
        Type::Date => W::int(out, time::date_days(text)?),
        // A day has 86,400,000 ms, so this fits.
        Type::TimeMs => W::int(out, narrow(time::time_us(text)? / 1000)?),
        Type::TimeUs => W::long(out, time::time_us(text)?),
        Type::TimeTz => W::string(out, time::zoned_time(text)?.as_slice()),
        Type::TimestampMs => W::long(out, time::timestamp_ms(text)?),
        Type::TimestampUs => W::long(out, time::timestamp_us(text)?),
        Type::TimestampTz { precision } => {
            W::string(out, time::zoned_timestamp(text, *precision)?.as_slice());
        }
        Type::Interval => W::long(out, interval::micros(text)?),
        Type::Array(items) => write_array::<W>(items, text, out, scratch)?,
        Type::Disguised(disguise) => disguise.write::<W>(text, out, &mut scratch.text),
        Type::Zoned(zoned) => write_zoned::<W>(zoned, text, out)?,
        Type::Rare(rare) => shapes::write::<W>(*rare, text, out, scratch)?,
    }
    Ok(())
}

fn write_zoned<W: Writer>(zoned: &Zoned, text: &[u8], out: &mut Vec<u8>) -> Result<(), Bad> {
    let is_number = !matches!(text, b"infinity" | b"-infinity");
    match zoned.of {
        Clock::Text { precision } => {
            W::string(out, time::timestamp_in(text, precision, &zoned.zone)?.as_slice());
        }
        Clock::Milliseconds if is_number => {
            W::long(out, time::instant_us(text, &zoned.zone)?.div_euclid(1000))
        }
        Clock::Milliseconds | Clock::Microseconds => W::long(out, time::instant_us(text, &zoned.zone)?),
    }
    Ok(())
}

pub(crate) fn narrow<T: TryFrom<i64>>(value: i64) -> Result<T, Bad> {
    T::try_from(value).map_err(|_| Bad::OutOfRange)
}

/// Checked, so that what is not a number cannot pass for one.
fn decimal_text(text: &[u8], java: bool) -> Result<&[u8], Bad> {
    match (Decimal::parse(text), java) {
        (Ok(_), _) => Ok(text),
        (Err(Bad::Special), false) => Ok(text),
        (Err(Bad::Special), true) => Ok(match text {
            b"NaN" => b"NAN",
            b"Infinity" => b"POSITIVE_INFINITY",
            _ => b"NEGATIVE_INFINITY",
        }),
        (Err(bad), _) => Err(bad),
    }
}

fn write_array<W: Writer>(
    items: &Items,
    text: &[u8],
    out: &mut Vec<u8>,
    scratch: &mut Scratch,
) -> Result<(), Bad> {
    // Taken out for the loop, because the elements need the rest of the scratch.
    let mut elements = std::mem::take(&mut scratch.elements);
    let mut result = elements.parse(text, items.delimiter);
    if result.is_ok() {
        W::array_start(out, elements.len());
        for (index, element) in elements.iter().enumerate() {
            result = write_element::<W>(items, index, element, out, scratch);
            if result.is_err() {
                break;
            }
        }
        W::array_end(out, elements.len());
    }
    scratch.elements = elements;
    result
}

fn write_element<W: Writer>(
    items: &Items,
    index: usize,
    element: Option<&[u8]>,
    out: &mut Vec<u8>,
    scratch: &mut Scratch,
) -> Result<(), Bad> {
    match (element, items.optional) {
        (Some(text), optional) => {
            W::element(out, index, optional.then_some(true));
            write::<W>(&items.element, text, out, scratch)
        }
        (None, true) => {
            W::element(out, index, Some(false));
            Ok(())
        }
        (None, false) => Err(Bad::NullElement),
    }
}

/// What stands for an unchanged TOAST value, as Debezium has it: `false` where there is no placeholder of
/// the type, and nothing is written.
pub(crate) fn write_placeholder<W: Writer>(r#type: &Type, placeholder: &str, out: &mut Vec<u8>) -> bool {
    let bytes = placeholder.as_bytes();
    let Type::Array(items) = r#type else {
        match r#type {
            Type::Text => W::string(out, bytes),
            Type::Disguised(disguise) => disguise.write::<W>(bytes, out, &mut Vec::new()),
            Type::Bytes => W::bytes(out, bytes),
            Type::Rare(rare) => return shapes::write_placeholder::<W>(*rare, bytes, out),
            _ => return false,
        }
        return true;
    };
    let present = items.optional.then_some(true);
    match items.element {
        Type::Text | Type::Bytes => {
            W::array_start(out, 1);
            W::element(out, 0, present);
            write_placeholder::<W>(&items.element, placeholder, out);
            W::array_end(out, 1);
        }
        // The placeholder's bytes as numbers.
        Type::Int32 | Type::Int64 | Type::Date => {
            W::array_start(out, bytes.len());
            for (index, byte) in bytes.iter().enumerate() {
                W::element(out, index, present);
                W::int(out, i32::from(*byte));
            }
            W::array_end(out, bytes.len());
        }
        _ => return false,
    }
    true
}
