"""/etc/nova/nova.conf of a controller and of a compute host, as an operator would have them."""

from __future__ import annotations

from typing import NamedTuple

from recell_lab.cloud import libvirt, topology
from recell_lab.cloud.conffile import Option, Section, option, render
from recell_lab.cloud.passwords import Passwords
from recell_lab.cloud.topology import Cloud
from recell_lab.layer import HostSpec

MEMCACHED = f"{topology.SERVICES.name}:{topology.MEMCACHED_PORT}"
# Whose restart is watched gets a short goodbye; the controllers keep Nova's default of 160 s.
COMPUTE_SHUTDOWN = 5


class Ends(NamedTuple):
    """What a Nova has of its own: its brokers, and its account on its database server."""

    transport_url: str
    user: str
    password: str
    server: HostSpec

    def database(self, cloud: Cloud, name: str) -> str:
        """The URL of its database of that name."""
        return topology.database_url(cloud, self.user, self.password, name, self.server)


def ends_of(host: HostSpec, cloud: Cloud, passwords: Passwords) -> Ends:
    """Of the Nova that a host belongs to."""
    if host in cloud.second:
        user = topology.SECOND_ACCOUNT
        url = topology.transport_url(user, passwords.mq_nova_second, cloud.second_brokers)
        return Ends(url, user, passwords.db_nova_second, topology.SECOND_DATABASE)
    url = topology.transport_url("nova", passwords.mq_nova)
    return Ends(url, "nova", passwords.db_nova, topology.DATABASE)


def nova_conf(host: HostSpec, cloud: Cloud, passwords: Passwords, *, joined: bool = False) -> str:
    """The text of nova.conf of a host, which is a controller or a compute host. joined: a second Nova's
    controller has the first one's API database, as a child of its tree wants it."""
    controller = host.role in ("controllers", "controllers_cell2")
    ends = ends_of(host, cloud, passwords)
    sections = [Section("DEFAULT", _default(host, ends, controller=controller))]
    api = ends_of(cloud.controllers[0], cloud, passwords) if joined else ends
    sections += _controller_sections(cloud, ends, api) if controller else _compute_sections(passwords)
    if host.name == cloud.libvirt:
        kept = [one for one in sections[0].options if one.name != "compute_driver"]
        sections[0] = Section("DEFAULT", [*kept, *libvirt.default_options()])
        sections = [s for s in sections if s.name != "vnc"] + [
            Section("vnc", [option("enabled", "false", "Whether guests have a VNC console.", "true")]),
            *libvirt.sections(),
        ]
    if controller and cloud.cells_v1:
        sections[0] = Section("DEFAULT", [*sections[0].options, *_eventlet_api()])
    sections += _common_sections(passwords, notifies=host not in cloud.second)
    title = (
        f"Configuration of Nova on {host.name}.\n\n"
        "Each option below is explained in its comment; a line that begins with #name is its\n"
        "default. Keep comments when you change values: the next operator needs them too."
    )
    return render(title, sections)


def scheduler_conf(host: HostSpec, cloud: Cloud, passwords: Passwords) -> str:
    """The text of nova-scheduler.conf, which nova-scheduler alone reads after nova.conf: of a second Nova."""
    url = ends_of(host, cloud, passwords).database(cloud, "nova_api")
    title = f"Configuration of nova-scheduler on {host.name}, on top of nova.conf."
    about = "SQLAlchemy URL of the API database whose cells' hosts instances are scheduled to."
    return render(title, [Section("api_database", [option("connection", url, about)])])


def _default(host: HostSpec, ends: Ends, *, controller: bool) -> list[Option]:
    options = [
        option("my_ip", host.ip, "Address of this host on the management network.", "<own>"),
        option("state_path", "/var/lib/nova", "Directory for what Nova keeps on this host."),
        option("log_dir", "/var/log/nova", "Directory of the log files, one for each service."),
        option("debug", None, "Log at level DEBUG. May be changed without a restart.", "false"),
        option("use_journal", None, "Log to the journal of systemd as well.", "false"),
        option(
            "transport_url",
            ends.transport_url,
            "Where the message brokers are and how to log in to them: "
            "driver://user:password@host:port[,user:password@host:port...]/virtual_host. "
            "All services of Nova in this deployment use the same brokers.",
            "rabbit://",
        ),
        option("rpc_response_timeout", None, "Seconds to wait for the answer of a call.", "60"),
        option("report_interval", None, "Seconds between two reports of a service.", "10"),
        option("service_down_time", None, "A service silent for so long is down.", "60"),
        option(
            "instance_usage_audit_period",
            None,
            "Period of the usage notifications that billing is made from.",
            "month",
        ),
    ]
    if controller:
        shutdown = option(
            "manager_shutdown_timeout",
            None,
            "Seconds that a service may finish work after it was told to stop.",
            "160",
        )
        return [*options, shutdown]
    return [
        *options,
        option("compute_driver", "guests.GuestDriver", "Driver of the hypervisor, below nova.virt.", ""),
        option(
            "resume_guests_state_on_host_boot",
            "true",
            "Start the guests that ran before this host was rebooted.",
            "false",
        ),
        option("vif_plugging_is_fatal", "false", "Fail when Neutron does not say plugged.", "true"),
        option("vif_plugging_timeout", "0", "Seconds to wait for Neutron's word.", "300"),
        option(
            "manager_shutdown_timeout",
            COMPUTE_SHUTDOWN,
            "Seconds that a service may finish work after it was told to stop.",
            "160",
        ),
        option("reserved_host_memory_mb", None, "Memory kept for the host itself, MiB.", "512"),
        option("sync_power_state_interval", None, "Seconds between power state checks.", "600"),
        option(
            "running_deleted_instance_action",
            None,
            "What to do with a guest that runs although its instance was deleted.",
            "reap",
        ),
    ]


def _eventlet_api() -> list[Option]:
    """Of a nova-api that listens by itself, as it did before web servers ran it."""
    return [
        option("enabled_apis", "osapi_compute,metadata", "The APIs that nova-api serves."),
        option("osapi_compute_workers", 2, "Processes of the compute API.", "<number of cores>"),
        option("metadata_workers", 1, "Processes of the metadata API.", "<number of cores>"),
    ]


def _controller_sections(cloud: Cloud, ends: Ends, api: Ends) -> list[Section]:
    retry = [
        option("max_retries", "-1", "How often to try at the start; -1: for ever.", "10"),
        option("retry_interval", "2", "Seconds between two tries.", "10"),
        option("max_pool_size", None, "Connections to keep open, for each process.", "5"),
    ]
    validation = option(
        "response_validation",
        "ignore",
        "What to do with an answer that does not match its schema: warn, error, or "
        "ignore, which saves checking each of them.",
        "warn",
    )
    return [
        Section(
            "api_database",
            [
                option("connection", api.database(cloud, "nova_api"), "SQLAlchemy URL of the API database."),
                *retry,
            ],
        ),
        Section(
            "database",
            [
                option(
                    "connection",
                    ends.database(cloud, "nova"),
                    "SQLAlchemy URL of the database of this cell. Mappings of cells that are "
                    "templates take their parts from here.",
                ),
                *retry,
            ],
        ),
        Section(
            "api",
            [
                option("max_limit", None, "Most entries of one answer to a list.", "1000"),
                option(
                    "list_records_by_skipping_down_cells",
                    None,
                    "Whether a list leaves out what is in a cell that does not answer.",
                    "true",
                ),
                *([] if cloud.cells_v1 else [validation]),
                option("local_metadata_per_cell", None, "One metadata API in each cell.", "false"),
            ],
        ),
        Section(
            "scheduler",
            [
                option("workers", 1, "Number of scheduler processes.", "<number of cores>"),
                option(
                    "discover_hosts_in_cells_interval",
                    None,
                    "Seconds between searches for new compute hosts; -1: never.",
                    "-1",
                ),
            ],
        ),
        Section(
            "conductor",
            [option("workers", 1, "Number of conductor processes.", "<number of cores>")],
        ),
        Section(
            "quota",
            [
                option(name, -1, f"Quota of {what} of a project; -1: no limit.", default)
                for name, what, default in (
                    ("instances", "instances", "10"),
                    ("cores", "virtual CPUs", "20"),
                    ("ram", "memory in MiB", "51200"),
                    ("metadata_items", "metadata items of an instance", "128"),
                    ("server_groups", "server groups", "10"),
                    ("server_group_members", "members of a server group", "10"),
                )
            ],
        ),
        Section(
            "vnc",
            [
                option("enabled", None, "Whether guests have a VNC console.", "true"),
                option("novncproxy_host", "0.0.0.0", "Address to listen on."),  # noqa: S104
                option("novncproxy_port", None, "Port to listen on.", "6080"),
            ],
        ),
        Section(
            "wsgi",
            [
                option(
                    "api_paste_config",
                    "/etc/nova/api-paste.ini",
                    "The pipelines of the API services.",
                    "api-paste.ini",
                )
            ],
        ),
    ]


def _compute_sections(passwords: Passwords) -> list[Section]:
    region = option("os_region_name", topology.REGION, "Region of the endpoint.")
    return [
        # What nova-compute does by itself has no user's token: ending guests that were deleted meanwhile.
        Section("cinder", [*credentials("nova", passwords.user_nova), region]),
        Section(
            "vnc",
            [
                option("enabled", None, "Whether guests have a VNC console.", "true"),
                option(
                    "novncproxy_base_url",
                    topology.public_url("nova-novncproxy", "/vnc_lite.html"),
                    "Where a browser finds the console proxy.",
                    "http://127.0.0.1:6080/vnc_lite.html",
                ),
                option("server_listen", "$my_ip", "Where guests' consoles listen.", "127.0.0.1"),
                option(
                    "server_proxyclient_address",
                    "$my_ip",
                    "Where the console proxy connects to.",
                    "127.0.0.1",
                ),
            ],
        ),
        Section(
            "workarounds",
            [
                option(
                    "disable_group_policy_check_upcall",
                    None,
                    "Don't check server group policy again on the compute host, which asks the "
                    "API database through the conductor.",
                    "false",
                )
            ],
        ),
    ]


def credentials(user: str, password: str) -> list[Option]:
    """The options of keystoneauth for a service user."""
    return [
        option("auth_type", "password", "How to authenticate."),
        option("auth_url", topology.public_url("keystone", "/v3"), "Where Keystone is."),
        option("username", user, "User name."),
        option("password", password, "The user's password."),
        option("user_domain_name", "Default", "Domain of the user."),
        option("project_name", "service", "Project to scope to."),
        option("project_domain_name", "Default", "Domain of the project."),
    ]


def authtoken(user: str, password: str) -> Section:
    """[keystone_authtoken]: how a service checks its users' tokens."""
    return Section(
        "keystone_authtoken",
        [
            option("www_authenticate_uri", topology.public_url("keystone", "/v3")),
            *credentials(user, password),
            option(
                "memcached_servers",
                MEMCACHED,
                "Servers of memcached that keep tokens that were checked already.",
            ),
            option("token_cache_time", None, "Seconds that a checked token is kept.", "300"),
            option("service_token_roles_required", "true", "Check service tokens' roles.", "false"),
            option("service_token_roles", None, "The roles of a service token.", "service"),
        ],
    )


def _common_sections(passwords: Passwords, *, notifies: bool) -> list[Section]:
    user = credentials("nova", passwords.user_nova)
    region = option("region_name", topology.REGION, "Region of the endpoint.")
    return [
        authtoken("nova", passwords.user_nova),
        Section(
            "service_user",
            [
                option("send_service_user_token", "true", "Send a service token too.", "false"),
                *user,
            ],
        ),
        Section("placement", [*user, region]),
        Section(
            "neutron",
            [
                *user,
                region,
                option(
                    "service_metadata_proxy",
                    "true",
                    "Whether Neutron's metadata proxy asks on behalf of the guests.",
                    "false",
                ),
                option(
                    "metadata_proxy_shared_secret",
                    passwords.metadata_secret,
                    "What that proxy signs the instance's uuid with.",
                ),
            ],
        ),
        Section(
            "glance",
            [option("endpoint_override", topology.public_url("glance-api"), "Where Glance is.")],
        ),
        Section(
            "cache",
            [
                option("enabled", "true", "Whether to cache.", "false"),
                option("backend", "oslo_cache.memcache_pool", "Where.", "dogpile.cache.null"),
                option("memcache_servers", MEMCACHED, "Servers of memcached.", "localhost:11211"),
            ],
        ),
        Section(
            "notifications",
            [
                option(
                    "notify_on_state_change",
                    "vm_and_task_state",
                    "Send a notification whenever an instance's state changes.",
                ),
                option(
                    "notification_format",
                    "unversioned",
                    "Or versioned, or both, which was the default up to Stein.",
                    "unversioned",
                ),
            ],
        ),
        Section(
            "oslo_messaging_notifications",
            [
                # The second Nova's would pile up: nobody takes them there.
                option("driver", "messagingv2" if notifies else "noop", "How notifications are sent."),
                option(
                    "transport_url",
                    None,
                    "Brokers of the notifications; without it, those of [DEFAULT].",
                    "<None>",
                ),
                option("topics", None, "The topics (queues) they are sent to.", "notifications"),
            ],
        ),
        Section(
            "oslo_messaging_rabbit",
            [
                option("rabbit_quorum_queue", None, "Make queues quorum queues.", "false"),
                option("amqp_durable_queues", None, "Make queues durable.", "false"),
                option("heartbeat_timeout_threshold", None, "Seconds of silence.", "60"),
            ],
        ),
        Section(
            "oslo_concurrency",
            [option("lock_path", "/var/lib/nova/lock", "Directory of lock files.")],
        ),
    ]
