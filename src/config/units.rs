//! Values with units, as they are written: durations, sizes, shares, addresses and networks.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytesize::ByteSize;
use ipnet::{IpNet, Ipv4Net};

use super::problem::{Invalid, quote};

/// Longest duration. Anything longer is a mistake, and could overflow a point in time.
const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Largest size; it fits every counter of bytes.
const MAX_SIZE: u64 = 1 << 50;

/// The bits before an IPv4 address in the form of IPv6.
const MAPPED_BITS: u8 = 96;

/// `500ms`, `30s`, `5m`, `1h`, `1d`, or a sum of them.
pub(super) fn duration(text: &str) -> Result<Duration, Invalid> {
    const EXPECTED: &str = "a duration such as `500ms`, `30s`, `5m`, `1h` or `1d`";
    if text.trim().parse::<f64>().is_ok() && text.trim() != "0" {
        return Err(Invalid::new(
            format!("{} has no unit", quote(text)),
            EXPECTED,
        ));
    }
    match humantime::parse_duration(text.trim()) {
        Ok(duration) if duration <= MAX_DURATION => Ok(duration),
        Ok(_) => Err(Invalid::new(
            format!("{} is too long", quote(text)),
            "at most `365d`",
        )),
        Err(_) => Err(Invalid::new(
            format!("{} is not a duration", quote(text)),
            EXPECTED,
        )),
    }
}

/// A duration in its largest unit that needs no fraction.
pub(super) fn show_duration(duration: &Duration) -> String {
    let millis = duration.as_millis();
    for (unit, size) in [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
    ] {
        if millis >= size && millis.is_multiple_of(size) {
            return format!("{}{unit}", millis / size);
        }
    }
    if millis == 0 {
        "0s".into()
    } else {
        format!("{millis}ms")
    }
}

/// `512`, `64KiB`, `10MiB`, `1GB`.
pub(super) fn size(text: &str) -> Result<u64, Invalid> {
    const EXPECTED: &str = "a size such as `512`, `64KiB`, `10MiB` or `1GB`";
    match text.trim().parse::<ByteSize>() {
        Ok(ByteSize(bytes)) if bytes <= MAX_SIZE => Ok(bytes),
        Ok(_) => Err(Invalid::new(
            format!("{} is too large", quote(text)),
            "at most `1PiB`",
        )),
        Err(_) => Err(Invalid::new(
            format!("{} is not a size", quote(text)),
            EXPECTED,
        )),
    }
}

/// A size in its largest binary unit that needs no fraction.
pub(super) fn show_size(bytes: &u64) -> String {
    for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if *bytes >= 1 << shift && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// A size or `unlimited`.
pub(super) fn limit(text: &str) -> Result<Option<u64>, Invalid> {
    if text.trim() == "unlimited" {
        return Ok(None);
    }
    let or_unlimited =
        |error: Invalid| Invalid::new(error.detail, error.expected + ", or `unlimited`");
    size(text).map(Some).map_err(or_unlimited)
}

/// A limit as it is written.
pub(super) fn show_limit(limit: &Option<u64>) -> String {
    limit.as_ref().map_or_else(|| "unlimited".into(), show_size)
}

/// `20%` or `0.2`.
pub(super) fn share(text: &str) -> Result<f64, Invalid> {
    const EXPECTED: &str = "a share such as `20%` or `0.2`, from 0 to 1";
    let number = |text: &str| text.trim().parse::<f64>().ok();
    let share = match text.trim().strip_suffix('%') {
        Some(percent) => number(percent).map(|percent| percent / 100.0),
        None => number(text),
    };
    match share {
        Some(share) if (0.0..=1.0).contains(&share) => Ok(share),
        Some(_) => Err(Invalid::new(
            format!("{} is out of range", quote(text)),
            EXPECTED,
        )),
        None => Err(Invalid::new(
            format!("{} is not a share", quote(text)),
            EXPECTED,
        )),
    }
}

/// `1.25`.
pub(super) fn factor(text: &str) -> Result<f64, Invalid> {
    let refuse = |what| {
        let what = format!("{} {what}", quote(text));
        Invalid::new(what, "a factor such as `1.25`, from 1 to 100")
    };
    match text.trim().parse::<f64>() {
        Ok(factor) if (1.0..=100.0).contains(&factor) => Ok(factor),
        Ok(_) => Err(refuse("is out of range")),
        Err(_) => Err(refuse("is not a number")),
    }
}

/// A share as a percentage.
pub(super) fn show_share(share: &f64) -> String {
    format!("{}%", share * 100.0)
}

/// `0.0.0.0:8080` or `[::]:8080`.
pub(super) fn address(text: &str) -> Result<SocketAddr, Invalid> {
    text.trim().parse().map_err(|_| {
        let expected = "an IP address and a port such as `0.0.0.0:8080` or `[::]:8080`";
        Invalid::new(format!("{} is not an address", quote(text)), expected)
    })
}

/// `10.0.0.0/8`, or one address. What is IPv4 in the form of IPv6 (RFC 4291 section 2.5.5.2) becomes IPv4,
/// as the addresses of clients do.
pub(super) fn network(text: &str) -> Result<IpNet, Invalid> {
    let text = text.trim();
    let one = || text.parse::<IpAddr>().map(IpNet::from);
    let network = text.parse::<IpNet>().or_else(|_| one()).map_err(|_| {
        let expected = "a network or address such as `10.0.0.0/8`, `192.0.2.1` or `fd00::/8`";
        Invalid::new(format!("{} is not a network", quote(text)), expected)
    })?;
    let mapped = match network {
        IpNet::V4(_) => None,
        IpNet::V6(network) => network
            .addr()
            .to_ipv4_mapped()
            .zip(Some(network.prefix_len())),
    };
    let Some((address, prefix)) = mapped else {
        return Ok(network.trunc());
    };
    let prefix = prefix.checked_sub(MAPPED_BITS);
    let network = prefix.and_then(|prefix| Ipv4Net::new(address, prefix).ok());
    // Nobody who writes an IPv4 address means more than all of them.
    let what = || format!("{} is an IPv4 address with a prefix of IPv6", quote(text));
    network
        .map(|network| network.trunc().into())
        .ok_or_else(|| Invalid::new(what(), "the IPv4 network, such as `10.0.0.0/8`"))
}

/// The greatest rate, above which its interval could not be told in nanoseconds exactly enough.
const MAX_PER_SECOND: u64 = 1_000_000;

/// The names of periods beside durations.
const PERIODS: [(&str, &[&str], u64); 4] = [
    ("s", &["sec", "second"], 1),
    ("min", &["m", "minute"], 60),
    ("h", &["hour"], 3_600),
    ("day", &["d"], 86_400),
];

/// `100/s`, `1000/min`, `5000/h`, `50000/day`, `30/10s`.
pub(super) fn rate(text: &str) -> Result<(u64, Duration), Invalid> {
    const EXPECTED: &str = "a rate such as `100/s`, `1000/min`, `50000/day` or `30/10s`";
    let refused = |what: &str| Invalid::new(format!("{} {what}", quote(text)), EXPECTED);
    let Some((count, per)) = text.split_once('/') else {
        return Err(refused("is no rate"));
    };
    let count: u64 = count.trim().parse().map_err(|_| refused("is no rate"))?;
    let per = per.trim();
    let named = PERIODS
        .iter()
        .find(|(name, others, _)| *name == per || others.contains(&per));
    let period = match named {
        Some((_, _, seconds)) => Duration::from_secs(*seconds),
        None => duration(per).map_err(|_| refused("has no period that is known"))?,
    };
    if count == 0 || period.as_secs() == 0 || period.subsec_nanos() > 0 {
        return Err(refused("is less than one, or not in whole seconds"));
    }
    if count > MAX_PER_SECOND.saturating_mul(period.as_secs()) {
        let most = format!("at most `{MAX_PER_SECOND}/s`");
        return Err(Invalid::new(format!("{} is too much", quote(text)), most));
    }
    Ok((count, period))
}

/// A rate as it is written.
pub(super) fn show_rate((count, period): &(u64, Duration)) -> String {
    let named = PERIODS
        .iter()
        .find(|(_, _, seconds)| *period == Duration::from_secs(*seconds));
    match named {
        Some((name, _, _)) => format!("{count}/{name}"),
        None => format!("{count}/{}", show_duration(period)),
    }
}

/// `200`, `200-399`.
pub(super) fn statuses(text: &str) -> Result<(u16, u16), Invalid> {
    let code = |text: &str| {
        text.trim()
            .parse()
            .ok()
            .filter(|code| (100..=599).contains(code))
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (code(first), code(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        _ => Err(Invalid::new(
            format!("{} is not a status or a range of them", quote(text)),
            "one such as `204` or `200-399`",
        )),
    }
}

/// A range of statuses as it is written.
pub(super) fn show_statuses((first, last): &(u16, u16)) -> String {
    if first == last {
        first.to_string()
    } else {
        format!("{first}-{last}")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // A test that cannot go on has failed.
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        for (text, millis) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
        ] {
            let duration = duration(text).unwrap();
            assert_eq!(duration, Duration::from_millis(millis));
            assert_eq!(show_duration(&duration), text);
        }
        assert_eq!(show_duration(&duration("1d").unwrap()), "1d");
        assert_eq!(show_duration(&duration("1m 15s").unwrap()), "75s");
        assert_eq!(duration("0").unwrap(), Duration::ZERO);
        let bare = duration("30").unwrap_err().to_string();
        assert!(
            bare.starts_with("`30` has no unit, expected a duration such as"),
            "{bare}"
        );
        for wrong in ["", "s", "-1s", "1 fortnight", "400d"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_are_decimal_or_binary() {
        for (text, bytes) in [("512", 512), ("64KiB", 65_536), ("10MiB", 10 << 20)] {
            assert_eq!(size(text).unwrap(), bytes);
            assert_eq!(show_size(&bytes), text);
        }
        assert_eq!(size("1GB").unwrap(), 1_000_000_000);
        for wrong in ["", "-1", "ten", "10 apples", "1EiB"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
        assert_eq!(limit("unlimited").unwrap(), None);
        assert_eq!(limit("1KiB").unwrap(), Some(1024));
        assert!(
            limit("infinite")
                .unwrap_err()
                .expected
                .ends_with("or `unlimited`")
        );
    }

    #[test]
    fn rates_have_a_period() {
        for (text, count, seconds) in [
            ("100/s", 100, 1),
            ("1000/min", 1000, 60),
            ("5/h", 5, 3600),
            ("50000/day", 50_000, 86_400),
            ("30/10s", 30, 10),
        ] {
            let found = rate(text).unwrap();
            assert_eq!(found, (count, Duration::from_secs(seconds)));
            assert_eq!(show_rate(&found), text);
        }
        assert_eq!(rate("7 / minute").unwrap(), rate("7/m").unwrap());
        for wrong in [
            "",
            "5",
            "/s",
            "0/s",
            "-1/s",
            "1/week",
            "1/500ms",
            "30/1500ms",
            "2000000/s",
            "1.5/s",
        ] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn shares_are_percentages_or_fractions() {
        assert_eq!(share("20%").unwrap(), 0.2);
        assert_eq!(share("0.2").unwrap(), 0.2);
        assert_eq!(show_share(&0.2), "20%");
        for wrong in ["20", "101%", "-1%", "nan", "inf", "x%"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn factors_are_at_least_one() {
        assert_eq!(factor("1.25").unwrap(), 1.25);
        for wrong in ["0.9", "101", "nan", "x", "125%"] {
            assert!(factor(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn addresses_networks_and_statuses() {
        assert!(address("127.0.0.1:80").is_ok() && address("[::1]:80").is_ok());
        assert!(address("localhost:80").is_err() && address("127.0.0.1").is_err());
        assert_eq!(network("10.1.2.3/8").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(network("::1").unwrap().to_string(), "::1/128");
        assert!(network("10.0.0.0/33").is_err());
        for (mapped, plain) in [
            ("::ffff:127.0.0.1", "127.0.0.1/32"),
            ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(network(mapped).unwrap().to_string(), plain);
        }
        for wrong in ["::ffff:10.0.0.0/8", "::ffff:0:0/95"] {
            let refused = network(wrong).unwrap_err().to_string();
            assert!(
                refused.contains("is an IPv4 address with a prefix of IPv6"),
                "{refused}"
            );
        }
        assert_eq!(statuses("204").unwrap(), (204, 204));
        assert_eq!(statuses("200-399").unwrap(), (200, 399));
        assert!(
            statuses("399-200").is_err() && statuses("99").is_err() && statuses("2xx").is_err()
        );
    }
}
