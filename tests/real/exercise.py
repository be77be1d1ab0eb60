"""What users of a cloud do with it, all of it, once: each must work before and after a conversion."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.real.clouds import Api, wait_until


def exercise(api: Api, mark: str) -> None:
    """Boot, stop, start, reboot, resize, cold and live migration, server group, delete."""
    together(api, mark, power, resize, migrate, group)


def together(api: Api, mark: str, *jobs: Callable[[Api, str], None]) -> None:
    with ThreadPoolExecutor(len(jobs)) as pool:
        for done in [pool.submit(job, api, f"{mark}-{job.__name__}") for job in jobs]:
            done.result()


def power(api: Api, name: str) -> None:
    uuid = api.boot(name)
    api.settle(uuid, "ACTIVE")
    for action, body, status in (
        ("os-stop", None, "SHUTOFF"),
        ("os-start", None, "ACTIVE"),
        ("reboot", {"type": "SOFT"}, "ACTIVE"),
        ("reboot", {"type": "HARD"}, "ACTIVE"),
    ):
        api.act(uuid, action, body)
        api.settle(uuid, status)
    api.delete(uuid)


def resize(api: Api, name: str) -> None:
    flavors = {f["name"]: f["id"] for f in api.call("GET", "/flavors")["flavors"]}
    uuid = api.boot(name)
    api.settle(uuid, "ACTIVE")
    api.act(uuid, "resize", {"flavorRef": flavors["m1.small"]})
    api.settle(uuid, "VERIFY_RESIZE")
    api.act(uuid, "revertResize")
    api.settle(uuid, "ACTIVE")
    api.act(uuid, "resize", {"flavorRef": flavors["m1.small"]})
    api.settle(uuid, "VERIFY_RESIZE")
    api.act(uuid, "confirmResize")
    api.settle(uuid, "ACTIVE")
    api.delete(uuid)


def migrate(api: Api, name: str) -> None:
    uuid = api.boot(name)
    first = api.settle(uuid, "ACTIVE")["OS-EXT-SRV-ATTR:host"]
    api.act(uuid, "migrate", {"host": None})
    second = api.settle(uuid, "VERIFY_RESIZE")["OS-EXT-SRV-ATTR:host"]
    assert second != first
    api.act(uuid, "confirmResize")
    api.settle(uuid, "ACTIVE")
    api.act(uuid, "os-migrateLive", {"host": None, "block_migration": "auto"})
    third = wait_until(
        "live migration",
        lambda: (
            api.settle(uuid, "ACTIVE")["OS-EXT-SRV-ATTR:host"] != second
            and api.show(uuid)["OS-EXT-SRV-ATTR:host"]
        ),
        120,
    )
    assert third != second
    api.delete(uuid)


def group(api: Api, name: str) -> None:
    made = api.call("POST", "/os-server-groups", {"server_group": {"name": name, "policy": "anti-affinity"}})
    hints = {"group": made["server_group"]["id"]}
    uuids = [api.boot(f"{name}-{n}", hints=hints) for n in range(2)]
    hosts = {api.settle(u, "ACTIVE")["OS-EXT-SRV-ATTR:host"] for u in uuids}
    assert len(hosts) == 2, "anti-affinity puts them on two hosts"
    api.delete(*uuids)
    api.call("DELETE", f"/os-server-groups/{hints['group']}")
