//! The two logs of the model: data, and positions with claims.

/// No instance: of a holder, that the id is nobody's; of a claim, that the process that made it has ended.
pub const NOBODY: u8 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
    Data(u8),
    Position(u8),
    Claim(u8),
    /// Where a reader of this instance found the end of the log, and reads up to.
    End(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    pub what: What,
    /// The id whose transaction it is in; `None`: committed.
    pub open: Option<u8>,
}

impl Entry {
    /// One byte, so that millions of states fit into memory: kind, number, whose it is. Never zero.
    fn packed(self) -> u8 {
        let (kind, number) = match self.what {
            What::Data(number) => (0, number),
            What::Position(number) => (1, number),
            What::Claim(number) => (2, number),
            What::End(number) => (3, number),
        };
        kind << 6 | number << 3 | self.open.map_or(1, |id| id + 2)
    }

    fn unpacked(byte: u8) -> Option<Self> {
        let number = byte >> 3 & 7;
        let what = match byte >> 6 {
            0 => What::Data(number),
            1 => What::Position(number),
            2 => What::Claim(number),
            _ => What::End(number),
        };
        let whose = byte & 7;
        (whose > 0).then_some(Self { what, open: whose.checked_sub(2) })
    }
}

/// As much as matters for what can still happen: aborted entries are gone, and so are committed ones that
/// every reader finds superseded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Log<const N: usize> {
    entries: [u8; N],
}

impl<const N: usize> Default for Log<N> {
    fn default() -> Self {
        Self { entries: [0; N] }
    }
}

impl<const N: usize> Log<N> {
    pub fn iter(&self) -> impl Iterator<Item = Entry> + Clone + '_ {
        self.entries.iter().map_while(|byte| Entry::unpacked(*byte))
    }

    pub fn push(&mut self, what: What, open: Option<u8>) {
        let free = self.entries.iter_mut().find(|byte| **byte == 0);
        *free.expect("the log has room for all that can be open at once") = Entry { what, open }.packed();
    }

    /// Each entry anew, or without it.
    pub fn rewrite(&mut self, with: impl FnMut(Entry) -> Option<Entry>) {
        let mut kept = [0; N];
        for (place, entry) in kept.iter_mut().zip(self.iter().filter_map(with)) {
            *place = entry.packed();
        }
        self.entries = kept;
    }

    pub fn remove(&mut self, what: What) {
        self.rewrite(|entry| (entry.what != what).then_some(entry));
    }

    pub fn has_open(&self, id: u8) -> bool {
        self.iter().any(|entry| entry.open == Some(id))
    }

    /// Ends a transaction.
    pub fn end(&mut self, id: u8, commit: bool) {
        self.rewrite(|entry| match entry.open {
            Some(of) if of == id => commit.then_some(Entry { open: None, ..entry }),
            Some(_) | None => Some(entry),
        });
    }

    /// Drops what later records of the same key supersede, for every reader that is on its way.
    pub fn compact(&mut self) {
        let all = *self;
        let mut at = 0;
        self.rewrite(|entry| {
            at += 1;
            let same = |other: &Entry| {
                other.open.is_none()
                    && std::mem::discriminant(&other.what) == std::mem::discriminant(&entry.what)
            };
            let stretch = all.iter().skip(at).take_while(|later| !matches!(later.what, What::End(_)));
            let is_superseded = entry.open.is_none() && !matches!(entry.what, What::End(_)) && { stretch }
                .any(|later| same(&later));
            (!is_superseded).then_some(entry)
        });
    }

    /// The newest committed position and claim before the end that `reader` found, or of all.
    pub fn newest(&self, reader: Option<u8>) -> (u8, Option<u8>) {
        let until = reader.map(What::End);
        let (mut position, mut claim) = (0, None);
        for entry in self.iter().take_while(|entry| Some(entry.what) != until) {
            match entry {
                Entry { what: What::Position(at), open: None } => position = at,
                Entry { what: What::Claim(by), open: None } => claim = Some(by),
                Entry { .. } => (),
            }
        }
        (position, claim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_comes_back_from_its_byte() {
        for number in 0..8 {
            for open in [None, Some(0), Some(1)] {
                for what in
                    [What::Data(number), What::Position(number), What::Claim(number), What::End(number)]
                {
                    let entry = Entry { what, open };
                    assert_eq!(Entry::unpacked(entry.packed()), Some(entry));
                }
            }
        }
    }

    #[test]
    fn what_a_reader_on_its_way_will_find_is_kept() {
        let mut log = Log::<8>::default();
        for (what, open) in [
            (What::Position(1), None),
            (What::Position(2), None),
            (What::Position(3), Some(0)),
            (What::End(0), None),
            (What::Position(4), None),
        ] {
            log.push(what, open);
        }
        log.compact();
        assert_eq!(log.iter().count(), 4);
        assert_eq!(log.newest(Some(0)), (2, None));
        log.end(0, true);
        assert_eq!(log.newest(Some(0)), (3, None));
        assert_eq!(log.newest(None), (4, None));
    }
}
