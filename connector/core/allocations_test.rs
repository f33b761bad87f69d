//! What a warm batch allocates: nothing. A binary of its own, because it counts for the whole process.

use millrace_core::encode::Encoding;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

mod sample;

#[global_allocator]
static COUNTED: &StatsAlloc<std::alloc::System> = &INSTRUMENTED_SYSTEM;

// One test: another one beside it would be counted too.
#[tokio::test]
async fn a_warm_batch_of_1000_rows_allocates_0_times() {
    for encoding in [Encoding::Avro, Encoding::Json { schemas: false }, Encoding::Json { schemas: true }] {
        let (mut encoder, batch, mut out) = sample::warm(encoding, 1000).await;
        let region = Region::new(COUNTED);
        let encoded = encoder.encode(&batch, &mut out);
        let counted = region.change();
        assert!(encoded.is_ok() && out.records.len() == 1000);
        assert_eq!((counted.allocations, counted.reallocations), (0, 0), "{encoding:?}");
    }
}
