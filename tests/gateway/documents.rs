//! What the documents say, held against the binary: configurations, links, names and commands.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::client::{self, get};
use crate::support::command::{binary, finish};
use crate::support::h2::{H2, request};
use crate::support::identity_provider::IdentityProvider;
use crate::support::metrics::parse;
use crate::support::tls::Authority;
use crate::support::tokens::{SECRET, Signer};
use crate::support::wait::until;
use crate::support::{DeadPort, Gateway, Origin, Redis, Script, eventually};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The front page, the pages beside it, and all of `docs`.
fn documents() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"]
        .map(|name| root().join(name))
        .into();
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
    found
}

/// A fenced block: its language and its text.
fn blocks(document: &str) -> Vec<(&str, &str)> {
    let parts: Vec<&str> = document.split("```").collect();
    let fenced = parts.iter().skip(1).step_by(2);
    fenced.filter_map(|block| block.split_once('\n')).collect()
}

/// The document without its fenced blocks.
fn prose(document: &str) -> String {
    document.split("```").step_by(2).collect()
}

/// The texts between backticks.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The rows of all tables, as cells.
fn rows(document: &str) -> impl Iterator<Item = Vec<&str>> {
    let lines = document.lines().filter_map(|line| line.strip_prefix("| "));
    lines.map(|line| line.split('|').map(str::trim).collect())
}

#[test]
fn every_configuration_is_valid() {
    let folder = tempfile::tempdir().unwrap();
    write_tls_files(&folder.path().join("tls"));
    let mut found = 0;
    for path in documents() {
        let document = fs::read_to_string(&path).unwrap();
        for (_, text) in blocks(&document).iter().filter(|block| block.0 == "yaml") {
            found += 1;
            let shown = path.display();
            assert!(
                text.contains("routes:"),
                "{shown} has a fragment, expected a whole configuration:\n{text}"
            );
            let file = folder.path().join(format!("{found}.yaml"));
            fs::write(&file, text).unwrap();
            let run = finish(binary().arg("-t").arg("-c").arg(&file));
            assert_eq!(run.code, Some(0), "{shown}: {}\n{text}", run.output());
        }
    }
    assert!(found >= 10, "only {found} configurations were found");
}

/// The files that configurations of the documents name.
fn write_tls_files(folder: &Path) {
    fs::create_dir(folder).unwrap();
    let authority = Authority::new();
    for name in ["tls", "partners"] {
        let names = format!("{name}.example.com");
        authority.issue(&[&names]).store(folder, name);
    }
    fs::copy(
        authority.folder().join("ca.pem"),
        folder.join("clients.pem"),
    )
    .unwrap();
    let key = folder.parent().unwrap().join("jwt-public-key.pem");
    fs::write(key, Signer::es256("a").public_pem()).unwrap();
    let beside = |name: &str| folder.parent().unwrap().join(name);
    fs::write(beside("keys.yaml"), "[]").unwrap();
    fs::write(beside("users.htpasswd"), "# nobody\n").unwrap();
    fs::write(folder.join("ticket.keys"), "0123456789abcdef".repeat(4)).unwrap();
}

#[test]
fn every_relative_link_leads_somewhere() {
    let mut found = 0;
    for path in documents() {
        let document = prose(&fs::read_to_string(&path).unwrap());
        for link in document.split("](").skip(1) {
            let link = link.split(')').next().unwrap();
            if link.contains("://") {
                continue;
            }
            found += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => path.clone(),
                file => path.parent().unwrap().join(file),
            };
            let shown = path.display();
            assert!(target.exists(), "{shown}: nothing at {link}");
            if !anchor.is_empty() {
                let text = fs::read_to_string(&target).unwrap();
                let known = anchors(&text);
                assert!(
                    known.contains(anchor),
                    "{shown}: {link} is none of {known:?}"
                );
            }
        }
    }
    assert!(found >= 15, "only {found} links were found");
}

/// What headings are linked to by: lower case, without punctuation, joined by `-`.
fn anchors(document: &str) -> BTreeSet<String> {
    let text = prose(document);
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let text = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = text
            .chars()
            .filter(|c| c.is_alphanumeric() || "-_ ".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

/// A metric: its type and its labels.
type Family = (String, BTreeSet<String>);

/// What the tables of `docs/observability.md` say.
fn documented_metrics() -> BTreeMap<String, Family> {
    let document = read("docs/observability.md");
    let mut found = BTreeMap::new();
    for row in rows(&document) {
        let [names, kind, labels, ..] = row[..] else {
            continue;
        };
        for name in code(names).filter(|name| is_metric(name)) {
            let labels = code(labels).map(str::to_owned).collect();
            found.insert(name.to_owned(), (kind.to_owned(), labels));
        }
    }
    found
}

/// What the name of a metric is made of, and the star of a family.
fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_*".contains(c)
}

fn is_metric(name: &str) -> bool {
    let is_known = name.starts_with("gateway_") || name.starts_with("process_");
    is_known && name.chars().all(is_of_name)
}

/// What a page of metrics has.
fn shown_metrics(page: &str) -> BTreeMap<String, Family> {
    let samples = parse(page);
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let family = |(name, kind): (&str, &str)| {
        let own = samples.iter().filter(|sample| {
            let suffix = sample.name.strip_prefix(name);
            suffix.is_some_and(|rest| ["", "_bucket", "_sum", "_count"].contains(&rest))
        });
        let labels = own.flat_map(|sample| &sample.labels);
        let labels = labels.map(|(label, _)| (*label).to_owned());
        let labels = labels.filter(|label| label != "le").collect();
        (name.to_owned(), (kind.to_owned(), labels))
    };
    types
        .filter_map(|line| line.split_once(' '))
        .map(family)
        .collect()
}

/// A gateway that has had every kind of traffic: answers, refusals, failures, retries, probes.
fn busy_gateway(origin: &Origin) -> Gateway {
    let dead = DeadPort::refusing();
    let authority = Authority::new();
    authority.store("a", &["a.test"]);
    let at = authority.folder().display();
    let listed = format!("- '{}'", origin.address());
    fs::write(authority.folder().join("backends.yaml"), listed).unwrap();
    let failing = "HTTP/1.1 200 OK\r\nGrpc-Status: 14\r\nContent-Length: 0\r\n\r\n";
    let calls = Origin::script(Script::new().read_body().send(failing));
    let slow = Origin::script(Script::new().hold());
    let provider = IdentityProvider::with(&[&Signer::es256("a")]);
    let redis = Redis::start();
    let gateway = Gateway::start(&format!(
        "listeners:
  - {{ name: main, address: 127.0.0.1:0, h2c: true }}
  - name: secure
    address: 127.0.0.1:0
    tls:
      certificates: [{{ cert: {at}/a.crt, key: {at}/a.key }}]
      client_auth: {{ mode: optional, ca: {at}/ca.pem }}
upstreams:
  calls: {{ backends: ['{}'] }}
  good: {{ backends: ['{}'], health_check: {{ interval: 5s, timeout: 5s }}, discovery: {{ file: {{ path: {at}/backends.yaml }} }} }}
  dead: {{ backends: ['{}'] }}
  slow: {{ backends: ['{}'] }}
  hedged: {{ backends: ['{}', '{}'], retries: {{ hedge: {{ after: 1ms }} }} }}
routes:
  - {{ name: calls, match: {{ path: /call }}, ratelimit: calls, upstream: calls }}
  - {{ name: good, match: {{ path: /good }}, upstream: good, mirror: {{ upstream: calls }} }}
  - {{ name: mine, match: {{ path: /mine }}, auth: jwt, upstream: good }}
  - {{ name: dead, match: {{ path: /dead }}, upstream: dead }}
  - {{ name: hedged, match: {{ path: /hedged }}, upstream: hedged }}
  - {{ name: full, match: {{ path: /full }}, concurrency: {{ limit: 1 }}, upstream: slow }}
auth:
  jwt:
    - {{ secret: '{SECRET}' }}
    - {{ name: remote, jwks: {{ url: 'http://{}/' }} }}
ratelimit: {{ policies: {{ calls: {{ limit: 100/s, scope: shared }} }} }}
redis: {{ url: '{}' }}",
        calls.address(),
        origin.address(),
        dead.address(),
        slow.address(),
        slow.address(),
        origin.address(),
        provider.address(),
        redis.url()
    ));
    let call = request("POST", "/call").header("content-type", "application/grpc");
    assert_eq!(H2::connect(gateway.addr()).send(call, "x").status, 200);
    assert_eq!(get(gateway.addr(), "/good?a=b").status, 200);
    assert_eq!(get(gateway.addr(), "/dead").status, 502);
    assert_eq!(get(gateway.addr(), "/hedged").status, 200);
    assert_eq!(gateway.connect().exchange("GET\r\n\r\n").status, 400);
    let secure = gateway.listener("secure");
    assert_eq!(get(secure, "/").status, 400);
    let setup = authority.client().showing(&authority.issue_client("app"));
    let mut client = setup.connect(secure, "a.test").unwrap();
    assert_eq!(client.get("a.test", "/good?tls").status, 200);
    // Refused, and counted.
    let mut first = gateway.connect();
    first.send("GET /full HTTP/1.1\r\nHost: a\r\n\r\n");
    gateway.wait_metric("gateway_concurrency_in_flight", &[], 1.0);
    assert_eq!(get(gateway.addr(), "/full").status, 503);
    drop(first);
    assert_eq!(get(gateway.addr(), "/mine").status, 401);
    let token = Signer::hs256(SECRET).token(serde_json::json!({}));
    let field = format!("Authorization: Bearer {token}");
    let mine = client::request(gateway.addr(), "GET", "/mine", &[&field], b"");
    assert_eq!(mine.status, 200);
    assert_eq!(gateway.call("/reload", "", "").status, 403);
    eventually("Redis has answered", || {
        gateway.status()["revocations"]["in_sync"] == true
    });
    gateway
}

#[test]
fn every_metric_is_documented_with_its_type_and_labels() {
    let origin = Origin::echo();
    let gateway = busy_gateway(&origin);
    let documented = documented_metrics();
    let mut shown = BTreeMap::new();
    // Counting follows answering.
    until(|| {
        shown = shown_metrics(&gateway.metrics());
        (shown == documented).then_some(())
    });
    assert_eq!(shown, documented, "the page, and docs/observability.md");
}

#[test]
fn every_metric_that_a_document_names_exists() {
    // The one word that looks like a metric.
    let refusal = "gateway_timeout";
    let known = documented_metrics();
    for path in documents() {
        let document = fs::read_to_string(&path).unwrap();
        let prose = prose(&document);
        let words = code(&prose).flat_map(|code| code.split(|c| !is_of_name(c)));
        for name in words.filter(|name| name.starts_with("gateway_")) {
            let of_histogram = ["_bucket", "_sum", "_count"];
            let mut bare = of_histogram.iter().filter_map(|end| name.strip_suffix(end));
            // Families are written with a star.
            let exists = name.contains('*')
                || known.contains_key(name)
                || bare.any(|name| known.contains_key(name));
            assert!(exists || name == refusal, "{}: {name}", path.display());
        }
    }
}

#[test]
fn every_key_of_an_access_line_is_documented() {
    let origin = Origin::echo();
    let gateway = busy_gateway(&origin);
    let document = read("docs/observability.md");
    let (_, section) = document.split_once("## Access log").unwrap();
    let documented: BTreeSet<&str> = rows(section).flat_map(|row| code(row[0])).collect();
    for (path, status) in [("/good", 200), ("/dead", 502)] {
        let line = gateway.wait_access(|line| line["path"] == path);
        assert_eq!(line["status_code"], status);
        for key in line.as_object().unwrap().keys() {
            assert!(documented.contains(key.as_str()), "{key} is not documented");
        }
    }
}

#[test]
fn every_refusal_is_documented() {
    let gateway = Gateway::start("routes: [{ name: a, respond: {} }]");
    let document = read("docs/limits.md");
    let documented: BTreeSet<&str> = rows(&document)
        .filter(|row| row[0].parse::<u16>().is_ok())
        .flat_map(|row| code(row[1]))
        .collect();
    let page = gateway.metrics();
    let samples = parse(&page);
    let refusals = samples
        .iter()
        .filter(|sample| sample.name == "gateway_http_refusals_total");
    let shown: BTreeSet<&str> = refusals
        .filter_map(|sample| sample.label("reason"))
        .collect();
    assert_eq!(shown, documented);
}

#[test]
fn every_example_in_json_is_json() {
    let mut found = 0;
    for path in documents() {
        let document = fs::read_to_string(&path).unwrap();
        for (_, text) in blocks(&document).iter().filter(|block| block.0 == "json") {
            found += 1;
            let read = serde_json::from_str::<serde_json::Value>(text);
            assert!(read.is_ok(), "{}: {read:?}\n{text}", path.display());
        }
    }
    assert!(found >= 2);
}

/// The commands of the front page, without comments.
fn commands(readme: &str) -> Vec<&str> {
    let shell = blocks(readme).into_iter().filter(|block| block.0 == "sh");
    let lines = shell.flat_map(|(_, text)| text.lines());
    let commands = lines.map(|line| line.split('#').next().unwrap_or_default().trim());
    commands.filter(|command| !command.is_empty()).collect()
}

#[test]
fn the_commands_of_the_front_page_work() {
    let readme = read("README.md");
    let folder = tempfile::tempdir().unwrap();
    let (_, first) = blocks(&readme)
        .into_iter()
        .find(|block| block.0 == "yaml")
        .unwrap();
    fs::write(folder.path().join("gateway.yaml"), first).unwrap();
    let started = run_command("gateway -c gateway.yaml", folder.path()).unwrap();
    let mut kinds = BTreeSet::new();
    for command in commands(&readme) {
        let program = command.split(' ').find(|word| !word.contains('=')).unwrap();
        kinds.insert(program);
        match program {
            "make" => assert_make_knows(command),
            "gateway" => drop(run_command(command, folder.path())),
            "curl" => assert_answered(command, &started),
            _ => panic!("the test does not know how to run {command:?}"),
        }
    }
    assert_eq!(kinds, BTreeSet::from(["curl", "gateway", "make"]));
}

/// The steps themselves are what runs this test.
fn assert_make_knows(command: &str) {
    let step = command.split(' ').nth(1).unwrap();
    let known = read("Makefile")
        .lines()
        .any(|line| line.starts_with(&format!("{step}:")));
    assert!(known, "{command:?}");
}

/// Runs a command that begins with `gateway`: to its end when it only checks, or until it is ready.
fn run_command(command: &str, folder: &Path) -> Option<Gateway> {
    let mut process = binary();
    // The commands are written for fixed ports; tests run beside each other.
    process.env("GATEWAY_LISTENERS_0_ADDRESS", "127.0.0.1:0");
    process.env("GATEWAY_ADMIN_ADDRESS", "127.0.0.1:0");
    process.current_dir(folder);
    for word in command.split(' ').filter(|word| *word != "gateway") {
        match word.split_once('=') {
            Some((name, value)) => process.env(name, value),
            None => process.arg(word),
        };
    }
    if command.contains(" -t ") {
        let run = finish(&mut process);
        assert_eq!(run.code, Some(0), "{command:?}: {}", run.output());
        return None;
    }
    Some(Gateway::launch(process, None))
}

/// Asks for what a `curl` command asks for, with the ports that were really taken.
fn assert_answered(command: &str, gateway: &Gateway) {
    let (_, url) = command.split_once("http://127.0.0.1:").unwrap();
    let (port, path) = url.split_at(url.find('/').unwrap());
    let address = match port {
        "8080" => gateway.addr(),
        "9090" => gateway.admin(),
        other => panic!("{command:?} asks at port {other}"),
    };
    assert_eq!(get(address, path).status, 200, "{command:?}");
}
