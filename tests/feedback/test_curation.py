"""What texts are written in and about, how prompts are dealt out, what leaks, and how rare classes are repeated."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preferent.feedback.curation.balance import copies, weights
from preferent.feedback.curation.contamination import HeldOut, passages
from preferent.feedback.curation.language import UNKNOWN, language
from preferent.feedback.curation.minhash import jaccard, shingles
from preferent.feedback.curation.split import Claim, Dealer, Torn, side
from preferent.feedback.curation.topics import topics

# --- languages -------------------------------------------------------------------------------------

# Article 1 of the Universal Declaration of Human Rights, and an everyday question.
SAYINGS = {
    "en": [
        "All human beings are born free and equal in dignity and rights. They are endowed with reason and conscience.",
        "How do I change the tyre of my bicycle?",
    ],
    "de": [
        "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt.",
        "Wie kann ich den Reifen meines Fahrrads wechseln?",
    ],
    "fr": [
        "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison.",
        "Comment est-ce que je peux changer le pneu de mon vélo ?",
    ],
    "es": [
        "Todos los seres humanos nacen libres e iguales en dignidad y derechos y, dotados como están de razón.",
        "¿Cómo puedo cambiar la rueda de mi bicicleta?",
    ],
    "it": [
        "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti. Essi sono dotati di ragione.",
        "Come posso cambiare la gomma della mia bicicletta?",
    ],
    "pt": [
        "Todos os seres humanos nascem livres e iguais em dignidade e em direitos. Dotados de razão e de consciência.",
        "Como é que eu posso trocar o pneu da minha bicicleta?",
    ],
    "nl": [
        "Alle mensen worden vrij en gelijk in waardigheid en rechten geboren. Zij zijn begiftigd met verstand.",
        "Hoe kan ik de band van mijn fiets vervangen?",
    ],
    "sv": ["Alla människor är födda fria och lika i värde och rättigheter.", "Hur kan jag byta däck på min cykel?"],
    "da": [
        "Alle mennesker er født frie og lige i værdighed og rettigheder. De er udstyret med fornuft og samvittighed.",
        "Hvordan skal jeg skifte dækket på min cykel?",
    ],
    "pl": [
        "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw.",
        "Jak mogę zmienić oponę?",
    ],
    "tr": ["Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar. Akıl ve vicdana sahiptirler."],
    "id": ["Semua orang dilahirkan merdeka dan mempunyai martabat dan hak-hak yang sama."],
    "vi": ["Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền lợi."],
    "ru": ["Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и совестью."],
    "uk": ["Всі люди народжуються вільними і рівними у своїй гідності та правах. Вони наділені розумом і совістю."],
    "ar": ["يولد جميع الناس أحرارا متساوين في الكرامة والحقوق، وقد وهبوا عقلا وضميرا وعليهم أن يعامل بعضهم بعضا."],
    "hi": ["सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।"],
    "zh": ["人人生而自由，在尊严和权利上一律平等。"],
    "ja": ["すべての人間は、生れながらにして自由であり、かつ、尊厳と権利とについて平等である。"],
    "ko": ["모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다."],
    "el": ["Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα."],
    "th": ["มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ"],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in SAYINGS.items() for text in texts])
def test_running_text_is_told_by_its_script_or_its_common_words(name, text):
    assert language(text) == name


@pytest.mark.parametrize(
    "text",
    ["", "12 + 30 = 42", "thanks!", "def f(x):\n    return x * 2", "E7 | A7 | A7 | E7", "lorem ipsum dolor sit amet"],
)
def test_too_little_to_go_by_is_unknown(text):
    assert language(text) == UNKNOWN


@given(st.text(max_size=200))
def test_any_text_has_an_answer(text):
    assert language(text) == UNKNOWN or len(language(text)) == 2


# --- topics ----------------------------------------------------------------------------------------

SUBJECTS = (
    ["bread", "flour", "oven", "yeast", "dough"],
    ["goal", "football", "match", "referee", "league"],
    ["violin", "orchestra", "melody", "concert", "chord"],
)


def chatter(n: int, draw: random.Random) -> list[str]:
    return [" ".join(["please", "explain", *draw.choices(SUBJECTS[i % 3], k=6)]) for i in range(n)]


def test_texts_about_different_things_are_told_apart_by_their_words():
    found = topics(chatter(90, random.Random(1)), most=3)
    assert [topic.texts for topic in found] == [30, 30, 30]
    assert sorted(sorted(topic.words) for topic in found) == sorted(map(sorted, SUBJECTS))


def test_the_same_texts_have_the_same_topics():
    texts = chatter(60, random.Random(2))
    assert topics(texts) == topics(list(texts))


def test_too_few_texts_have_no_topics():
    assert topics([]) == []
    assert topics(["one text about bread"]) == []
    assert topics(["same words here"] * 40) == []


# --- splits ----------------------------------------------------------------------------------------

SHARES = {"train": 0.8, "test": 0.2}
PROMPTS = st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=3, max_size=7).map(" ".join), min_size=1, max_size=25)


@settings(max_examples=60)
@given(PROMPTS, st.integers(0, 5))
def test_nearly_the_same_prompt_is_never_on_two_sides(prompts, seed):
    """Of pairs at .75 where .5 is asked for, the bands miss (1 − .75²)²⁵, one in a thousand million."""
    dealer = Dealer({"train": 0.5, "test": 0.5}, threshold=0.5, seed=seed)
    dealt = [(prompt, claim) for prompt in prompts if isinstance(claim := dealer.deal(prompt), Claim)]
    across = [
        (one, other)
        for one, a in dealt
        for other, b in dealt
        if a.side != b.side and jaccard(shingles(one), shingles(other)) >= 0.75
    ]
    assert across == []


@settings(max_examples=60)
@given(PROMPTS, PROMPTS)
def test_prompts_added_at_the_end_move_no_old_one(prompts, added):
    before, after = Dealer(SHARES, 0.5), Dealer(SHARES, 0.5)
    assert [before.deal(prompt) for prompt in prompts] == [after.deal(p) for p in (*prompts, *added)][: len(prompts)]


def test_a_prompt_alone_is_dealt_by_its_hash_whatever_was_before_it():
    prompts = [f"tell me of {i} things that are called {i}" for i in range(400)]
    straight, backwards = Dealer(SHARES, 1.0), Dealer(SHARES, 1.0)
    one = {prompt: straight.deal(prompt).side for prompt in prompts}
    assert one == {prompt: backwards.deal(prompt).side for prompt in reversed(prompts)}


def test_a_near_duplicate_follows_and_what_lies_between_two_sides_is_torn():
    """At ½: a…e and c…g have the triple cde of 5 in common, a likeness of .2; b…f has half of its triples in either.

    abc bcd cde | cde def efg; bcd cde def: 2 of 4 in common with each.
    """
    one, between, other = "a b c d e", "b c d e f", "c d e f g"
    seed = next(s for s in range(100) if side(one, SHARES, s) != side(other, SHARES, s))
    dealer = Dealer(SHARES, 0.5, seed)
    first, second = dealer.deal(one), dealer.deal(other)
    assert first.side != second.side
    assert dealer.deal(between) == Torn(first, second)
    assert dealer.deal("A b c d e!").side == first.side
    follower = Dealer(SHARES, 0.5, seed)
    follower.deal(one)
    assert follower.deal(between).side == first.side


def test_rows_of_a_group_stay_together():
    dealer = Dealer(SHARES)
    sides = {dealer.deal(f"an entirely different question number {i}", ["conversation 7"]).side for i in range(50)}
    assert len(sides) == 1


def test_sides_come_out_in_proportion():
    """2,000 draws at .2: 400 ± 4 standard errors of √(2000 · .2 · .8) ≈ 18."""
    drawn = Counter(side(f"prompt {i}", SHARES) for i in range(2000))
    assert abs(drawn["test"] - 400) < 72
    assert side("any", {"only": 3.0}) == "only"


def test_a_larger_last_part_takes_from_its_neighbour_alone():
    before = {f"p{i}": side(f"p{i}", {"train": 0.8, "validation": 0.1, "test": 0.1}) for i in range(500)}
    after = {name: side(name, {"train": 0.8, "validation": 0.05, "test": 0.15}) for name in before}
    assert {(before[p], after[p]) for p in before if before[p] != after[p]} == {("validation", "test")}


# --- contamination ---------------------------------------------------------------------------------

QUESTION = "a farmer has seventeen sheep and all but nine of them run away how many sheep are left to the farmer"


def test_a_question_that_is_held_out_is_found_in_other_clothes_and_inside_other_text():
    held = HeldOut()
    held.add("what is the capital of norway")
    held.add(QUESTION)
    assert held.leak("What is the capital of Norway?").why == "the same question"
    assert held.leak(QUESTION.replace("seventeen", "17")).place == 1
    inside = held.leak(f"Solve this for me, and quickly if you can, my friend. {QUESTION} Think twice!")
    assert inside.place == 1
    assert "13 words in a row of its question: 'a farmer has seventeen" in inside.why
    assert held.leak("what do you say to this", [f"somebody asked: {QUESTION}"]).place == 1
    assert held.leak("what is the largest town of norway") is None


def test_the_first_row_that_asks_a_question_is_named_where_several_do():
    held = HeldOut()
    for asked in ("one thing", QUESTION, QUESTION, "another thing"):
        held.add(asked)
    assert held.leak(QUESTION).place == 1
    assert held.leak("another thing").place == 3


def test_an_instruction_that_many_questions_begin_with_is_nobodys():
    start = "you are a helpful assistant and answer every question as well as you can in one sentence"
    few, many = (passages([f"{start} {name} {i}" for i in range(n)]) for name, n in (("few", 10), ("many", 11)))
    assert few.shared(start) == (0, " ".join(start.split()[:13]))
    assert many.shared(start) is None


def test_texts_shorter_than_a_passage_share_none():
    assert passages(["too short"]).shared("too short") is None
    assert passages([]).shared(QUESTION) is None


# --- balance ---------------------------------------------------------------------------------------


def test_rare_classes_are_repeated_until_all_are_as_large_as_the_largest_or_as_strength_says():
    """100 : 25 is 4 times; half of the way, on a scale of ratios, is its root."""
    assert weights({"a": 100, "b": 25}) == {"a": 1, "b": 4}
    assert weights({"a": 100, "b": 25}, 0.5) == {"a": 1, "b": 2}
    assert weights({"a": 100, "b": 25}, 0) == {"a": 1, "b": 1}
    assert weights({"a": 100, "b": 1}, most=10) == {"a": 1, "b": 10}
    assert weights({}) == {}


@given(st.floats(0, 20), st.text(max_size=8))
def test_copies_are_the_weight_rounded_up_or_down(weight, key):
    assert copies(weight, key) in (int(weight), int(weight) + 1)
    assert copies(float(int(weight)), key) == int(weight)


def test_copies_are_the_weight_on_average():
    """1,000 draws of 2.3: a mean within 4 standard errors of √(.3 · .7 / 1000) ≈ .0145."""
    assert abs(sum(copies(2.3, str(i)) for i in range(1000)) / 1000 - 2.3) < 0.058
