//! The types of single values in a file: how each is read, written and described in the schema.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration as StdDuration;

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::cause::{self, Cause};
use super::problem::Invalid;
use super::units;

macro_rules! scalar {
    ($(#[$doc:meta])* $name:ident($value:ty), $format:literal, $types:tt, $parse:path, $show:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name(pub $value);

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&$show(&self.0))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                // The cause may quote a secret, and `shape` has reported it already.
                $parse(&text).map(Self).map_err(|_| serde::de::Error::custom($format))
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": $types, "format": $format })
            }
        }
    };
}

scalar!(
    /// A duration with its unit.
    Duration(StdDuration), "duration-with-unit", "string", units::duration, units::show_duration
);
scalar!(
    /// A number of bytes.
    Size(u64), "size", ["string", "integer"], units::size, units::show_size
);
scalar!(
    /// A number of bytes, or `unlimited`.
    Limit(Option<u64>), "size-or-unlimited", ["string", "integer"], units::limit, units::show_limit
);
scalar!(
    /// A share of a whole.
    Share(f64), "share", ["string", "number"], units::share, units::show_share
);
scalar!(
    /// How many times as much.
    Factor(f64), "factor", ["string", "number"], units::factor, f64::to_string
);
scalar!(
    /// An address and a port to listen on.
    Address(SocketAddr), "address", "string", units::address, SocketAddr::to_string
);
scalar!(
    /// A network, or one address.
    Network(IpNet), "network", "string", units::network, IpNet::to_string
);
scalar!(
    /// So many in so long.
    Rate((u64, StdDuration)), "rate", "string", units::rate, units::show_rate
);
scalar!(
    /// A status, or a range of them.
    Statuses((u16, u16)), "statuses", ["string", "integer"], units::statuses, units::show_statuses
);
scalar!(
    /// What a request is tried again for.
    RetryCause(Cause), "retry-cause", ["string", "integer"], cause::parse, Cause::to_string
);

/// A text that is never shown: no message, log or dump has it.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    /// A digest, so that two configurations can be compared without holding the text.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use aws_lc_rs::digest::{SHA256, digest};
        let digest = digest(&SHA256, self.0.as_bytes());
        let hex: String = digest
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        serializer.serialize_str(&hex)
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "secret" })
    }
}

/// Checks a text by the format that the schema gives it; `None` is a format that is none of ours.
pub(super) fn check(format: &str, text: &str) -> Option<Result<(), Invalid>> {
    Some(match format {
        "duration-with-unit" => units::duration(text).map(drop),
        "size" => units::size(text).map(drop),
        "size-or-unlimited" => units::limit(text).map(drop),
        "share" => units::share(text).map(drop),
        "factor" => units::factor(text).map(drop),
        "address" => units::address(text).map(drop),
        "network" => units::network(text).map(drop),
        "rate" => units::rate(text).map(drop),
        "statuses" => units::statuses(text).map(drop),
        "retry-cause" => cause::parse(text).map(drop),
        _ => return None,
    })
}

/// What a format expects, in words.
pub(super) fn expected(format: &str) -> Option<&'static str> {
    Some(match format {
        "duration-with-unit" => "a duration such as `30s`",
        "size" => "a size such as `64KiB`",
        "size-or-unlimited" => "a size such as `10MiB`, or `unlimited`",
        "share" => "a share such as `20%`",
        "factor" => "a factor such as `1.25`, from 1 to 100",
        "address" => "an address such as `0.0.0.0:8080`",
        "network" => "a network such as `10.0.0.0/8`",
        "rate" => "a rate such as `100/s`",
        "statuses" => "a status or range such as `200-399`",
        "retry-cause" => "a cause such as `reset` or `502-504`",
        _ => return None,
    })
}

/// A list whose items keep their places: one that was refused is `None`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(transparent)]
pub struct List<T>(pub Vec<Option<T>>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> List<T> {
    /// The items that were understood, each with its place.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.0
            .iter()
            .enumerate()
            .filter_map(|(index, item)| Some((index, item.as_ref()?)))
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T> From<Vec<T>> for List<T> {
    fn from(items: Vec<T>) -> Self {
        Self(items.into_iter().map(Some).collect())
    }
}

impl<T: JsonSchema> JsonSchema for List<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("ListOf{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let items = generator.subschema_for::<T>();
        json_schema!({ "type": "array", "items": items })
    }
}
