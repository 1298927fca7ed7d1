//! The `anteroom` binary.

use std::process::ExitCode;

/// Measured to hold idle sockets in the least memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    anteroom::cli::main()
}
