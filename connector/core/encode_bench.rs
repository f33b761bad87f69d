//! Prints what the encoding of one row of ten columns costs: `cargo bench -p millrace-core`.

use std::time::{Duration, Instant};

use millrace_core::encode::Encoding;

mod sample;

const ROWS: u32 = 1000;
const ROUNDS: u32 = 2000;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    for encoding in [Encoding::Avro, Encoding::Json { schemas: false }] {
        let (mut encoder, batch, mut out) = sample::warm(encoding, ROWS).await;
        // The best round is the one that nothing else on the machine disturbed.
        let mut best = Duration::MAX;
        for _ in 0..ROUNDS {
            let start = Instant::now();
            let encoded = encoder.encode(&batch, &mut out);
            best = best.min(start.elapsed());
            assert!(encoded.is_ok());
        }
        let ns = best.as_nanos() / u128::from(ROWS);
        let bytes = out.bytes.len() / ROWS as usize;
        println!("{encoding:?}: {ns} ns a row, {bytes} bytes a row with key and headers");
    }
}
