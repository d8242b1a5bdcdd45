//! An output that several threads fill, each its own part.

use std::marker::PhantomData;

/// A mutable slice that tasks write to at places which do not overlap.
pub struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: the only access is `Shared::part`, whose caller promises that parts in use at the same time do not overlap.
unsafe impl<T: Send> Send for Shared<'_, T> {}
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), owner: PhantomData }
    }

    /// The numbers from `at` on, `len` of them; a part that is not inside the slice is a panic.
    ///
    /// # Safety
    /// While it lives, no other part of the same slice may overlap it.
    #[expect(clippy::mut_from_ref, reason = "the parts are disjoint, as the caller promises")]
    pub unsafe fn part(&self, at: usize, len: usize) -> &mut [T] {
        assert!(at <= self.len && len <= self.len - at, "a part outside the slice");
        // SAFETY: the part is inside the slice, which is borrowed for 'a, and by the caller's promise it is not aliased.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}
