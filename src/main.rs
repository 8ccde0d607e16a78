//! The one binary, `farspan`: it reads the command line, names the adapters, wires the roles and
//! runs them until they are drained.
//!
//! Nothing of a role lives here; `wiring` alone knows which crate does what.

mod bench;
mod cli;
mod demo;
mod doctor;
mod seam;
mod wiring;

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return cli::failure::report(&error.into()),
    };
    let code = match runtime.block_on(cli::run(arguments)) {
        Ok(outcome) => outcome.exit_code(),
        Err(failure) => cli::failure::report(&failure),
    };
    // What hangs beyond the drain's deadline must not hold the process.
    runtime.shutdown_background();
    code
}
