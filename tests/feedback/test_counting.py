"""What the database counts is what the same statistics find in the judgements themselves."""

import random

import pytest

from preferent.feedback.aggregation import dawid_skene, majority
from preferent.feedback.agreement import fleiss, krippendorff, krippendorff_counts
from preferent.feedback.biases import Answered, biases
from preferent.feedback.records import Choice, Judgement, Skipped, item
from preferent.feedback.store.counting import habits, label_table, vote_table
from preferent.feedback.store.store import (
    add_annotator,
    add_campaign,
    add_items,
    add_judgements,
    label,
    read_judgements,
)

PEOPLE = ("ann", "bob, of sales", "cy:1", "dee")
SAID = (Choice((1.0, 0.0)), Choice((0.0, 1.0)), Choice((0.5, 0.5)), Choice((0.5, 0.5), both_bad=True), Skipped("x"))


def message(text):
    return ({"role": "user", "content": text},)


@pytest.fixture
def judged(engine):
    """Two campaigns in which some answers were corrected, once or twice, and some of these by another campaign's."""
    chance = random.Random(0)
    asked = [item(message(f"q{i}"), (message("yes"), message("no")))[0] for i in range(60)]
    add_items(engine, asked)
    for name in PEOPLE:
        add_annotator(engine, name)
    made = []
    for campaign, some in (("a", asked[:40]), ("b", asked[20:])):
        add_campaign(engine, campaign)
        for each in some:
            for who in chance.sample(PEOPLE, chance.randint(0, 4)):
                shown = chance.choice(((0, 1), (1, 0), ()))
                seconds = chance.choice((None, 2.5, 7.0))
                says = chance.choices(SAID, (8, 4, 2, 1, 1))[0]
                made.append(Judgement(each.id, who, says, shown, seconds, campaign=campaign))
    add_judgements(engine, made)
    for _ in range(2):
        corrected = chance.sample(made, 15)
        made = [
            Judgement(j.item, j.annotator, chance.choice(SAID), j.shown, 1.0, campaign=j.campaign, supersedes=j.id)
            for j in corrected
        ]
        add_judgements(engine, made)
    return engine


def standing(engine, campaign):
    groups = (group for _, group in read_judgements(engine, campaign=campaign))
    return [[each for each in group if isinstance(each.answer, Choice)] for group in groups]


CAMPAIGNS = pytest.mark.parametrize("campaign", ["a", "b"])


@CAMPAIGNS
def test_agreement_is_that_of_the_judgements_that_stand(judged, campaign):
    units = [[label(each.answer) for each in group] for group in standing(judged, campaign)]
    table, straight = label_table(judged, campaign=campaign), krippendorff(units)
    found = krippendorff_counts(table)
    assert found.alpha == pytest.approx(straight.alpha, abs=1e-12)
    assert (found.units, found.labels) == (straight.units, straight.labels)
    assert (found.low, found.high) == pytest.approx((straight.low, straight.high), abs=0.1)
    rows = [(unit, each, 1) for unit, labels in enumerate(units) for each in labels]
    assert fleiss(table).kappa == pytest.approx(fleiss(rows).kappa, abs=1e-12)


@CAMPAIGNS
@pytest.mark.parametrize("method", [majority, dawid_skene])
def test_annotators_are_as_reliable(judged, campaign, method):
    triples = [(j.item, j.annotator, label(j.answer)) for group in standing(judged, campaign) for j in group]
    straight, counted = method(triples), method(vote_table(judged, campaign=campaign))
    expected = {each.annotator: (each.labels, each.accuracy) for each in straight.annotators}
    assert {each.annotator for each in counted.annotators} == expected.keys()
    for each in counted.annotators:
        assert (each.labels, each.accuracy) == pytest.approx(expected[each.annotator], abs=1e-4)


@CAMPAIGNS
def test_habits_are_those_of_the_judgements_that_stand(judged, campaign):
    standing_ = [each for group in standing(judged, campaign) for each in group]
    rows = []
    for j in standing_:
        if j.shown:
            said = label(j.answer)
            rows.append(Answered(j.annotator, j.item, 0.5 if said < 0 else float(said == j.shown[0]), 0.0))
    straight = biases(rows).annotators
    found = habits(judged, campaign=campaign)
    assert [each.annotator for each in found] == sorted(straight)
    for each in found:
        mine = [j for j in standing_ if j.annotator == each.annotator]
        timed = [j.seconds for j in mine if j.seconds is not None]
        assert each.choices == len(mine)
        assert each.ties == sum(label(j.answer) < 0 for j in mine)
        assert each.seconds == pytest.approx(sum(timed) / len(timed))
        assert each.position[:3] == pytest.approx(straight[each.annotator].position[:3], abs=1e-6)


def test_a_store_without_choices_has_none_to_count(engine):
    assert krippendorff_counts(label_table(engine)).alpha is None
    assert majority(vote_table(engine)).annotators == ()
    assert habits(engine) == []


def test_all_campaigns_are_counted_together_where_none_is_named(judged):
    everything = habits(judged)
    assert sum(each.choices for each in everything) == sum(len(group) for group in standing(judged, None))
