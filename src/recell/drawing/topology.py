"""A deployment as a picture: levels and cells, each with its broker, database, services, computes.

Drawn 340 units wide, so that it reads on a phone as it is and stands beside others on a desk.
Hundreds of computes are a field of small squares with a count; their names are in the list below.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from recell.drawing.words import count, database, esc, many, natural, shortened
from recell.model.measure import Topology, TopologyGroup, TopologyService

WIDTH = 340
_PAD = 14
_INNER = WIDTH - 2 * _PAD
_CHAR = 6.4  # of 12 px text, on the generous side: fonts differ
_GAP = 26  # between groups, for the cell mapping's line
_TILES_SHOWN = 1500
_FILE_STYLE = """
.ground { fill: var(--bg); }
.head { font-size: 14px; font-weight: 650; }
.turn { fill: none; stroke: var(--soft); stroke-width: 2; stroke-linecap: round; stroke-linejoin: round; }
"""
_SINGULAR = {"api": "nova-api", "metadata": "metadata", "compute": "nova-compute"}


@dataclass(frozen=True)
class _Pill:
    x: float
    y: float
    width: float
    service: TopologyService
    text: str


def describe(groups: Topology) -> str:
    """The picture in words, for those who don't see it."""
    parts = []
    for g in groups:
        inside = [
            f"{_name(s.role)} on {many(len(s.hosts), 'host')}"
            + (f", {len(s.moving)} of them being moved" if s.moving else "")
            for s in g.services
        ]
        if g.computes:
            inside.append(many(len(g.computes), "compute"))
        parts.append(
            f"{g.name}: RabbitMQ {g.broker or 'unknown'}, database {database(g.database) or 'unknown'}, "
            + ("; ".join(inside) if inside else "no service yet")
        )
    return ". ".join(parts) + "."


def draw_topology(groups: Topology, title: str) -> Markup:
    """An SVG of the groups, one below the other, joined by the cell mapping."""
    body, height = _column(groups)
    return Markup(
        '<svg class="topology" viewBox="-1 -1 {} {:.0f}" role="img" aria-label="{}">{}</svg>'
    ).format(WIDTH + 2, height + 2, f"{title}. {describe(groups)}", body)


def draw_change(before: Topology, after: Topology, style: str) -> Markup:
    """A whole SVG file of two topologies beside each other. ``style``: the stylesheet, which it carries."""
    (left, one), (right, other) = _column(before), _column(after)
    top, apart = 34, 64
    width, height = 2 * WIDTH + apart + 32, top + max(one, other) + 16
    arrow = Markup('<path class="turn" d="M{} {}h30m-8 -7l8 7l-8 7"/>').format(
        16 + WIDTH + 17, top + min(one, other) / 2
    )
    # The sheet is ours and holds no markup; CDATA keeps its selectors as they are.
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h:.0f}" width="{w}" height="{h:.0f}"'
        ' font-family="system-ui, sans-serif" role="img" aria-label="{label}">'
        "<style><![CDATA[{style}]]></style>"
        '<rect class="ground" width="{w}" height="{h:.0f}" rx="14"/>'
        '<text class="head" x="30" y="24">before</text><text class="head" x="{there}" y="24">after</text>'
        '<g class="topology" transform="translate(16 {top})">{left}</g>{arrow}'
        '<g class="topology" transform="translate({at} {top})">{right}</g></svg>\n'
    ).format(
        w=width, h=height, label=f"Before: {describe(before)} After: {describe(after)}",
        style=Markup(style + _FILE_STYLE),  # noqa: S704  # our own stylesheet
        there=16 + WIDTH + apart + 14, top=top, left=left, arrow=arrow, at=16 + WIDTH + apart, right=right,
    )  # fmt: skip


def _column(groups: Topology) -> tuple[Markup, float]:
    """The groups one below the other, and how high they are."""
    y, body = 0.0, []
    for number, group in enumerate(groups):
        if number:
            body.append(_joint(y))
            y += _GAP
        piece, height = _group(group, y)
        body.append(piece)
        y += height
    return Markup("").join(body), y


def draw_hosts(groups: Topology, key: str, *, opened: bool = False) -> Markup:
    """Every host by name, folded away. ``key`` names the list, so that a reload keeps it open."""
    everyone = {h for g in groups for h in (*g.computes, *(h for s in g.services for h in s.hosts))}
    rows: list[Markup] = []
    for g in groups:
        rows.append(Markup("<dt class=level>{}</dt><dd>{}</dd>").format(esc(g.name), _level(g)))
        services = (*g.services, *((TopologyService("compute", g.computes),) if g.computes else ()))
        for s in services:
            rows.append(
                Markup("<dt>{} <span class=soft>{}</span></dt><dd>{}</dd>").format(
                    esc(_name(s.role)), count(len(s.hosts)), esc(", ".join(natural(s.hosts)))
                )
            )
    return Markup(
        '<details class="hosts" data-key="{}"{}><summary>Hosts by name ({})</summary><dl>{}</dl></details>'
    ).format(key, Markup(" open") if opened else "", count(len(everyone)), Markup("").join(rows))


def _level(g: TopologyGroup) -> Markup:
    return esc(f"RabbitMQ {g.broker or '–'} · {database(g.database) or '–'}")


def _name(role: str) -> str:
    return _SINGULAR.get(role, role)


def _joint(y: float) -> Markup:
    middle = WIDTH / 2
    return Markup(
        '<path class="joint" d="M{m} {a}V{b}"/><text class="small" x="{t}" y="{c}">cell mapping</text>'
    ).format(m=middle, a=y, b=y + _GAP, t=middle + 8, c=y + _GAP / 2 + 4)


def _group(group: TopologyGroup, top: float) -> tuple[Markup, float]:
    parts: list[Markup] = []
    name = shortened(group.name, 18)
    base = shortened(database(group.database), 30) or "–"
    width = len(base) * 6.8
    parts.append(
        Markup(
            '<text class="name" x="{x}" y="{y}">{name}</text>'
            '<text class="small" x="{r}" y="{y}" text-anchor="end">{base}</text>{icon}'
        ).format(
            x=_PAD,
            y=top + 23,
            r=WIDTH - _PAD,
            name=esc(name),
            base=esc(base),
            icon=_cylinder(WIDTH - _PAD - width - 15, top + 12),
        )
    )
    pills, y = _pills(group.services, top + 36)
    bus = y + 16
    parts.extend(_stub(p, bus) for p in pills)
    parts.extend(_pill(p) for p in pills)
    if not group.services:
        parts.append(
            Markup('<text class="small" x="{}" y="{}">no service yet</text>').format(_PAD, top + 52)
        )
    parts.append(_bus(group.broker, bus))
    y = bus + 28
    if group.computes:
        field, y = _field(group, y)
        parts.append(field)
    height = y + 12 - top
    card = Markup('<rect class="card" x="0" y="{}" width="{}" height="{:.1f}" rx="12"/>').format(
        top, WIDTH, height
    )
    return card + Markup("").join(parts), height


def _pills(services: Sequence[TopologyService], y: float) -> tuple[list[_Pill], float]:
    """Set like words on lines."""
    x, out = float(_PAD), []
    for s in services:
        text = f"{_name(s.role)} × {count(len(s.hosts))}"
        if s.moving:
            text += f", {len(s.moving)} moving"
        width = min(_INNER, len(text) * _CHAR + 20)
        if x > _PAD and x + width > _PAD + _INNER:
            x, y = float(_PAD), y + 30
        out.append(_Pill(x, y, width, s, text))
        x += width + 6
    return out, y + 24


def _pill(p: _Pill) -> Markup:
    return Markup(
        '<g class="pill{}"><title>{}</title><rect x="{:.1f}" y="{}" width="{:.1f}" height="24" rx="12"/>'
        '<text x="{:.1f}" y="{}" text-anchor="middle">{}</text></g>'
    ).format(
        " moving" if p.service.moving else "",
        esc(f"{_name(p.service.role)}: {', '.join(natural(p.service.hosts)[:40])}"),
        p.x,
        p.y,
        p.width,
        p.x + p.width / 2,
        p.y + 16.5,
        esc(p.text),
    )


def _stub(p: _Pill, bus: float) -> Markup:
    return Markup('<path class="wire" d="M{:.1f} {}V{}"/>').format(p.x + p.width / 2, p.y + 24, bus)


def _bus(broker: str, y: float) -> Markup:
    text = shortened(f"RabbitMQ  {broker or '–'}", 42)
    return Markup(
        '<g class="bus"><title>RabbitMQ {}</title><rect x="{}" y="{}" width="{}" height="28" rx="6"/>'
        '<text x="{}" y="{}" text-anchor="middle">{}</text></g>'
    ).format(esc(broker), _PAD, y, _INNER, WIDTH / 2, y + 18.5, esc(text))


def _cylinder(x: float, y: float) -> Markup:
    return Markup(
        '<path class="base" d="M{x:.1f} {y}v8.5c0 3.4 11 3.4 11 0v-8.5c0-3.4-11-3.4-11 0c0 3.4 11 3.4 11 0"/>'
    ).format(x=x, y=y + 2)


def _field(group: TopologyGroup, y: float) -> tuple[Markup, float]:
    """The computes: a square each, as large as their number allows, and how many there are."""
    total = len(group.computes)
    each = 1 if total <= _TILES_SHOWN else -(-total // _TILES_SHOWN)
    size, gap = next((s, g) for limit, s, g in ((44, 15, 4), (240, 9, 3), (10**9, 5, 2)) if total <= limit)
    per_line = int((_INNER + gap) // (size + gap))
    label = many(total, "compute")
    if group.through:
        label += f", {count(len(group.through))} through" if len(group.through) < total else ", all through"
    if each > 1:
        label += f" (a square stands for {each})"
    through = set(group.through)
    names = natural(group.computes)[::each]
    wires = Markup('<path class="wire" d="M{} {}v12"/>').format(WIDTH / 2, y)
    text = Markup('<text class="small" x="{}" y="{}">{}</text>').format(_PAD, y + 18, esc(label))
    plain: list[str] = []
    done: list[str] = []
    top = y + 27
    for i, name in enumerate(names):
        line, column = divmod(i, per_line)
        at = f"M{_PAD + column * (size + gap)} {top + line * (size + gap):g}h{size}v{size}h-{size}z"
        (done if name in through else plain).append(at)
    lines = -(-len(names) // per_line)
    squares = Markup('<path class="host" d="{}"/><path class="host through" d="{}"/>').format(
        "".join(plain), "".join(done)
    )
    return wires + text + squares, top + lines * (size + gap) - gap
