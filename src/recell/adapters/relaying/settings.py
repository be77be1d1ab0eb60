"""What a session has set, so that another server's session can be given the same.

Statements are looked at before they are sent and noted when they have succeeded. What can be said again
word by word is; whatever else outlives a transaction makes the connection one that can't be carried over.
"""

import re
from collections import OrderedDict
from typing import Dict, List

LARGEST_STATEMENT = 1 << 20  # what comes later in a statement isn't looked at

_LITERAL = rb"'[^'\\]*(?:\\.[^'\\]*)*'|\"[^\"\\]*(?:\\.[^\"\\]*)*\"|`[^`]*`"
_COMMENT = rb"/\*(?![!M]).*?\*/|--[ \t\n][^\n]*|#[^\n]*"
_PARTS = re.compile(_LITERAL + b"|" + _COMMENT + rb"|[;,()]", re.DOTALL)
_COMMENTS = re.compile(b"(" + _LITERAL + b")|" + _COMMENT, re.DOTALL)
_LITERALS = re.compile(_LITERAL, re.DOTALL)
_WORD = re.compile(rb"[\s(]*([A-Za-z]+)")
_COMPOUND = re.compile(rb"\s*begin\s+not\s", re.IGNORECASE)
_FREE_AT = re.compile(rb"(?<![@\w])@(?!@)")
_NAMES = re.compile(rb"(names|character\s+set|charset)\s+\S", re.IGNORECASE)
_TRANSACTION = re.compile(rb"(?:(session|local|global)\s+)?transaction\s", re.IGNORECASE)
_ASSIGNMENT = re.compile(
    rb"(?:@@)?(?:(session|local|global|persist|persist_only)(?:\.|\s+))?`?(\w+)`?\s*:?=\s*(.*)\Z",
    re.IGNORECASE | re.DOTALL)
_GLOBAL = re.compile(rb"(?:@@)?(?:global|persist|persist_only)\b", re.IGNORECASE)
_PLAIN = re.compile(_LITERAL + rb"|[+-]?\w[\w.]*", re.DOTALL)
_USE = re.compile(rb"\s*use\s+(`(?:[^`]|``)+`|\S+?)\s*\Z", re.IGNORECASE)
_TEMPORARY = re.compile(rb"\s*create\s+(?:or\s+replace\s+)?temporary\s", re.IGNORECASE)
_SPENT = (b"insert_id", b"rand_seed1", b"rand_seed2", b"gtid_seq_no", b"server_id")

# By a statement's first word: why its session can't be carried over any more.
_STATEFUL = {
    b"LOCK": "has used LOCK TABLES", b"HANDLER": "has a HANDLER", b"PREPARE": "has prepared a statement",
    b"XA": "has used XA", b"CALL": "has called a procedure", b"BACKUP": "has used BACKUP",
    b"EXECUTE": "has used EXECUTE",
}
# What outlives no transaction and no statement: most of what Nova says is one of these.
_SPOKEN = frozenset(
    b"SELECT INSERT UPDATE DELETE REPLACE COMMIT ROLLBACK BEGIN START SHOW SAVEPOINT RELEASE EXPLAIN DESC"
    b" DESCRIBE WITH VALUES DO ALTER DROP TRUNCATE RENAME ANALYZE OPTIMIZE CHECK KILL GRANT REVOKE"
    b" LOAD".split())


def statements(text: bytes, several: bool) -> List[bytes]:
    """Without comments; cut at its semicolons where the client may send several at once."""
    if b"/*" in text or b"--" in text or b"#" in text:
        text = _COMMENTS.sub(lambda found: found.group(1) or b" ", text)
    if not several or b";" not in text:
        return [text.rstrip(b" \t\r\n;")]
    return [part.rstrip() for part in _cut(text, b";") if part.strip()]


def _cut(text: bytes, at: bytes) -> List[bytes]:
    """At a character that is in no literal and in no brackets."""
    found, start, depth = [], 0, 0
    for part in _PARTS.finditer(text):
        mark = part.group()
        depth += (mark == b"(") - (mark == b")")
        if mark == at and depth <= 0:
            found.append(text[start:part.start()])
            start = part.end()
    return [*found, text[start:]]


class Settings:
    """One session's. ``database``: its default one, "" without.

    ``stateful``: why it can't be carried over, in clauses for a sentence; empty as long as it can.
    """

    def __init__(self, database: bytes = b"") -> None:
        self.database = database
        self.stateful: Dict[str, str] = {}
        self._set: "OrderedDict[bytes, bytes]" = OrderedDict()
        self._next = b""  # SET TRANSACTION without SESSION: for the next transaction only

    def forget(self) -> None:
        """After COM_RESET_CONNECTION. The default database stays."""
        self._set.clear()
        self.stateful.clear()
        self._next = b""

    def note(self, text: bytes, several: bool, began: bool = True) -> None:
        """A statement, or several, that the server has taken. ``began``: it may have begun a transaction."""
        for statement in statements(text, several):
            self._note(statement, began)

    def doubt(self, text: bytes) -> None:
        """Several statements, of which the server has refused one."""
        if len(statements(text, True)) > 1:
            self.stateful["other"] = "has sent several statements at once, and one failed"

    def lasting(self) -> List[bytes]:
        """Statements that set what stays set."""
        return [b"SET " + text for text in self._set.values()]

    def replay(self, insert_id: int = 0) -> List[bytes]:
        """Statements that bring another session there, but for its default database."""
        told = self.lasting()
        if self._next:
            told.append(b"SET " + self._next)
        if insert_id:
            told.append(b"SET SESSION last_insert_id = " + str(insert_id).encode())
        return told

    def _note(self, statement: bytes, began: bool) -> None:
        match = _WORD.match(statement)
        word = match.group(1).upper() if match else b""
        if word == b"SET":
            self._note_set(statement[match.end():].strip() if match else b"", began)
            return
        if word == b"USE":
            used = _USE.match(statement)
            if used:
                name = used.group(1)
                self.database = name[1:-1].replace(b"``", b"`") if name[:1] == b"`" else name
            return
        if began:
            self._next = b""
        if word in _STATEFUL:
            self.stateful[word.decode()] = _STATEFUL[word]
        elif word == b"UNLOCK":
            self.stateful.pop("LOCK", None)
        elif word == b"FLUSH":
            if b"lock" in statement.lower() or b"export" in statement.lower():
                self.stateful["LOCK"] = "has used FLUSH TABLES WITH READ LOCK"
        elif word == b"CREATE":
            if _TEMPORARY.match(statement):
                self.stateful["temporary"] = "has a temporary table"
        elif word not in _SPOKEN or _COMPOUND.match(statement):
            self.stateful["other"] = "has sent a statement that the relay doesn't know ({})".format(
                word.decode("ascii", "replace") or "no word")
        lowered = statement.lower()
        if b"@" in statement or b"get_lock" in lowered or b"found_rows" in lowered:
            self._look_inside(lowered)

    def _look_inside(self, lowered: bytes) -> None:
        bare = _LITERALS.sub(b"''", lowered)
        if _FREE_AT.search(bare):
            self.stateful["variable"] = "has used a variable of its own (@name)"
        if b"get_lock" in bare:
            self.stateful["get_lock"] = "has used GET_LOCK"
        if b"found_rows" in bare:
            self.stateful["found_rows"] = "has used FOUND_ROWS"

    def _note_set(self, text: bytes, began: bool) -> None:
        transaction = _TRANSACTION.match(text)
        if transaction:
            scope = (transaction.group(1) or b"").lower()
            if not scope:
                self._next = text
            elif scope != b"global":
                lowered = text.lower()
                self._keep(b"transaction %d %d" % (b"isolation" in lowered, b"read " in lowered), text)
            return
        if text[:10].lower().startswith(b"statement "):
            self._note(text[text.lower().rfind(b" for ") + 5:], began)
            return
        parts = [part.strip() for part in _cut(text, b",")]
        if len(parts) > 1 and any(_GLOBAL.match(part) for part in parts):
            # MySQL's GLOBAL goes on for what follows, MariaDB's does not.
            self.stateful["SET"] = "has set global and own variables at once"
        for part in parts:
            self._note_one(part)

    def _note_one(self, text: bytes) -> None:
        first = text.split(None, 1)[0].lower() if text else b""
        if _NAMES.match(text):
            if _FREE_AT.search(_LITERALS.sub(b"", text)):
                self.stateful["SET"] = "has computed a setting"
            self._keep(b"names", text)
            return
        if first == b"role":
            self._keep(b"role", text)
            return
        if first in (b"password", b"default"):
            return
        assignment = _ASSIGNMENT.match(text)
        if not assignment:
            if text[:1] == b"@":
                self.stateful["variable"] = "has used a variable of its own (@name)"
            else:
                self.stateful["SET"] = "has set what the relay doesn't understand"
            return
        scope, name = (assignment.group(1) or b"session").lower(), assignment.group(2).lower()
        value = assignment.group(3)
        if scope in (b"global", b"persist", b"persist_only"):
            return
        if name in _SPENT:
            self.stateful["SET"] = "has set {}".format(name.decode())
        elif not _PLAIN.fullmatch(value.strip()):
            self.stateful["SET"] = "has computed a setting ({})".format(name.decode())
        else:
            self._keep(name, b"SESSION " + name + b" = " + value.strip())

    def _keep(self, key: bytes, text: bytes) -> None:
        """The latest stands last: what was set together is set in the order of its last words."""
        self._set.pop(key, None)
        self._set[key] = text

