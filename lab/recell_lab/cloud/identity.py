"""The first entries of Keystone and Glance."""

from __future__ import annotations

from typing import Any

from recell_lab.cloud.passwords import Passwords
from recell_lab.cloud.rest import Session
from recell_lab.cloud.topology import REGION, public_url
from recell_lab.hosts import Host

IMAGE = "guest"
IMAGE_SIZE = 1024 * 1024  # bytes
PROJECT = "demo"

# service type: (name of the endpoint's service, path of its URL, Keystone user of the service, if it has one)
SERVICES = {
    "compute": ("nova-api", "/v2.1", "nova"),
    "placement": ("placement-api", "", "placement"),
    "image": ("glance-api", "", "glance"),
    "network": ("neutron-server", "", "neutron"),
    "volumev3": ("cinder-stand-in", "/v3", ""),
}

# Nova of Pike to Rocky looks for this name, too.
CATALOGUED = {"volumev3": ("cinderv3", "stand-in for OpenStack Block Storage")}

# The password comes on stdin, for an argument could be seen by everybody on the host.
BOOTSTRAP = (
    "read -r OS_BOOTSTRAP_PASSWORD; export OS_BOOTSTRAP_PASSWORD; exec keystone-manage "
    '--config-dir /etc/keystone bootstrap --bootstrap-region-id "$1" '
    '--bootstrap-public-url "$2" --bootstrap-internal-url "$2" --bootstrap-admin-url "$2"'
)


def bootstrap(services: Host, passwords: Passwords) -> None:
    """Make Keystone's admin and its own endpoint."""
    argv = ["sh", "-c", BOOTSTRAP, "sh", REGION, public_url("keystone", "/v3")]
    services.run(argv, user="keystone", input=f"{passwords.user_admin}\n".encode())


def fill(passwords: Passwords) -> None:
    """Make the services' users and endpoints, and the project demo with its user."""
    keystone = public_url("keystone", "/v3")
    admin = Session("admin", passwords.user_admin, "admin")

    def create(kind: str, **body: Any) -> str:
        made = admin.call("POST", f"{keystone}/{kind}s", {kind: body})
        return str(made[kind]["id"])

    roles = {role["name"]: role["id"] for role in admin.call("GET", f"{keystone}/roles")["roles"]}

    def grant(project: str, user: str, *names: str) -> None:
        for name in names:
            if name not in roles:  # Keystone before 2023 has no role for services
                roles[name] = create("role", name=name)
            url = f"{keystone}/projects/{project}/users/{user}/roles/{roles[name]}"
            admin.call("PUT", url)

    service_project = create("project", name="service", domain_id="default")
    for kind, (service, path, user) in SERVICES.items():
        if user:
            password = getattr(passwords, f"user_{user}")
            user_id = create("user", name=user, password=password, domain_id="default")
            grant(service_project, user_id, "admin", "service")
        name, description = CATALOGUED.get(kind, (user, ""))
        service_id = create("service", name=name, type=kind, description=description)
        for interface in ("public", "internal", "admin"):
            create(
                "endpoint",
                service_id=service_id,
                interface=interface,
                region_id=REGION,
                url=public_url(service, path),
            )
    demo_project = create("project", name=PROJECT, domain_id="default")
    demo = create("user", name="demo", password=passwords.user_demo, domain_id="default")
    grant(demo_project, demo, "member", "reader")


def upload_image(passwords: Passwords) -> None:
    """Make the image that guests are booted from."""
    make_image(Session("admin", passwords.user_admin, "admin"), IMAGE)


def make_image(admin: Session, name: str, **properties: str) -> None:
    """Make an image for everybody."""
    glance = public_url("glance-api", "/v2/images")
    about = {
        "name": name,
        "disk_format": "raw",
        "container_format": "bare",
        "visibility": "public",
        "min_disk": 0,
        "min_ram": 0,
        # nova-status upgrade check warns of instances whose image doesn't say.
        "hw_machine_type": "pc",
        **properties,
    }
    image = admin.call("POST", glance, about)
    admin.call(
        "PUT",
        f"{glance}/{image['id']}/file",
        body=bytes(IMAGE_SIZE),
        headers={"Content-Type": "application/octet-stream"},
    )
