//! A real server of the shared store, as a process on a free port.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::wait::{eventually, until};

/// What [`Redis::with`] puts a port in the place of.
pub const TLS_PORT: &str = "TLS_PORT";

/// A server, killed on drop. Its data outlive a restart only where it was asked for.
pub struct Redis {
    child: Option<Child>,
    folder: TempDir,
    port: u16,
    tls_port: u16,
    arguments: Vec<String>,
}

impl Redis {
    /// Starts one, and waits until it answers.
    #[track_caller]
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// Starts one with further arguments, such as `--requirepass`. [`TLS_PORT`] among them stands for a
    /// port that is free.
    #[track_caller]
    pub fn with(arguments: &[&str]) -> Self {
        let mut redis = Self {
            child: None,
            folder: tempfile::tempdir().expect("a folder"),
            port: 0,
            tls_port: 0,
            arguments: arguments.iter().map(|text| (*text).to_owned()).collect(),
        };
        // Another test may take a port between its choice and the start.
        let started = until(|| {
            (redis.port, redis.tls_port) = (Self::free_port(), Self::free_port());
            redis.try_start().then_some(())
        });
        assert!(
            started.is_some(),
            "no redis-server: see scripts/install-deps.sh"
        );
        redis
    }

    /// A port that nobody has.
    pub fn free_port() -> u16 {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
        socket.local_addr().expect("an address").port()
    }

    /// The port that stands in the place of [`TLS_PORT`].
    pub fn tls_port(&self) -> u16 {
        self.tls_port
    }

    /// Starts it again, where it was.
    #[track_caller]
    pub fn start_again(&mut self) {
        self.stop();
        eventually("redis-server starts again", || self.try_start());
    }

    /// Ends it at once, as a crash would.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }

    /// Lets it answer nobody, as one that hangs.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// Ends what [`Redis::pause`] began.
    pub fn go_on(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let child = self.child.as_ref().expect("a child");
        let kill = format!("kill -{name} {}", child.id());
        let status = Command::new("sh").arg("-c").arg(kill).status();
        assert!(status.expect("run kill").success());
    }

    fn try_start(&mut self) -> bool {
        let mut command = Command::new("redis-server");
        command
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--dir"])
            .arg(self.folder.path())
            .args(self.arguments.iter().map(|text| match text.as_str() {
                TLS_PORT => self.tls_port.to_string(),
                _ => text.clone(),
            }))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.child = Some(command.spawn().expect("redis-server"));
        let answers = until(|| {
            let child = self.child.as_mut().expect("a child");
            if child.try_wait().expect("wait").is_some() {
                return Some(false);
            }
            let mut connection = Connection::open(self.address())?;
            // Also when it wants a password.
            let answer = connection.ask(&["PING"])?;
            (!answer.contains("LOADING")).then_some(true)
        });
        answers == Some(true) && self.is_ours() == Some(true)
    }

    /// Whether it is this server that answers, and not one of another test that took the port.
    fn is_ours(&self) -> Option<bool> {
        let ours = self.child.as_ref()?.id();
        let mut connection = Connection::open(self.address())?;
        if let Some(password) = self.password() {
            connection.ask(&["AUTH", password])?;
        }
        connection.is_to(ours)
    }

    fn password(&self) -> Option<&str> {
        let mut arguments = self.arguments.iter();
        arguments.find(|text| *text == "--requirepass")?;
        arguments.next().map(String::as_str)
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// The URL of the configuration.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// What an operator asks with `redis-cli`: the answer as text, lists as lines.
    #[track_caller]
    pub fn ask(&self, command: &[&str]) -> String {
        let connection = Connection::open(self.address());
        let mut connection = connection.expect("a connection to redis-server");
        if let Some(password) = self.password() {
            let answer = connection.ask(&["AUTH", password]);
            assert_eq!(answer.as_deref(), Some("OK"));
        }
        connection.ask(command).expect("an answer")
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A connection to a server of the shared store, or to what is like one.
pub(super) struct Connection(BufReader<TcpStream>);

impl Connection {
    pub fn open(address: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect(address).ok()?;
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .ok()?;
        Some(Self(BufReader::new(stream)))
    }

    pub fn ask(&mut self, command: &[&str]) -> Option<String> {
        let mut request = format!("*{}\r\n", command.len());
        for word in command {
            request += &format!("${}\r\n{word}\r\n", word.len());
        }
        self.0.get_mut().write_all(request.as_bytes()).ok()?;
        self.read()
    }

    /// Whether it is this process that answers. A test that lost its port to another one's server is
    /// answered, too.
    pub fn is_to(&mut self, process: u32) -> Option<bool> {
        let told = self.ask(&["INFO", "server"])?;
        Some(told.contains(&format!("process_id:{process}\r\n")))
    }

    /// One reply of RESP 2.
    fn read(&mut self) -> Option<String> {
        let mut line = String::new();
        self.0.read_line(&mut line).ok()?;
        let line = line.trim_end();
        let (kind, rest) = line.split_at_checked(1)?;
        match kind {
            "$" => {
                let Ok(length) = rest.parse::<usize>() else {
                    return Some("(nil)".to_owned());
                };
                let mut bytes = vec![0; length + 2];
                self.0.read_exact(&mut bytes).ok()?;
                Some(String::from_utf8_lossy(&bytes[..length]).into_owned())
            }
            "*" => {
                let items = (0..rest.parse::<i64>().ok()?).map(|_| self.read());
                Some(items.collect::<Option<Vec<_>>>()?.join("\n"))
            }
            _ => Some(rest.to_owned()),
        }
    }
}
