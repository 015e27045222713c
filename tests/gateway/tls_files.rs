//! Certificates and ticket keys whose files change while the gateway runs.

use std::os::unix::fs::symlink;
use std::path::Path;

use crate::support::tls::{Authority, TlsClient};
use crate::support::wait::until;
use crate::support::{Gateway, Origin, eventually};

const RELOADS: &str = "gateway_tls_certificate_reloads_total";
const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n";
const OTHER_KEY: &str = "ff112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n";

fn shown(authority: &Authority, gateway: &Gateway) -> Vec<u8> {
    let client = authority.client().connect(gateway.addr(), "a.test");
    client.unwrap().shown()
}

#[test]
fn a_new_certificate_is_used_and_open_connections_go_on() {
    let (authority, origin) = (Authority::new(), Origin::echo());
    authority.store("a", &["a.test"]);
    let gateway = Gateway::start(&authority.config(&["a"], "", origin.address()));
    let mut kept = authority
        .client()
        .connect(gateway.addr(), "a.test")
        .unwrap();
    assert_eq!(kept.get("a.test", "/").status, 200);
    let old = shown(&authority, &gateway);
    authority.store("a", &["a.test"]);
    eventually("the new certificate is shown", || {
        shown(&authority, &gateway) != old
    });
    gateway.wait_metric(RELOADS, &[("result", "success")], 1.0);
    assert_eq!(kept.get("a.test", "/").status, 200);
}

#[test]
fn a_broken_certificate_changes_nothing_and_is_told_once() {
    let (authority, origin) = (Authority::new(), Origin::echo());
    authority.store("a", &["a.test"]);
    let gateway = Gateway::start(&authority.config(&["a"], "", origin.address()));
    let old = shown(&authority, &gateway);
    authority.issue(&["a.test"]).store(authority.folder(), "b");
    let copy = |from: &str, to: &str| {
        std::fs::copy(authority.folder().join(from), authority.folder().join(to)).unwrap();
    };
    // A certificate without its key.
    copy("b.crt", "a.crt");
    gateway.wait_metric(RELOADS, &[("result", "failure")], 1.0);
    assert_eq!(shown(&authority, &gateway), old);
    let told = |gateway: &Gateway| {
        let lines = gateway.log_lines();
        let own = lines
            .iter()
            .filter(|line| line.contains("the old ones stay"));
        own.count()
    };
    gateway.wait_log(&["the old ones stay"]);
    assert_eq!(told(&gateway), 1);
    // Its key follows.
    copy("b.key", "a.key");
    gateway.wait_metric(RELOADS, &[("result", "success")], 1.0);
    assert_ne!(shown(&authority, &gateway), old);
    assert_eq!(told(&gateway), 1);
}

#[test]
fn a_swapped_link_is_seen() {
    let (authority, origin) = (Authority::new(), Origin::echo());
    // As Kubernetes mounts secrets: the files are links through `..data`.
    let root = authority.folder();
    let version = |name: &str| {
        let folder = root.join(name);
        std::fs::create_dir(&folder).unwrap();
        authority.issue(&["a.test"]).store(&folder, "a");
    };
    version("..v1");
    version("..v2");
    symlink("..v1", root.join("..data")).unwrap();
    for name in ["a.crt", "a.key"] {
        symlink(Path::new("..data").join(name), root.join(name)).unwrap();
    }
    let gateway = Gateway::start(&authority.config(&["a"], "", origin.address()));
    let old = shown(&authority, &gateway);
    symlink("..v2", root.join("..data_tmp")).unwrap();
    std::fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
    eventually("the new certificate is shown", || {
        shown(&authority, &gateway) != old
    });
}

#[test]
fn sessions_are_resumed_here_and_with_shared_keys_elsewhere() {
    let (authority, origin) = (Authority::new(), Origin::echo());
    authority.store("a", &["a.test", "b.test"]);
    let keys = authority.folder().join("ticket.keys");
    std::fs::write(&keys, KEY).unwrap();
    let settings = format!("      session_tickets: {{ file: {} }}", keys.display());
    let config = authority.config(&["a"], &settings, origin.address());
    let (one, two) = (Gateway::start(&config), Gateway::start(&config));
    let alone = Gateway::start(&authority.config(&["a"], "", origin.address()));
    for setup in [authority.client().tls12(), authority.client().tls13()] {
        let config = setup.config();
        let resumed = |gateway: &Gateway, name: &str| {
            let mut client = TlsClient::connect(gateway.addr(), name, &config).unwrap();
            // Tickets of TLS 1.3 come with the first answer.
            assert_eq!(client.get(name, "/").status, 200);
            client.is_resumed()
        };
        assert!(!resumed(&one, "a.test"));
        assert!(resumed(&one, "a.test"));
        assert!(resumed(&two, "a.test"));
        assert!(!resumed(&two, "b.test"));
        assert!(!resumed(&alone, "a.test"));
        assert!(resumed(&alone, "a.test"));
    }
    // A new key in front: what the old one made is accepted as long as that is there.
    let config = authority.client().tls13().config();
    let mut client = TlsClient::connect(one.addr(), "a.test", &config).unwrap();
    assert_eq!(client.get("a.test", "/").status, 200);
    std::fs::write(&keys, format!("{OTHER_KEY}{KEY}")).unwrap();
    one.wait_metric(RELOADS, &[("result", "success")], 1.0);
    let mut client = TlsClient::connect(one.addr(), "a.test", &config).unwrap();
    assert_eq!(client.get("a.test", "/").status, 200);
    assert!(client.is_resumed());
    std::fs::write(&keys, OTHER_KEY).unwrap();
    one.wait_metric(RELOADS, &[("result", "success")], 2.0);
    let client = TlsClient::connect(one.addr(), "a.test", &config).unwrap();
    assert!(client.is_resumed());
}

#[test]
fn a_ticket_is_worth_nothing_where_more_is_asked_for() {
    let (authority, origin) = (Authority::new(), Origin::echo());
    authority.store("a", &["a.test"]);
    let keys = authority.folder().join("ticket.keys");
    std::fs::write(&keys, KEY).unwrap();
    let at = authority.folder().display();
    let tickets = format!("      session_tickets: {{ file: {at}/ticket.keys }}");
    let auth = format!("{tickets}\n      client_auth: {{ mode: optional, ca: {at}/ca.pem }}");
    let open = Gateway::start(&authority.config(&["a"], &tickets, origin.address()));
    let asking = Gateway::start(&authority.config(&["a"], &auth, origin.address()));
    let config = authority.client().config();
    let resumed = |gateway: &Gateway| {
        let mut client = TlsClient::connect(gateway.addr(), "a.test", &config).unwrap();
        assert_eq!(client.get("a.test", "/").status, 200);
        client.is_resumed()
    };
    assert!(!resumed(&open));
    assert!(resumed(&open));
    assert!(!resumed(&asking));
    assert!(resumed(&asking));
}

#[test]
fn without_tickets_every_handshake_is_whole() {
    let (authority, origin) = (Authority::new(), Origin::echo());
    authority.store("a", &["a.test"]);
    let settings = "      session_tickets: { enabled: false }";
    let gateway = Gateway::start(&authority.config(&["a"], settings, origin.address()));
    for setup in [authority.client().tls12(), authority.client().tls13()] {
        let config = setup.config();
        for _ in 0..2 {
            let mut client = TlsClient::connect(gateway.addr(), "a.test", &config).unwrap();
            assert_eq!(client.get("a.test", "/").status, 200);
            assert!(!client.is_resumed());
        }
    }
    let whole = until(|| {
        let labels = [("resumed", "false")];
        (gateway.metric("gateway_tls_handshakes_total", &labels) == 4.0).then_some(())
    });
    assert!(whole.is_some());
}

#[test]
fn a_reload_by_hand_reads_certificates_again_whatever_became_of_them_before() {
    let (authority, origin) = (Authority::new(), Origin::echo());
    let store = |name: &str| authority.store(name, &["a.test"]);
    store("a");
    let config = authority.config(&["a"], "", origin.address());
    let admin = "admin: { address: 127.0.0.1:0, token: open-sesame }";
    let gateway = Gateway::start(&format!("{admin}\n{config}"));
    let old = shown(&authority, &gateway);
    // Complete before the watch can read it, so that only the reload does.
    store("b");
    for end in ["crt", "key"] {
        let path = |name: &str| authority.folder().join(format!("{name}.{end}"));
        std::fs::rename(path("b"), path("a")).unwrap();
    }
    let answer = gateway.call("/reload", "open-sesame", "");
    assert_eq!(answer.json()["result"], "unchanged");
    assert_ne!(shown(&authority, &gateway), old);
    // What cannot be used is told, and changes nothing.
    std::fs::write(authority.folder().join("a.key"), "no key").unwrap();
    let answer = gateway.call("/reload", "open-sesame", "");
    assert_eq!(answer.status, 422, "{}", answer.text());
    let problem = answer.json()["problems"][0].to_string();
    assert!(problem.contains("holds no private key"), "{problem}");
    assert_ne!(shown(&authority, &gateway), old);
}
