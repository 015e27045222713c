//! The algorithms that a token may be signed with: a closed set (RFC 7518 section 3.1, RFC 8037
//! section 3.1).

/// How a token is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// HMAC with SHA-256.
    Hs256,
    /// HMAC with SHA-384.
    Hs384,
    /// HMAC with SHA-512.
    Hs512,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Rs512,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// RSASSA-PSS with SHA-384.
    Ps384,
    /// RSASSA-PSS with SHA-512.
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// Every algorithm, the shared secrets first.
    pub const ALL: [Self; 12] = [
        Self::Hs256,
        Self::Hs384,
        Self::Hs512,
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::EdDsa,
    ];

    /// What a header calls it. The comparison is exact: RFC 7515 section 4.1.1 makes `alg`
    /// case-sensitive, and `none` is no algorithm in any spelling.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.name() == name)
    }

    /// The value of `alg`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Hs384 => "HS384",
            Self::Hs512 => "HS512",
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
        }
    }

    /// Whether who can verify can also sign.
    pub const fn is_shared_secret(self) -> bool {
        matches!(self, Self::Hs256 | Self::Hs384 | Self::Hs512)
    }
}

/// Some of the algorithms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AlgorithmSet(u16);

impl AlgorithmSet {
    /// Those of a public key.
    pub fn public_key() -> Self {
        let public = |algorithm: &Algorithm| !algorithm.is_shared_secret();
        Algorithm::ALL.into_iter().filter(public).collect()
    }

    /// Those of a shared secret.
    pub fn shared_secret() -> Self {
        let shared = |algorithm: &Algorithm| algorithm.is_shared_secret();
        Algorithm::ALL.into_iter().filter(shared).collect()
    }

    /// Whether it is one of them.
    pub const fn contains(self, algorithm: Algorithm) -> bool {
        self.0 & (1 << algorithm as u16) != 0
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<Algorithm> for AlgorithmSet {
    fn from_iter<I: IntoIterator<Item = Algorithm>>(algorithms: I) -> Self {
        let bits = algorithms
            .into_iter()
            .fold(0, |bits, algorithm| bits | 1 << algorithm as u16);
        Self(bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_exact() {
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::parse(algorithm.name()), Some(algorithm));
            let lower = algorithm.name().to_lowercase();
            assert_eq!(Algorithm::parse(&lower), None, "{lower}");
        }
        for other in [
            "none", "None", "NONE", "nOnE", "", "HS256 ", "ES512", "ES256K", "HS1",
        ] {
            assert_eq!(Algorithm::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_set_holds_what_was_put_in() {
        let set: AlgorithmSet = [Algorithm::Hs512, Algorithm::EdDsa].into_iter().collect();
        for algorithm in Algorithm::ALL {
            let inside = matches!(algorithm, Algorithm::Hs512 | Algorithm::EdDsa);
            assert_eq!(set.contains(algorithm), inside);
            let secret = AlgorithmSet::shared_secret().contains(algorithm);
            assert_ne!(secret, AlgorithmSet::public_key().contains(algorithm));
        }
        assert!(AlgorithmSet::default().is_empty() && !set.is_empty());
    }
}
