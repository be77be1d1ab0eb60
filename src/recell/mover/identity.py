"""Whether a server is still the one whose binlog a position is of."""

from __future__ import annotations

from recell.adapters.mysql.binlog import BinlogLost, file_begun, leaves_out
from recell.adapters.mysql.position import Position
from recell.adapters.mysql.session import ServerReplaced, Session, changed
from recell.errors import Unsupported

__all__ = ["ServerReplaced", "check_server", "continues", "identity", "none_prepared"]

_ANEW = "Start the move anew: recell can't know which changes it has missed"


def identity(session: Session) -> dict[str, str]:
    """What tells this server from any other, and from itself after its data was replaced."""
    return session.identity()


def check_server(session: Session) -> None:
    """:raises Unsupported: its binlog does not hold whole rows, or not ours, or it can't hash them."""
    for variable, wanted in (("log_bin", "ON"), ("binlog_format", "ROW"), ("binlog_row_image", "FULL")):
        found = session.variable(variable)
        if found.upper() != wanted:
            raise Unsupported(f"{variable} of {session.endpoint.where} is {found or 'not known there'}",
                              f"Set {variable}={wanted} there; log_bin needs a restart of the server")
    if leaves_out(session, session.endpoint.database):
        raise Unsupported(f"the binary log of {session.endpoint.where} leaves this database out",
                          "Take binlog_do_db and binlog_ignore_db out of its configuration and restart it")
    if not session.query("SELECT SHA2('', 256)")[0][0]:
        # It would find any two rows equal.
        raise Unsupported(f"{session.endpoint.where} was built without SHA2()",
                          "Name a server that was built with OpenSSL")
    session.commit()


def none_prepared(session: Session) -> None:
    """:raises Unsupported: a transaction was prepared (XA) before the session's snapshot. What commits it
    later doesn't tell which rows it changed."""
    if found := session.query("XA RECOVER"):
        raise Unsupported(
            f"{session.endpoint.where} has {len(found)} transactions in two phases (XA) that are prepared and"
            " not ended", "Wait for their end, or end them by hand: XA RECOVER shows them")


def continues(
    session: Session, known: dict[str, str], position: Position, gtid: str, begun: str = ""
) -> None:
    """Prove that the binlog at ``position`` is what it was.

    :param gtid: what the binlog was known by right before ``position``; empty when not known.
    :param begun: what its file was known by (:func:`file_begun`). After a return to an older state the same
        names, sizes and numbers may come again.
    :raises ServerReplaced: another server or history. :raises BinlogLost: it was purged.
    """
    if words := changed(known, identity(session)):
        raise ServerReplaced(f"{session.endpoint.where} is another server than before ({words})", _ANEW)
    files = session.binlogs()
    if position.file not in files:
        raise BinlogLost(
            f"{session.endpoint.where} has purged {position.file}, from which the move goes on",
            "Start the move anew, and let the server keep its binlog for longer",
        )
    if files[position.file] < position.offset:
        raise ServerReplaced(
            f"{position.file} of {session.endpoint.where} ends at {files[position.file]}, before the move's"
            f" position {position.offset}: the binlog was reset or cut", _ANEW,
        )
    if gtid and session.mariadb:
        now = session.query("SELECT BINLOG_GTID_POS(%s, %s)", (position.file, position.offset))[0][0]
        if gtid not in str(now or "").split(","):
            raise ServerReplaced(
                f"the transaction before {position} of {session.endpoint.where} was {gtid} and is now"
                f" {now or 'none'}: the binlog was reset or the server's data replaced", _ANEW,
            )
    known_by = begun or ("" if session.mariadb else gtid)
    if known_by and (found := file_begun(session.endpoint, position.file)) != known_by:
        raise ServerReplaced(
            f"the binary log of {session.endpoint.where} was {known_by} and is {found} (Unix time of its"
            " beginning): it was reset or the server's data replaced", _ANEW)
    session.commit()
