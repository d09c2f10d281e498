"""Items with what people said of them, drawn by hypothesis."""

from hypothesis import strategies as st

from preferent.feedback.records import Choice, Judgement, Ranks, Ratings, Skipped, Steps, Written, canonical, item

WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
NAMES = st.text("abcxyz0123456789-", min_size=1, max_size=12)
KINDS = ("comparison", "trajectories", "ranking", "rating", "steps", "edit", "demonstration")
LEAST = {"comparison": 2, "trajectories": 2, "ranking": 2, "demonstration": 0}
MOST = {"comparison": 4, "trajectories": 3, "ranking": 4, "rating": 3, "demonstration": 0}


def turns(roles):
    calls = st.fixed_dictionaries(
        {"role": st.just("assistant"), "tool_calls": st.lists(st.just({"name": "f"}), min_size=1)}
    )
    spoken = st.fixed_dictionaries({"role": st.sampled_from(roles), "content": WORDS | st.just("\n\nHuman: hello")})
    parts = st.fixed_dictionaries({"role": st.sampled_from(roles), "content": st.lists(st.just({"type": "text"}))})
    return st.lists(st.one_of(spoken, spoken, spoken, calls, parts), min_size=1, max_size=3).map(tuple)


INFO = st.dictionaries(
    WORDS | st.sampled_from(["info", "prompt", "choice", "tools", "steps", "suggestions", "predictions", "said"]),
    st.one_of(
        st.none(), st.integers(-9, 9), WORDS, st.lists(WORDS, max_size=2), st.dictionaries(WORDS, WORDS, max_size=1)
    ),
    max_size=3,
)


@st.composite
def items(draw, kinds=KINDS, most=None):
    kind = draw(st.sampled_from(kinds))
    count = st.integers(LEAST.get(kind, 1), min(most or 9, MOST.get(kind, 1)))
    options = draw(count.flatmap(lambda n: st.lists(turns(["assistant"]), min_size=n, max_size=n, unique_by=canonical)))
    sources = [f"model {i}" for i in range(len(options))] if draw(st.booleans()) else []
    context = draw(turns(["system", "user", "assistant"]))
    return item(context, options, kind=kind, sources=sources, info=draw(INFO))[0]


def shares(n):
    return st.lists(st.integers(0, 5), min_size=n, max_size=n).map(
        lambda counts: tuple(each / sum(counts) for each in counts) if sum(counts) else (1 / n,) * n
    )


def answers(of):
    n = len(of.options)
    said = {
        "ranking": lambda: st.builds(Ranks, st.tuples(*[st.integers(0, n)] * n)),
        "rating": lambda: st.builds(Ratings, rated(n), st.dictionaries(NAMES, rated(n), max_size=2)),
        "steps": lambda: st.builds(Steps, st.lists(st.sampled_from([-1, 0, 1]), max_size=4).map(tuple)),
        "edit": lambda: st.builds(Written, meant(), st.just(0)),
        "demonstration": lambda: st.builds(Written, meant()),
    }.get(of.kind)
    choice = st.builds(
        Choice,
        shares(n),
        st.none() | st.floats(0, 3),
        st.booleans(),
        st.dictionaries(NAMES, shares(n), max_size=1),
    )
    return st.one_of(choice if said is None else said(), choice if said is None else said(), st.builds(Skipped, WORDS))


def rated(n):
    return st.tuples(*[st.floats(-9, 9)] * n)


def meant():
    """What somebody wrote, which is never nothing."""
    return turns(["assistant"]).map(lambda said: ({"role": "assistant", "content": "well,"}, *said))


@st.composite
def judged(draw, kinds=KINDS, most=None):
    """An item and its judgements, one of them an answer at least."""
    of = draw(items(kinds, most))
    given = draw(st.lists(answers(of), min_size=1, max_size=3))
    if all(isinstance(each, Skipped) for each in given):
        given.append(draw(answers(of).filter(lambda each: not isinstance(each, Skipped))))
    return of, [
        Judgement(
            of.id,
            draw(NAMES),
            answer,
            tuple(draw(st.permutations(range(len(of.options))))) if draw(st.booleans()) else (),
            draw(st.none() | st.floats(0, 99)),
            draw(st.just("") | NAMES),
            draw(st.just("") | NAMES),
            note=draw(WORDS),
        )
        for answer in given
    ]
