//! Where the numbers of a matrix lie: in memory of their own, or in a mapped pack.

use crate::mapping::{MappedNumbers, Plain};
use std::ops::Deref;

/// Numbers that are read alike wherever they lie. Writing to mapped ones takes a copy first.
#[derive(Debug, Clone)]
pub enum Storage<T> {
    /// In memory.
    Owned(Vec<T>),
    /// In a file.
    Mapped(MappedNumbers<T>),
}

impl<T> Default for Storage<T> {
    fn default() -> Self {
        Self::Owned(Vec::new())
    }
}

impl<T: Plain> Deref for Storage<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        match self {
            Self::Owned(numbers) => numbers,
            Self::Mapped(numbers) => numbers,
        }
    }
}

impl<T: Plain> Storage<T> {
    /// The numbers, to be changed.
    pub fn to_mut(&mut self) -> &mut Vec<T> {
        if let Self::Mapped(numbers) = self {
            *self = Self::Owned(numbers.to_vec());
        }
        match self {
            Self::Owned(numbers) => numbers,
            Self::Mapped(_) => unreachable!("mapped numbers were copied above"),
        }
    }
}

impl<T: Plain + PartialEq> PartialEq for Storage<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Plain + Eq> Eq for Storage<T> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::Mapping;

    #[test]
    fn mapped_numbers_are_the_files_and_a_change_stays_in_memory() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("numbers");
        std::fs::write(&path, [1, 0, 2, 1, 255, 255]).expect("written");
        let mapping = Mapping::open(&path).expect("mapped");
        let words = |start, length| MappedNumbers::<u16>::new(&mapping, start, length);
        assert_eq!(&*words(0, 3).expect("inside"), [1, 258, 65535]);
        assert!(words(1, 1).is_none(), "not aligned");
        assert!(words(2, 3).is_none() && words(8, 0).is_none() && words(0, usize::MAX).is_none());
        let mut storage = Storage::Mapped(words(2, 2).expect("inside"));
        let owned = Storage::Owned(vec![258, 65535]);
        assert_eq!(storage, owned);
        storage.to_mut()[0] = 7;
        assert_eq!(*storage, [7, 65535]);
        assert_eq!(words(2, 1).expect("inside")[0], 258);
    }

    #[test]
    fn no_numbers_at_the_end_of_a_file_are_no_numbers() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("numbers");
        std::fs::write(&path, [5]).expect("written");
        let mapping = Mapping::open(&path).expect("mapped");
        let none = MappedNumbers::<i8>::new(&mapping, 1, 0).expect("inside");
        assert!(none.is_empty());
    }
}
