"""The queue's promises, on SQLite and on PostgreSQL: overlap kept, nobody asked twice, nothing lost."""

from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select

from preferent.config import UsageError
from preferent.feedback.records import Choice, Ranks, Skipped, item
from preferent.feedback.store import open_engine, reading
from preferent.feedback.store.queue import answer, ask, claim, release
from preferent.feedback.store.store import add_annotator, add_campaign, read_judgements
from preferent.feedback.store.tables import leases, tasks

LEFT, RIGHT = Choice((1.0, 0.0)), Choice((0.0, 1.0))


def said(text):
    return ({"role": "assistant", "content": text},)


def questions(n):
    return [
        item(({"role": "user", "content": f"question {i}"},), [said(f"a {i}"), said(f"b {i}")])[0] for i in range(n)
    ]


def campaign(engine, *, items=3, people=4, overlap=2, lease=60.0):
    for i in range(people):
        add_annotator(engine, f"p{i}")
    add_campaign(engine, "c", overlap=overlap, lease=lease)
    asked = questions(items)
    assert ask(engine, "c", asked) == items
    return asked


def opinions(engine):
    """How many people said something on each item of the campaign; nobody twice."""
    found = {}
    for each, judgements in read_judgements(engine, campaign="c"):
        people = [judgement.annotator for judgement in judgements]
        assert len(set(people)) == len(people)
        found[each.id] = len(people)
    return found


def work(engine, person):
    """Answer until there is nothing left; the ids of what was acknowledged."""
    done = []
    while lease := claim(engine, "c", person):
        done.append(answer(engine, lease.id, LEFT).id)
    return done


def test_everybody_is_asked_once_and_every_item_gets_as_many_opinions_as_wanted(engine):
    asked = campaign(engine)
    for person in ("p0", "p1", "p2"):
        work(engine, person)
    assert opinions(engine) == {each.id: 2 for each in asked}
    assert claim(engine, "c", "p3") is None


def test_asking_the_same_again_asks_nothing_new(engine):
    asked = campaign(engine)
    assert ask(engine, "c", asked) == 0
    assert ask(engine, "c", questions(5)) == 2


def test_who_holds_an_item_is_given_it_again_in_the_same_order(engine):
    campaign(engine)
    first = claim(engine, "c", "p0")
    assert claim(engine, "c", "p0") == first
    assert sorted(first.shown) == [0, 1]


def test_annotators_see_options_in_orders_of_their_own(engine):
    campaign(engine, items=1, people=12, overlap=12)
    assert {claim(engine, "c", f"p{i}").shown for i in range(12)} == {(0, 1), (1, 0)}


def test_a_lease_that_ran_out_gives_its_place_to_another(engine):
    campaign(engine, items=1, overlap=1)
    first = claim(engine, "c", "p0", at=1000.0)
    assert claim(engine, "c", "p1", at=1059.0) is None
    second = claim(engine, "c", "p1", at=1061.0)
    assert second.item == first.item


def test_a_late_answer_counts_while_its_place_is_free(engine):
    campaign(engine, items=1, overlap=1)
    late = claim(engine, "c", "p0", at=1000.0)
    release(engine, late.id)
    assert answer(engine, late.id, LEFT, at=2000.0).campaign == "c"
    assert claim(engine, "c", "p1", at=2001.0) is None


def test_an_answer_too_late_for_its_place_is_kept_outside_of_the_campaign(engine):
    asked = campaign(engine, items=1, overlap=1)
    late = claim(engine, "c", "p0", at=1000.0)
    other = claim(engine, "c", "p1", at=2000.0)
    answer(engine, other.id, RIGHT)
    kept = answer(engine, late.id, LEFT)
    assert kept.campaign == ""
    assert opinions(engine) == {asked[0].id: 1}
    assert {each.id for _, group in read_judgements(engine) for each in group} == {late.id, other.id}


def test_who_let_an_item_go_may_have_it_again(engine):
    campaign(engine, items=1, overlap=1)
    first = claim(engine, "c", "p0")
    release(engine, first.id)
    again = claim(engine, "c", "p0")
    assert (again.item, again.id != first.id) == (first.item, True)
    with pytest.raises(UsageError, match="given back, or asked for again"):
        answer(engine, first.id, LEFT)


def test_the_same_answer_twice_is_kept_once_and_another_is_refused(engine):
    campaign(engine)
    lease = claim(engine, "c", "p0")
    first = answer(engine, lease.id, LEFT, seconds=2.5)
    assert answer(engine, lease.id, LEFT) == first
    with pytest.raises(UsageError, match="answered already, otherwise"):
        answer(engine, lease.id, RIGHT)
    assert sum(opinions(engine).values()) == 1


def test_an_answer_that_does_not_fit_is_refused_and_the_lease_stays(engine):
    campaign(engine)
    lease = claim(engine, "c", "p0")
    with pytest.raises(UsageError, match="answered by Choice"):
        answer(engine, lease.id, Ranks((0, 1)))
    assert answer(engine, lease.id, Skipped("too technical")).answer.reason == "too technical"


def test_a_judgement_says_who_when_how_long_and_by_which_guideline(engine):
    campaign(engine)
    lease = claim(engine, "c", "p0", at=1000.0)
    kept = answer(engine, lease.id, LEFT, note="close", at=1012.5)
    assert (kept.annotator, kept.seconds, kept.shown, kept.note) == ("p0", 12.5, lease.shown, "close")
    assert len(kept.guideline) == 64
    [[_, [read]]] = read_judgements(engine, campaign="c")
    assert read == kept


def test_an_unknown_campaign_is_an_error(engine):
    for use in (lambda: claim(engine, "d", "p0"), lambda: ask(engine, "d", questions(1))):
        with pytest.raises(UsageError, match='no campaign "d"'):
            use()


def test_items_of_higher_priority_come_first(engine):
    campaign(engine, items=2)
    urgent = questions(3)[2]
    ask(engine, "c", [urgent], priority=1.0)
    assert claim(engine, "c", "p0").item == urgent


def test_sixteen_writers_at_once_lose_nothing_and_exceed_nothing(where):
    """Each with a connection of its own; a quarter of the claims are let go and taken up by others."""
    engine = open_engine(where)
    asked = campaign(engine, items=25, people=16, overlap=3)

    def person(i):
        mine, done = open_engine(where), []
        while lease := claim(mine, "c", f"p{i}"):
            if len(done) % 4 == 3:
                release(mine, lease.id)
                lease = claim(mine, "c", f"p{i}")
                if lease is None:
                    break
            done.append(answer(mine, lease.id, LEFT).id)
        mine.dispose()
        return done

    with ThreadPoolExecutor(16) as people:
        acknowledged = [id for done in people.map(person, range(16)) for id in done]
    kept = Counter(each.id for _, group in read_judgements(engine, campaign="c") for each in group)
    assert kept == Counter(acknowledged)
    assert opinions(engine) == {each.id: 3 for each in asked}
    engine.dispose()


def test_one_person_in_many_tabs_says_one_thing_of_each_item(where):
    """Each tab with a connection of its own, all claiming, answering and letting go at once."""
    engine = open_engine(where)
    asked = campaign(engine, items=30, people=1, overlap=5)

    def tab(i):
        mine = open_engine(where)
        while lease := claim(mine, "c", "p0"):
            try:
                if i % 4 == 3:
                    release(mine, lease.id)
                answer(mine, lease.id, LEFT)
            except UsageError as error:
                assert "given back, or asked for again" in str(error)  # noqa: PT017  (it may come, or not)
        mine.dispose()

    with ThreadPoolExecutor(8) as tabs:
        list(tabs.map(tab, range(8)))
    assert opinions(engine) == {each.id: 1 for each in asked}
    with reading(engine) as connection:
        assert connection.execute(select(tasks.c.taken)).scalars().all() == [1] * 30
        assert connection.execute(select(leases.c.state)).scalars().all() == ["answered"] * 30
    engine.dispose()


def test_the_same_items_asked_in_many_orders_at_once_are_asked_once(where):
    engine = open_engine(where)
    asked = questions(400)
    names = ("c", "c", "d", "d")
    for name in names:
        add_campaign(engine, name)

    def someone(i):
        mine = open_engine(where)
        order = asked if i % 2 else asked[::-1]
        added = ask(mine, names[i], iter(order))
        mine.dispose()
        return added

    with ThreadPoolExecutor(4) as people:
        assert sum(people.map(someone, range(4))) == 800
    engine.dispose()


def test_items_are_handed_out_in_the_order_in_which_they_were_asked(engine):
    asked = campaign(engine, items=12, overlap=1)
    claimed = []
    while lease := claim(engine, "c", "p0"):
        claimed.append(lease.item)
        answer(engine, lease.id, LEFT)
    assert claimed == asked


def test_work_is_spread_over_those_who_come(engine):
    campaign(engine, items=6, people=4, overlap=2)
    shares = defaultdict(int)
    for turn in range(12):
        if lease := claim(engine, "c", f"p{turn % 4}"):
            answer(engine, lease.id, LEFT)
            shares[f"p{turn % 4}"] += 1
    assert dict(shares) == {"p0": 3, "p1": 3, "p2": 3, "p3": 3}


def test_somebody_whom_the_store_does_not_know_gets_nothing(engine):
    add_campaign(engine, "c")
    with pytest.raises(UsageError, match='no annotator "nobody"'):
        claim(engine, "c", "nobody")
