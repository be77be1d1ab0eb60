"""The unit files of the services that come from PyPI, like those of a distribution's packages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

SERVICE = """\
[Unit]
Description={description}
After=network-online.target{after}
Wants=network-online.target

[Service]
Type={type}
User={user}
Group={user}
{environment}ExecStart={command}
Restart=on-failure
RestartSec=2
TimeoutStartSec=180
TimeoutStopSec={stop}
KillMode=mixed
LimitNOFILE=8192

[Install]
WantedBy=multi-user.target
"""

# Debian's figure for Nova's services. It is shorter than manager_shutdown_timeout's default.
STOP_TIMEOUT = 65


def service(
    description: str,
    user: str,
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    after: Sequence[str] = (),
    type: str = "simple",
) -> str:
    """The text of a service's unit file; command is an argv without blanks in it."""
    variables = [f"Environment={name}={value}\n" for name, value in (environment or {}).items()]
    return SERVICE.format(
        description=description,
        after="".join(f" {unit}" for unit in after),
        type=type,
        user=user,
        environment="".join(variables),
        command=" ".join(command),
        stop=STOP_TIMEOUT,
    )


# A guest: a process with the guest's name, in a unit of its own, so that it outlives nova-compute.
GUEST = """\
[Unit]
Description=Guest %i
CollectMode=inactive-or-failed

[Service]
Type=exec
User=nova
Slice=machine.slice
ExecStart=@/usr/bin/sleep guest-%i infinity
SuccessExitStatus=SIGKILL
"""

# nova-compute is nobody who may start units; it asks here, as it would ask libvirtd.
RUNNER_SOCKET = """\
[Unit]
Description=Starts guests for nova-compute

[Socket]
ListenStream=/run/guest-runner.sock
SocketUser=nova
SocketMode=0600
Accept=yes
MaxConnections=64

[Install]
WantedBy=sockets.target
"""
RUNNER = """\
[Unit]
Description=Starts a guest for nova-compute
CollectMode=inactive-or-failed

[Service]
ExecStart=/usr/libexec/guest-runner
StandardInput=socket
StandardOutput=socket
StandardError=journal
"""
RUNNER_SCRIPT = """\
#!/bin/sh
# Reads a guest's uuid, starts it and answers with its process id.
read -r uuid || exit 0
case "$uuid" in "" | *[!0-9a-f-]*) exit 1 ;; esac
# Not `start`: systemd may not have noticed yet that the guest's former process is dead.
systemctl restart "guest@$uuid.service" || exit 1
systemctl show --property=MainPID --value "guest@$uuid.service"
"""
