"""Make flavors from JSON on stdin: [[name, vcpus, memory MiB, disk GiB, flavorid], ...].

Runs on a host with [api_database] in its nova.conf, before there is any nova-api to ask.
"""

from __future__ import annotations

import json
import sys

from nova import config, context, exception, objects, rpc


def main() -> int:
    """Make those that do not exist."""
    config.parse_args(["nova-manage"])
    # Older releases announce each flavor, on brokers that need not run yet.
    config.CONF.set_override("driver", ["noop"], "oslo_messaging_notifications")
    rpc.cleanup()
    rpc.init(config.CONF)
    objects.register_all()
    admin = context.get_admin_context()
    for name, vcpus, memory_mb, disk_gb, flavorid in json.load(sys.stdin):
        flavor = objects.Flavor(
            admin,
            name=name,
            vcpus=vcpus,
            memory_mb=memory_mb,
            root_gb=disk_gb,
            ephemeral_gb=0,
            swap=0,
            rxtx_factor=1.0,
            flavorid=flavorid,
            is_public=True,
            disabled=False,
            extra_specs={},
        )
        try:
            flavor.create()
        except (exception.FlavorExists, exception.FlavorIdExists):
            print(f"flavor {name} exists")
    return 0


if __name__ == "__main__":
    sys.exit(main())
