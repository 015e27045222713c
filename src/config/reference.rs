//! The reference for operators: every key with type, default and meaning, made from the schema.

use std::fmt::Write;

use serde_json::{Map, Value};

use super::schema::{Kind, alternatives, schema};
use super::shape::expected;

const HEAD: &str = "\
# Configuration

<!-- Made by `gateway --print-reference > docs/configuration.md`. Change the doc comments in \
`src/config/file` instead. -->

The gateway reads one YAML file: `gateway -c FILE`, or the variable `GATEWAY_CONFIG`, or
`conf/gateway.yaml`. `gateway -t -c FILE` checks it and prints every problem with its line and key.
Unknown keys are errors. `gateway --print-schema` prints a JSON Schema for editors.

The shortest useful file:

```yaml
routes:
  - upstream: http://127.0.0.1:3000
```

## Values

| value | written as |
|---|---|
| duration | a number and a unit: `500ms`, `30s`, `5m`, `1h`, `1d`, or a sum such as `1h 30m` |
| size | bytes, or a number and a unit: `512`, `64KiB`, `10MiB`, `1GB` |
| share | `20%` or `0.2` |
| address | an IP address and a port: `0.0.0.0:8080`, `[::]:8080` |
| network | `10.0.0.0/8`, `fd00::/8`, or one address |

A key without a value is an error. Leave it out to have the default. YAML anchors, aliases and `<<`
may be used.

## References

Any single value may refer to its surroundings. Keys may not.

| written as | means |
|---|---|
| `${NAME}` | the environment variable; an error when it is not set |
| `${NAME:-default}` | the same, or the default when it is not set or empty |
| `file:PATH` | the content of a file, without a newline at its end; a relative path begins at the configuration's folder |
| `$${` | the text `${` |

Names of variables are in upper case. Messages and logs show the reference, never what it stands for.

## Variables

The values of header rules and the path of a redirect may hold variables:

| variable | means |
|---|---|
| `{client_ip}` | the client's address |
| `{request_id}` | the request's id |
| `{route}` | the route's name |
| `{method}`, `{scheme}`, `{host}` | of the request; the host without its port |
| `{path}`, `{query}` | as asked for, before any rewrite; the query without `?` |
| `{upstream}` | the upstream that was chosen |
| `{tls_version}` | `TLSv1.2` or `TLSv1.3`; empty on a plain connection |
| `{client_cert_subject}`, `{client_cert_names}` | subject and alternative names of the client's certificate; empty without |
| `{client_cert_fingerprint}`, `{client_cert_serial}` | its SHA-256 and its serial number in hexadecimal digits |
| `{path.NAME}` | a parameter of the route's path |
| `{header.NAME}` | a request header; empty when it is not there |
| `{{`, `}}` | the braces themselves |

## Overrides

A variable `GATEWAY_` and the path of a key, in upper case and joined by `_`, overrides a single
value. Other characters than letters and digits become `_`, items of lists go by their number from 0:
`GATEWAY_LOG_LEVEL`, `GATEWAY_LISTENERS_0_ADDRESS`, `GATEWAY_UPSTREAMS_USERS_RETRIES_ATTEMPTS`. Keys
that the file leaves out can be set, names under `upstreams` cannot be added. The value is taken as
it is. A variable that fits no key is ignored with a warning.
";

/// The reference, as Markdown.
pub fn reference() -> String {
    let mut out = HEAD.to_owned();
    let Kind::Keys(keys) = Kind::of(schema()) else {
        return out;
    };
    for (key, schema) in keys {
        // Writing to a String cannot fail.
        let _ = write!(out, "\n## `{key}`\n\n{}\n", text(schema, "description"));
        let mut rows = Vec::new();
        below(schema, key, &mut rows);
        if rows.is_empty() {
            rows.push(row(key, schema, false));
        }
        out.push_str("\n| key | value | default | meaning |\n|---|---|---|---|\n");
        rows.iter().for_each(|row| out.push_str(row));
    }
    out
}

fn below(schema: &Value, path: &str, rows: &mut Vec<String>) {
    for schema in alternatives(schema) {
        match Kind::of(schema) {
            Kind::Keys(keys) => {
                let required = schema.get("required").and_then(Value::as_array);
                for (key, inner) in keys {
                    let path = format!("{path}.{key}");
                    let required = required.is_some_and(|list| list.iter().any(|name| name == key));
                    rows.push(row(&path, inner, required));
                    below(inner, &path, rows);
                }
            }
            Kind::Map(inner) => below_each(inner, &format!("{path}.<name>"), rows),
            Kind::List(inner) => below_each(inner, &format!("{path}[]"), rows),
            Kind::Scalar => {}
        }
    }
}

fn below_each(inner: &Value, path: &str, rows: &mut Vec<String>) {
    if alternatives(inner).len() > 1 {
        rows.push(row(path, inner, false));
    }
    below(inner, path, rows);
}

fn row(path: &str, schema: &Value, required: bool) -> String {
    let default = match schema.get("default") {
        _ if required => "required".to_owned(),
        None | Some(Value::Object(_)) => String::new(),
        Some(Value::Array(items)) if items.is_empty() => String::new(),
        Some(Value::String(text)) if text.is_empty() => String::new(),
        Some(value) => code(value),
    };
    let mut meaning = text(schema, "description").to_owned();
    for choice in schema
        .get("oneOf")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let _ = write!(
            meaning,
            " {}: {}",
            code(&choice["const"]),
            text(choice, "description")
        );
    }
    if let Some(Value::Array(examples)) = schema.get("examples") {
        let examples: Vec<_> = examples.iter().map(code).collect();
        let _ = write!(meaning, " Such as {}.", examples.join(", "));
    }
    let cells = [format!("`{path}`"), value(schema), default, meaning];
    format!(
        "| {} |\n",
        cells.map(|cell| cell.replace('|', "\\|")).join(" | ")
    )
}

fn value(schema: &Value) -> String {
    let of = |schema: &Value| match Kind::of(schema) {
        Kind::List(items)
            if alternatives(items).len() == 1 && matches!(Kind::of(items), Kind::Scalar) =>
        {
            format!("a list; each {}", expected(items))
        }
        _ => expected(schema),
    };
    alternatives(schema)
        .iter()
        .map(of)
        .collect::<Vec<_>>()
        .join(" or ")
}

fn text<'a>(schema: &'a Value, word: &str) -> &'a str {
    schema.get(word).and_then(Value::as_str).unwrap_or_default()
}

/// A value as YAML would have it on one line.
fn code(value: &Value) -> String {
    format!("`{}`", flow(value))
}

fn flow(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            format!(
                "[{}]",
                items.iter().map(flow_inner).collect::<Vec<_>>().join(", ")
            )
        }
        Value::Object(entries) => object(entries),
        other => other.to_string(),
    }
}

fn flow_inner(value: &Value) -> String {
    match value {
        Value::String(text) if text.contains(['{', '}', '[', ']', ',', '*', '^', '&', '#']) => {
            format!("\"{text}\"")
        }
        other => flow(other),
    }
}

fn object(entries: &Map<String, Value>) -> String {
    let entries = entries
        .iter()
        .map(|(key, value)| format!("{key}: {}", flow_inner(value)));
    format!("{{ {} }}", entries.collect::<Vec<_>>().join(", "))
}
