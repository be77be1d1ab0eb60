"""``report.json`` for scripts and ``report.html`` for people, both from one measurement."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recell.model.measure import Measurement
from recell.report.page import render


def document(measurement: Measurement) -> dict[str, Any]:
    """What report.json holds: the same keys for every kind of run, null where not applicable."""
    def figures(part: Any) -> dict[str, Any] | None:
        return None if part is None else asdict(part)

    content: dict[str, Any] = _rounded({
        "kind": measurement.kind,
        "outcome": measurement.outcome,
        "window": asdict(measurement.window),
        "api": figures(measurement.api),
        "operations": figures(measurement.operations),
        "guests": figures(measurement.guests),
        "rows": figures(measurement.rows),
        "freeze_s": measurement.freeze_s,
        "hold": [asdict(part) for part in measurement.hold],
        "duration_s": measurement.duration_s,
        "steps": [
            {"name": s.id, "seconds": s.seconds, "attempts": s.attempts, "title": s.title,
             "verified": s.verified}
            for s in measurement.steps],
        "versions": dict(measurement.versions),
        "remarks": list(measurement.remarks),
    })
    return content


def write_report(directory: Path, measurement: Measurement) -> tuple[Path, Path]:
    """Write both files into ``directory`` (made if need be); gives their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    data = directory / "report.json"
    page = directory / "report.html"
    _replace(data, json.dumps(document(measurement), indent=1) + "\n")
    _replace(page, render(measurement))
    return data, page


def _replace(path: Path, text: str) -> None:
    """Whole or not at all: a reader never sees half a report."""
    fresh = path.with_name(f".{path.name}.new")
    with fresh.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(v) for v in value]
    return value
