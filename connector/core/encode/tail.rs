//! The end of an envelope, written once a batch: start at `Tail::new`.

use super::Encoding;
use super::avro::Avro;
use super::json::Json;
use super::short::Lead;
use super::value::{Union, Writer};

/// What follows the operation's letter: when it was processed, and the ends. The same for a whole batch.
#[derive(Debug)]
pub(crate) struct Tail {
    before_ms: Vec<u8>,
    before_us: Vec<u8>,
    before_ns: Vec<u8>,
    end: Vec<u8>,
    /// After the milliseconds of a document, without a block and with one.
    pub document_end: Lead,
    pub document_close: Lead,
}

impl Tail {
    pub(crate) fn new(encoding: Encoding) -> Self {
        match encoding {
            Encoding::Avro => Self::of::<Avro>(b""),
            Encoding::Json { schemas: false } => Self::of::<Json>(b""),
            Encoding::Json { schemas: true } => Self::of::<Json>(b"}"),
        }
    }

    fn of<W: Writer>(foot: &[u8]) -> Self {
        let lead = |name| W::lead(name, false, Union::NullFirst);
        Self {
            before_ms: [W::OP_CLOSE, &lead("ts_ms")].concat(),
            before_us: lead("ts_us"),
            before_ns: lead("ts_ns"),
            end: [W::STRUCT_CLOSE, foot].concat(),
            document_end: [&W::null("transaction", false, Union::NullFirst), W::STRUCT_CLOSE, foot]
                .concat()
                .into(),
            document_close: [W::STRUCT_CLOSE, foot].concat().into(),
        }
    }

    /// What follows the operation's letter of a document, up to the block of its transaction.
    pub(crate) fn write_document<W: Writer>(&self, now_us: i64, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.before_ms);
        W::long(out, now_us / 1000);
    }

    pub(crate) fn write<W: Writer>(&self, now_us: i64, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.before_ms);
        W::long(out, now_us / 1000);
        out.extend_from_slice(&self.before_us);
        W::long(out, now_us);
        out.extend_from_slice(&self.before_ns);
        W::long(out, now_us.saturating_mul(1000));
        out.extend_from_slice(&self.end);
    }
}
