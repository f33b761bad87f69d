//! The real daemon against real servers: one fault a test, named as a sentence. The harness is `lib.rs`;
//! what is tested lies in `cases`.

mod cases;
