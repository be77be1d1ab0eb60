"""What the relay understands of MySQL's protocol and of statements; no server needed."""

from __future__ import annotations

import ast
import io
import struct
import subprocess
import sys
import zipfile
from importlib import resources
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from hypothesis import given
from hypothesis import strategies as st
from pymysql._auth import scramble_caching_sha2

from recell.adapters import relay
from recell.adapters.relaying import wire
from recell.adapters.relaying.login import Login, ed25519, native
from recell.adapters.relaying.settings import Settings
from recell.errors import BadInput


def _ok(status: int, number: int = 0, head: int = 0) -> bytes:
    return bytes((head, 0, number)) + struct.pack("<HH", status, 0)


def _eof(status: int) -> bytes:
    return b"\xfe" + struct.pack("<HH", 0, status)


def _stream(*payloads: bytes) -> bytes:
    out = b""
    for number, rest in enumerate(payloads):
        while True:
            part, rest = rest[: wire.LARGEST], rest[wire.LARGEST :]
            out += wire.packet(number, part)
            if len(part) < wire.LARGEST:
                break
    return out


_PREPARED = b"\0" + struct.pack("<IHHBH", 7, 2, 1, 0, 0)
_NONE_PREPARED = b"\0" + struct.pack("<IHHBH", 7, 0, 0, 0, 0)
_PROGRESS = b"\xff\xff\xff\1\1\3\0\0\0\4half"
ANSWERS = {
    "an OK": (wire.RESULT, False, [_ok(2)]),
    "an OK with a note of 300 bytes": (wire.RESULT, False, [_ok(2) + b"n" * 300]),
    "an error": (wire.RESULT, False, [b"\xff\x10\x04#HY000" + b"no " * 30]),
    "rows": (wire.RESULT, False, [b"\x02", b"\x03def", b"\x03def", _eof(2), b"\x01a\xfb", _eof(2)]),
    "rows, no EOF": (wire.RESULT, True, [b"\x01", b"\x03def", b"\x01a", b"\x00", b"", _ok(2, head=0xFE)]),
    "an error among rows": (wire.RESULT, False, [b"\x01", b"\x03def", _eof(2), b"\x01a", b"\xff\x10\x04no"]),
    "several": (wire.RESULT, False, [_ok(10), b"\x01", b"\x03def", _eof(10), b"\x01a", _eof(10), _ok(2)]),
    "progress": (wire.RESULT, False, [_PROGRESS, _PROGRESS, _ok(2)]),
    "a cursor": (wire.RESULT, False, [b"\x01", b"\x03def", _eof(2 | wire.CURSOR_EXISTS)]),
    "a cursor's rows": (wire.ROWS, False, [b"\x00\x00a", b"\x00\x00b", _eof(2)]),
    "prepared": (wire.PREPARED, False, [_PREPARED, b"\x03def", _eof(2), b"\x03def", b"\x03def", _eof(2)]),
    "prepared, no EOF": (wire.PREPARED, True, [_PREPARED, b"\x03def", b"\x03def", b"\x03def"]),
    "prepared without columns": (wire.PREPARED, False, [_NONE_PREPARED]),
    "statistics": (wire.SIMPLE, False, [b"Uptime: 1  Threads: 2"]),
    "an option": (wire.SIMPLE, False, [_eof(2)]),
}


@pytest.mark.parametrize("name", ANSWERS)
@given(data=st.data())
def test_an_answers_end_is_seen_however_it_is_cut(name: str, data: st.DataObject) -> None:
    kind, short, payloads = ANSWERS[name]
    stream = _stream(*payloads)
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(stream) - 1)), max_size=len(stream))))
    answer = wire.Answer(short)
    answer.expect(kind)
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True) if a < b]
    assert [answer.feed(piece) for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert answer.failed == ("error" in name)
    answer.expect(wire.SIMPLE)
    assert answer.feed(_stream(_ok(3))) and answer.status == 3


def test_a_row_of_16_mib_is_no_end() -> None:
    """It begins with the byte that an EOF begins with, and goes on with the one that an error has."""
    row = b"\xfe" + struct.pack("<Q", wire.LARGEST + 5) + b"\xff\xfe\0\1" * ((wire.LARGEST + 5) // 4 + 1)
    for short, end in ((False, _eof(3)), (True, _ok(3, head=0xFE))):
        stream = _stream(b"\x01", b"\x03def", *([] if short else [_eof(2)]), row, end)
        answer = wire.Answer(short)
        answer.expect(wire.RESULT)
        seen = [answer.feed(stream[at : at + 65536]) for at in range(0, len(stream), 65536)]
        assert seen == [False] * (len(seen) - 1) + [True]
        assert answer.status == 3


def test_more_than_an_answer_is_no_answer() -> None:
    answer = wire.Answer(False)
    answer.expect(wire.SIMPLE)
    with pytest.raises(wire.Broken, match="says more"):
        answer.feed(_stream(_ok(2), _ok(2)))


@pytest.mark.parametrize(("before", "doubtful"), [(2, False), (3, True), (0, True), (1, True)])
def test_an_error_leaves_a_transaction_in_doubt(before: int, doubtful: bool) -> None:
    answer = wire.Answer(False)
    answer.expect(wire.SIMPLE)
    answer.feed(_stream(_ok(before)))
    answer.expect(wire.RESULT)
    assert answer.feed(_stream(b"\xff\x10\x04no"))
    assert answer.doubtful == doubtful


def _greeting(capabilities: int, extra: int = 0) -> bytes:
    low, high = struct.pack("<H", capabilities & 0xFFFF), struct.pack("<H", capabilities >> 16)
    return (b"\x0a10.11.9-MariaDB\0" + struct.pack("<I", 4) + b"12345678\0" + low + b"\x21\x02\0" + high
            + b"\x15" + b"\0" * 6 + struct.pack("<I", extra) + b"123456789012\0mysql_native_password\0")


def test_what_isnt_offered_isnt_asked_for() -> None:
    everything = 0xFFFFFFFF & ~wire.MYSQL
    masked = wire.Greeting.parse(wire.Greeting.masked(_greeting(everything, 0xFF)))
    assert masked.capabilities == everything & ~wire.WITHHELD
    assert masked.extra == 0xFF & ~wire.WITHHELD_MARIADB
    assert (masked.scramble, masked.plugin) == (b"12345678123456789012", b"mysql_native_password")
    assert wire.Greeting.masked(_greeting(wire.MYSQL, 0xFF)) == _greeting(wire.MYSQL, 0xFF)


@pytest.mark.parametrize(("capabilities", "why"), [
    (wire.PROTOCOL_41 | wire.SSL, "no TLS"), (wire.PROTOCOL_41 | wire.COMPRESS, "no compressed"),
    (0, "older than"),
])
def test_a_client_that_cant_be_relayed_is_told_why(capabilities: int, why: str) -> None:
    with pytest.raises(wire.Broken, match=why):
        wire.Hello.parse(struct.pack("<IIB", capabilities, 1 << 24, 33) + b"\0" * 23 + b"nova\0\0")


def test_a_login_is_repeated_as_the_client_made_it() -> None:
    flags = wire.PROTOCOL_41 | wire.SECURE_CONNECTION | wire.PLUGIN_AUTH | wire.CONNECT_ATTRS
    flags |= wire.LENENC_AUTH
    hello = wire.Hello(flags | 2, 1 << 24, 224, b"\4\0\0\0", b"nova", b"nova_cell1", b"\4name\5value")
    payload = hello.repeated(b"p" * 20, b"mysql_native_password")
    assert wire.Hello.parse(payload) == hello._replace(database=b"")
    shaped = Login(hello._replace(capabilities=flags | wire.DEPRECATE_EOF), b"")
    with pytest.raises(wire.Broken, match="less of the protocol"):
        shaped.answer(0, _greeting(flags))
    unknown = Login(hello._replace(filler=b"\0" * 4), b"secret")
    first = unknown.answer(0, _greeting(flags))
    assert first is not None and native(b"secret", b"12345678123456789012") in first
    with pytest.raises(wire.Broken, match="by sha256_password, which the relay doesn't know"):
        unknown.answer(2, b"\xfesha256_password\0" + b"s" * 20)


_SCRAMBLE = b"12345678901234567890"


def _asked_for_caching_sha2(password: bytes) -> tuple[Login, bytes]:
    """The login, and what it answers first."""
    flags = wire.PROTOCOL_41 | wire.SECURE_CONNECTION | wire.PLUGIN_AUTH
    login = Login(wire.Hello(flags, 1 << 24, 224, b"\0" * 4, b"nova", b"", b""), password)
    login.answer(0, _greeting(flags))
    first = login.answer(2, b"\xfecaching_sha2_password\0" + _SCRAMBLE + b"\0")
    assert first is not None
    return login, first


def test_a_server_that_remembers_the_account() -> None:
    login, first = _asked_for_caching_sha2(b"secret")
    assert first == wire.packet(3, scramble_caching_sha2(b"secret", _SCRAMBLE))
    assert login.answer(4, b"\1\3") == b""
    assert login.answer(5, _ok(wire.AUTOCOMMIT)) is None
    assert _asked_for_caching_sha2(b"")[1] == wire.packet(3, b"")


@pytest.mark.parametrize("bits", [2048, 3072])
@pytest.mark.parametrize("password", ["x", "a secret of Nova's", "größer" * 8])
def test_a_server_that_wants_the_password_itself(bits: int, password: str) -> None:
    key = rsa.generate_private_key(65537, bits)
    shown = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    login, _ = _asked_for_caching_sha2(password.encode())
    assert login.answer(4, b"\1\4") == wire.packet(5, b"\2")
    answer = login.answer(6, b"\1" + shown)
    assert answer is not None and answer[3] == 7
    sha1 = hashes.SHA1()  # noqa: S303 -- the protocol's own
    oaep = padding.OAEP(mgf=padding.MGF1(sha1), algorithm=sha1, label=None)
    clear = key.decrypt(answer[4:], oaep)
    assert bytes(a ^ b for a, b in zip(clear, _SCRAMBLE * 9, strict=False)) == password.encode() + b"\0"


@pytest.mark.parametrize("shown", [
    b"", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", b"\0" * 99,
])
def test_a_key_that_is_none(shown: bytes) -> None:
    login, _ = _asked_for_caching_sha2(b"secret")
    with pytest.raises(wire.Broken, match="public key can't be read"):
        login.answer(6, b"\1" + shown)


def test_a_password_that_its_key_is_too_short_for() -> None:
    key = rsa.generate_private_key(65537, 2048).public_key()
    login, _ = _asked_for_caching_sha2(b"x" * 214)
    with pytest.raises(wire.Broken, match="too long"):
        login.answer(6, b"\1" + key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))


def test_more_than_was_asked_for_is_no_login() -> None:
    login = Login(wire.Hello(wire.PROTOCOL_41, 1 << 24, 224, b"\0" * 4, b"nova", b"", b""), b"secret")
    login.answer(0, _greeting(wire.PROTOCOL_41))
    with pytest.raises(wire.Broken, match="doesn't know"):
        login.answer(2, b"\1\4")


def test_ed25519_is_that_of_rfc_8032() -> None:
    """Its second test, whose secret key is the password."""
    secret = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    assert ed25519(secret, b"\x72").hex() == (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00")


@pytest.mark.parametrize(("said", "replayed"), [
    (["SET AUTOCOMMIT = 0"], ["SET SESSION autocommit = 0"]),
    (["SET NAMES utf8mb4 COLLATE utf8mb4_bin", "set names utf8"], ["SET names utf8"]),
    (["SET a=1, @@session.b='x,y', LOCAL c := ON"],
     ["SET SESSION a = 1", "SET SESSION b = 'x,y'", "SET SESSION c = ON"]),
    (["SET a=1", "SET b=1", "SET a=2"], ["SET SESSION b = 1", "SET SESSION a = 2"]),
    (["SET GLOBAL a=1", "SET PASSWORD = 'secret'", "SET STATEMENT a=1 FOR SELECT 1"], []),
    (["SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, READ ONLY"],
     ["SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, READ ONLY"]),
    (["/* it's */ SET a=1 -- or 2\n"], ["SET SESSION a = 1"]),
    (["SELECT 'SET a=1', '@a', \"get_lock\", `found_rows`, @@a",
      "INSERT INTO t VALUES ('it''s @\\'me')"], []),
    (["(SELECT 1) UNION (SELECT 2)", "FLUSH TABLES", "CREATE TABLE t (a INT)"], []),
])
def test_settings_are_said_again(said: list[str], replayed: list[str]) -> None:
    settings = Settings()
    for text in said:
        settings.note(text.encode(), several=False)
    assert [text.decode() for text in settings.replay()] == replayed
    assert not settings.stateful


@pytest.mark.parametrize("said", [
    "SET @a = 1", "SELECT @a", "DO GET_LOCK('a', 1)", "SELECT SQL_CALC_FOUND_ROWS 1",
    "create temporary table t (a int)", "CREATE OR REPLACE TEMPORARY TABLE t (a INT)", "LOCK TABLES t READ",
    "FLUSH TABLES WITH READ LOCK", "PREPARE s FROM 'SELECT 1'", "XA START 'a'", "CALL p()", "HANDLER t OPEN",
    "SET a = @@b", "SET a = 1 + 1", "SET insert_id = 7", "SET GLOBAL a = 1, b = 2", "/*!40101 SET a = 1 */",
    "BEGIN NOT ATOMIC SELECT 1; END", "SET NAMES @a", "SET NEW.a = 1", "WHATEVER comes",
    "SET STATEMENT a=1 FOR CREATE TEMPORARY TABLE t (a INT)",
])
def test_what_cant_be_said_again_is_known(said: str) -> None:
    settings = Settings()
    settings.note(said.encode(), several=False)
    assert settings.stateful
    settings.forget()
    assert not settings.stateful


def test_several_statements_and_databases() -> None:
    settings = Settings(b"nova")
    settings.note(b"SET a = ';'; USE `a``b`; SELECT ';'; SET b = 2;", several=True)
    assert settings.replay(5) == [
        b"SET SESSION a = ';'", b"SET SESSION b = 2", b"SET SESSION last_insert_id = 5"]
    assert settings.database == b"a`b"
    settings.note(b"use nova_cell0 ;", several=False)
    assert settings.database == b"nova_cell0"
    settings.note(b"LOCK TABLES a READ; UNLOCK TABLES", several=True)
    assert not settings.stateful
    settings.doubt(b"SET a = ';'")
    assert not settings.stateful
    settings.doubt(b"SET a = 3; SELECT")
    assert "one failed" in settings.stateful["other"]


def test_it_runs_on_an_old_python_without_anything_else(tmp_path: Path) -> None:
    for file in resources.files("recell.adapters.relaying").iterdir():
        if file.name.endswith(".py"):
            tree = ast.parse(file.read_text(), feature_version=(3, 6))
            names = {n.names[0].name if isinstance(n, ast.Import) else n.module
                     for n in ast.walk(tree) if isinstance(n, ast.Import)
                     or (isinstance(n, ast.ImportFrom) and not n.level)}
            assert {str(n).split(".")[0] for n in names} <= sys.stdlib_module_names, file.name
    packed = relay.archive()
    assert packed == relay.archive()
    assert zipfile.ZipFile(io.BytesIO(packed)).testzip() is None
    (tmp_path / "relay.pyz").write_bytes(packed)
    argv = [sys.executable, "-I", str(tmp_path / "relay.pyz"), str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, check=False)
    assert b"config.json" in done.stderr and done.returncode == 1


def test_a_relays_name_is_no_path() -> None:
    for name in ("", "../x", "a b", "a" * 41):
        with pytest.raises(BadInput, match="no name for a relay"):
            relay.Relay(None, name)  # type: ignore[arg-type]
