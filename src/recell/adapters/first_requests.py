"""What recell runs on a host, on its own Python (3.6 or newer): the first requests to a nova-api.

A nova-api that has just started answers its front page at once, and the first user whose token it has
to check waits for seconds: policies are read, databases and Keystone asked for the first time. So they
are asked for before users are sent there, with the account that nova-api itself has in its
[keystone_authtoken]; the password stays on the host. Only reads, one instance at most.

Standard input is JSON: ``url`` of the nova-api, ``configs`` that it reads, ``limit_s`` for all of it.
Standard output is JSON: ``requests``, ``first_s`` and ``last_s``, the slowest of the first and of the last
round in seconds; or ``why``, if there is nothing to ask with. What Keystone or Nova answer is of no
consequence: users will hear the same.
"""

import configparser
import http.client
import json
import ssl
import sys
import threading
import time
import urllib.request
from typing import Any, Dict, List, Optional

AT_ONCE = 8
QUICK_S = 0.5
PATHS = ("v2.1/servers/detail?limit=1", "v2.1/servers?limit=1", "v2.1/flavors?limit=1", "v2.1/limits")
UNSAFE = ssl._create_unverified_context()  # noqa: S323
"""Of the service's own address, for which few have a certificate. Keystone's is checked."""


def credentials(configs: List[str]) -> Optional[Dict[str, Any]]:
    """What Keystone is asked for a token with: its URL, and the body."""
    conf = configparser.RawConfigParser(strict=False, allow_no_value=True)
    conf.read(configs)
    section = "keystone_authtoken"
    if not conf.has_section(section):
        return None
    known = dict(conf.items(section))
    if known.get("auth_section"):
        known = dict(conf.items(known["auth_section"])) if conf.has_section(known["auth_section"]) else {}
    wanted = ("auth_url", "username", "password", "project_name")
    if not all(known.get(word) for word in wanted):
        return None

    def domain(of: str) -> Dict[str, str]:
        if known.get(of + "_domain_id"):
            return {"id": known[of + "_domain_id"]}
        return {"name": known.get(of + "_domain_name") or "Default"}

    user = {"name": known["username"], "password": known["password"], "domain": domain("user")}
    project = {"name": known["project_name"], "domain": domain("project")}
    url = known["auth_url"].rstrip("/")
    return {
        "url": (url if url.endswith("/v3") else url + "/v3") + "/auth/tokens",
        "cafile": known.get("cafile") or None,
        "body": {
            "auth": {
                "identity": {"methods": ["password"], "password": {"user": user}},
                "scope": {"project": project},
            }
        },
    }


def token(asked: Dict[str, Any], limit_s: float) -> str:
    request = urllib.request.Request(  # noqa: S310
        asked["url"],
        json.dumps(asked["body"]).encode(),
        {"Content-Type": "application/json"},
    )
    context = ssl.create_default_context(cafile=asked["cafile"])
    with urllib.request.urlopen(request, timeout=limit_s, context=context) as answer:  # noqa: S310
        return str(answer.headers["X-Subject-Token"])


def slowest(url: str, secret: str, limit_s: float) -> float:
    """AT_ONCE requests at once, since a nova-api has several processes; seconds of the slowest."""
    took = []

    def ask(number: int) -> None:
        began = time.monotonic()
        request = urllib.request.Request(  # noqa: S310
            url + PATHS[number % len(PATHS)],
            headers={"X-Auth-Token": secret, "Accept": "application/json", "Connection": "close"},
        )
        try:
            with urllib.request.urlopen(request, timeout=limit_s, context=UNSAFE) as answer:  # noqa: S310
                answer.read()
        except (OSError, http.client.HTTPException):
            pass
        took.append(time.monotonic() - began)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(took)


def main() -> int:
    task = json.load(sys.stdin)
    end = time.monotonic() + task["limit_s"]
    try:
        asked = credentials(task["configs"])
        secret = token(asked, task["limit_s"]) if asked else ""
    except (OSError, ValueError, configparser.Error) as error:
        print(json.dumps({"why": "Keystone gives no token ({})".format(type(error).__name__)}))
        return 0
    if not secret:
        print(json.dumps({"why": "no account in [keystone_authtoken] to ask with"}))
        return 0
    rounds = []  # type: List[float]
    while time.monotonic() < end and (len(rounds) < 2 or max(rounds[-2:]) > QUICK_S):
        rounds.append(slowest(task["url"], secret, max(1.0, end - time.monotonic())))
    print(json.dumps({"requests": AT_ONCE * len(rounds), "first_s": rounds[0], "last_s": rounds[-1]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
