"""Configuration files of everything but Nova."""

from __future__ import annotations

from recell_lab.cloud import topology
from recell_lab.cloud.conffile import Option, Section, option, render
from recell_lab.cloud.novaconf import MEMCACHED, authtoken, credentials
from recell_lab.cloud.passwords import Passwords
from recell_lab.cloud.topology import PORTS, Cloud
from recell_lab.layer import HostSpec


def _database(cloud: Cloud, name: str, password: str) -> list[Option]:
    url = topology.database_url(cloud, name, password, name)
    return [
        option("connection", url, "SQLAlchemy URL of the database."),
        option("max_retries", "-1", "How often to try at the start; -1: for ever.", "10"),
        option("retry_interval", "2", "Seconds between two tries.", "10"),
    ]


def keystone_conf(passwords: Passwords, cloud: Cloud) -> str:
    """/etc/keystone/keystone.conf."""
    return render(
        "Configuration of Keystone.",
        [
            Section("DEFAULT", [option("log_dir", "/var/log/keystone", "Directory of the logs.")]),
            Section("database", _database(cloud, "keystone", passwords.db_keystone)),
            Section("token", [option("expiration", 14400, "Seconds a token is good for.", "3600")]),
            Section("fernet_tokens", [option("key_repository", "/etc/keystone/fernet-keys")]),
            Section("credential", [option("key_repository", "/etc/keystone/credential-keys")]),
            Section(
                "cache",
                [
                    option("enabled", "true", "Whether to cache.", "true"),
                    option("backend", "oslo_cache.memcache_pool", "Where."),
                    option("memcache_servers", MEMCACHED, "Servers of memcached."),
                ],
            ),
        ],
    )


def placement_conf(passwords: Passwords, cloud: Cloud) -> str:
    """/etc/placement/placement.conf."""
    return render(
        "Configuration of Placement.",
        [
            Section("DEFAULT", [option("log_dir", "/var/log/placement", "Directory of the logs.")]),
            Section("placement_database", _database(cloud, "placement", passwords.db_placement)),
            authtoken("placement", passwords.user_placement),
        ],
    )


def glance_conf(passwords: Passwords, cloud: Cloud) -> str:
    """/etc/glance/glance-api.conf."""
    return render(
        "Configuration of Glance.",
        [
            Section(
                "DEFAULT",
                [
                    option("log_dir", "/var/log/glance", "Directory of the logs."),
                    option("enabled_backends", "file:file", "Stores, as name:type."),
                ],
            ),
            Section("database", _database(cloud, "glance", passwords.db_glance)),
            Section("glance_store", [option("default_backend", "file", "Store of new images.")]),
            Section("file", [option("filesystem_store_datadir", "/var/lib/glance/images")]),
            Section(
                "paste_deploy",
                [
                    option("flavor", "keystone", "Pipeline to use."),
                    option("config_file", "/etc/glance/glance-api-paste.ini"),
                ],
            ),
            authtoken("glance", passwords.user_glance),
        ],
    )


def glance_conf_of_stein(passwords: Passwords, cloud: Cloud) -> str:
    """/etc/glance/glance-api.conf of a Glance that listens by itself and has one store."""
    return render(
        "Configuration of Glance.",
        [
            Section(
                "DEFAULT",
                [
                    option("log_dir", "/var/log/glance", "Directory of the logs."),
                    option("bind_port", PORTS["glance-api"], "Port to listen on.", "<None>"),
                    option("workers", 1, "Number of processes.", "<number of cores>"),
                ],
            ),
            Section("database", _database(cloud, "glance", passwords.db_glance)),
            Section(
                "glance_store",
                [
                    option("stores", "file", "The stores there are."),
                    option("default_store", "file", "Store of new images."),
                    option("filesystem_store_datadir", "/var/lib/glance/images"),
                ],
            ),
            Section("paste_deploy", [option("flavor", "keystone", "Pipeline to use.")]),
            Section("oslo_policy", [option("policy_file", "/etc/glance/policy.json")]),
            authtoken("glance", passwords.user_glance),
        ],
    )


def neutron_conf(passwords: Passwords, cloud: Cloud) -> str:
    """/etc/neutron/neutron.conf: a server whose networks no agent makes."""
    return render(
        "Configuration of Neutron's server.",
        [
            Section(
                "DEFAULT",
                [
                    option("log_dir", "/var/log/neutron", "Directory of the logs."),
                    option("state_path", "/var/lib/neutron", "Directory of state."),
                    option("core_plugin", "ml2", "The plugin that makes networks."),
                    option("service_plugins", "" if cloud.cells_v1 else "router", "The other plugins."),
                    option("api_paste_config", "/etc/neutron/api-paste.ini"),
                    option(
                        "transport_url",
                        topology.transport_url("neutron", passwords.mq_neutron),
                        "Where the message brokers are.",
                        "rabbit://",
                    ),
                    option("rpc_workers", 0, "Processes that agents would talk to."),
                    option("notify_nova_on_port_status_changes", "false", "", "true"),
                    option("notify_nova_on_port_data_changes", "false", "", "true"),
                ],
            ),
            Section("database", _database(cloud, "neutron", passwords.db_neutron)),
            Section("oslo_concurrency", [option("lock_path", "/var/lib/neutron/lock")]),
            Section(
                "ml2",
                [
                    option("type_drivers", "local,flat"),
                    option(f"{'tenant' if cloud.cells_v1 else 'project'}_network_types", "local"),
                    option("mechanism_drivers", "", "None: there are no agents."),
                    option("extension_drivers", "port_security"),
                ],
            ),
            Section("nova", credentials("nova", passwords.user_nova)),
            authtoken("neutron", passwords.user_neutron),
        ],
    )


def consumer_conf(passwords: Passwords) -> str:
    """/etc/notification-consumer/notification-consumer.conf."""
    return render(
        "Configuration of the consumer of notifications.",
        [
            Section(
                "DEFAULT",
                [
                    option(
                        "transport_url",
                        topology.transport_url("nova", passwords.mq_nova),
                        "The message brokers whose notifications are read.",
                    )
                ],
            ),
            Section(
                "consumer",
                [
                    option("topics", "notifications", "The topics (queues) to read."),
                    option("log", "/var/log/notification-consumer.log", "One JSON line for each."),
                ],
            ),
        ],
    )


def uwsgi_ini(
    service: str, application: str, processes: int, threads: int, preload: str = "", arguments: str = ""
) -> str:
    """The ini file of a service that runs in uWSGI.

    application: a module, or the path of a script. preload: a module to import first. arguments: what
    the application finds in sys.argv.
    """
    first = f"import = {preload}\n" if preload else ""
    first += f"pyargv = {arguments}\n" if arguments else ""
    what = "wsgi-file" if application.startswith("/") else "module"
    return f"""\
# How uWSGI runs {service}.
[uwsgi]
http-socket = 0.0.0.0:{PORTS[service]}
{first}{what} = {application}
callable = application

master = true
processes = {processes}
threads = {threads}
enable-threads = true
thunder-lock = true
# A machine that stands still for half a minute lets requests wait, it does not refuse them.
listen = 1024
# Each process loads the application itself: Nova's threads and connections don't survive a fork.
lazy-apps = true
need-app = true

# SIGTERM: finish the requests that have begun, then end.
hook-master-start = unix_signal:15 gracefully_kill_them_all
worker-reload-mercy = 30
die-on-term = true

# One request for each connection: a proxy that kept connections met closed ones now and then.
add-header = Connection: close
buffer-size = 65535
disable-logging = true
ignore-sigpipe = true
ignore-write-errors = true
disable-write-exception = true
"""


def mariadb_cnf(host: HostSpec, cloud: Cloud) -> str:
    """/etc/mysql/mariadb.conf.d/90-cloud.cnf. The cell's own server is empty at first, and small."""
    # Keystone's migrations of that age make triggers, which a binary log forbids a plain user.
    triggers = "log_bin_trust_function_creators = ON\n" if cloud.cells_v1 else ""
    number = host.ip.rpartition(".")[2]
    # The second Nova's server begins with the first one's files, so with a log of that size.
    sizes = {topology.DATABASE: ("192M", "64M"), topology.SECOND_DATABASE: ("64M", "64M")}
    pool, log = sizes.get(host, ("64M", "32M"))
    return f"""\
[mariadbd]
bind-address = 0.0.0.0
skip-name-resolve
max_connections = 1000
character-set-server = utf8mb3
collation-server = utf8mb3_general_ci

# Nova's rows can be followed as they change.
server-id = {number}
log-bin = /var/lib/mysql/binlog
binlog_format = ROW
binlog_row_image = FULL
expire_logs_days = 3
{triggers}max_binlog_size = 128M

innodb_buffer_pool_size = {pool}
innodb_log_file_size = {log}
innodb_flush_log_at_trx_commit = 2
sync_binlog = 0
performance_schema = OFF
"""


def rabbitmq_conf(host: HostSpec, *, blank: bool = False) -> str:
    """/etc/rabbitmq/rabbitmq.conf of a broker: of the cluster, of the lone one, or of a blank one."""
    lines = [
        f"listeners.tcp.default = {topology.BROKER_PORT}",
        "disk_free_limit.absolute = 50MB",
        "log.file.level = info",
    ]
    if host in topology.BROKERS:
        lines += [
            "cluster_name = cloud",
            "cluster_partition_handling = pause_minority",
            "cluster_formation.peer_discovery_backend = classic_config",
            *(
                f"cluster_formation.classic_config.nodes.{number} = rabbit@{broker.name}"
                for number, broker in enumerate(topology.BROKERS, 1)
            ),
        ]
    elif not blank:
        lines.append("cluster_name = cloud-api")
    return "".join(f"{line}\n" for line in lines)


# Few schedulers that sleep when they have nothing to do: many nodes share this machine's cores.
RABBITMQ_ENV = """\
SERVER_ADDITIONAL_ERL_ARGS="+S 2:2 +SDio 2 +sbwt none +sbwtdcpu none +sbwtdio none"
"""


def memcached_conf() -> str:
    """/etc/memcached.conf."""
    return f"-d\n-m 64\n-p {topology.MEMCACHED_PORT}\n-u memcache\n-l 0.0.0.0\n-t 2\n"


def haproxy_cfg(cloud: Cloud) -> str:
    """/etc/haproxy/haproxy.cfg."""
    text = """\
global
    log /run/systemd/journal/dev-log local0
    user haproxy
    group haproxy
    stats socket /run/haproxy/admin.sock mode 660 level admin
    maxconn 4000

defaults
    mode http
    log global
    option httplog
    option dontlognull
    option forwardfor
    option redispatch
    # No connection to a server is used twice: nothing to lose when a server closes it.
    option http-server-close
    http-reuse never
    timeout connect 30s
    timeout client 120s
    timeout server 120s
    timeout queue 60s
    timeout http-request 60s
    # A check shares the application's threads: a busy server is not a dead one.
    timeout check 30s
    default-server inter 2s fall 4 rise 1
"""
    checked = "    option httpchk GET /\n    http-check expect rstatus ^[23]\n"
    for service, port in PORTS.items():
        nova = service.startswith("nova-")
        servers = cloud.controllers if nova else (topology.SERVICES,)
        web = service in ("nova-api", "nova-api-metadata", "placement-api", "keystone")
        text += f"\nfrontend {service}\n    bind {topology.LOAD_BALANCER.ip}:{port}\n"
        text += f"    default_backend {service}\n\nbackend {service}\n    balance leastconn\n"
        text += checked if web else ""
        text += "".join(f"    server {server.name} {server.ip}:{port} check\n" for server in servers)
    return text
