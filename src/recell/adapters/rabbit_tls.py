"""TLS to a RabbitMQ as oslo.messaging speaks it: by [oslo_messaging_rabbit], or by the URL's own options."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from urllib.parse import parse_qsl

from recell.adapters.conf import Config
from recell.errors import BadInput, StalePlan

__all__ = ["rabbit_tls"]

_GROUP = "oslo_messaging_rabbit"
_YES = ("true", "1", "yes", "on")


def rabbit_tls(
    config: Config, query: str, read: Callable[[str], bytes | None], where: str
) -> ssl.SSLContext | None:
    """None: without TLS. With a CA the broker is proven, without one nobody is: as Nova's services do it.
    The host's name is not compared, for they don't either.

    :param query: of the transport URL; its options win. read: a file of the host whose configuration it is.
    :raises StalePlan: a file is gone. :raises BadInput: it is no certificate or no key.
    """
    said = dict(parse_qsl(query))

    def option(name: str) -> str:
        return said.get(name) or config.get(_GROUP, name)

    def content(path: str) -> bytes:
        found = read(path)
        if found is None:
            raise StalePlan(f"{path} of {where} is not there", "Put it back, or correct its service")
        return found

    if option("ssl").lower() not in _YES:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    authority, certificate, key = (option(f"ssl_{n}_file") for n in ("ca", "cert", "key"))
    if not authority:
        context.verify_mode = ssl.CERT_NONE
    try:
        if authority:
            context.load_verify_locations(cadata=content(authority).decode("ascii", "replace"))
        if certificate:
            _present(context, content(certificate) + b"\n" + (content(key) if key else b""))
    except (ssl.SSLError, ValueError) as error:
        raise BadInput(
            f"ssl_ca_file, ssl_cert_file or ssl_key_file of {where} can't be used ({error})",
            "Correct [oslo_messaging_rabbit] there",
        ) from None
    return context


def _present(context: ssl.SSLContext, chain: bytes) -> None:
    """Python takes certificates out of files only: this one is in memory, and gone with this function."""
    memory = os.memfd_create("recell", os.MFD_CLOEXEC)
    try:
        os.write(memory, chain)
        context.load_cert_chain(f"/proc/self/fd/{memory}")
    finally:
        os.close(memory)
