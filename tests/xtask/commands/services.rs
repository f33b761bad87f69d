//! `cargo xtask services`: servers that stay until they are taken down.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use xtask::services::{Config, Home, Kind, PostgresVersion, Server, Services};
use xtask::{Error, Result};

#[derive(Subcommand)]
pub enum Action {
    /// Installs what is missing and starts what does not run.
    Up(Shape),
    /// Stops the servers and deletes their data.
    Down,
    /// Shows what runs.
    Status,
}

#[derive(Args)]
pub struct Shape {
    /// How many Kafka brokers; 1 unless there are some already.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=9))]
    brokers: Option<u16>,
    /// The major version of Postgres, 14 to 18; 15 unless there is one already.
    #[arg(long)]
    postgres: Option<PostgresVersion>,
}

pub async fn run(action: Action) -> Result<ExitCode> {
    let home = Home::lasting();
    match action {
        Action::Up(shape) => up(shape, &home).await,
        Action::Down => {
            let count = Services::down(&home).await?;
            println!("{count} servers stopped and removed");
            Ok(ExitCode::SUCCESS)
        }
        Action::Status => status(&home).await,
    }
}

async fn up(shape: Shape, home: &Home) -> Result<ExitCode> {
    shape.fits(&Server::all(home)?)?;
    let mut config = Config::default();
    config.kafka.brokers = shape.brokers.unwrap_or(config.kafka.brokers);
    config.postgres.version = shape.postgres.unwrap_or(config.postgres.version);
    let services = Services::up(&config, home).await?;
    println!("kafka     {}", services.kafka.bootstrap());
    println!("registry  {}", services.registry.url());
    println!("postgres  {}", services.postgres.url());
    println!("mongodb   {}", services.mongodb.url());
    Ok(ExitCode::SUCCESS)
}

impl Shape {
    /// Servers that are there already cannot become others.
    fn fits(&self, servers: &[Server]) -> Result<()> {
        let brokers = servers.iter().filter(|server| server.kind() == Kind::Kafka).count();
        let postgres = servers.iter().find(|server| matches!(server.kind(), Kind::Postgres { .. }));
        let other_brokers = self.brokers.is_some_and(|wanted| brokers != 0 && brokers != usize::from(wanted));
        let other_postgres = self
            .postgres
            .zip(postgres)
            .is_some_and(|(wanted, there)| there.name() != format!("postgres-{}", wanted.major()));
        if other_brokers || other_postgres {
            return Err(Error::new("other servers are there already; type: cargo xtask services down"));
        }
        Ok(())
    }
}

async fn status(home: &Home) -> Result<ExitCode> {
    let servers = Server::all(home)?;
    if servers.is_empty() {
        println!("no servers; type: cargo xtask services up");
        return Ok(ExitCode::SUCCESS);
    }
    println!("{:<12} {:>8} {:>6}  {:<8} log", "server", "pid", "port", "state");
    for server in servers {
        let state = match (server.alive(), server.ready().await) {
            (false, _) => "dead",
            (true, false) => "silent",
            (true, true) => "ready",
        };
        let pid = server.pid().map_or_else(|| "-".into(), |pid| pid.to_string());
        println!(
            "{:<12} {pid:>8} {:>6}  {state:<8} {}",
            server.name(),
            server.port(),
            server.log().display()
        );
    }
    Ok(ExitCode::SUCCESS)
}
