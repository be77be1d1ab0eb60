"""Nova's account on the API level's broker: the same user and password as on the old one."""

from __future__ import annotations

from typing import ClassVar

from recell.adapters.conf import parse_config, transport_url_of
from recell.errors import Denied, Unsupported, VerifyFailed
from recell.model.step import Direction, Finding
from recell.model.urls import Endpoint, parse_url
from recell.steps.base import BaseStep


class BrokerAccount(BaseStep):
    """vhost, user, permissions; what was there before stays and is not taken away by undo."""

    kind: ClassVar[str] = "broker-account"
    _seen: dict[str, bool] | None = None

    def _account(self) -> Endpoint:
        where = f"{self.param('config')} on {self.param('host')}"
        content = self.world.host(str(self.param("host"))).read(str(self.param("config"))) or b""
        url = transport_url_of(parse_config([(where, content)]))
        if not url:
            raise Unsupported(
                f"{where} has no transport_url",
                "Set it there, and scan again",
            )
        return parse_url(url).endpoints[0]

    def _there(self) -> dict[str, bool]:
        """What is there, in the order in which it is made. Three questions; each takes seconds."""
        broker = self.world.broker(str(self.param("broker")))
        vhost, user = str(self.param("vhost")), str(self.param("user"))
        has_vhost = vhost in broker.vhosts()
        has_user = user in broker.users()
        permitted = has_vhost and has_user and broker.permissions(vhost).get(user) == (".*", ".*", ".*")
        return {"vhost": has_vhost, "user": has_user, "permissions": permitted}

    def look(self, toward: Direction) -> Finding:
        if toward == "backward" and self.is_lost(str(self.param("broker"))):
            return Finding.done(f"{self.param('broker')} is lost, with what recell made there")
        there = self._seen = self._there()
        made: list[str] | None = self.recall("made")
        if toward == "forward":
            if all(there.values()) and made is not None:
                return Finding.done(f"{self.param('user')} may use {self.param('vhost')}")
            some = [name for name, yes in there.items() if yes]
            return Finding.partial(f"{', '.join(some)} there") if some else Finding.not_done()
        left = [name for name in made or [] if there[name]]
        return Finding.not_done(f"{', '.join(left)} made by recell") if left else Finding.done("as before")

    def act(self, toward: Direction) -> None:
        broker = self.world.broker(str(self.param("broker")))
        vhost, user = str(self.param("vhost")), str(self.param("user"))
        there = self._seen or self._there()  # the engine has just looked; asking takes seconds
        if toward == "backward":
            made = [name for name in self.recall("made") or [] if there[name]]
            if "permissions" in made and "user" not in made:
                broker.revoke(vhost, user)
            if "user" in made:
                broker.delete_user(user)
            if "vhost" in made:
                broker.delete_vhost(vhost)
            return
        account = self._account()
        if self.recall("made") is None:
            # Before anything is made: undo takes away just that.
            self.remember("made", [name for name, yes in there.items() if not yes])
        if not there["vhost"]:
            broker.add_vhost(vhost)
        if not there["user"]:
            broker.add_user(user, account.password)
        elif not broker.password_works(user, account.password):
            raise Denied(
                f"user {user} on the broker {broker.name} has another password than Nova uses today",
                "Set the same password there, or remove that user",
            )
        if not there["permissions"]:
            broker.permit(vhost, user)

    def prove(self, toward: Direction) -> str:
        if toward == "backward":
            return super().prove(toward)
        broker = self.world.broker(str(self.param("broker")))
        account = self._account()
        if not broker.password_works(account.user, account.password):
            raise Denied(
                f"the broker {broker.name} refuses Nova's account {account.user}",
                "See rabbitmqctl list_users there",
            )
        if broker.permissions(str(self.param("vhost"))).get(account.user) != (".*", ".*", ".*"):
            raise VerifyFailed(
                f"{account.user} may not use {self.param('vhost')} on {broker.name}",
                "See rabbitmqctl list_permissions there",
            )
        return f"{account.user} logs in on {broker.name} and may use {self.param('vhost')}"
