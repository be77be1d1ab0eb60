"""Log in to a database server for a client that has logged in to another one."""

import base64
import hashlib
import os
from typing import List, Optional, Tuple

from . import wire

# Ed25519 (RFC 8032), as MariaDB's client_ed25519 uses it: the password is the seed, of any length.
_P = 2**255 - 19
_ORDER = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, _P - 2, _P) % _P
_BASE = (
    15112221349535400772501151409588531511454012693041857206046113283949847762202,
    46316835694926478169428394003475163141307993866256225615783033603165251855960,
)
_Point = Tuple[int, int, int, int]
_doubled: List[_Point] = []


def _add(one: _Point, two: _Point) -> _Point:
    a = (one[1] - one[0]) * (two[1] - two[0]) % _P
    b = (one[1] + one[0]) * (two[1] + two[0]) % _P
    c = 2 * one[3] * two[3] * _D % _P
    d = 2 * one[2] * two[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _times_base(number: int) -> bytes:
    """A multiple of the base point, compressed. Its doublings are kept: logins come in hundreds."""
    if not _doubled:
        point = (_BASE[0], _BASE[1], 1, _BASE[0] * _BASE[1] % _P)
        for _ in range(256):
            _doubled.append(point)
            point = _add(point, point)
    total = (0, 1, 1, 0)
    for bit, point in enumerate(_doubled):
        if number >> bit & 1:
            total = _add(total, point)
    inverse = pow(total[2], _P - 2, _P)
    x, y = total[0] * inverse % _P, total[1] * inverse % _P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def ed25519(password: bytes, scramble: bytes) -> bytes:
    digest = hashlib.sha512(password).digest()
    secret = int.from_bytes(digest[:32], "little") & (1 << 254) - 8 | 1 << 254
    nonce = int.from_bytes(hashlib.sha512(digest[32:] + scramble).digest(), "little") % _ORDER
    point, public = _times_base(nonce), _times_base(secret)
    challenge = int.from_bytes(hashlib.sha512(point + public + scramble).digest(), "little")
    return point + ((nonce + challenge * secret) % _ORDER).to_bytes(32, "little")


def native(password: bytes, scramble: bytes) -> bytes:
    """mysql_native_password's answer: the scramble and the password's SHA1 mixed."""
    if not password:
        return b""
    once = hashlib.sha1(password).digest()  # noqa: S324 -- the protocol's own
    twice = hashlib.sha1(once).digest()  # noqa: S324
    mixed = hashlib.sha1(scramble[:20] + twice).digest()  # noqa: S324
    return bytes(a ^ b for a, b in zip(once, mixed))


def _xor(one: bytes, two: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, two))


def caching_sha2(password: bytes, scramble: bytes) -> bytes:
    """caching_sha2_password's answer, for a server that remembers the account."""
    if not password:
        return b""
    once = hashlib.sha256(password).digest()
    twice = hashlib.sha256(hashlib.sha256(once).digest() + scramble[:20]).digest()
    return _xor(once, twice)


def _der(data: bytes, at: int) -> Tuple[int, int]:
    """Where the content of the element at ``at`` begins and ends."""
    size, at = data[at + 1], at + 2
    if size & 0x80:
        size, at = int.from_bytes(data[at:at + (size & 0x7F)], "big"), at + (size & 0x7F)
    return at, at + size


def public_key(pem: bytes) -> Tuple[int, int]:
    """An RSA key's modulus and exponent. :raises wire.Broken: it is none."""
    try:
        lines = [line for line in pem.strip().splitlines() if not line.startswith(b"--")]
        data = base64.b64decode(b"".join(lines))
        inside = _der(data, 0)[0]  # the algorithm, then a string of bits that begins with how many are unused
        key = _der(data, _der(data, _der(data, inside)[1])[0] + 1)[0]
        modulus = _der(data, key)
        exponent = _der(data, modulus[1])
        found = tuple(int.from_bytes(data[a:b], "big") for a, b in (modulus, exponent))
    except (ValueError, IndexError):
        raise wire.Broken("its public key can't be read") from None
    if found[0].bit_length() < 1024 or not found[1]:
        raise wire.Broken("its public key can't be read")
    return found[0], found[1]


def _mask(seed: bytes, size: int) -> bytes:
    out = b""
    while len(out) < size:
        out += hashlib.sha1(seed + (len(out) // 20).to_bytes(4, "big")).digest()  # noqa: S324 -- OAEP's own
    return out[:size]


def sealed(password: bytes, scramble: bytes, pem: bytes) -> bytes:
    """The password for a server that doesn't remember the account: RSA with OAEP, by the server's own key."""
    modulus, exponent = public_key(pem)
    size = (modulus.bit_length() + 7) // 8
    clear = password + b"\0"
    clear = _xor(clear, scramble[:20] * (len(clear) // 20 + 1))
    if len(clear) > size - 42:
        raise wire.Broken("the password is too long for its public key")
    seed, name = os.urandom(20), hashlib.sha1(b"").digest()  # noqa: S324
    block = name + b"\0" * (size - 42 - len(clear)) + b"\1" + clear
    block = _xor(block, _mask(seed, len(block)))
    number = int.from_bytes(_xor(seed, _mask(block, 20)) + block, "big")
    return pow(number, exponent, modulus).to_bytes(size, "big")


class Login:
    """The client's side of a login, fed with what the server sends; does no I/O.

    ``greeting``: the server's, once it has come. ``status``: its flags after the login.
    """

    def __init__(self, hello: wire.Hello, password: bytes) -> None:
        self.greeting: Optional[wire.Greeting] = None
        self.status = wire.AUTOCOMMIT
        self._hello, self._password = hello, password
        self._scramble = b""

    def answer(self, sequence: int, payload: bytes) -> Optional[bytes]:
        """What to send for a packet of the server's, perhaps nothing; None: logged in.

        :raises wire.Broken: refused, or a way to log in that the relay doesn't know; no secrets in it.
        """
        if self.greeting is None:
            self.greeting = wire.Greeting.parse(payload)
            shaping = self._hello.capabilities & wire.SHAPING
            if shaping & ~self.greeting.capabilities or self._hello.extra & ~self.greeting.extra:
                raise wire.Broken("it speaks less of the protocol than this client was promised")
            known = self.greeting.plugin in (b"mysql_native_password", b"")
            plugin = b"mysql_native_password"
            first = native(self._password, self.greeting.scramble) if known else b""
            return wire.packet(sequence + 1, self._hello.repeated(first, plugin))
        if payload[:1] == b"\0":
            self.status = wire.ok_status(payload)[0]
            return None
        if payload[:1] == b"\xff":
            raise wire.Broken(wire.error_text(payload))
        if payload[:1] == b"\xfe" and len(payload) > 1:
            plugin, _, data = payload[1:].partition(b"\0")
            return wire.packet(sequence + 1, self._proof(plugin, data))
        if payload[:1] == b"\1" and self._scramble:
            return self._more(sequence, payload[1:])
        raise wire.Broken("it asks for a way to log in that the relay doesn't know")

    def _proof(self, plugin: bytes, data: bytes) -> bytes:
        if plugin == b"mysql_native_password":
            return native(self._password, data.rstrip(b"\0"))
        if plugin == b"client_ed25519":
            return ed25519(self._password, data[:32])
        if plugin == b"caching_sha2_password":
            self._scramble = data.rstrip(b"\0")
            return caching_sha2(self._password, self._scramble)
        name = plugin.decode("ascii", "replace")
        raise wire.Broken("the account logs in by {}, which the relay doesn't know".format(name))

    def _more(self, sequence: int, data: bytes) -> bytes:
        """In the middle of caching_sha2_password: it remembers the account, wants to, or shows its key."""
        if data == b"\3":
            return b""
        if data == b"\4":
            return wire.packet(sequence + 1, b"\2")  # its key, please
        return wire.packet(sequence + 1, sealed(self._password, self._scramble, data))
