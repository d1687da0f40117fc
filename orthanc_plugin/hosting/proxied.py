"""People whom a proxy has logged in (OpenID Connect, SAML): by which headers it tells who they are.

The rule: nothing of it is believed without the secret that the site gave to that proxy; a request that claims something
without it is refused, and never answered as if it had claimed nothing. The proxy says who somebody is and in which
groups; what a group may do is said here.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from orthanc_plugin.access.roles import Role
from orthanc_plugin.setting_values import parse_group
from orthanc_plugin.settings import Settings

SECRET, USER, GROUPS = "x-hilum-proxy-secret", "x-hilum-user", "x-hilum-groups"
HEADERS = (SECRET, USER, GROUPS)
_NAME = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,63}", re.ASCII)


class Unbelieved(StrEnum):
    """Why what a request says of itself is not believed."""

    FORGED = "forged"  # without the secret
    UNUSABLE = "unusable"  # with it, and a name that nobody can have


@dataclass(frozen=True)
class Proxied:
    """Somebody whom the proxy names; without a role where none of their groups has one."""

    name: str
    role: Role | None


@dataclass(frozen=True)
class Proxy:
    """What the site agreed upon with its proxy.

    Parameters
    ----------
    roles
        Of groups, by their names, in the order in which they count.
    """

    secret: str = field(default="", repr=False)
    roles: tuple[tuple[str, Role], ...] = ()

    def who(self, headers: Mapping[str, str]) -> Proxied | Unbelieved | None:
        """Whom a request is of, as the proxy says; None where it says nothing."""
        if not any(name in headers for name in HEADERS):
            return None
        known = headers.get(SECRET, "").encode("utf-8", "replace")
        if not self.secret or not hmac.compare_digest(known, self.secret.encode()):
            return Unbelieved.FORGED
        name = headers.get(USER, "").strip().lower()
        if not name:
            return Unbelieved.UNUSABLE if headers.get(GROUPS, "").strip() else None
        if not _NAME.fullmatch(name):
            return Unbelieved.UNUSABLE
        groups = {group.strip() for group in headers.get(GROUPS, "").split(",")}
        return Proxied(name, next((role for group, role in self.roles if group in groups), None))


NO_PROXY = Proxy()


def proxy_of(settings: Settings) -> Proxy:
    """The proxy of a site; without a secret it is believed nothing."""
    groups = (parse_group(entry) for entry in settings.proxy_groups)
    return Proxy(settings.proxy_secret, tuple((group, Role(role)) for group, role in groups))
