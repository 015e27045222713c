//! A client's certificate as routes, headers and logs name it.

use std::fmt::Write;
use std::net::IpAddr;

use aws_lc_rs::digest;
use x509_parser::prelude::{
    AttributeTypeAndValue, FromDer, GeneralName, RelativeDistinguishedName, X509Certificate,
    X509Name,
};

/// What is said of a client's certificate. The handshake has verified it.
#[derive(Debug, PartialEq, Eq)]
pub struct ClientCert {
    /// The subject as RFC 4514 writes it, the most specific part first.
    pub subject: Box<str>,
    /// The alternative names, such as `DNS:a.example,URI:spiffe://example/a`; empty without.
    pub names: Box<str>,
    /// SHA-256 of the certificate, in lower-case hexadecimal digits.
    pub fingerprint: Box<str>,
    /// The serial number, in lower-case hexadecimal digits.
    pub serial: Box<str>,
}

impl ClientCert {
    /// Reads a certificate; `None` when it cannot be read, which a verified one can.
    pub(super) fn parse(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let serial = certificate.raw_serial();
        let first = serial.iter().position(|byte| *byte != 0);
        Some(Self {
            subject: distinguished_name(certificate.subject()).into(),
            names: alternative_names(&certificate).into(),
            fingerprint: hex(digest::digest(&digest::SHA256, der).as_ref()).into(),
            serial: first
                .map_or_else(|| "00".to_owned(), |first| hex(&serial[first..]))
                .into(),
        })
    }
}

/// RFC 4514 section 2: the last part first, values escaped so that none can pose as a part.
fn distinguished_name(name: &X509Name<'_>) -> String {
    let parts: Vec<_> = name.iter_rdn().collect();
    let parts: Vec<_> = parts.into_iter().rev().map(relative_name).collect();
    parts.join(",")
}

fn relative_name(name: &RelativeDistinguishedName<'_>) -> String {
    let attributes: Vec<_> = name.iter().map(attribute).collect();
    attributes.join("+")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let oid = attribute.attr_type().to_id_string();
    let short = short_name(&oid);
    let mut out = format!("{}=", short.unwrap_or(&oid));
    match (short, attribute.as_str()) {
        (Some(_), Ok(text)) => escape(&mut out, text),
        // What has no name of its own, or is no text, is written as its encoding.
        _ => {
            let value = attribute.attr_value();
            out.push('#');
            // The tags of values are below 31, one byte each.
            out.push_str(&hex(&[value.tag().0 as u8]));
            out.push_str(&hex(&der_length(value.data.len())));
            out.push_str(&hex(value.data));
        }
    }
    out
}

/// The names of RFC 4514 section 3, and the one that is common beside them.
fn short_name(oid: &str) -> Option<&'static str> {
    Some(match oid {
        "2.5.4.3" => "CN",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.6" => "C",
        "2.5.4.9" => "STREET",
        "0.9.2342.19200300.100.1.25" => "DC",
        "0.9.2342.19200300.100.1.1" => "UID",
        "1.2.840.113549.1.9.1" => "emailAddress",
        _ => return None,
    })
}

/// RFC 4514 section 2.4. The equals sign is escaped as well, so that `CN=` in an expression cannot
/// match inside a value.
fn escape(out: &mut String, text: &str) {
    let last = text.chars().count().saturating_sub(1);
    for (index, character) in text.chars().enumerate() {
        match character {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' | '=' => out.extend(['\\', character]),
            '#' if index == 0 => out.push_str("\\#"),
            ' ' if index == 0 || index == last => out.push_str("\\ "),
            control if control.is_control() => {
                let mut bytes = [0; 4];
                for byte in control.encode_utf8(&mut bytes).bytes() {
                    // Writing to a string does not fail.
                    let _ = write!(out, "\\{byte:02x}");
                }
            }
            plain => out.push(plain),
        }
    }
}

fn alternative_names(certificate: &X509Certificate<'_>) -> String {
    let mut out = String::new();
    let Ok(Some(list)) = certificate.subject_alternative_name() else {
        return out;
    };
    for name in &list.value.general_names {
        let (kind, text) = match name {
            GeneralName::DNSName(name) => ("DNS", (*name).to_owned()),
            GeneralName::URI(uri) => ("URI", (*uri).to_owned()),
            GeneralName::RFC822Name(mail) => ("email", (*mail).to_owned()),
            GeneralName::IPAddress(bytes) => match address(bytes) {
                Some(address) => ("IP", address.to_string()),
                None => continue,
            },
            _ => continue,
        };
        if !out.is_empty() {
            out.push(',');
        }
        out.push_str(kind);
        out.push(':');
        escape(&mut out, &text);
    }
    out
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(octets.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

/// The length of a DER value; those of names are below 64 KiB.
fn der_length(length: usize) -> Vec<u8> {
    match length {
        0..128 => vec![length as u8],
        128..256 => vec![0x81, length as u8],
        _ => vec![0x82, (length >> 8) as u8, length as u8],
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(out, "{byte:02x}");
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail by panicking")]

    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType, SerialNumber};

    use super::*;

    fn parsed(change: impl FnOnce(&mut CertificateParams)) -> ClientCert {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.serial_number = Some(SerialNumber::from_slice(&[0x00, 0x8f, 0x01]));
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        ClientCert::parse(certificate.der()).unwrap()
    }

    #[test]
    fn the_subject_is_written_backwards_and_cannot_be_forged() {
        let cert = parsed(|params| {
            let name = &mut params.distinguished_name;
            name.push(DnType::CountryName, "DE");
            name.push(DnType::OrganizationName, " a, CN=admin+b\\ ");
            name.push(DnType::CommonName, "#x\ny");
        });
        assert_eq!(
            &*cert.subject,
            "CN=\\#x\\0ay,O=\\ a\\, CN\\=admin\\+b\\\\\\ ,C=DE"
        );
        assert_eq!(&*cert.serial, "8f01");
        assert_eq!(cert.fingerprint.len(), 64);
        assert_eq!(&*cert.names, "");
    }

    #[test]
    fn what_has_no_short_name_is_written_as_its_encoding() {
        let cert = parsed(|params| {
            let name = &mut params.distinguished_name;
            name.push(DnType::CustomDnType(vec![1, 2, 3, 4]), "ab");
        });
        assert_eq!(&*cert.subject, "1.2.3.4=#0c026162");
    }

    #[test]
    fn alternative_names_are_a_list_that_no_name_can_lengthen() {
        let cert = parsed(|params| {
            params.subject_alt_names = vec![
                SanType::DnsName("a.test".try_into().unwrap()),
                SanType::URI("spiffe://x/a,DNS:b".try_into().unwrap()),
                SanType::Rfc822Name("a@b.test".try_into().unwrap()),
                SanType::IpAddress([192, 0, 2, 1].into()),
            ];
        });
        assert_eq!(
            &*cert.names,
            "DNS:a.test,URI:spiffe://x/a\\,DNS:b,email:a@b.test,IP:192.0.2.1"
        );
    }

    #[test]
    fn garbage_is_none() {
        assert_eq!(ClientCert::parse(b"no certificate"), None);
        assert_eq!(der_length(5), [5]);
        assert_eq!(der_length(200), [0x81, 200]);
        assert_eq!(der_length(300), [0x82, 1, 44]);
    }
}
