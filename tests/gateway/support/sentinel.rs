//! Sentinels: a real one as a process, and one that says what a test wants.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use super::redis::{Connection, Redis};
use super::wait::until;

/// What the master is called.
pub const MASTER: &str = "the-master";

/// A real one, killed on drop.
pub struct Sentinel {
    child: Child,
    port: u16,
    _folder: TempDir,
}

impl Sentinel {
    /// Watches a server, with these further lines in its configuration.
    #[track_caller]
    pub fn of(master: &Redis, lines: &str) -> Self {
        let started = until(|| Self::try_start(master, lines));
        started.expect("a sentinel")
    }

    fn try_start(master: &Redis, lines: &str) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let (port, file) = (Redis::free_port(), folder.path().join("sentinel.conf"));
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor {MASTER} 127.0.0.1 {} 1\n\
             sentinel down-after-milliseconds {MASTER} 1000\n\
             sentinel failover-timeout {MASTER} 10000\n{lines}\n",
            folder.path().display(),
            master.address().port(),
        );
        std::fs::write(&file, text).expect("a file");
        let mut child = Command::new("redis-server")
            .arg(&file)
            .arg("--sentinel")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server");
        let answers = until(|| {
            if child.try_wait().expect("wait").is_some() {
                return Some(false);
            }
            let mut connection = Connection::open(SocketAddr::from(([127, 0, 0, 1], port)))?;
            connection.ask(&["PING"])?;
            if let Some(password) = lines
                .lines()
                .find_map(|line| line.strip_prefix("requirepass "))
            {
                connection.ask(&["AUTH", password])?;
            }
            connection.is_to(child.id())
        });
        let sentinel = Self {
            child,
            port,
            _folder: folder,
        };
        (answers == Some(true)).then_some(sentinel)
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Asks it something, with this password.
    #[track_caller]
    pub fn ask(&self, password: &str, command: &[&str]) -> String {
        let mut connection = Connection::open(self.address()).expect("a connection");
        assert_eq!(connection.ask(&["AUTH", password]).as_deref(), Some("OK"));
        connection.ask(command).expect("an answer")
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// One that names a master as it is told to.
pub struct FakeSentinel {
    address: SocketAddr,
    says: Arc<Mutex<(SocketAddr, u64)>>,
}

impl FakeSentinel {
    /// Names this master, after so many failovers.
    pub fn naming(master: SocketAddr, epoch: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let says = Arc::new(Mutex::new((master, epoch)));
        let told = Arc::clone(&says);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let told = Arc::clone(&told);
                std::thread::spawn(move || serve(stream, &told));
            }
        });
        Self { address, says }
    }

    /// Names another from now on.
    pub fn name(&self, master: SocketAddr, epoch: u64) {
        *self.says.lock().expect("no panic") = (master, epoch);
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn serve(stream: TcpStream, says: &Mutex<(SocketAddr, u64)>) {
    let Ok(mut out) = stream.try_clone() else {
        return;
    };
    let mut commands = BufReader::new(stream);
    while let Some(command) = read(&mut commands) {
        let answer = match &*command {
            [sentinel, master, name] if sentinel == "SENTINEL" && master == "MASTER" => {
                assert_eq!(name, MASTER);
                let (master, epoch) = *says.lock().expect("no panic");
                let fields = [
                    ("ip", master.ip().to_string()),
                    ("port", master.port().to_string()),
                    ("config-epoch", epoch.to_string()),
                ];
                let texts = fields.iter().flat_map(|(name, value)| [*name, value]);
                let texts = texts.map(|text| format!("${}\r\n{text}\r\n", text.len()));
                format!("*{}\r\n{}", fields.len() * 2, texts.collect::<String>())
            }
            _ => "+OK\r\n".to_owned(),
        };
        if out.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// One command: an array of texts.
fn read(from: &mut impl BufRead) -> Option<Vec<String>> {
    let number = |from: &mut dyn BufRead| {
        let mut line = String::new();
        from.read_line(&mut line).ok()?;
        line.trim_end().get(1..)?.parse::<usize>().ok()
    };
    let count = number(from)?;
    let text = |_| {
        let mut bytes = vec![0; number(from)? + 2];
        from.read_exact(&mut bytes).ok()?;
        bytes.truncate(bytes.len() - 2);
        String::from_utf8(bytes).ok()
    };
    (0..count).map(text).collect()
}
