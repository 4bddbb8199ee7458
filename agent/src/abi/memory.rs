//! The C library's allocator, told that this is a small program.

/// Takes memory for all threads from two pools in place of eight for each CPU. The agent has some thirty threads that
/// each work for a millisecond a second: with pools of their own they would hold several times what they need.
pub(crate) fn take_little() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: these set numbers in the allocator, and fail by returning 0.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, 2);
            // Pieces up to this come from the pools, and of a pool so much may lie free: what is taken and given back at
            // every tick (compression's workspace) costs no page faults.
            libc::mallopt(libc::M_MMAP_THRESHOLD, 2 << 20);
            libc::mallopt(libc::M_TRIM_THRESHOLD, 1 << 20);
        }
    }
}
