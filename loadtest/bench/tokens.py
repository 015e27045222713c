"""The keys and tokens of the scenarios that ask who calls."""

import base64
import hashlib
import hmac
import json
import time

try:
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
except ImportError:
    # Only `write` needs it, which says so.
    rsa = None

ISSUER = "bench"
SECRET = "a-secret-of-the-benchmark-of-32-bytes"
ALGORITHMS = ("hs256", "rs256", "es256")
# Clients that use their token again and again, and what the gateway remembers.
POPULATION = 1_000
REMEMBERED = 2_048
# In turn, so that none of them is remembered when it is used again.
FRESH = 8_192
LIFE_SECONDS = 86_400


def write(folder, algorithms):
    """Writes all keys, and tokens of these algorithms; `path` and `public_key` find the files."""
    if rsa is None:
        raise RuntimeError("python3-cryptography is needed; run it through `make bench`")
    keys = {
        "hs256": None,
        "rs256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
        "es256": ec.generate_private_key(ec.SECP256R1()),
    }
    for algorithm, key in keys.items():
        if key is not None:
            public_key(folder, algorithm).write_bytes(
                key.public_key().public_bytes(
                    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
                )
            )
        if algorithm not in algorithms:
            continue
        lines = [token(algorithm, key, number) for number in range(FRESH)]
        path(folder, algorithm, FRESH).write_text("\n".join(lines) + "\n", encoding="ascii")
        few = lines[:POPULATION]
        path(folder, algorithm, POPULATION).write_text("\n".join(few) + "\n", encoding="ascii")
    (folder / "bench.jwks").write_text(json.dumps(key_set(keys)), encoding="utf-8")


def path(folder, algorithm, count):
    """The file with that many tokens, one a line."""
    return folder / f"{algorithm}.{count}.tokens"


def public_key(folder, algorithm):
    """The file with the public key."""
    return folder / f"{algorithm}.pem"


def token(algorithm, key, number):
    """A token as identity providers make them, some 600 bytes with RSA."""
    header = {"alg": algorithm.upper(), "typ": "JWT", "kid": algorithm}
    claims = {
        "iss": ISSUER,
        "sub": f"user-{number:08}",
        "aud": ["api"],
        "iat": int(time.time()),
        "exp": int(time.time()) + LIFE_SECONDS,
        "jti": f"{number:032x}",
        "scope": "openid profile users.read users.write",
    }
    text = encode(json.dumps(header).encode()) + b"." + encode(json.dumps(claims).encode())
    return (text + b"." + encode(signature(key, text))).decode()


def signature(key, text):
    """The signature of a text: HMAC without a key."""
    if key is None:
        return hmac.new(SECRET.encode(), text, hashlib.sha256).digest()
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(text, padding.PKCS1v15(), hashes.SHA256())
    r, s = decode_dss_signature(key.sign(text, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def key_set(keys):
    """The keys as RFC 7517 has them, the shared one included."""
    numbers = keys["rs256"].public_key().public_numbers()
    point = keys["es256"].public_key().public_numbers()
    return {
        "keys": [
            {"kty": "oct", "kid": "hs256", "alg": "HS256", "k": encode(SECRET.encode()).decode()},
            {
                "kty": "RSA",
                "kid": "rs256",
                "alg": "RS256",
                "n": encode(number_bytes(numbers.n)).decode(),
                "e": encode(number_bytes(numbers.e)).decode(),
            },
            {
                "kty": "EC",
                "kid": "es256",
                "alg": "ES256",
                "crv": "P-256",
                "x": encode(point.x.to_bytes(32, "big")).decode(),
                "y": encode(point.y.to_bytes(32, "big")).decode(),
            },
        ]
    }


def number_bytes(number):
    """A number without leading zeros."""
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def encode(data):
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=")
