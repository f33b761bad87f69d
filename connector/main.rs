//! The daemon: arguments -> verb -> exit code. The verbs are in `cli`.

use std::process::ExitCode;

use clap::Parser;

mod cli;
mod config;
mod operators;
mod registry;
mod rest;
mod supervisor;
mod telemetry;

fn main() -> ExitCode {
    millrace_kafka::tune_allocator();
    let arguments = cli::Arguments::parse();
    // Two providers are linked, one by each client; rustls asks for the choice to be made once, up front.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("millrace: another TLS provider was chosen before");
        return ExitCode::FAILURE;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("millrace: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(cli::main(arguments));
    // Whoever is still blocked in a call to a peer would keep the process alive; nothing is lost with it.
    runtime.shutdown_background();
    ExitCode::from(code)
}
