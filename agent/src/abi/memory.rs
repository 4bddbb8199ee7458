//! The C library's allocator, told that this is a small program.

/// Takes memory for all threads from two pools in place of eight for each CPU. The agent has some thirty threads that
/// each work for a millisecond a second: with pools of their own they would hold several times what they need.
pub(crate) fn take_little() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: these set numbers in the allocator, and fail by returning 0.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, 2);
            // Memory above this is given back when it is freed.
            libc::mallopt(libc::M_TRIM_THRESHOLD, 256 << 10);
        }
    }
}
