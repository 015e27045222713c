//! The requests that `gateway demo` prints are answered as it prints them.

use crate::support::client::{get, request};
use crate::support::command::binary;
use crate::support::{Gateway, Response, eventually};

fn start() -> Gateway {
    let mut command = binary();
    command.args(["demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    Gateway::launch(command, None)
}

/// A request that the demo suggests.
#[derive(Debug, Default)]
struct Suggestion {
    method: Option<String>,
    url: String,
    data: Option<String>,
    header: Option<String>,
    /// What curl is to print of the response; nothing means its body.
    format: Option<String>,
    /// The lines that the demo promises.
    answer: Vec<String>,
}

impl Suggestion {
    /// Reads a command line of curl, as far as the demo uses it.
    fn parse(line: &str) -> Self {
        let mut words = split_words(line).into_iter().skip(1);
        let mut suggestion = Self::default();
        while let Some(word) = words.next() {
            let mut value = || words.next().expect("a value");
            match word.as_str() {
                "-s" | "-N" | "-sN" => {}
                "-o" => assert_eq!(value(), "/dev/null"),
                "-w" => suggestion.format = Some(value()),
                "-X" => suggestion.method = Some(value()),
                "-d" => suggestion.data = Some(value()),
                "-H" => suggestion.header = Some(value()),
                flag if flag.starts_with('-') => panic!("{flag} in {line}"),
                _ => suggestion.url = word,
            }
        }
        suggestion
    }

    fn send(&self, gateway: &Gateway) -> Response {
        let own = format!("http://{}", gateway.addr());
        let path = self.url.strip_prefix(&own);
        let path = path.unwrap_or_else(|| panic!("{} is not at {own}", self.url));
        let data = self.data.as_deref().unwrap_or_default();
        let usual = if self.data.is_some() { "POST" } else { "GET" };
        let method = self.method.as_deref().unwrap_or(usual);
        let host = format!("Host: {}", gateway.addr());
        let fields: Vec<&str> = [Some(&host), self.header.as_ref()]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect();
        request(gateway.addr(), method, path, &fields, data.as_bytes())
    }

    /// What curl would print.
    fn printed(&self, response: &Response) -> String {
        let Some(format) = &self.format else {
            return response.text();
        };
        let location = response.header("location").unwrap_or_default();
        format
            .replace("%{http_code}", &response.status.to_string())
            .replace("%{redirect_url}", location)
            .replace("\\n", "\n")
    }
}

/// Splits as a shell does, for words with single quotes.
fn split_words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (at, part) in line.split('\'').enumerate() {
        if at % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

/// The printed requests: a line with curl, and the answer indented below it.
fn suggestions(output: &[String]) -> Vec<Suggestion> {
    let mut found: Vec<Suggestion> = Vec::new();
    for line in output {
        if line.trim_start().starts_with("curl ") {
            found.push(Suggestion::parse(line));
        } else if let (Some(last), Some(answer)) = (found.last_mut(), line.strip_prefix("    ")) {
            last.answer.push(answer.to_owned());
        }
    }
    found
}

#[test]
fn eight_requests_are_answered_as_printed() {
    let gateway = start();
    eventually("the requests are printed", || {
        let lines = gateway.output_lines();
        lines.iter().any(|line| line.starts_with("Watch it:"))
    });
    assert_eq!(suggestions(&gateway.output_lines()).len(), 8);
    for suggestion in suggestions(&gateway.output_lines()) {
        let response = suggestion.send(&gateway);
        let printed = suggestion.printed(&response);
        let printed: Vec<&str> = printed.lines().filter(|line| !line.is_empty()).collect();
        assert_eq!(printed, suggestion.answer, "{suggestion:?}");
    }
}

#[test]
fn its_backend_can_do_more_than_that() {
    let gateway = start();
    let delayed = get(gateway.addr(), "/api/delay/20");
    assert_eq!(delayed.json()["delayed_ms"], 20);
    for status in [200, 204, 404, 503] {
        let response = get(gateway.addr(), &format!("/api/status/{status}"));
        assert_eq!(response.status, status);
    }
    let large = vec![b'x'; 1_000_000];
    let uploaded = request(gateway.addr(), "POST", "/api/upload", &[], &large);
    assert_eq!(uploaded.json()["received"], 1_000_000);
}

#[test]
fn it_is_watched_like_any_other_gateway() {
    let mut gateway = start();
    get(gateway.addr(), "/hello");
    gateway.wait_metric("gateway_http_requests_total", &[("route", "hello")], 1.0);
    eventually("the request is logged", || {
        gateway
            .output_lines()
            .iter()
            .any(|line| line.contains("GET") && line.contains("/hello"))
    });
    assert_eq!(gateway.stop().code(), Some(0));
}

#[test]
fn an_address_in_use_is_told() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let run = Gateway::command(&["demo", "--listen", &address, "--admin", "127.0.0.1:0"]);
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.contains(&address), "{run:?}");
}
