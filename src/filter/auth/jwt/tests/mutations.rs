//! No change of a good token is accepted: not by the verifier, and not by a cache that knows it.

use fastrand::Rng;
use serde_json::json;

use super::super::*;
use super::maker::*;

const LETTERS: &[u8] =
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/=. \0\t%{}\"";

/// One change of some kind; it may come to nothing.
fn mutate(random: &mut Rng, token: &str, others: &[String]) -> String {
    if token.is_empty() {
        return others[0].clone();
    }
    let mut bytes = token.as_bytes().to_vec();
    let at = random.usize(..bytes.len());
    match random.u8(..12) {
        0 => bytes[at] ^= 1 << random.u8(..7),
        1 => bytes[at] = LETTERS[random.usize(..LETTERS.len())],
        2 => bytes.truncate(at),
        3 => drop(bytes.drain(..at)),
        4 => drop(bytes.remove(at)),
        5 => bytes.insert(at, LETTERS[random.usize(..LETTERS.len())]),
        6 => bytes.push(LETTERS[random.usize(..LETTERS.len())]),
        7 => {
            let other = random.usize(..bytes.len());
            bytes.swap(at, other);
        }
        8 => {
            let letter = &mut bytes[at];
            *letter = if letter.is_ascii_lowercase() {
                letter.to_ascii_uppercase()
            } else {
                letter.to_ascii_lowercase()
            };
        }
        // Base64 with another alphabet, or with padding.
        9 => {
            let text = token.replace('-', "+").replace('_', "/");
            let padding = ["", "=", "=="][random.usize(..3)];
            bytes = format!("{text}{padding}").into_bytes();
        }
        // A part of another good token.
        10 => {
            let other: Vec<_> = others[random.usize(..others.len())].split('.').collect();
            let mut parts: Vec<_> = token.split('.').collect();
            let part = random.usize(..parts.len().min(3));
            parts[part] = other[part];
            bytes = parts.join(".").into_bytes();
        }
        // A part twice, or in another's place.
        _ => {
            let mut parts: Vec<_> = token.split('.').collect();
            let count = parts.len();
            let (from, to) = (random.usize(..count), random.usize(..count));
            parts[to] = parts[from];
            bytes = parts.join(".").into_bytes();
        }
    }
    // A header field that is no text never comes this far.
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn no_mutation_of_a_valid_token_is_accepted() {
    let mut random = Rng::with_seed(0x6a77_7421);
    let providers = provider();
    let cache = TokenCache::new(CacheLimits::default()).unwrap();
    let tokens: Vec<String> = Algorithm::ALL
        .into_iter()
        .flat_map(|algorithm| {
            ["alice", "bob"].map(|subject| {
                let claims = with(good_claims(), "sub", json!(subject));
                token(algorithm, json!({}), claims)
            })
        })
        .collect();
    for token in &tokens {
        remembered(&cache, token, &providers, now()).unwrap();
    }
    let known = cache.len();
    for token in &tokens {
        for _ in 0..400 {
            let mut other = mutate(&mut random, token, &tokens);
            if random.bool() {
                other = mutate(&mut random, &other, &tokens);
            }
            let accepted = remembered(&cache, &other, &providers, now()).is_ok();
            assert!(
                !accepted || tokens.contains(&other),
                "{other}\nmade of\n{token}"
            );
        }
    }
    assert_eq!(cache.len(), known);
}

#[test]
fn no_single_bit_of_a_token_is_free() {
    let providers = provider();
    // RSA has the quickest check of a public key.
    for algorithm in [Algorithm::Hs256, Algorithm::Rs256] {
        let token = token(algorithm, json!({}), good_claims());
        for (at, bit) in (0..token.len()).flat_map(|at| (0..7).map(move |bit| (at, bit))) {
            let mut bytes = token.clone().into_bytes();
            bytes[at] ^= 1 << bit;
            let other = String::from_utf8(bytes).unwrap();
            assert!(
                verify(&other, &providers, now()).is_err(),
                "byte {at}, bit {bit}"
            );
        }
    }
}
