//! JSON lines on standard output, the position in a file.
