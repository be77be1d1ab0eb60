"""What Nova makes of a cell mapping's URL template: placeholders filled from a process's own URL.

A mapping may hold ``{scheme}://{username}:{password}@{hostname}:{port}/{path}?{query}`` and, for a
URL with several hosts, ``{username1}``, ``{password1}``, ``{hostname1}``, ``{port1}`` and so on.
Every process fills them from its own ``[DEFAULT] transport_url`` or ``[database] connection``, so
one stored mapping may mean different things to different processes.
"""

from __future__ import annotations

from urllib.parse import urlparse

from recell.model.urls import is_template


def resolve_template(template: str, own_url: str) -> str:
    """The URL that a process whose own URL is ``own_url`` makes of a stored mapping.

    As Nova does it: values stay percent-encoded as they stand, a part that ``own_url`` lacks
    becomes the word ``None``, and a template that can't be filled comes back unchanged
    (:func:`recell.model.urls.is_template` tells).
    """
    if not own_url or not is_template(template):
        return template
    try:
        return template.format(**_parts(own_url))
    except (ValueError, KeyError, IndexError, AttributeError):
        return template


def resolve_mapping(
    transport: str,
    database: str,
    own_transport: str,
    own_database: str,
) -> tuple[str, str]:
    """Both URLs of a mapping as one process sees them: (transport URL, database URL)."""
    return resolve_template(transport, own_transport), resolve_template(database, own_database)


def _parts(url: str) -> dict[str, object]:
    parsed = urlparse(url)
    single = _first(url)
    parts: dict[str, object] = {
        **single,
        "scheme": parsed.scheme,
        "query": parsed.query,
        "fragment": parsed.fragment,
        "path": parsed.path.lstrip("/"),
    }
    if "," in parsed.netloc:
        for number, netloc in enumerate(parsed.netloc.split(","), start=1):
            parts |= {f"{key}{number}": value for key, value in _netloc(netloc).items()}
    return parts


def _first(url: str) -> dict[str, object]:
    """What Python's own URL parser calls user, password, host and port of the whole.

    It knows nothing of several hosts: in ``a:1@x:1,b:2@y:2`` it divides at the last ``@``, and a
    "port" that is then no number makes Nova give up on the template.
    """
    parsed = urlparse(url)
    return {
        "username": parsed.username,
        "password": parsed.password,
        "hostname": parsed.hostname,
        "port": parsed.port,
    }


def _netloc(netloc: str) -> dict[str, object]:
    userinfo, at, hostport = netloc.partition("@")
    if not at:
        userinfo, hostport = "", netloc
    user, colon, password = userinfo.partition(":")
    found: dict[str, object] = {
        "username": user,
        "password": password if colon else None,
        "port": None,
    }
    if hostport.startswith("["):
        end = hostport.find("]")
        if end < 0:
            raise ValueError("Invalid IPv6 URL")
        # Nova keeps the colon in front of the port here.
        return {**found, "hostname": hostport[1:end], "port": hostport[end + 1 :]}
    host, colon, port = hostport.partition(":")
    return {**found, "hostname": host, "port": port if colon else None}
