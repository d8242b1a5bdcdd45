//! An output that several threads fill, each its own part.

use std::marker::PhantomData;

/// A mutable slice that tasks write to at places which do not overlap.
pub struct Shared<'a> {
    start: *mut f32,
    len: usize,
    owner: PhantomData<&'a mut [f32]>,
}

// SAFETY: the only access is `Shared::part`, whose caller promises that parts in use at the same time do not overlap.
unsafe impl Send for Shared<'_> {}
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    pub fn new(slice: &'a mut [f32]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), owner: PhantomData }
    }

    /// The numbers from `at` on, `len` of them; a part that is not inside the slice is a panic.
    ///
    /// # Safety
    /// While it lives, no other part of the same slice may overlap it.
    #[expect(clippy::mut_from_ref, reason = "the parts are disjoint, as the caller promises")]
    pub unsafe fn part(&self, at: usize, len: usize) -> &mut [f32] {
        assert!(at <= self.len && len <= self.len - at, "a part outside the slice");
        // SAFETY: the part is inside the slice, which is borrowed for 'a, and by the caller's promise it is not aliased.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}
