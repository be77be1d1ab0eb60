"""Nova's account on the API level's broker: the same user and password as on the old one."""

from __future__ import annotations

from typing import ClassVar

from recell.errors import Denied, Unsupported
from recell.model.step import Direction, Finding
from recell.model.urls import Endpoint, parse_url
from recell.planning.ini import get
from recell.steps.base import BaseStep


class BrokerAccount(BaseStep):
    """vhost, user, permissions; what was there before stays and is not taken away by undo."""

    kind: ClassVar[str] = "broker-account"

    def _account(self) -> Endpoint:
        text = (self.world.host(str(self.param("host"))).read(str(self.param("config"))) or b"").decode()
        url = get(text, "DEFAULT", "transport_url")
        if url is None:
            raise Unsupported(
                f"{self.param('config')} on {self.param('host')} has no transport_url",
                "Set it there, and scan again",
            )
        return parse_url(url).endpoints[0]

    def look(self, toward: Direction) -> Finding:
        broker = self.world.broker(str(self.param("broker")))
        vhost = str(self.param("vhost"))
        user = str(self.param("user"))
        has_vhost = vhost in broker.vhosts()
        has_user = user in broker.users()
        permitted = has_vhost and broker.permissions(vhost).get(user) == (".*", ".*", ".*")
        if toward == "forward":
            if has_vhost and has_user and permitted and self.recall("made") is not None:
                return Finding.done(f"{user} may use {vhost}")
            return Finding.partial("part of it is there") if has_user or has_vhost else Finding.not_done()
        made = self.recall("made") or []
        left = [
            w
            for w, there in (("vhost", has_vhost), ("user", has_user), ("permissions", permitted))
            if w in made and there
        ]
        return Finding.not_done(f"{', '.join(left)} made by recell") if left else Finding.done("as before")

    def act(self, toward: Direction) -> None:
        broker = self.world.broker(str(self.param("broker")))
        vhost, user = str(self.param("vhost")), str(self.param("user"))
        if toward == "backward":
            made = self.recall("made") or []
            if "permissions" in made and vhost in broker.vhosts():
                broker.revoke(vhost, user)
            if "user" in made and user in broker.users():
                broker.delete_user(user)
            if "vhost" in made and vhost in broker.vhosts():
                broker.delete_vhost(vhost)
            return
        account = self._account()
        self._note_what_is_missing(vhost, user)
        if vhost not in broker.vhosts():
            broker.add_vhost(vhost)
        if user not in broker.users():
            broker.add_user(user, account.password)
        elif not broker.password_works(user, account.password):
            raise Denied(
                f"user {user} on the broker {broker.name} has another password than Nova uses today",
                "Set the same password there, or remove that user",
            )
        broker.permit(vhost, user)

    def _note_what_is_missing(self, vhost: str, user: str) -> None:
        """Before anything is made: undo takes away just that."""
        if self.recall("made") is not None:
            return
        broker = self.world.broker(str(self.param("broker")))
        made = [
            w
            for w, there in (
                ("vhost", vhost in broker.vhosts()),
                ("user", user in broker.users()),
                ("permissions", vhost in broker.vhosts() and user in broker.permissions(vhost)),
            )
            if not there
        ]
        self.remember("made", made)

    def prove(self, toward: Direction) -> str:
        said = super().prove(toward)
        if toward == "forward":
            broker = self.world.broker(str(self.param("broker")))
            account = self._account()
            if not broker.password_works(account.user, account.password):
                raise Denied(
                    f"the broker {broker.name} refuses Nova's account {account.user}",
                    "See rabbitmqctl list_users there",
                )
            said = f"{account.user} logs in on {broker.name}"
        return said
