//! Writes messages as the plugin does, for tests alone.

/// One column of a row to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    Null,
    Unchanged,
    Text(String),
}

pub(crate) type Columns = Vec<Written>;

#[derive(Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn tag(mut self, tag: u8) -> Self {
        self.0.push(tag);
        self
    }
    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
    pub(crate) fn u16(self, number: u16) -> Self {
        self.bytes(&number.to_be_bytes())
    }
    pub(crate) fn u32(self, number: u32) -> Self {
        self.bytes(&number.to_be_bytes())
    }
    pub(crate) fn u64(self, number: u64) -> Self {
        self.bytes(&number.to_be_bytes())
    }
    pub(crate) fn string(self, text: &str) -> Self {
        self.bytes(text.as_bytes()).tag(0)
    }
    pub(crate) fn tuple(mut self, columns: &[Written]) -> Self {
        self = self.u16(columns.len() as u16);
        for column in columns {
            self = match column {
                Written::Null => self.tag(b'n'),
                Written::Unchanged => self.tag(b'u'),
                Written::Text(text) => self.tag(b't').u32(text.len() as u32).bytes(text.as_bytes()),
            };
        }
        self
    }
}
