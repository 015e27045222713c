//! Tells the binary its commit.
fn main() {}
