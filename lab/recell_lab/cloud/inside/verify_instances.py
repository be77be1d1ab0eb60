"""`nova-manage cell_v2 verify_instance` of many instances in one process: it takes seconds to begin at all.

Reads a uuid a line; answers each with a line: the uuid and what the command would end with. 0: all is well.
"""

from __future__ import annotations

import sys

import nova.conf
from nova import config, objects
from nova.cmd import manage

CONF = nova.conf.CONF


def main() -> None:
    # As nova-manage's own main() does before it runs a command.
    CONF.register_cli_opts([manage.category_opt, manage.post_mortem_opt])
    config.parse_args(["nova-manage", "cell_v2", "list_cells"])
    objects.register_all()
    commands = manage.CellV2Commands()
    for line in sys.stdin:
        uuid = line.strip()
        print(uuid, commands.verify_instance(uuid, quiet=True))


if __name__ == "__main__":
    main()
