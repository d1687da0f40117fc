"""Tensors out of files that torch wrote, whatever else lies in them.

The rule: reading a file runs nothing of what it holds. A file of tensors is read by torch's own restricted loader.
Older ones, and whole models that were pickled with their classes, are read by one that knows tensors and ordered
dictionaries; every other class or function that a file names becomes an `Inert`, which keeps what it is given.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

# What a damaged or hostile pickle makes of an unpickler.
_UNREADABLE = (
    pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError,
    AssertionError, ImportError,
)  # fmt: skip


class WeightsRefused(Exception):
    """A weights file that cannot be used; the message names it, says why, and what to do."""


class Inert:
    """Stands for an object whose class we do not load: takes any arguments and state, and does nothing with them."""

    dump_patches = False  # torch asks this of whatever stands for a module

    def __init__(self, *_: Any, **__: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """Ignored: dictionaries of other classes hold no weights."""


def read_weights(file: Path) -> tuple[Any, str]:
    """Read what torch saved.

    Returns
    -------
    content
        As it was saved, on the processor; objects of other classes are `Inert`.
    digest
        SHA-256 of the file, hexadecimal.

    Raises
    ------
    WeightsRefused
        When the file is missing, is not torch's, or is a program (TorchScript).
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise WeightsRefused(f"{file}: {error.strerror}; give a file that can be read") from error
    if _is_script(content):
        raise WeightsRefused(f"{file.name} is a TorchScript program; give a file of weights")
    try:
        try:
            read = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError):
            with warnings.catch_warnings():  # that the source of an `Inert` is not that of the class it stands for
                warnings.simplefilter("ignore")
                read = torch.load(io.BytesIO(content), "cpu", pickle_module=_RESTRICTED, weights_only=False)
    except _UNREADABLE as error:
        # torch adds advice that does not hold here, over many lines
        why = (
            (str(error).strip().splitlines() or [""])[0][:200] if not isinstance(error, TypeError) else "it is damaged"
        )
        raise WeightsRefused(f"{file.name} holds no weights that torch saved: {why}; fetch it again") from error
    return read, hashlib.sha256(content).hexdigest()


def tensors(content: Any, *, wrappers: Sequence[str] = ("state_dict",)) -> dict[str, Tensor]:
    """Named tensors of a state dict, of a checkpoint that holds one, or of a pickled model.

    Parameters
    ----------
    wrappers
        Keys under which a checkpoint may hold the state dict; the first that is there counts.

    Returns
    -------
    dict
        Without the prefix ``module.`` that training on several devices leaves; empty when there are none.

    Raises
    ------
    WeightsRefused
        When a pickled model is made such that it has no end.
    """
    if isinstance(content, Mapping):
        for key in wrappers:
            if isinstance(content.get(key), Mapping | Inert):
                return tensors(content[key], wrappers=wrappers)
        found = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    else:
        try:
            found = dict(_of_module(content, ""))
        except RecursionError:
            raise WeightsRefused("the parts of the pickled model contain each other; fetch it again") from None
    return {key.removeprefix("module."): value.detach() for key, value in found.items()}


def load_into(network: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Load every tensor into its place, and leave the network in evaluation mode.

    Raises
    ------
    WeightsRefused
        When one is missing, too many, or of another shape.
    """
    try:
        # a plain dict says nothing of versions: torch then forgives that old files do not count batches
        network.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:300]
        raise WeightsRefused(f"{name} is not of the network that its variant names: {first}") from error
    network.float().eval().requires_grad_(requires_grad=False)


def _of_module(module: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    if not isinstance(module, Inert) or not isinstance(module.state, Mapping):
        return
    for kind in ("_parameters", "_buffers"):
        for name, value in module.state.get(kind, {}).items():
            if isinstance(value, Tensor):
                yield f"{prefix}{name}", value
    for name, child in module.state.get("_modules", {}).items():
        yield from _of_module(child, f"{prefix}{name}.")


def _is_script(content: bytes) -> bool:
    stream = io.BytesIO(content)
    if not zipfile.is_zipfile(stream):
        return False
    with zipfile.ZipFile(stream) as archive:
        return any(name.rpartition("/")[2] == "constants.pkl" for name in archive.namelist())


def _tensor(storage: Any, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any) -> Tensor:
    made: Tensor = torch._utils._rebuild_tensor(storage, offset, size, stride)  # type: ignore[no-untyped-call]
    return made


def _parameter(data: Tensor, *_: Any) -> Tensor:
    return data


_KNOWN = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch.nn.parameter", "Parameter"): _parameter,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        return _KNOWN.get((module_name, global_name), Inert)


def _load(file: Any, **options: Any) -> Any:
    return _Unpickler(file, **options).load()


# What torch asks of a pickle module; it resolves the names of storages itself.
_RESTRICTED = SimpleNamespace(__name__="restricted", Unpickler=_Unpickler, load=_load)
