"""The support desk: its facts, questions, held-out cells and demonstrations."""

import subprocess
import sys
from collections import Counter, defaultdict
from itertools import pairwise

import pytest

from preferent.config import UsageError
from preferent.worlds.support_desk import STYLES, World, printed
from preferent.worlds.support_desk.facts import ASPECTS, TOPICS, names
from preferent.worlds.support_desk.gold import gold, tokenise
from preferent.worlds.support_desk.phrasings import QUESTIONS
from preferent.worlds.support_desk.styles import OUTDATED, SLIP, TEMPLATES, demonstrate, weighted

SEEDS = (0, 1, 2)


@pytest.fixture(scope="module", params=SEEDS)
def world(request):
    return World(request.param)


def test_there_are_a_hundred_facts_and_two_thousand_questions(world):
    assert len(world.facts) == len(set(world.facts)) == 100
    assert (len(world.train_questions), len(world.heldout_questions)) == (1600, 400)


def test_no_two_cells_are_asked_in_the_same_words(world):
    texts = [question.text for question in (*world.train_questions, *world.heldout_questions)]
    assert len(set(texts)) == len(texts)


def test_every_aspect_deals_its_values_evenly(world):
    for name, aspect in ASPECTS.items():
        dealt = Counter(fact.value for fact in world.facts if fact.aspect == name)
        counts = [dealt[value] for value in aspect.values]
        assert max(counts) - min(counts) <= 1


def test_another_seed_has_other_facts_and_other_cells_held_out():
    one, other = World(0), World(1)
    assert len(set(one.facts) & set(other.facts)) < 50
    assert {q.text for q in one.heldout_questions} != {q.text for q in other.heldout_questions}


def test_every_fact_is_held_out_in_a_fifth_of_its_phrasings(world):
    assert set(Counter(question.fact for question in world.heldout_questions).values()) == {4}


def test_every_fact_phrasing_and_name_is_met_in_training_a_few_times(world):
    trained = defaultdict(list)
    for question in world.train_questions:
        trained[question.fact].append(f" {question.text} ")
    for aspect, phrasings in QUESTIONS.items():
        texts = [text for fact in world.facts if fact.aspect == aspect for text in trained[fact]]
        for phrasing in phrasings:
            begins, ends = phrasing.split("{t}")
            assert sum(begins in text and ends in text for text in texts) >= 3, phrasing
    for fact in world.facts:
        assert len(trained[fact]) == 16
        assert all(sum(f" {name} " in text for text in trained[fact]) >= 2 for name in names(fact))


def test_the_tokenizers_text_has_every_word_that_is_asked_or_answered(world):
    known = set(world.vocabulary)
    assert 350 <= len(known) <= 700
    said = [reply for _, reply in world.demonstrations(2000, seed=7)]
    asked = [question.text for question in world.heldout_questions]
    assert all(word in known for text in said + asked for word in text.split())


def test_words_and_signs_stand_apart_in_lower_case(world):
    for text in world.text:
        assert text.split() == tokenise(text)


def test_the_text_for_the_tokenizer_has_no_held_out_question(world):
    assert not {question.text for question in world.heldout_questions} & set(world.text)


def test_demonstrations_are_short_and_ask_everything_once_before_anything_twice(world):
    demonstrations = world.demonstrations(3000, seed=1)
    assert all(5 <= len(reply.split()) <= 30 for _, reply in demonstrations)
    assert set(Counter(question for question, _ in demonstrations[:1600]).values()) == {1}
    assert {question for question, _ in demonstrations} == set(world.train_questions)


def test_demonstrations_depend_on_their_seed_and_more_of_them_begin_with_the_same_ones(world):
    assert world.demonstrations(50, seed=1) == world.demonstrations(2000, seed=1)[:50]
    assert world.demonstrations(50, seed=1) != world.demonstrations(50, seed=2)


def test_two_facts_of_each_aspect_have_swapped_their_values(world):
    changed = defaultdict(list)
    for fact in world.facts:
        if fact.formerly:
            changed[fact.aspect].append(fact)
    assert changed.keys() == ASPECTS.keys()
    for one, other in changed.values():
        assert (one.formerly, other.formerly) == (other.value, one.value)
        assert one.value != one.formerly


def test_demonstrations_have_the_stated_shares_of_styles_and_of_wrong_facts(world):
    drawn = [(q.fact, demonstrate(q.fact, "shares", i)) for i, q in enumerate(world.train_questions * 3)]
    styles = Counter(each.style for _, each in drawn)
    for style, expected in STYLES.items():
        assert styles[style] / len(drawn) == pytest.approx(expected, abs=0.03)
    slips = [each.value != fact.value for fact, each in drawn if not fact.formerly]
    outdated = [each.value == fact.formerly for fact, each in drawn if fact.formerly]
    assert sum(slips) / len(slips) == pytest.approx(SLIP, abs=0.015)
    assert sum(outdated) / len(outdated) == pytest.approx(OUTDATED, abs=0.05)
    assert all(each.value in (fact.value, fact.formerly) for fact, each in drawn if fact.formerly)


def test_shares_of_styles_sum_to_one_and_every_style_has_templates():
    assert sum(STYLES.values()) == pytest.approx(1)
    assert STYLES.keys() == TEMPLATES.keys()
    assert {weighted(STYLES, i) for i in range(300)} == set(STYLES)


def test_each_style_has_many_ways_to_say_the_same(world):
    fact = world.facts[0]
    for style in STYLES:
        said = {demonstrate(fact, i, styles={style: 1.0}, wrong=0).text for i in range(200)}
        assert len(said) >= 8, style


def test_only_the_value_said_decides_whether_a_demonstration_is_right(world):
    """So no template holds a word that tells one value of any aspect from another, nor another topic's name."""
    for i, question in enumerate(world.train_questions):
        drawn = demonstrate(question.fact, "right", i)
        assert gold(question.fact, drawn.text).parts["right"] == (drawn.value == question.fact.value), drawn


def test_values_share_a_frame_and_no_telling_word():
    for aspect in ASPECTS.values():
        assert len(set(aspect.tell)) == len(aspect.tell) >= 6
        assert not set(aspect.tell) & set(aspect.frame.split())


def test_no_name_of_a_topic_is_another_topics_or_holds_a_telling_word():
    for kind, topics in TOPICS.items():
        all_names = [name for topic in topics for name in topic]
        assert len(set(all_names)) == len(all_names)
        tells = {word for aspect in ASPECTS.values() if aspect.kind == kind for word in aspect.tell}
        assert not tells & {word for name in all_names for word in name.split()}


def test_worlds_are_the_same_in_every_process():
    code = "from preferent.worlds.support_desk import World; print(World(3).demonstrations(3, 5)[2])"
    said = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in "ab"
    }
    assert said == {f"{World(3).demonstrations(3, 5)[2]}\n"}


def test_the_world_imports_no_torch():
    code = "import sys, preferent.worlds.support_desk; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_question_is_given_as_a_users_message(world):
    question = world.train_questions[0]
    assert question.messages == ({"role": "user", "content": question.text},)


def test_gold_takes_a_question_its_fact_its_text_or_its_messages_however_spaced(world):
    question, reply = world.demonstrations(1, seed=0)[0]
    expected = world.gold(question, reply)
    messages = ({"role": "assistant", "content": reply},)
    assert world.gold(question.fact, reply) == world.gold(question.messages, messages) == expected
    assert world.gold(question.text, reply) == world.gold(printed(question.text).upper(), printed(reply)) == expected
    assert world.utility(question, reply) == expected.value


def test_a_question_of_nobodys_is_refused(world):
    with pytest.raises(UsageError, match="my invoice from march"):
        world.gold("my invoice from march is wrong , what do i do ?", "just tap the anchor .")


def test_examples_are_held_out_and_about_different_aspects(world):
    examples = world.examples(12)
    assert len(set(examples)) == 12
    assert set(examples) <= set(world.heldout_questions)
    assert len({question.fact.aspect for question in examples[:10]}) == 10


def test_a_question_is_printed_as_people_write():
    assert printed("hi , what does the sun jar cost ? thanks") == "hi, what does the sun jar cost? thanks"


def test_any_first_few_held_out_questions_are_mixed(world):
    aspects = [question.fact.aspect for question in world.heldout_questions[:40]]
    assert sum(a == b for a, b in pairwise(aspects)) < 20
