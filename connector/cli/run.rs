//! `millrace run`: the daemon.

use std::time::Duration;

use millrace_core::error::{Error, Kind};
use tracing::{error, info, warn};

use super::signals::{Asked, Signals};
use super::{EXIT_CONFIG, EXIT_FAILED, Run, refuse};
use crate::supervisor::{Ended, Supervisor};
use crate::telemetry::{bar, traces};
use crate::{config, operators, rest};

/// Between a SIGTERM and the SIGKILL after it, service managers wait longer than this.
const DRAIN: Duration = Duration::from_secs(10);

/// What was under way could not be committed in time; nothing is lost, it comes again.
const EXIT_NOT_DRAINED: u8 = 3;

pub async fn run(arguments: Run) -> u8 {
    let environment = config::Environment::of_process();
    let loaded = match config::load(&arguments.paths, &environment) {
        Ok(loaded) => loaded,
        Err(problems) => return refuse(&problems),
    };
    match serve(loaded, &arguments, &environment).await {
        Ok(code) => code,
        Err(error) => {
            error!(hint = error.hint_text(), "cannot start: {error}");
            EXIT_CONFIG
        }
    }
}

async fn serve(
    loaded: config::Loaded,
    arguments: &Run,
    environment: &config::Environment,
) -> Result<u8, Error> {
    let mut rest = loaded.rest;
    rest.listen = arguments.rest.unwrap_or(rest.listen);
    let mut signals =
        Signals::new().map_err(|error| Error::fatal("cannot listen for signals").source(error))?;
    let (listener, address) = rest::bind(&rest).await?;
    info!(addr = %address, "rest listening on http://{address}");
    let exporter = loaded.traces.clone().map(traces::Exporter::start).transpose()?;
    let mut supervisor = Supervisor::start(loaded.connectors);
    let serving = rest::serve(listener, address, rest.open_reading, supervisor.connectors.clone());
    tokio::spawn(serving);
    tokio::spawn(bar::draw(supervisor.connectors.clone()));

    let mut all_ended = false;
    let signal = loop {
        tokio::select! {
            biased;
            asked = signals.next() => match asked {
                Asked::End(signal) => break signal,
                Asked::ReadFiles => {
                    read_files(&mut supervisor, arguments, environment, (rest, loaded.traces.as_ref()));
                    all_ended = false;
                }
            },
            ended = supervisor.all_ended(), if !all_ended => {
                if arguments.exit_on_failure {
                    finished(exporter).await;
                    return Ok(exit_code(&ended));
                }
                warn!("every connector has ended; REST stays to say why");
                all_ended = true;
            }
        }
    };
    info!(code = signal, "stopping; a second signal ends at once");
    supervisor.stop();
    tokio::select! {
        biased;
        signal = signals.end() => Ok(signal),
        () = supervisor.drained() => {
            operators::settled().await;
            finished(exporter).await;
            Ok(0)
        }
        () = tokio::time::sleep(DRAIN) => {
            warn!(connectors = supervisor.running(), "not drained in time; what is missing comes again");
            Ok(EXIT_NOT_DRAINED)
        }
    }
}

async fn finished(exporter: Option<traces::Exporter>) {
    if let Some(exporter) = exporter {
        exporter.finish().await;
    }
}

/// Reads all files again. Where anything is wrong with one of them, nothing changes.
fn read_files(
    supervisor: &mut Supervisor,
    arguments: &Run,
    environment: &config::Environment,
    (rest, traces): (config::Rest, Option<&traces::Settings>),
) {
    match config::load(&arguments.paths, environment) {
        Ok(loaded) => {
            info!("the files are read again");
            let listen = arguments.rest.unwrap_or(loaded.rest.listen);
            let changed = [
                ("[rest]", config::Rest { listen, ..loaded.rest } != rest),
                ("[traces]", loaded.traces.as_ref() != traces),
            ];
            for (section, _) in changed.into_iter().filter(|(_, has_changed)| *has_changed) {
                warn!(
                    hint = "restart the daemon: its connectors go on from their positions",
                    "{section} has changed, and is as it was until a restart"
                );
            }
            supervisor.load(loaded.connectors);
        }
        Err(problems) => {
            for problem in &problems {
                error!("{problem}");
            }
            error!(problems = problems.len(), "the files are wrong: everything goes on as before");
        }
    }
}

/// The gravest end decides.
fn exit_code(ended: &[Ended]) -> u8 {
    let code = |ended: &Ended| match ended {
        Ended::Stopped => 0,
        Ended::Failed(kind) => match kind {
            Kind::Config => EXIT_CONFIG,
            Kind::Record | Kind::Fatal | Kind::Transient => EXIT_FAILED,
            // The work goes on elsewhere.
            Kind::Fenced => 0,
        },
    };
    let codes: Vec<u8> = ended.iter().map(code).collect();
    let gravest = [EXIT_FAILED, EXIT_CONFIG].into_iter().find(|code| codes.contains(code));
    gravest.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gravest_end_decides_the_exit_code() {
        use Ended::{Failed, Stopped};
        for (ended, expected) in [
            (vec![Stopped], 0),
            (vec![Failed(Kind::Config), Stopped], 2),
            (vec![Failed(Kind::Config), Failed(Kind::Fatal)], 1),
            (vec![Failed(Kind::Record)], 1),
            (vec![Failed(Kind::Fenced)], 0),
        ] {
            assert_eq!(exit_code(&ended), expected, "{ended:?}");
        }
    }
}
