"""Rows as TRL, OpenAI, Argilla and Label Studio write them, with their documentation's names."""

import pytest

from preferent.config import UsageError
from preferent.feedback.formats import FORMATS, format_of
from preferent.feedback.records import Choice, Ratings, Skipped, Steps, Written

PROMPT = [{"role": "user", "content": "what colour is the sky?"}]
BLUE, GREEN = ([{"role": "assistant", "content": text}] for text in ("it is blue.", "it is green."))


def read(row, name=None, **names):
    return list(FORMATS[name or format_of(row)].read(row, {ours: theirs.split() for ours, theirs in names.items()}))


def only(row, name=None, **names):
    """The one item in a row, and its one judgement."""
    (found,) = read(row, name, **names)
    (said,) = found.judgements
    return found.item, said


def preferred(of, said):
    """The text of the option that has the greatest share."""
    return of.options[said.answer.choice.index(max(said.answer.choice))][0]["content"]


# --- TRL -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "what colour is the sky?", "chosen": "it is blue.", "rejected": "it is green."},
        {"prompt": PROMPT, "chosen": BLUE, "rejected": GREEN},
        {"chosen": PROMPT + BLUE, "rejected": PROMPT + GREEN},
        {"prompt": PROMPT, "chosen": PROMPT + BLUE, "rejected": PROMPT + GREEN},
        {
            "chosen": "\n\nHuman: what colour is the sky?\n\nAssistant: it is blue.",
            "rejected": "\n\nHuman: what colour is the sky?\n\nAssistant: it is green.",
        },
        {"input": {"messages": PROMPT}, "preferred_output": BLUE, "non_preferred_output": GREEN},
    ],
)
def test_a_pair_is_the_same_comparison_however_it_is_written(row):
    of, said = only(row)
    assert of.context == tuple(PROMPT)
    assert preferred(of, said) == "it is blue."
    assert sorted(said.answer.choice) == [0.0, 1.0]


def test_a_pair_keeps_how_sure_and_by_whom_it_was_judged():
    pair = {
        "prompt": "p",
        "chosen": "a",
        "rejected": "b",
        "choice": 0.75,
        "strength": 2,
        "annotator": "ann",
        "topic": "sky",
    }
    of, said = only(pair)
    assert max(said.answer.choice) == 0.75
    assert (said.answer.strength, said.annotator, of.info) == (2.0, "ann", {"topic": "sky"})


def test_a_ranking_of_trl_has_the_best_first_from_0_on():
    of, said = only({"prompt": "p", "completions": ["c", "a", "b"], "ranks": [3, 1, 1]})
    ranked = {option[0]["content"]: rank for option, rank in zip(of.options, said.answer.ranks, strict=True)}
    assert ranked == {"a": 0, "b": 0, "c": 1}


def test_the_other_types_of_trl_are_read_too():
    of, said = only({"prompt": "p", "completions": ["2 + 2 = 4", "so 5"], "labels": [True, False]})
    assert (of.kind, said.answer) == ("steps", Steps((1, -1)))
    assert only({"prompt": "p", "completion": "c", "label": False})[1].answer == Ratings((0.0,))
    for row in ({"prompt": PROMPT, "completion": BLUE}, {"messages": PROMPT + BLUE}):
        of, said = only(row)
        assert (of.context, said.answer) == (tuple(PROMPT), Written(tuple(BLUE)))


def test_columns_of_other_names_are_told():
    of, said = only({"prompt": "p", "winner": "a", "loser": "b"}, "trl", chosen="winner", rejected="loser")
    assert preferred(of, said) == "a"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "p", "chosen": "a"}, "no known columns"),
        ({"chosen": 3, "rejected": "b", "prompt": "p"}, "chosen: expected a list; got 3"),
        (
            {"prompt": "p", "chosen": [{"role": "bot", "content": "a"}], "rejected": "b"},
            "chosen, turn 1: expected a role",
        ),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "choice": 2}, "choice: expected 0 … 1"),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "strength": 7}, "strength: expected 0"),
        ({"prompt": "p", "chosen": "a", "rejected": "a"}, "say the same"),
        ({"prompt": "p", "completions": ["a", "b"], "ranks": [0]}, "ranks: expected 2"),
        ({"prompt": "p", "completions": ["a", "b"]}, "ranks: missing beside completions"),
        ({"prompt": "p", "completion": "a", "label": "good"}, "label: expected true or false"),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "judgements": ["x", "y"]}, "judgements: 2 of them"),
        ({"messages": PROMPT}, "messages: expected an assistant's turn"),
        ({"input": {"messages": PROMPT}, "preferred_output": BLUE}, "non_preferred_output: missing"),
        ({"input": PROMPT, "preferred_output": BLUE, "non_preferred_output": GREEN}, "input: expected an object"),
    ],
)
def test_what_is_wrong_with_a_row_is_said_with_the_field(row, said):
    with pytest.raises(UsageError, match=said):
        read(row, "openai" if "input" in row else "trl")


def test_tools_of_openai_stay_beside_the_messages():
    row = {
        "input": {"messages": PROMPT, "tools": [{"type": "function"}], "parallel_tool_calls": True},
        "preferred_output": BLUE,
        "non_preferred_output": GREEN,
    }
    of, said = only(row)
    (written,) = FORMATS["openai"].write(of, [said], {})
    assert FORMATS["openai"].plain(written) == row


# --- Argilla -------------------------------------------------------------------------------------
FIELDS = {"instruction": "what colour is the sky?", "response_1": "it is green.", "response_2": "it is blue."}


def test_responses_by_question_are_judgements_of_their_users():
    """As `records.to_json` writes them."""
    record = {
        "id": "7",
        "fields": FIELDS,
        "metadata": {"topic": "sky"},
        "suggestions": {"preference": {"value": "response_1", "score": 0.9, "agent": "a model"}},
        "responses": {
            "preference": [{"value": "response_2", "user_id": "u1"}, {"value": "tie", "user_id": "u2"}],
            "comment": [{"value": "green is wrong", "user_id": "u1"}],
        },
        "vectors": {},
        "_server_id": None,
    }
    (found,) = read(record)
    one, two = found.judgements
    assert preferred(found.item, one) == "it is blue."
    assert (one.annotator, one.note) == ("Argilla user u1", "green is wrong")
    assert [found.item.options[place][0]["content"] for place in one.shown] == ["it is green.", "it is blue."]
    assert two.answer == Choice((0.5, 0.5))
    assert found.item.info["topic"] == "sky"
    assert found.item.info["suggestions"]["preference"]["agent"] == "a model"


def test_drafts_are_left_out_and_discarded_records_are_skips():
    """As the server's records have them: by user, with a status."""
    values = {"preference": {"value": "response_1"}}
    record = {
        "fields": FIELDS,
        "responses": [
            {"user_id": "u1", "status": "draft", "values": values},
            {"user_id": "u2", "status": "discarded", "values": {}},
            {"user_id": "u3", "status": "submitted", "values": values},
        ],
    }
    (found,) = read(record)
    assert {each.annotator[-2:]: type(each.answer) for each in found.judgements} == {"u3": Choice, "u2": Skipped}


def test_a_flat_record_says_the_same():
    """As `records.to_list(flatten=True)` and data sets on the Hub have them."""
    record = {
        **FIELDS,
        "id": "7",
        "status": "completed",
        "_server_id": "x",
        "preference.responses": ["response_2", "response_1"],
        "preference.responses.users": ["u1", "u2"],
        "preference.responses.status": ["submitted", "discarded"],
        "preference.suggestion": "response_1",
        "preference.suggestion.score": None,
    }
    (found,) = read(record)
    assert [type(each.answer) for each in found.judgements] == [Choice, Skipped]
    assert preferred(found.item, found.judgements[0]) == "it is blue."


def test_rankings_ratings_and_texts_become_items_of_their_own():
    record = {
        "fields": FIELDS,
        "responses": {
            "ranking": [{"value": ["response_2", "response_1"], "user_id": "u1"}],
            "rating_1": [{"value": 2, "user_id": "u1"}],
            "rating_2": [{"value": 5, "user_id": "u1"}],
            "helpful-response_1": [{"value": 1, "user_id": "u1"}],
            "helpful-response_2": [{"value": 4, "user_id": "u1"}],
            "demonstration": [{"value": "it is azure.", "user_id": "u1"}],
        },
    }
    found = {each.item.kind: (each.item, each.judgements[0].answer) for each in read(record)}
    assert set(found) == {"ranking", "rating", "demonstration"}
    of, ranks = found["ranking"]
    assert of.options[ranks.ranks.index(0)][0]["content"] == "it is blue."
    of, rated = found["rating"]
    blue = [option[0]["content"] for option in of.options].index("it is blue.")
    assert (rated.ratings[blue], rated.aspects["helpful"][blue], rated.aspects["helpful"][1 - blue]) == (5.0, 4.0, 1.0)
    assert found["demonstration"][1].messages[0]["content"] == "it is azure."


def test_several_questions_about_one_pair_are_aspects_of_one_choice():
    said = {"overall": "response_1", "honesty": "response_2"}
    record = {"fields": FIELDS, "responses": {q: [{"value": v, "user_id": "u"}] for q, v in said.items()}}
    of, judgement = only(record)
    assert preferred(of, judgement) == "it is green."
    assert judgement.answer.aspects == {"honesty": tuple(1 - share for share in judgement.answer.choice)}


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"fields": {"title": "x"}, "responses": {}}, "fields: expected a prompt; got title"),
        ({"fields": FIELDS, "responses": {"mood": [{"value": "sunny", "user_id": "u"}]}}, "mood: cannot tell"),
        ({"fields": FIELDS, "responses": {"liked": [{"value": 4, "user_id": "u"}]}}, "liked: cannot tell which"),
        ({"fields": FIELDS, "responses": {"rating_1": [{"value": 4, "user_id": "u"}]}}, "response_2 has none"),
        ({"fields": FIELDS, "responses": {"tags": [{"value": ["a"], "user_id": "u"}]}}, "tags: expected an order"),
        ({**FIELDS, "q.responses": ["tie"], "q.responses.users": 3}, "q.responses.users: expected a list"),
        ({"fields": FIELDS, "responses": {"r": [{"value": [{"rank": "x"}], "user_id": "u"}]}}, "r: expected a number"),
        ({"fields": FIELDS, "responses": [{"user_id": "u", "status": "lost"}]}, "status: expected submitted"),
    ],
)
def test_what_is_wrong_with_a_record_is_said_with_the_field(record, said):
    with pytest.raises(UsageError, match=said):
        read(record)


@pytest.mark.parametrize(
    "names", ["response_1 response_2", "answer1 answer2", "completion-a completion-b", "textA textB"]
)
def test_options_are_known_by_their_usual_names(names):
    one, two = names.split()
    fields = {"prompt": "p", "grade": "x", "graded": "y", one: "green.", two: "blue."}
    said = {"best": [{"value": two, "user_id": "u"}], "remarks on the note": [{"value": "grade", "user_id": "u"}]}
    of, judgement = only({"fields": fields, "responses": said})
    assert preferred(of, judgement) == "blue."
    assert of.info == {"grade": "x", "graded": "y"}


def test_fields_and_questions_of_other_names_are_told():
    record = {
        "fields": {"title": "what colour?", "gpt": "green.", "llama": "blue.", "mood": "sunny"},
        "responses": {"verdict": [{"value": "llama", "user_id": "u"}], "why not": [{"value": "no", "user_id": "u"}]},
    }
    of, said = only(record, prompt="title", option="gpt llama", choice="verdict")
    assert preferred(of, said) == "blue."
    assert of.info == {"mood": "sunny"}


# --- Label Studio ----------------------------------------------------------------------------------
DATA = {"prompt": "what colour is the sky?", "answer1": "it is green.", "answer2": "it is blue."}


def task(*results, data=None, **more):
    annotation = {"id": 1001, "result": list(results), "was_cancelled": False, "lead_time": 4.288, "completed_by": 10}
    created = {"created_at": "2021-03-09T22:16:08.728353Z"}
    return {"id": 1, "data": data or DATA, "annotations": [{**annotation, **created, **more}], "predictions": []}


def result(tag, of, type_, value):
    return {"id": "Dx_aB91ISN", "from_name": tag, "to_name": of, "type": type_, "value": value}


PAIRWISE = result("pw", "answer1,answer2", "pairwise", {"selected": "right"})


def test_a_pairwise_result_prefers_the_right_or_the_left():
    of, said = only(task(PAIRWISE))
    assert preferred(of, said) == "it is blue."
    assert (said.annotator, said.seconds, said.at) == (
        "Label Studio user 10",
        4.288,
        "2021-03-09T22:16:08.728353+00:00",
    )
    turned = {**PAIRWISE, "to_name": "answer2,answer1"}
    assert preferred(*only(task(turned))) == "it is green."


def test_choices_are_options_ties_or_both_bad():
    for choice, answer in {"Equally good": Choice((0.5, 0.5)), "Both bad": Choice((0.5, 0.5), None, True)}.items():
        assert only(task(result("c", "prompt", "choices", {"choices": [choice]})))[1].answer == answer
    assert (
        preferred(*only(task(result("c", "prompt", "choices", {"choices": ["Answer 2 is better"]})))) == "it is blue."
    )


def test_a_ranker_orders_a_list():
    data = {"prompt": "p", "items": [{"id": "a", "title": "A", "body": "first"}, {"id": "b", "body": "second"}]}
    for order in (["b", "a"], {"rank": ["b", "a"]}):
        of, said = only(task(result("rank", "items", "ranker", {"ranker": order}), data=data))
        assert of.options[said.answer.ranks.index(0)][0]["content"] == "second"


def test_ratings_and_texts_of_one_response():
    data = {"prompt": "p", "response": "a reply"}
    rating, text = (
        result("rating", "response", "rating", {"rating": 4}),
        result("corrected", "response", "textarea", {"text": ["a better reply"]}),
    )
    found = {each.item.kind: each.judgements[0].answer for each in read(task(rating, text, data=data))}
    assert found["rating"] == Ratings((4.0,))
    assert found["edit"] == Written(({"role": "assistant", "content": "a better reply"},), of=0)


def test_a_cancelled_annotation_is_a_skip_and_predictions_are_nobodys_judgement():
    cancelled = task(was_cancelled=True, completed_by={"id": 3, "email": "ann@example.org"})
    of, said = only({**cancelled, "predictions": [{"model_version": "m", "result": [PAIRWISE]}]})
    assert (said.answer, said.annotator) == (Skipped("cancelled"), "ann@example.org")
    assert of.info["predictions"][0]["model_version"] == "m"


def test_a_date_that_is_none_is_refused():
    with pytest.raises(UsageError, match="annotations, 1, created_at: expected a date"):
        read(task(PAIRWISE, created_at="yesterday"))


@pytest.mark.parametrize(
    ("result_", "said"),
    [
        (result("box", "img", "rectanglelabels", {}), "annotations, 1, box: expected pairwise"),
        (result("pw", "a,b", "pairwise", {"selected": "top"}), "annotations, 1, pw: expected left or right"),
        (result("rank", "x", "ranker", {"ranker": {"good": ["a"], "bad": ["b"]}}), "rank: expected one list in order"),
        (result("c", "prompt", "choices", {"choices": ["sunny"]}), "c: cannot tell"),
        (result("c", "prompt", "choices", {"choices": ["a", "b"]}), "c: expected one choice"),
        (result("r", "answer1", "rating", {"rating": 10**400}), "r: expected a number"),
    ],
)
def test_what_is_wrong_with_a_task_is_said_with_the_tag(result_, said):
    with pytest.raises(UsageError, match=said):
        read(task(result_))
