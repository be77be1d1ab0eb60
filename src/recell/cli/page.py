"""recell page"""

from __future__ import annotations

import json
from pathlib import Path

import click

from recell.cli.desk import options
from recell.errors import BadInput


@click.command("page")
@options
@click.option(
    "--requests",
    type=click.Path(path_type=Path, dir_okay=False),
    help="What users get: the file that the probe writes. [default: requests.jsonl beside the others]",
)
@click.option(
    "--listen",
    default="127.0.0.1:8640",
    show_default=True,
    metavar="HOST:PORT",
    help="Where the page is served; port 0 takes a free one.",
)
@click.option(
    "--allow-others",
    is_flag=True,
    help="Listen on an address that other machines reach. The page has no password.",
)
def command(
    directory: Path, as_json: bool, requests: Path | None, listen: str, allow_others: bool
) -> None:
    """Show a conversion in a browser as it happens. Read-only, needs no network.

    Shows the deployment before, now and wanted, the steps, and what users wait. Everything comes
    from the files in --dir, so it may be started, stopped and reloaded at any time.
    """
    # The web server is of no use to the other commands, which start faster without it.
    from recell.web.serve import bound, is_local, serve

    host, port = _address(listen)
    if not is_local(host) and not allow_others:
        raise BadInput(
            f"{host} can be reached by other machines, and the page has no password",
            "Leave --listen away and tunnel (ssh -L 8640:127.0.0.1:8640 HOST), or add --allow-others",
        )
    if not directory.is_dir():
        raise BadInput(f"there is no directory {directory}", "Name the conversion's with --dir")
    listener = bound(host, port)
    port = listener.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{port}/"
    if as_json:
        click.echo(json.dumps({"url": url, "directory": str(directory), "local": is_local(host)}))
    else:
        click.echo(f"{url}  (Ctrl-C ends it)")
    if not is_local(host):
        click.echo("recell: warning: whoever reaches this address can read the page", err=True)
    serve(directory, requests, listener, host)


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise BadInput(f"--listen {text} is not HOST:PORT", "Write it like 127.0.0.1:8640")
    return host.strip("[]"), int(port)
