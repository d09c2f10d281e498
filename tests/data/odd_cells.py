"""Rows as no sane person writes them, near enough to real ones to get far."""

from hypothesis import strategies as st

from preferent.data.columns import FORMATS, KNOWN

short = st.sampled_from(["", " ", "a", "b", "\n\nHuman: a\n\nAssistant: b", "\n\nHuman: a", "\ud800", "user", "text"])
scalars = (
    st.none()
    | st.booleans()
    | st.sampled_from([10**400, 2**53 + 1])
    | st.integers(-3, 3)
    | st.floats()
    | short
    | st.text(max_size=3)
)
roles = st.sampled_from(["system", "user", "assistant", "tool", "developer", "narrator", None, 3])
calls = st.sampled_from(
    [None, [], [{"function": {"name": "f"}}], [{"name": "f", "arguments": "{"}], [3], "x", [{"function": {"name": 3}}]]
)
parts = st.lists(st.fixed_dictionaries({"type": st.sampled_from(["text", "image"]), "text": scalars}), max_size=2)
message = st.fixed_dictionaries({"role": roles, "content": short | parts | scalars}, optional={"tool_calls": calls})
turns = st.lists(message | scalars, max_size=4)
anything = st.recursive(
    scalars, lambda of: st.lists(of, max_size=3) | st.dictionaries(st.text(max_size=4), of, max_size=3), max_leaves=6
)
cells = (
    short | turns | anything | st.lists(short | turns, max_size=3) | st.lists(st.integers(-2, 3) | scalars, max_size=3)
)
names = st.sampled_from([*sorted(KNOWN), "choosen", "better", "tools", "id"]) | st.text(max_size=8)
settings_of_templates = st.dictionaries(
    st.sampled_from(["messages", "tools", "enable_thinking", "x"]), anything, max_size=2
)
others = {"tools": cells, "chat_template_kwargs": settings_of_templates}
loose = st.dictionaries(names, cells, max_size=6)
formed = st.sampled_from(FORMATS).flatmap(
    lambda f: st.fixed_dictionaries(dict.fromkeys(sorted(f.needs), cells), optional=others)
)
odd_rows = loose | formed
