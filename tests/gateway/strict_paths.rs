//! Paths that a backend may read in another way than the gateway.

use crate::support::client::get;
use crate::support::{Gateway, Origin};

const AMBIGUOUS: [&str; 10] = [
    "/public/..%2Fadmin",
    "/public/%2e%2e%2fadmin",
    "/public%2F..%2Fadmin",
    "/public/..;/admin",
    "/public/..;x=y/admin",
    "/public/.;/admin",
    "/public/..%5Cadmin",
    "/public\\..\\admin",
    "/public%5cadmin",
    "/public/%c0%ae%c0%ae/admin",
];

#[test]
fn ambiguous_paths_are_refused() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    for path in AMBIGUOUS {
        get(gateway.addr(), path).assert_refusal(400, "bad_request");
    }
    assert_eq!(origin.requests(), 0);
}

#[test]
fn encoded_slashes_and_parameters_are_data() {
    let origin = Origin::echo();
    let gateway = Gateway::in_front_of(&origin);
    for path in [
        "/a%2Fb",
        "/%40scope%2Fpackage",
        "/a;v=1/b",
        "/a%2F...",
        "/a?x=..%2F..%5C",
    ] {
        assert_eq!(get(gateway.addr(), path).json()["target"], path);
    }
}

#[test]
fn a_backend_that_must_have_them_can_get_them() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&format!(
        "limits: {{ strict_paths: false }}
routes: [{{ name: all, upstream: 'http://{}' }}]",
        origin.address()
    ));
    for (path, normal) in [
        ("/public/..%2Fadmin", "/public/..%2Fadmin"),
        ("/public\\admin", "/public%5Cadmin"),
        ("/public/%2e%2e;/admin", "/public/..;/admin"),
    ] {
        assert_eq!(get(gateway.addr(), path).json()["target"], normal);
    }
}
