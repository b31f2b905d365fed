//! The `midspan` program: parse the command line, run one command, turn its
//! error into an exit code.

use std::process::ExitCode;

use midspan::runtime::allocator::CountingAllocator;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

fn main() -> ExitCode {
    midspan::cli::main(std::env::args_os())
}
