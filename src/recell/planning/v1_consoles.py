"""Consoles of users who change over to an API cell, or on to cells v2, as far as HAProxy stands before them.

A console's token is known to the cell that nova-api gave it in, so whoever opens a console has to meet a
proxy of that cell. Nobody has to wait for that: new connections are led to the other proxies right after
nova-api's requests are, and those that are open stay where they are until their proxy goes off. No I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from recell.model.deployment import CONSOLES, Deployment, NovaService, ProxyBackendServer, Role
from recell.model.plan import Acts
from recell.planning.draft import Draft
from recell.planning.v1_names import numeric


class Consoles:
    """``today``: console proxies that serve; ``then``: by role, hosts of those that will. ``named``: whose
    they are; ``mark``: what their servers' names in HAProxy end with."""

    def __init__(
        self, deployment: Deployment, today: Sequence[NovaService], then: Mapping[Role, Sequence[str]],
        named: str, mark: str,
    ) -> None:  # fmt: skip
        self._deployment, self._then = deployment, then
        self._named, self._mark = named, mark
        self._today = tuple(s for s in today if s.role in CONSOLES)
        roles = {(s.host, s.unit): s.role for s in self._today}
        found: dict[tuple[str, str], list[ProxyBackendServer]] = {}
        for p in deployment.proxies:
            if (p.host, p.unit) in roles:
                found.setdefault((p.proxy, p.backend), []).append(p)
        self._led = {
            key: (roles[mine[0].host, mine[0].unit], mine)
            for key, mine in sorted(found.items())
            if then.get(roles[mine[0].host, mine[0].unit])
        }

    def _added(self, role: Role, mine: Sequence[ProxyBackendServer]) -> list[list[object]]:
        """(name, address, port): the port is today's, for both have the same configuration of it."""
        port = int(mine[0].address.rpartition(":")[2])
        return [[f"{h}-{self._mark}", numeric(self._deployment.host(h)), port] for h in self._then[role]]

    def _moves(self) -> dict[tuple[str, str], list[list[object]]]:
        """What has to be led: not where the same addresses serve afterwards."""
        moves = {}
        for key, (role, mine) in self._led.items():
            added = self._added(role, mine)
            if {(str(a), str(p)) for _, a, p in added} != {_door(p.address) for p in mine}:
                moves[key] = added
        return moves

    def beside(self, draft: Draft) -> None:
        """HAProxy has the other proxies, and nobody is led there."""
        for (proxy, backend), added in self._moves().items():
            draft.add(
                f"{proxy}/{backend}-servers",
                "v1-servers",
                proxy,
                f"teach HAProxy to lead {backend} to consoles of {self._named}; nobody is led there yet",
                notice="nothing: HAProxy reloads, and connections that are open go on",
                undone="HAProxy's configuration is as it was",
                estimate=5,
                backend=backend,
                added=added,
                holds=False,
            )

    def back(self, draft: Draft) -> None:
        """On undo, once nova-api's requests are back: so this stands before their switch."""
        self._lead(draft, "-back", "backward", lambda b: f"lead {b} to the consoles of before (on undo)")

    def over(self, draft: Draft) -> None:
        self._lead(draft, "", "forward", lambda b: f"lead {b} to consoles of {self._named}")

    def _lead(self, draft: Draft, end: str, acts: Acts, title: Callable[[str], str]) -> None:
        for proxy, backend in self._moves():
            draft.add(
                f"{proxy}/{backend}-consoles{end}",
                "v1-consoles",
                proxy,
                title(backend),
                notice="open consoles go on; a URL that was given before and not opened yet has to be"
                " asked for again",
                undone="(led back by another step)" if acts == "forward" else "(acts on undo only)",
                acts=acts,
                estimate=2,
                backend=backend,
            )

    def remarks(self) -> list[str]:
        """What is left to others."""
        out = []
        led = {(p.host, p.unit) for _, mine in self._led.values() for p in mine}
        away = sorted({s.unit for s in self._today if not self._then.get(s.role)})
        if away:
            out.append(
                f"{self._named} has no {', '.join(away)} of its own: these consoles are away until one is"
                " installed there."
            )
        bare = [s for s in self._today if self._then.get(s.role) and (s.host, s.unit) not in led]
        apart = [s for s in bare if s.host not in self._then[s.role]]
        if apart:
            here = ", ".join(f"{s.unit} on {s.host}" for s in apart)
            there = ", ".join(sorted({h for s in apart for h in self._then[s.role]}))
            options = " and ".join(sorted({_OPTIONS[s.role] for s in apart}))
            out.append(
                f"{here}: behind no HAProxy of the inventory. Where {options} of computes leads there, "
                f"consoles have to be led to {there} by other means once users are."
            )
        return out


def _door(address: str) -> tuple[str, str]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), port


_OPTIONS: dict[Role, str] = {
    "novncproxy": "[vnc] novncproxy_base_url",
    "spicehtml5proxy": "[spice] html5proxy_base_url",
    "serialproxy": "[serial_console] base_url",
}
"""Of nova-compute: where users find a console. Older releases have the first two in other places."""
