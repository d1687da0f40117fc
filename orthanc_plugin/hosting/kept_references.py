"""What Orthanc's Python plugin 4.0 (Debian 12) keeps of each request is given back to Python.

It hands every keyword argument to a callback with one reference too many: PyDict_SetItemString takes one of its own,
and the caller's was never dropped (orthanc-python 4.1, NEWS: "Fix memory leaks"). A page that refreshes itself every
two seconds would cost Orthanc 40 to 80 MB a day, and the filter of HTTP requests 50 MB for each 1000 studies.

What it loses before a callback is called stays lost: all but the last of equal query arguments, and the headers before
one that is no UTF-8. Whoever sends such requests needs an account.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

_Answer = TypeVar("_Answer")

_drop_reference = ctypes.pythonapi.Py_DecRef
_drop_reference.argtypes = [ctypes.py_object]
_drop_reference.restype = None


def _holders_of_headers(**request: Any) -> int:
    return sys.getrefcount(request["headers"])


_HOLDERS = _holders_of_headers(**{"headers": {}})  # when nobody keeps any


def gives_back(callback: Callable[..., _Answer]) -> Callable[..., _Answer]:
    """`callback` for HTTP requests, after which what the plugin kept of its keyword arguments is given back.

    Whether anything is kept is asked of each request: its dictionary of headers is new, so its holders can be counted.
    """

    @functools.wraps(callback)
    def call(*arguments: Any, **request: Any) -> _Answer:
        kept = sys.getrefcount(request["headers"]) > _HOLDERS
        try:
            return callback(*arguments, **request)
        finally:
            if kept:
                for value in list(_values(request)):
                    _drop_reference(value)

    return call


def _values(request: dict[str, Any]) -> Iterator[Any]:
    for value in request.values():
        yield value
        if isinstance(value, dict):
            yield from value.values()
