//! SIGHUP: the access log's file is opened anew, before the configuration is loaded.

use crate::support::client::get;
use crate::support::{Gateway, eventually};

#[test]
fn sighup_reopens_the_access_log_and_ends_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (log, rotated) = (folder.path().join("access.log"), folder.path().join("old"));
    let gateway = Gateway::start(&format!(
        "access_log: {{ output: '{}' }}\nroutes: [{{ name: a, respond: {{}} }}]",
        log.display()
    ));
    let lines = |path: &std::path::Path| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().count()
    };
    get(gateway.addr(), "/one");
    eventually("the first line is written", || lines(&log) == 1);
    std::fs::rename(&log, &rotated).unwrap();
    gateway.signal("HUP");
    eventually("the file is there again", || {
        get(gateway.addr(), "/more");
        lines(&log) > 0
    });
    assert!(lines(&rotated) >= 1);
    assert_eq!(get(gateway.addr(), "/health").status, 200);
}
