"""recell verify"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click

from recell.adapters.ports import World
from recell.cli.desk import Desk, engine_for, options, world_of
from recell.errors import RecellError, VerifyFailed
from recell.journal import position
from recell.preflight import consistency
from recell.steps import Context, bind

PROOFS = ("prove", "v1-prove", "v1-join")
"""Steps that are proofs alone. Those of cells v1 enter databases with recell's own account, which finish
takes away."""


@click.command("verify", short_help="Prove, read-only, that all is as the journal says.")
@options
def command(directory: Path, as_json: bool) -> None:
    """Prove, read-only, that the deployment is what the journal says: each file, unit, mapping and
    record; every instance mapped to the cell that holds it; placement without orphans. After a conversion
    to cells v1, until it is finished: both sides agree on every instance. nova-cells can turn two updates
    round on their way up, also of what users do now; what differs is named, with what mends it.

    \b
    Exit code: 0   every proof holds
               12  one does not; it is said which
    """
    desk = Desk(directory)
    plan = desk.plan()
    journal = desk.journal(read_only=True)
    try:
        journal.belongs_to(plan.digest)
        where = position(plan, journal)
        proofs: list[tuple[str, str]] = []
        wrong: list[str] = []

        def prove(name: str, proof: Callable[[], str]) -> None:
            try:
                proofs.append((name, proof()))
            except RecellError as error:
                wrong.append(f"{name}: {error}")

        with world_of(desk.deployment()) as world:
            if where in ("applied", "finished"):
                prove("steps", lambda: _confirmed(desk, plan, journal, world))
            toward = "backward" if where == "undone" else "forward"
            if where in ("applied", "finished", "undone"):
                context = Context(world, journal, plan.id, plan.fingerprints, desk.limits())
                kinds = PROOFS if where == "applied" else PROOFS[:1]
                for step in bind(plan, context):
                    if step.kind in kinds and step.spec.acts == toward:
                        prove(step.id, lambda s=step: s.verify(toward))  # type: ignore[misc]
            for name, proof in consistency.proofs_of(desk.deployment()):
                prove(name, lambda p=proof: p(world, desk.deployment()))  # type: ignore[misc]
    finally:
        journal.close()
    if as_json:
        click.echo(json.dumps({"position": where, "proofs": dict(proofs), "wrong": wrong}, indent=1))
    else:
        for name, said in proofs:
            click.echo(f"ok   {name}: {said}")
        for line in wrong:
            click.echo(f"BAD  {line}")
    if wrong:
        raise VerifyFailed(
            f"{len(wrong)} of {len(wrong) + len(proofs)} proofs do not hold",
            "Each says above what it found: mend that, then ask again",
        )


def _confirmed(desk: Desk, plan: object, journal: object, world: World) -> str:
    engine_for(desk, plan, journal, world).confirm()  # type: ignore[arg-type]
    return "every lasting step still holds"
