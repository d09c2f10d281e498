"""A JSON value with one of its parts replaced by something of another kind, left out, or standing twice."""

import copy
from typing import Any

from hypothesis import strategies as st

ODD = [
    None, True, False, 0, -1, 3, 2**63, 10**400, -0.5, 1e308, float("nan"), float("inf"), "", " ", "0", "NaN", "a\0b",
    "\ud800", "\u202e\u2028é漢🙂", "x" * 5000, "../../up", [], [None], [[]], {}, {"": None}, {"$tensor": "x"},
    {"$float": "zz"}, {"$items": [1]}, {"$tuple": None}, [1, "a", {}], {"role": 3, "content": None},
]  # fmt: skip


@st.composite
def altered(draw: Any, value: Any, times: int = 1) -> Any:
    """Any part may be the one, the whole value too."""
    value = copy.deepcopy(value)
    for _ in range(times):
        holder: Any = [value]
        held = holder
        key: Any = 0
        while isinstance(held[key], dict | list) and held[key] and draw(st.integers(0, 5)):
            held = held[key]
            key = draw(st.sampled_from(sorted(held) if isinstance(held, dict) else range(len(held))))
        match draw(st.integers(0, 9)):
            case 0:
                del held[key]
            case 1 if isinstance(held, list):
                held.append(held[key])
            case 1:
                held[f"{key} "] = held.pop(key)
            case _:
                held[key] = copy.deepcopy(draw(st.sampled_from(ODD)))
        if not holder:
            return None
        value = holder[0]
    return value
