"""A part's state as JSON beside safetensors, and back, without loss and without pickle.

A state is a tree of mappings and lists whose leaves are tensors, numbers, strings, booleans and None. JSON holds the
tree, safetensors the tensors. What JSON cannot say is an object with one key that begins with ``$``:

    {"$tensor": name}      a tensor; one that stands in several places is stored once
    {"$float": "7ff0…"}    inf and nan, as the sixteen digits of the IEEE 754 number, big end first
    {"$tuple": […]}        a tuple
    {"$items": [[k, v]…]}  a mapping whose keys are not all plain strings, such as an optimiser's
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any

from torch import Tensor


def packed(name: str, state: Mapping[str, Any]) -> tuple[bytes, dict[str, Tensor]]:
    """The JSON of a state, and its tensors by name: on the CPU, contiguous, no two sharing memory.

    Raises TypeError, naming the place, for a leaf that is none of the above.
    """
    packing = _Packing()
    text = json.dumps(packing.tree(state, name), allow_nan=False)
    return text.encode(), packing.tensors


def unpacked(text: bytes, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The inverse of ``packed``. A tensor that stood in several places is one tensor again.

    Raises ValueError for what ``packed`` would not write.
    """
    try:
        state = _unpacked(json.loads(text), tensors)
    except (KeyError, TypeError, struct.error) as error:
        raise ValueError(f"expected a state as it was written; got {error!r}") from error
    if not isinstance(state, dict):
        raise ValueError(f"expected a state, a mapping; got {type(state).__name__}")
    return state


class _Packing:
    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._names: dict[object, str] = {}  # of tensors seen, by the memory that they look at
        self._storages: set[int] = set()

    def tree(self, value: Any, where: str) -> Any:
        match value:
            case None | bool() | int() | str():
                return value
            case float():
                return value if math.isfinite(value) else {"$float": struct.pack(">d", value).hex()}
            case Tensor():
                return {"$tensor": self._name(value, where)}
            case list():
                return [self.tree(item, f"{where}.{i}") for i, item in enumerate(value)]
            case tuple():
                return {"$tuple": [self.tree(item, f"{where}.{i}") for i, item in enumerate(value)]}
            case Mapping():
                if all(isinstance(key, str) and not key.startswith("$") for key in value):
                    return {key: self.tree(item, f"{where}.{key}") for key, item in value.items()}
                return {"$items": [[self.tree(k, where), self.tree(v, f"{where}.{k}")] for k, v in value.items()]}
        raise TypeError(
            f"{where} is a {type(value).__module__}.{type(value).__qualname__}; a state holds tensors, "
            "int, float, str, bool, None, and lists, tuples and mappings of them"
        )

    def _name(self, tensor: Tensor, where: str) -> str:
        storage = tensor.untyped_storage().data_ptr()
        view = (tensor.device, storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
        if view not in self._names:
            name = where
            while name in self.tensors:  # {"a.b": …} and {"a": {"b": …}} meet in one name
                name += "#"
            self._names[view] = name
            self.tensors[name] = self._own(tensor.detach().cpu().contiguous())
        return self._names[view]

    def _own(self, tensor: Tensor) -> Tensor:
        """A tensor whose memory no other one here looks at, as safetensors demands."""
        if tensor.untyped_storage().data_ptr() in self._storages:
            tensor = tensor.clone()
        self._storages.add(tensor.untyped_storage().data_ptr())
        return tensor


def _unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    match value:
        case {"$tensor": name}:
            return tensors[name]
        case {"$float": digits}:
            return struct.unpack(">d", bytes.fromhex(digits))[0]
        case {"$tuple": items}:
            return tuple(_unpacked(item, tensors) for item in items)
        case {"$items": pairs}:
            return {_unpacked(key, tensors): _unpacked(item, tensors) for key, item in pairs}
        case dict():
            return {key: _unpacked(item, tensors) for key, item in value.items()}
        case list():
            return [_unpacked(item, tensors) for item in value]
    return value
