//! The gateway daemon: flags, load, run; owns the exit codes.

mod health_check;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use edge_gateway::config::diff::Diff;
use edge_gateway::config::{self, Loaded, Problems, ProcessEnv};
use edge_gateway::metrics::{Build, Metrics};
use edge_gateway::{demo, server, telemetry, tls};

/// It gives memory back after a burst and leaves untouched pages of idle connections unmapped.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const BUILD: Build = Build {
    version: env!("CARGO_PKG_VERSION"),
    commit: env!("GATEWAY_COMMIT"),
    rustc: env!("GATEWAY_RUSTC"),
};

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("GATEWAY_COMMIT"), ")");

/// An edge API gateway.
#[derive(Parser)]
#[command(name = "gateway", version = VERSION, args_conflicts_with_subcommands = true)]
struct Arguments {
    /// The configuration file.
    #[arg(
        short = 'c',
        long = "conf",
        value_name = "FILE",
        conflicts_with = "file"
    )]
    conf: Option<PathBuf>,
    /// The configuration file [default: $GATEWAY_CONFIG, then conf/gateway.yaml]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Check the configuration, print every problem, and exit with 0 or 1.
    #[arg(short = 't', long)]
    validate_config: bool,
    /// Print the JSON Schema of the configuration.
    #[arg(long)]
    print_schema: bool,
    /// Print the reference of the configuration as Markdown.
    #[arg(long, hide = true)]
    print_reference: bool,
    /// Ask the running gateway whether it is alive, and exit with 0 or 1.
    #[arg(long)]
    health_check: bool,
    /// Reserved: run in the background.
    #[arg(short = 'd', long)]
    daemon: bool,
    /// Reserved: take the sockets over from a running gateway.
    #[arg(short = 'u', long)]
    upgrade: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Start with a built-in configuration and backend, and print requests to try.
    Demo(demo::Addresses),
    /// Print what a change of the configuration means, and whether a reload is enough for it.
    Diff {
        /// The configuration before.
        old: PathBuf,
        /// The configuration behind.
        new: PathBuf,
    },
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            // Standard error may be closed; there is nobody left to tell then.
            let _ = writeln!(std::io::stderr(), "{message}");
            ExitCode::FAILURE
        }
    }
}

/// Does what the arguments ask for. The error is what the operator is told, one line a problem.
fn run() -> Result<(), String> {
    let arguments = match parse_arguments() {
        Ok(arguments) => arguments,
        // Help and version are no errors, and printed like the others.
        Err(error) if !error.use_stderr() => {
            return error.print().map_err(|error| error.to_string());
        }
        Err(error) => return Err(error.render().to_string().trim_end().to_owned()),
    };
    if arguments.daemon || arguments.upgrade {
        return Err(
            "gateway: -d and -u are reserved and do nothing yet; run it in the foreground \
                    under systemd or a container runtime"
                .to_owned(),
        );
    }
    if arguments.print_schema {
        return print(&format!("{:#}\n", config::schema()));
    }
    if arguments.print_reference {
        return print(&config::reference());
    }
    match &arguments.command {
        Some(Command::Demo(addresses)) => return run_demo(addresses),
        Some(Command::Diff { old, new }) => return compare(old, new),
        None => {}
    }
    let path = config_path(&arguments);
    let mut loaded = config::load(&path, &ProcessEnv).map_err(|problems| problems.to_string())?;
    if arguments.health_check {
        return health_check::ask(&loaded.config);
    }
    check_tls(&mut loaded).map_err(|problems| problems.to_string())?;
    if arguments.validate_config {
        return report(&path, &loaded);
    }
    start(loaded, None)
}

/// Parses the arguments, with the one-dash spelling that operators are used to.
fn parse_arguments() -> Result<Arguments, clap::Error> {
    let arguments = std::env::args_os().map(|argument| {
        if argument == "-validate-config" {
            "--validate-config".into()
        } else {
            argument
        }
    });
    Arguments::try_parse_from(arguments)
}

/// Reads the certificates that the configuration names; what is odd about them joins the warnings.
fn check_tls(loaded: &mut Loaded) -> Result<(), Problems> {
    let report = tls::check(&loaded.config);
    if !report.faults.is_empty() {
        return Err(loaded.problems(report.faults));
    }
    loaded.warnings.extend(report.warnings);
    Ok(())
}

fn config_path(arguments: &Arguments) -> PathBuf {
    let given = arguments.conf.clone().or_else(|| arguments.file.clone());
    given
        .or_else(|| std::env::var_os("GATEWAY_CONFIG").map(PathBuf::from))
        .unwrap_or_else(|| PathBuf::from("conf/gateway.yaml"))
}

/// Tells that the file is good, and what is odd about the environment.
fn report(path: &Path, loaded: &Loaded) -> Result<(), String> {
    let mut text = String::new();
    for warning in &loaded.warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    text.push_str(&format!("{}: configuration is valid\n", path.display()));
    print(&text)
}

fn print(text: &str) -> Result<(), String> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match written {
        // Whoever reads only the first lines is not an error.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.to_string()),
        _ => Ok(()),
    }
}

/// Prints the changes between two files, both read in this environment.
fn compare(old: &Path, new: &Path) -> Result<(), String> {
    let readings = [old, new].map(|path| config::load(path, &ProcessEnv));
    let problems = readings.iter().filter_map(|reading| reading.as_ref().err());
    let lines: Vec<String> = problems.map(ToString::to_string).collect();
    let [Ok(old), Ok(new)] = readings else {
        return Err(lines.join("\n"));
    };
    let diff = Diff::between(&old.written.whole(), &new.written.whole());
    print(&diff.to_string())
}

fn run_demo(addresses: &demo::Addresses) -> Result<(), String> {
    let backend = demo::start_backend().map_err(|error| format!("demo: backend: {error}"))?;
    let loaded = demo::configuration(addresses, backend, &ProcessEnv)
        .map_err(|problems: Problems| problems.to_string())?;
    start(loaded, Some(&demo::announce))
}

/// Starts logging and runs the gateway until it is told to stop.
fn start(loaded: Loaded, announce: Option<&dyn Fn(&server::Bound)>) -> Result<(), String> {
    let config = &loaded.config;
    let format = match config.log.format {
        config::model::LogFormat::Text => telemetry::Format::Text,
        config::model::LogFormat::Json => telemetry::Format::Json,
    };
    telemetry::start(config.log.level, format).map_err(|error| error.to_string())?;
    let metrics = Arc::new(Metrics::new(&config.metrics.namespace));
    let panics = metrics.panics().clone();
    telemetry::log_panics(move || panics.inc());
    for warning in &loaded.warnings {
        log::warn!("{warning}");
    }
    log::info!(
        "gateway {VERSION}, {} worker threads",
        config.server.threads
    );
    server::run(loaded, metrics, BUILD, announce).map_err(|error| format!("gateway: {error}"))
}
