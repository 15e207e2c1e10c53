"""A job's CURVE keypair, in the files that the library reads (`bagpipe/net/curve.py`, pinned by `tests/contract`).

ZeroMQ's keys are X25519 in Z85. Twenty lines of RFC 7748 in plain integers spare the operator a compiled dependency.
Keys are only made here, once for each job; the handshake and the encryption are libzmq's.
"""

import secrets

_P = 2**255 - 19
_A24 = 121665
_Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"


def x25519(scalar: bytes, point: int = 9) -> bytes:
    """The Montgomery ladder of RFC 7748; `point` 9 is the base: the result is the public key."""
    k = (int.from_bytes(scalar, "little") & ~7 & ~(1 << 255)) | (1 << 254)
    x2, z2, x3, z3, swap = 1, 0, point, 1, 0
    for t in reversed(range(255)):
        bit = (k >> t) & 1
        if swap ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, da, cb = a * a % _P, b * b % _P, d * a % _P, c * b % _P
        e = aa - bb
        x3, z3 = (da + cb) ** 2 % _P, point * (da - cb) ** 2 % _P
        x2, z2 = aa * bb % _P, e * (aa + _A24 * e) % _P
    if swap:
        x2, z2 = x3, z3
    return (x2 * pow(z2, _P - 2, _P) % _P).to_bytes(32, "little")


def z85(data: bytes) -> str:
    """ZeroMQ's base 85; four bytes become five characters."""
    text = []
    for i in range(0, len(data), 4):
        word = int.from_bytes(data[i : i + 4], "big")
        text += [_Z85[word // 85**power % 85] for power in (4, 3, 2, 1, 0)]
    return "".join(text)


def keypair() -> tuple[str, str]:
    """Public and secret key."""
    secret = secrets.token_bytes(32)
    return z85(x25519(secret)), z85(secret)
