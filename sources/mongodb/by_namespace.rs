//! What is known of each namespace. The one that was asked for last is found without hashing: events of one
//! collection come in runs.

use std::collections::HashMap;

#[derive(Debug)]
pub struct ByNamespace<T> {
    all: Vec<(Vec<u8>, T)>,
    places: HashMap<Vec<u8>, usize>,
    newest: usize,
}

impl<T> Default for ByNamespace<T> {
    fn default() -> Self {
        Self { all: Vec::new(), places: HashMap::new(), newest: 0 }
    }
}

impl<T> ByNamespace<T> {
    pub fn get(&self, namespace: &[u8]) -> Option<&T> {
        let place = self.place(namespace)?;
        self.all.get(place).map(|(_, known)| known)
    }

    pub fn get_mut(&mut self, namespace: &[u8]) -> Option<&mut T> {
        self.newest = self.place(namespace)?;
        self.all.get_mut(self.newest).map(|(_, known)| known)
    }

    pub fn insert(&mut self, namespace: Vec<u8>, known: T) {
        match self.get_mut(&namespace) {
            Some(old) => *old = known,
            None => {
                self.places.insert(namespace.clone(), self.all.len());
                self.all.push((namespace, known));
            }
        }
    }

    fn place(&self, namespace: &[u8]) -> Option<usize> {
        match self.all.get(self.newest) {
            Some((name, _)) if name == namespace => Some(self.newest),
            _ => self.places.get(namespace).copied(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_namespace_has_its_own_and_the_newest_of_it() {
        let mut known = ByNamespace::default();
        assert_eq!(known.get_mut(b"a"), None);
        for (name, number) in [("a", 1), ("b", 2), ("a", 3), ("c", 4)] {
            known.insert(name.into(), number);
        }
        for (name, number) in [("b", Some(2)), ("a", Some(3)), ("a", Some(3)), ("c", Some(4)), ("d", None)] {
            assert_eq!(known.get(name.as_bytes()).copied(), number);
            assert_eq!(known.get_mut(name.as_bytes()).copied(), number);
        }
    }
}
