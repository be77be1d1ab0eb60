"""The passwords of a cloud: all random, all different, so that a leaked one can be told."""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from recell_lab.errors import LabError
from recell_lab.state import write_private

LENGTH = 24  # bytes, twice as many characters


@dataclass(frozen=True)
class Passwords:
    """Every secret there is. db_*: MariaDB; mq_*: RabbitMQ; user_*: Keystone."""

    db_nova: str
    db_keystone: str
    db_placement: str
    db_glance: str
    db_neutron: str
    mq_nova: str
    mq_neutron: str
    mq_nova_api: str  # of user nova on the second, empty RabbitMQ
    db_nova_second: str  # of the second Nova
    mq_nova_second: str
    cookie: str
    cookie_api: str
    user_admin: str
    user_demo: str
    user_nova: str
    user_placement: str
    user_glance: str
    user_neutron: str
    metadata_secret: str

    @classmethod
    def random(cls) -> Passwords:
        """New ones."""
        return cls(**{field.name: secrets.token_hex(LENGTH) for field in fields(cls)})

    @classmethod
    def load(cls, path: Path) -> Passwords:
        """Read those that save wrote. Raises LabError when the file is not one of them."""
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise LabError(f"{path} cannot be read; remove its directory ({error})") from error

    def save(self, path: Path) -> None:
        """Write them, readable by the owner only."""
        write_private(path, json.dumps(asdict(self), indent=2) + "\n")
