//! The C library's allocator, told that this is a small program.

/// Takes memory for all threads from a few pools in place of eight for each CPU. The agent has some thirty threads that
/// each work for less than a millisecond a second: with pools of their own they would hold several times what they need,
/// and with two they would wait for one another at every tick.
pub(crate) fn take_little() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: it sets a number in the allocator, and fails by returning 0.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, 6);
        }
    }
}
