//! How glibc's allocator shares out memory, set once for the process.

/// Called by the daemon before its first other thread: arenas that exist already are not given back.
///
/// Two arenas: librdkafka's records are allocated on one thread and freed on another, so with an arena for
/// each thread every one of them keeps the peak of what has passed through it. Measured, 600,000 rows of 300
/// bytes: 63 and 53 MiB at the peak, cold and warm, by default (eight arenas a core), 47 and 44 MiB with two,
/// at the same CPU time.
///
/// No fast bins: those records' small blocks are freed whole batches at a time, so that the bins fill, are
/// merged and fill again. Measured, 5,000 records of 500 bytes with two headers a transaction: 4.2 us of CPU
/// a record with them, 2.0 without, at the same resident size.
pub fn tune() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        use std::ffi::c_int;

        /// `M_MXFAST` and `M_ARENA_MAX` of `malloc.h`.
        const LARGEST_FAST_BLOCK: c_int = 1;
        const ARENAS: c_int = -8;
        unsafe extern "C" {
            fn mallopt(parameter: c_int, value: c_int) -> c_int;
        }
        static ONCE: std::sync::Once = std::sync::Once::new();
        // SAFETY: may be called at any time from any thread; both values are valid.
        ONCE.call_once(|| unsafe {
            mallopt(LARGEST_FAST_BLOCK, 0);
            mallopt(ARENAS, 2);
        });
    }
}
