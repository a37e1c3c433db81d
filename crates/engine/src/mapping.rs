//! Files in memory, mapped or copied, and the numbers in them. One of the crate's two places of unsafe code (the other: the vector kernels).
//!
//! Two promises are needed. That the bytes do not change while they are mapped: packs of a store are written under another name, made
//! read-only and renamed, and nothing here opens one for writing; of any other file, whoever serves it makes a copy ([`Mapping::copy`]),
//! which nobody else reaches. And that a number may have any bits: [`Plain`] is for integers only, which have no invalid ones.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::Read;
use std::marker::PhantomData;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

/// A whole file or a copy of one, read-only.
#[derive(Debug)]
pub struct Mapping(memmap2::Mmap);

impl Mapping {
    /// Maps the file at `path`.
    pub fn open(path: &Path) -> std::io::Result<Arc<Self>> {
        let file = File::open(path)?;
        // SAFETY: the first promise above; whoever breaks it from outside changes the file of a running program.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Ok(Arc::new(Self(map)))
    }

    /// Copies the file at `path` into memory of its own: what becomes of the file afterwards changes nothing.
    pub fn copy(path: &Path) -> std::io::Result<Arc<Self>> {
        let mut file = File::open(path)?;
        let length = usize::try_from(file.metadata()?.len()).map_err(std::io::Error::other)?;
        // Whole pages, as of a mapped file, so that numbers are aligned alike.
        let mut pages = memmap2::MmapMut::map_anon(length)?;
        file.read_exact(&mut pages)?;
        Ok(Arc::new(Self(pages.make_read_only()?)))
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Integers, for which any bits are a number.
pub trait Plain: Copy + private::Sealed {}
impl Plain for i8 {}
impl Plain for u16 {}

/// Numbers as bytes, in the machine's byte order.
pub fn bytes_of<T: Plain>(numbers: &[T]) -> &[u8] {
    // SAFETY: integers without padding are their bytes, which need no alignment; the length is that of the same memory.
    unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast::<u8>(), size_of_val(numbers)) }
}

mod private {
    pub trait Sealed {}
    impl Sealed for i8 {}
    impl Sealed for u16 {}
}

/// Numbers in a mapped or copied file, in the machine's byte order. Keeps it in memory.
#[derive(Debug, Clone)]
pub struct MappedNumbers<T> {
    mapping: Arc<Mapping>,
    start: usize,
    length: usize,
    kind: PhantomData<T>,
}

impl<T: Plain> MappedNumbers<T> {
    /// `length` numbers from byte `start`. `None` when they reach beyond the file or `start` is not aligned for them.
    pub fn new(mapping: &Arc<Mapping>, start: usize, length: usize) -> Option<Self> {
        let end = length
            .checked_mul(size_of::<T>())
            .and_then(|bytes| start.checked_add(bytes))?;
        let bytes = mapping.bytes().get(start..end)?;
        let aligned = bytes.as_ptr().addr().is_multiple_of(align_of::<T>());
        aligned.then(|| Self {
            mapping: mapping.clone(),
            start,
            length,
            kind: PhantomData,
        })
    }
}

impl<T: Plain> Deref for MappedNumbers<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        if self.length == 0 {
            return &[];
        }
        let bytes = self.length * size_of::<T>();
        let first = self.mapping.bytes()[self.start..][..bytes].as_ptr();
        // SAFETY: `new` checked that the numbers lie in the mapping and are aligned; neither can change, since the mapping stays
        // where it is as long as it is held here. Any bits are a number, by the second promise above.
        unsafe { std::slice::from_raw_parts(first.cast::<T>(), self.length) }
    }
}
