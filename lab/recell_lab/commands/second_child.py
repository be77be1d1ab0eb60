"""recell-lab second-child."""

from __future__ import annotations

import json
import time

import click

from recell_lab import children, lab, state
from recell_lab.cloud import identity, layout, ready, second, topology
from recell_lab.cloud.novaconf import nova_conf
from recell_lab.cloud.passwords import Passwords
from recell_lab.cloud.rest import Session, answers
from recell_lab.cloud.topology import Cloud, public_url
from recell_lab.errors import LabError
from recell_lab.hosts import Host

CONF = "/etc/nova/nova.conf"
TIMEOUT = 180.0
MANAGE_TIMEOUT = 300


@click.command()
@click.option("--empty", is_flag=True, help="Delete all that it has instead, before it is taken off again.")
def command(empty: bool) -> None:
    """Make the second Nova ready to be added to the tree of cells v1: it builds one guest by itself, which is
    deleted; then its conductor gets the tree's API database, which maps its cell, disabled, and its hosts."""
    if empty:
        children.empty(click.echo)
        return
    cloud, passwords = there()
    controller = lab.host(cloud.second_controllers[0].name)
    wanted = nova_conf(controller.spec, cloud, passwords, joined=True)
    if controller.run(["cat", CONF]).stdout.decode() == wanted:
        click.echo(f"{controller.spec.name} has the tree's API database already")
        return
    took = build_one(controller.spec.ip, Session("demo", passwords.user_demo, identity.PROJECT))
    click.echo(f"{second.CELL} by itself: a guest was built in {took:.1f} s, and deleted")
    join(controller, wanted)
    click.echo(f"{controller.spec.name} has the tree's API database, which maps {second.CELL} and its hosts")


def there() -> tuple[Cloud, Passwords]:
    """The lab's cloud. Raises LabError when it has no second Nova."""
    facts = state.load().facts
    if not facts.get("second"):
        raise LabError("this lab has no second Nova; `recell-lab up --nova 19 --second-child` makes one")
    roles = [host.spec.role for host in lab.all_hosts()]
    cloud = Cloud.of(
        str(facts["nova"]), roles.count("controllers"), roles.count("computes"), second=True
    )
    secrets = json.loads((state.STATE_DIR / "secrets.json").read_text())
    return cloud, Passwords(**secrets["passwords"])


def build_one(ip: str, user: Session) -> float:
    """A guest through this controller's own nova-api, until it is gone again. Seconds that its build took."""
    nova = f"http://{ip}:{topology.PORTS['nova-api']}/v2.1"
    images = user.call("GET", public_url("glance-api", "/v2/images"))["images"]
    image = next(one["id"] for one in images if one["name"] == identity.IMAGE)
    server = {"name": "by-itself", "imageRef": image, "flavorRef": "1", "networks": "none"}
    began = time.monotonic()
    made = user.call("POST", f"{nova}/servers", {"server": server}, headers=children.MICROVERSION)
    url = f"{nova}/servers/{made['server']['id']}"

    def status() -> str:
        found = user.call("GET", url, headers=children.MICROVERSION, good=(200, 404))
        return str(found.get("server", {}).get("status", "gone"))

    ready.wait("the second Nova builds a guest", lambda: status() in ("ACTIVE", "ERROR"), TIMEOUT)
    took = time.monotonic() - began
    if status() != "ACTIVE":
        raise LabError("the second Nova can't build a guest by itself; see its nova-conductor.log")
    user.call("DELETE", url, headers=children.MICROVERSION)
    ready.wait("the second Nova deletes a guest", lambda: status() == "gone", TIMEOUT)
    return took


def join(controller: Host, conf: str) -> None:
    """Its nova.conf names the tree's API database, which learns of it; its services begin anew."""
    # The file stays the same one: so do its owner and its mode.
    controller.run(["sh", "-c", f"cat > {CONF}"], input=conf.encode())
    manage = ["nova-manage", "cell_v2"]
    create = [*manage, "create_cell", "--name", second.CELL, "--disabled", "--verbose"]
    cell = controller.run(create, user="nova", timeout=MANAGE_TIMEOUT).stdout.decode().split()[-1]
    discover = [*manage, "discover_hosts", "--by-service", "--cell_uuid", cell]
    controller.run(discover, user="nova", timeout=MANAGE_TIMEOUT)
    cloud, passwords = there()
    units = layout.part_of(controller.spec, cloud, passwords).units
    controller.run(["systemctl", "restart", *units], timeout=TIMEOUT)
    url = f"http://{controller.spec.ip}:{topology.PORTS['nova-api']}/"
    ready.wait("the second Nova's nova-api answers", lambda: answers(url), TIMEOUT)
    database = lab.host(topology.SECOND_DATABASE.name)
    ready.wait("the second Nova reports", lambda: not second.missing(cloud, database), TIMEOUT)
