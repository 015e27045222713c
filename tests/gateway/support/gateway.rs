//! The built binary as a process on free ports.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tempfile::TempDir;

use super::client::{Client, Response, get, request};
use super::command::{Finished, binary, finish};
use super::metrics;
use super::origin::Origin;
use super::secrets;
use super::wait::{eventually, until};

/// What every configuration has unless it says otherwise: free ports, and few threads, because
/// many gateways run beside each other.
const COMMON: &[(&str, &str)] = &[
    (
        "server:",
        "server: { threads: 2, upgrade_socket: upgrade.sock }\n",
    ),
    (
        "listeners:",
        "listeners: [{ name: main, address: 127.0.0.1:0 }]\n",
    ),
    ("admin:", "admin: { address: 127.0.0.1:0 }\n"),
];

/// Settings of an upstream: its backends stay, and are asked, however often they fail.
pub const NO_EJECTION: &str =
    "    outlier: { consecutive_failures: 0 }\n    circuit_breaker: { enabled: false }";

type Lines = Arc<Mutex<Vec<String>>>;

/// A running gateway. It is killed on drop, and its log is shown when the test fails.
pub struct Gateway {
    child: Child,
    directory: Option<TempDir>,
    stdout: Lines,
    stderr: Lines,
    listeners: Vec<(String, SocketAddr)>,
    admin: Option<SocketAddr>,
}

impl Gateway {
    /// Starts with this configuration, and waits until it is ready.
    #[track_caller]
    pub fn start(yaml: &str) -> Self {
        Self::start_with(yaml, |_| {})
    }

    /// Starts with one route, `all`, to this backend.
    #[track_caller]
    pub fn in_front_of(origin: &Origin) -> Self {
        Self::start(&format!(
            "routes: [{{ name: all, upstream: 'http://{}' }}]",
            origin.address()
        ))
    }

    /// Starts with these routes, a list in block style.
    #[track_caller]
    pub fn start_routes(routes: &str) -> Self {
        Self::start(&format!("routes:\n{routes}"))
    }

    /// The same, with this backend as the upstream `u`.
    #[track_caller]
    pub fn with_routes(origin: &Origin, routes: &str) -> Self {
        let backend = origin.address();
        Self::start(&format!(
            "upstreams: {{ u: {{ backends: ['{backend}'] }} }}\nroutes:\n{routes}"
        ))
    }

    /// Starts with one route to the upstream `u` of these backends with these further settings.
    #[track_caller]
    pub fn with_upstream(backends: &[SocketAddr], settings: &str) -> Self {
        let list: Vec<String> = backends
            .iter()
            .map(|address| format!("'{address}'"))
            .collect();
        Self::start(&format!(
            "upstreams:\n  u:\n    backends: [{}]\n{settings}\nroutes: [{{ name: all, upstream: u }}]",
            list.join(", ")
        ))
    }

    /// [`Gateway::start`] with a change to the command, such as a variable of its environment.
    #[track_caller]
    pub fn start_with(yaml: &str, change: impl FnOnce(&mut Command)) -> Self {
        let directory = config_directory(yaml);
        let mut command = binary();
        command.arg("-c").arg(directory.path().join("gateway.yaml"));
        change(&mut command);
        Self::launch(command, Some(directory))
    }

    /// Starts this command, and waits until it is ready.
    #[track_caller]
    pub fn launch(mut command: Command, directory: Option<TempDir>) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start the gateway");
        let stdout = follow(child.stdout.take().expect("piped"));
        let stderr = follow(child.stderr.take().expect("piped"));
        let mut gateway = Self {
            child,
            directory,
            stdout,
            stderr,
            listeners: Vec::new(),
            admin: None,
        };
        gateway.wait_until_ready();
        gateway
    }

    fn wait_until_ready(&mut self) {
        // The admin listener is told last: once it is there, so are the others.
        let without_admin = self.is_without_admin();
        eventually("the gateway says where it listens", || {
            self.assert_running();
            self.read_addresses();
            !self.listeners.is_empty() && (without_admin || self.admin.is_some())
        });
        eventually("the gateway is ready", || {
            self.assert_running();
            let address = self.admin.unwrap_or_else(|| self.addr());
            get(address, "/ready").status == 200
        });
    }

    fn is_without_admin(&self) -> bool {
        let file = self
            .directory
            .as_ref()
            .map(|folder| folder.path().join("gateway.yaml"));
        let text = file.map(|file| std::fs::read_to_string(file).expect("the configuration"));
        text.is_some_and(|text| text.contains("admin: { enabled: false }"))
    }

    fn assert_running(&mut self) {
        let ended = self.child.try_wait().expect("wait");
        assert!(ended.is_none(), "the gateway ended: {ended:?}");
    }

    fn read_addresses(&mut self) {
        let lines = self.log_lines();
        self.listeners = lines.iter().filter_map(|line| listener(line)).collect();
        self.admin = lines
            .iter()
            .find_map(|line| leading_address(line.split_once("admin on ")?.1));
    }

    /// The address of the first listener.
    pub fn addr(&self) -> SocketAddr {
        self.listeners[0].1
    }

    /// The address of a listener by its name.
    #[track_caller]
    pub fn listener(&self, name: &str) -> SocketAddr {
        let found = self.listeners.iter().find(|(found, _)| found == name);
        found.unwrap_or_else(|| panic!("no listener {name}")).1
    }

    /// The address of the operators' listener.
    #[track_caller]
    pub fn admin(&self) -> SocketAddr {
        self.admin.expect("an admin listener")
    }

    /// A connection to the first listener.
    pub fn connect(&self) -> Client {
        Client::connect(self.addr())
    }

    /// The folder of the configuration file.
    pub fn directory(&self) -> &Path {
        self.directory.as_ref().expect("a folder").path()
    }

    /// Replaces the configuration file, as editors do: a new file takes the place of the old one.
    pub fn rewrite(&self, yaml: &str) {
        let fresh = self.directory().join("gateway.yaml.new");
        std::fs::write(&fresh, complete(yaml)).expect("write");
        std::fs::rename(fresh, self.directory().join("gateway.yaml")).expect("rename");
    }

    /// A call on the admin listener, with this token.
    #[track_caller]
    pub fn call(&self, path: &str, token: &str, body: &str) -> Response {
        let header = format!("Authorization: Bearer {token}");
        request(self.admin(), "POST", path, &[&header], body.as_bytes())
    }

    /// The status page.
    #[track_caller]
    pub fn status(&self) -> Value {
        get(self.admin(), "/status").json()
    }

    /// Standard error so far.
    pub fn log_lines(&self) -> Vec<String> {
        self.stderr.lock().unwrap().clone()
    }

    /// Waits for a line of the log that has all of this in it. What a line tells of can be seen before
    /// the line.
    #[track_caller]
    pub fn wait_log(&self, parts: &[&str]) -> String {
        let matches = |line: &String| parts.iter().all(|part| line.contains(part));
        until(|| self.log_lines().into_iter().find(matches))
            .unwrap_or_else(|| panic!("no line with {parts:?} in {:#?}", self.log_lines()))
    }

    /// Standard output so far.
    pub fn output_lines(&self) -> Vec<String> {
        self.stdout.lock().unwrap().clone()
    }

    /// The access log so far.
    pub fn access_lines(&self) -> Vec<Value> {
        let lines = self.output_lines();
        let parsed = lines.iter().map(|line| serde_json::from_str(line));
        parsed
            .collect::<Result<_, _>>()
            .unwrap_or_else(|error| panic!("{error} in {lines:?}"))
    }

    /// Waits for an access line.
    #[track_caller]
    pub fn wait_access(&self, matches: impl Fn(&Value) -> bool) -> Value {
        until(|| self.access_lines().into_iter().find(&matches))
            .unwrap_or_else(|| panic!("no such line in {:#?}", self.access_lines()))
    }

    /// The page of metrics.
    #[track_caller]
    pub fn metrics(&self) -> String {
        let response = get(self.admin(), "/metrics");
        assert_eq!(response.status, 200);
        response.text()
    }

    /// The sum of all samples of this name with these labels; 0 when there is none.
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let page = self.metrics();
        let samples = metrics::parse(&page);
        samples
            .iter()
            .filter(|sample| sample.name == name && sample.has(labels))
            .map(|sample| sample.value)
            .sum()
    }

    /// Waits until a metric has this value.
    #[track_caller]
    pub fn wait_metric(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        let mut last = f64::NAN;
        let reached = until(|| {
            last = self.metric(name, labels);
            (last == value).then_some(())
        });
        assert!(
            reached.is_some(),
            "{name}{labels:?} is {last}, not {value}, in\n{}",
            self.metrics()
        );
    }

    /// The process's resident memory.
    pub fn rss_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))
            .expect("the process's status");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .expect("the resident size");
        let number = line.split_whitespace().next().expect("a number");
        number.parse().expect("a number")
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("sh")
            .arg("-c")
            .arg(format!("kill -{name} {}", self.pid()))
            .status()
            .expect("run kill");
        assert!(status.success());
    }

    /// Waits for the end of the process.
    #[track_caller]
    pub fn wait_exit(&mut self) -> ExitStatus {
        until(|| self.child.try_wait().expect("wait")).expect("the gateway ends")
    }

    /// Asks it to end, and waits for that.
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait_exit()
    }

    /// Runs the binary with these arguments to its end.
    #[track_caller]
    pub fn command(arguments: &[&str]) -> Finished {
        finish(binary().args(arguments))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Errors mean that the process has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            let log = self.log_lines().join("\n");
            eprintln!("--- log of the gateway\n{log}\n--- end of the log");
        } else {
            secrets::assert_none_in(&self.log_lines());
            secrets::assert_none_in(&self.output_lines());
        }
    }
}

/// A folder with a configuration file: this text, and the common settings that it leaves out.
pub fn config_directory(yaml: &str) -> TempDir {
    let directory = tempfile::tempdir().expect("a folder");
    std::fs::write(directory.path().join("gateway.yaml"), complete(yaml)).expect("write");
    directory
}

fn complete(yaml: &str) -> String {
    let missing = COMMON
        .iter()
        .filter(|(key, _)| !yaml.lines().any(|line| line.starts_with(key)))
        .map(|(_, text)| *text)
        .collect::<Vec<_>>();
    let yaml = match yaml.contains("upgrade_socket") {
        true => yaml.to_owned(),
        // A gateway that is killed leaves its socket, which is to go with the folder.
        false => with_socket(yaml),
    };
    // After the test's own text, so that the lines of its problems stay where they are.
    std::iter::once(&*yaml)
        .chain(std::iter::once("\n"))
        .chain(missing)
        .collect()
}

fn with_socket(yaml: &str) -> String {
    let lines = yaml.split_inclusive('\n').map(|line| {
        let rest = line.strip_prefix("server: { ");
        rest.map(|rest| format!("server: {{ upgrade_socket: upgrade.sock, {rest}"))
            .unwrap_or_else(|| line.to_owned())
    });
    lines.collect()
}

/// Reads lines in the background until the pipe closes.
fn follow(pipe: impl Read + Send + 'static) -> Lines {
    let lines = Lines::default();
    let collected = Arc::clone(&lines);
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            collected.lock().unwrap().push(line);
        }
    });
    lines
}

/// The name and address in `listening on ADDRESS (listener NAME)`.
fn listener(line: &str) -> Option<(String, SocketAddr)> {
    let (_, rest) = line.split_once("listening on ")?;
    let address = leading_address(rest)?;
    let (_, name) = rest.split_once("(listener ")?;
    Some((name.split(')').next()?.to_owned(), address))
}

fn leading_address(text: &str) -> Option<SocketAddr> {
    let end = text
        .find(|character: char| !(character.is_ascii_digit() || ".:".contains(character)))
        .unwrap_or(text.len());
    text[..end].parse().ok()
}
