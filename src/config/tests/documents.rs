//! What is kept beside the code: examples, the reference and the schema.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn every_configuration_in_conf_is_sound() {
    let mut found = 0;
    for folder in ["conf", "conf/examples"] {
        for entry in fs::read_dir(file(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path
                .extension()
                .is_some_and(|extension| extension == "yaml")
            {
                found += 1;
                let loaded = load(&path, &env()).unwrap_or_else(|problems| panic!("{problems}"));
                assert!(loaded.warnings.is_empty());
            }
        }
    }
    assert!(found >= 5);
}

#[test]
fn the_reference_in_docs_is_fresh() {
    let written = fs::read_to_string(file("docs/configuration.md")).unwrap_or_default();
    let refresh = "refresh it: gateway --print-reference > docs/configuration.md";
    assert!(written.trim_end() == reference().trim_end(), "{refresh}");
}

#[test]
fn the_schema_in_docs_is_fresh() {
    let written = fs::read_to_string(file("docs/gateway.schema.json")).unwrap_or_default();
    let written: serde_json::Value = serde_json::from_str(&written).unwrap_or_default();
    let refresh = "refresh it: gateway --print-schema > docs/gateway.schema.json";
    assert!(&written == schema(), "{refresh}");
}

/// Texts that are nearly configurations reach deeper than arbitrary ones.
fn nearly_yaml() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "routes",
        "upstream",
        "match",
        "path",
        "upstreams",
        "backends",
        "x",
        ": ",
        ":\n  ",
        "\n",
        "\n  ",
        "\n- ",
        "- ",
        "[",
        "]",
        "{",
        "}",
        ", ",
        "&a ",
        "*a",
        "<<: *a",
        "'",
        "\"",
        "${X}",
        "file:x",
        "/a/:b/*",
        "30s",
        "127.0.0.1:80",
        "http://a:1",
        "null",
        "|\n  ",
        "? ",
        "!x ",
        "%",
        "é",
        "\t",
        "---\n",
        "# ",
    ]);
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in any::<String>()) {
        let _ = parsed(&text, &env());
    }

    #[test]
    fn nothing_that_is_nearly_yaml_makes_the_parser_panic(text in nearly_yaml()) {
        let _ = parsed(&text, &env());
    }

    #[test]
    fn no_single_value_makes_a_check_panic(value in any::<String>(), key in 0usize..12) {
        let value = serde_json::to_string(&value).unwrap();
        let text = match key {
            0 => format!("routes: [{{upstream: {value}}}]"),
            1 => format!("routes: [{{match: {{path: {value}}}, respond: {{}}}}]"),
            2 => format!("routes: [{{match: {{host: {value}}}, respond: {{}}}}]"),
            3 => format!("routes: [{{match: {{path_regex: {value}}}, respond: {{}}}}]"),
            4 => format!("routes: [{{headers: {{response: {{set: {{x: {value}}}}}}}, respond: {{}}}}]"),
            5 => format!("limits: {{uri_size: {value}, keepalive_timeout: {value}}}"),
            6 => format!("upstreams: {{a: {{backends: [{value}]}}}}"),
            7 => format!("listeners: [{{address: {value}, metrics: {{allow: [{value}]}}}}]"),
            8 => format!("upstreams: {{{value}: {{retries: {{budget: {value}}}}}}}"),
            9 => format!("routes: [{{redirect: {{host: {value}, path: {value}}}}}]"),
            10 => format!("routes: [{{rewrite: {{strip_prefix: {value}}}, upstream: 'http://a'}}]"),
            _ => format!("{value}: {value}"),
        };
        let _ = parsed(&text, &env());
    }
}
