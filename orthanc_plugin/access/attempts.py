"""How many wrong passwords are taken: for one name from one address, from one address, and from all together.

The rule: what is used up comes back with time, so that no person and no hospital is locked out for ever; a name that
does not exist is treated as one that does; and no address uses up what others need. Whoever has logged in from an
address is let try again from there whatever happens elsewhere.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

_SLOTS = 4096  # names and addresses share them, so that invented ones take no memory
_MOST_KNOWN = 1000  # names with the address from which they logged in
_IPV6_OF_ONE = 64  # bits of an IPv6 address that one network has


@dataclass(frozen=True)
class Allowance:
    """So many failures at once, and then one more each so many seconds."""

    failures: int
    seconds: float


OF_A_NAME = Allowance(5, 30.0)  # from one address
OF_AN_ADDRESS = Allowance(20, 5.0)  # slower than all together: one address alone leaves some to the others
OF_ALL = Allowance(60, 2.0)


class Attempts:
    """Failures that are still allowed."""

    def __init__(
        self, of_a_name: Allowance = OF_A_NAME, of_an_address: Allowance = OF_AN_ADDRESS, of_all: Allowance = OF_ALL
    ) -> None:
        self._limits = {"name": of_a_name, "address": of_an_address, "all": of_all}
        self._used: dict[tuple[str, int], tuple[float, float]] = {}  # how many, and when that was so
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._key = secrets.token_bytes(16)
        self._lock = threading.Lock()

    def begin(self, name: str, address: str, now: float) -> float:
        """Count an attempt before it is checked; returns 0, or seconds to wait, when it is not to be checked at all."""
        with self._lock:
            keys = self._keys(name, address)
            wait = max(self._wait(key, now) for key in keys)
            if not wait:
                for key in keys:
                    self._used[key] = (self._count(key, now) + 1, now)
            return wait

    def give_back(self, name: str, address: str, now: float) -> None:
        """Not to count an attempt that was begun."""
        with self._lock:
            self._give_back(name, address, now)

    def succeeded(self, name: str, address: str, now: float) -> None:
        """Give an attempt back, for the password was right; whose it is is known from this address from now on."""
        with self._lock:
            self._give_back(name, address, now)
            self._known[self._digest(name, address)] = None
            self._known.move_to_end(self._digest(name, address))
            while len(self._known) > _MOST_KNOWN:
                self._known.popitem(last=False)

    def _give_back(self, name: str, address: str, now: float) -> None:
        for key in self._keys(name, address):
            self._used[key] = (max(0.0, self._count(key, now) - 1), now)

    def _keys(self, name: str, address: str) -> list[tuple[str, int]]:
        """What an attempt counts for: from where somebody has logged in before, for them alone."""
        pair = self._digest(name, address)
        own = "name", _slot(pair)
        return [own] if pair in self._known else [own, ("address", _slot(self._digest("", address))), ("all", 0)]

    def _digest(self, name: str, address: str) -> bytes:
        said = f"{name.strip().lower()}\0{_network(address)}".encode("utf-8", "replace")
        return hashlib.blake2b(said, key=self._key, digest_size=16).digest()

    def _count(self, key: tuple[str, int], now: float) -> float:
        used, since = self._used.get(key, (0.0, now))
        return max(0.0, used - max(0.0, now - since) / self._limits[key[0]].seconds)

    def _wait(self, key: tuple[str, int], now: float) -> float:
        limit = self._limits[key[0]]
        return max(0.0, (self._count(key, now) + 1 - limit.failures) * limit.seconds)


def _slot(digest: bytes) -> int:
    return int.from_bytes(digest[:4]) % _SLOTS


def _network(address: str) -> str:
    """An address; of IPv6 the network, for whoever has one has all of its addresses."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    return str(parsed) if parsed.version == 4 else str(ip_network((int(parsed), _IPV6_OF_ONE), strict=False))
