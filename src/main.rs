//! The gateway daemon: flags, load, run; owns the exit codes.

mod health_check;
mod keygen;

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use edge_gateway::config::diff::Diff;
use edge_gateway::config::{self, Loaded, Problems, ProcessEnv};
use edge_gateway::filter::auth;
use edge_gateway::metrics::{Build, Metrics};
use edge_gateway::upgrade::place::Place;
use edge_gateway::upgrade::predecessor::Predecessor;
use edge_gateway::upgrade::{self, Succession};
use edge_gateway::{demo, server, supervise, telemetry, tls};

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
    #[command(flatten)]
    config: ConfigArguments,
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
    /// Take the sockets over from the running gateway, and serve beside it until it ends.
    #[arg(short = 'u', long, overrides_with = "upgrade")]
    upgrade: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(clap::Args)]
struct ConfigArguments {
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
}

impl ConfigArguments {
    fn path(&self) -> PathBuf {
        let given = self.conf.clone().or_else(|| self.file.clone());
        given
            .or_else(|| std::env::var_os("GATEWAY_CONFIG").map(PathBuf::from))
            .unwrap_or_else(|| PathBuf::from("conf/gateway.yaml"))
    }
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
    /// Make an API key, and print it and the entry with its hash.
    Keygen(keygen::Keygen),
    /// Read a password from standard input, and print its bcrypt hash.
    HashPassword(keygen::HashPassword),
    /// Ask the running gateway to replace itself, and wait until its successor serves.
    Upgrade {
        #[command(flatten)]
        config: ConfigArguments,
        /// The socket of the running gateway, if it is not the one that the configuration names.
        #[arg(long, value_name = "PATH")]
        socket: Option<PathBuf>,
    },
    /// Run a gateway and its successors below this process, for containers.
    Supervise {
        /// The gateway's arguments.
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "ARGUMENTS"
        )]
        arguments: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(message) => {
            // Standard error may be closed; there is nobody left to tell then.
            let _ = writeln!(std::io::stderr(), "{message}");
            ExitCode::FAILURE
        }
    }
}

/// Does what the arguments ask for. The error is what the operator is told, one line a problem.
fn run() -> Result<ExitCode, String> {
    let arguments = match parse_arguments() {
        Ok(arguments) => arguments,
        // Help and version are no errors, and printed like the others.
        Err(error) if !error.use_stderr() => {
            let printed = error.print().map_err(|error| error.to_string());
            return printed.map(|()| ExitCode::SUCCESS);
        }
        Err(error) => return Err(error.render().to_string().trim_end().to_owned()),
    };
    let done = match &arguments.command {
        Some(Command::Supervise { arguments }) => {
            return supervise::run(arguments)
                .map(ExitCode::from)
                .map_err(|error| format!("supervise: {error}"));
        }
        Some(Command::Demo(addresses)) => run_demo(addresses),
        Some(Command::Diff { old, new }) => compare(old, new),
        Some(Command::Keygen(keygen)) => keygen.run().and_then(|text| print(&text)),
        Some(Command::HashPassword(hasher)) => hasher.run().and_then(|text| print(&text)),
        Some(Command::Upgrade { config, socket }) => ask_for_successor(config, socket.as_deref()),
        None => run_gateway(&arguments),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// Prints, checks, or serves.
fn run_gateway(arguments: &Arguments) -> Result<(), String> {
    if arguments.daemon {
        return Err(
            "gateway: -d is reserved and does nothing yet; run it in the foreground \
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
    let path = arguments.config.path();
    if arguments.health_check {
        return health_check::ask(&path);
    }
    let mut succession = Succession::default();
    if arguments.upgrade {
        succession.predecessor = Predecessor::that_started_us()
            .transpose()
            .map_err(|error| no_predecessor(&error))?;
    }
    let outcome = serve_file(arguments, &path, &mut succession);
    if let (Err(reason), Some(predecessor)) = (&outcome, succession.predecessor.take()) {
        predecessor.failed(reason);
    }
    outcome
}

fn serve_file(
    arguments: &Arguments,
    path: &Path,
    succession: &mut Succession,
) -> Result<(), String> {
    let mut loaded = config::load(path, &ProcessEnv).map_err(|problems| problems.to_string())?;
    check_files(&mut loaded).map_err(|problems| problems.to_string())?;
    if arguments.validate_config {
        // A running gateway goes on with what it knows; here is the place to hear of them before.
        let (problems, warnings) = config::lists(&loaded.config, &ProcessEnv);
        if !problems.is_empty() {
            return Err(problems.join("\n"));
        }
        loaded.warnings.extend(warnings);
        return report(path, &loaded);
    }
    let place = Place::new(loaded.config.server.upgrade_socket.as_deref(), path);
    if arguments.upgrade && succession.predecessor.is_none() {
        let predecessor = Predecessor::at(&place).map_err(|error| no_predecessor(&error))?;
        succession.predecessor = Some(predecessor);
    }
    succession.place = Some(place);
    start(loaded, succession, None)
}

fn no_predecessor(error: &std::io::Error) -> String {
    format!("gateway: -u: no running gateway hands its sockets over: {error}")
}

/// Asks the gateway that runs this configuration for its successor, if the configuration is good.
fn ask_for_successor(config: &ConfigArguments, socket: Option<&Path>) -> Result<(), String> {
    let path = config.path();
    let loaded = config::load(&path, &ProcessEnv).map_err(|problems| problems.to_string())?;
    let server = &loaded.config.server;
    let place = match socket {
        Some(socket) => Place::only(socket),
        None => Place::new(server.upgrade_socket.as_deref(), &path),
    };
    upgrade::command::run(&place, server.upgrade_timeout, |text| {
        // Whoever started it may not want to know.
        let _ = print(&format!("upgrade: {text}\n"));
    })
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

/// Reads the certificates and keys that the configuration names; what is odd about them joins the
/// warnings.
fn check_files(loaded: &mut Loaded) -> Result<(), Problems> {
    let mut report = tls::check(&loaded.config);
    report.faults.extend(auth::check(&loaded.config.auth));
    if !report.faults.is_empty() {
        return Err(loaded.problems(report.faults));
    }
    loaded.warnings.extend(report.warnings);
    Ok(())
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
    let issuer = demo::Issuer::new().map_err(|error| format!("demo: {error}"))?;
    let loaded = demo::configuration(addresses, backend, &issuer, &ProcessEnv)
        .map_err(|problems: Problems| problems.to_string())?;
    let announce = |bound: &server::Bound| demo::announce(bound, &issuer);
    start(loaded, &mut Succession::default(), Some(&announce))
}

/// Starts logging and runs the gateway until it is told to stop.
fn start(
    loaded: Loaded,
    succession: &mut Succession,
    announce: Option<&dyn Fn(&server::Bound)>,
) -> Result<(), String> {
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
    server::run(loaded, metrics, BUILD, succession, announce)
        .map_err(|error| format!("gateway: {error}"))
}
