"""Queues that nobody reads, or not fast enough. Two looks, some seconds apart."""

from __future__ import annotations

from collections.abc import Iterator

from recell.model.health import Diagnosis, Facts, QueueFacts

MANY = 10_000
BEHIND = 200
"""Unread messages from which a queue with consumers counts as behind."""
SPARE = "_fanout_recell"
"""The queue of one message that recell leaves on a cell's broker so that an exchange stays."""


def _pairs(facts: Facts) -> Iterator[tuple[QueueFacts, QueueFacts]]:
    before = {(q.broker, q.vhost, q.name): q for q in facts.first.queues}
    for q in facts.second.queues:
        first = before.get((q.broker, q.vhost, q.name))
        if first and not q.name.endswith(SPARE):
            yield first, q


def unread(facts: Facts) -> Iterator[Diagnosis]:
    """Messages, and no consumer at either look. Replies and fanouts of the dead expire by themselves."""
    for first, q in _pairs(facts):
        passing = q.name.startswith("reply_") or "_fanout_" in q.name
        if first.consumers or q.consumers or not (first.ready and q.ready) or passing:
            continue
        grows = q.ready > first.ready
        yield Diagnosis(
            f"queue:unread:{q.broker}:{q.name}",
            "error" if grows or q.ready > MANY else "warning",
            q.broker,
            f"{q.name} has {q.ready} messages and no consumer"
            + (f"; it grew by {q.ready - first.ready} while it was watched" if grows else ""),
            _why(q),
            "Start its consumer; if it has none by design, stop who publishes"
            + (f" ({_silence(q)})" if _notes(q) else "")
            + f", then rabbitmqctl purge_queue {q.name}",
        )


def _notes(q: QueueFacts) -> bool:
    return "notifications" in q.name


def _silence(q: QueueFacts) -> str:
    """Up to Stein Nova sends each notification twice unless told otherwise, and few read both."""
    if q.name.startswith("versioned_"):
        return "[notifications] notification_format = unversioned"
    return "[oslo_messaging_notifications] driver = noop"


def _why(q: QueueFacts) -> str:
    if _notes(q):
        return "Notifications that nobody reads fill the broker's memory until it blocks all of Nova"
    if q.name.startswith("compute."):
        return "What users asked of that compute waits, and is done or lost when it comes back"
    return "Casts wait there for a service that does not run; calls to it have timed out"


def behind(facts: Facts) -> Iterator[Diagnosis]:
    for first, q in _pairs(facts):
        if q.consumers and first.ready >= BEHIND and q.ready > first.ready:
            yield Diagnosis(
                f"queue:behind:{q.broker}:{q.name}",
                "warning",
                q.broker,
                f"{q.name} has {q.ready} unread messages and grew by {q.ready - first.ready} while it was"
                " watched",
                "Its consumers are slower than its senders: calls through it time out after 60 s",
                "Add workers of that service, or see what blocks it (database, locks)",
            )


RULES = (unread, behind)
