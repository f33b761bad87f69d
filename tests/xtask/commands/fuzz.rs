//! `cargo xtask fuzz`: bytes that nobody sends, for as long as one likes.

use std::process::ExitCode;
use std::time::Duration;

use millrace_fuzz::targets::{ALL, Target};
use xtask::{Error, Result};

#[derive(clap::Args)]
pub struct Arguments {
    /// frames, pgoutput, copy, position, values, arrays, bson; all, one after the other, where none is named.
    targets: Vec<String>,
    /// For each target.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    for name in &arguments.targets {
        if !ALL.iter().any(|target| target.name == name) {
            let known: Vec<&str> = ALL.iter().map(|target| target.name).collect();
            return Err(Error::new(format!("{name} is no target: {}", known.join(", "))));
        }
    }
    let is_wanted = |target: &&Target| {
        arguments.targets.is_empty() || arguments.targets.iter().any(|name| name == target.name)
    };
    let mut passed = true;
    for target in ALL.iter().filter(is_wanted) {
        let time = Duration::from_secs(arguments.seconds);
        let outcome = millrace_fuzz::run(target, arguments.seed, time, u64::MAX);
        println!("-- {}: {} tried, {} taken", target.name, outcome.tried, outcome.accepted);
        if let Some((input, why)) = outcome.broken {
            passed = false;
            println!("   {why}: {:?}", String::from_utf8_lossy(&input));
            println!("   {}", input.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        }
    }
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
