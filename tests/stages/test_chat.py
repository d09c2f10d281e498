"""`preferent chat`: a conversation through a pipe, which is how a test and a script talk."""

import io

import pytest
from tiny_runs import base, run

from preferent.stages import chat
from preferent.stages.options import SamplingOptions, UseOptions
from preferent.stages.speaking import speaker

SHORT = SamplingOptions(max_new_tokens=10, temperature=0.0)


def talked(monkeypatch, capsys, text, *words):
    """What came on stdout, a line a reply, and on stderr."""
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    assert run("chat", base(), "--max-new-tokens", "10", *words) == 0
    said = capsys.readouterr()
    return said.out, said.err


def greedy(*turns):
    """The reply to a conversation, drawn whole."""
    voice = speaker(base(), SHORT, UseOptions(device="cpu"))
    roles = ["user", "assistant"] * len(turns)
    prompt = voice.template.prompt([{"role": r, "content": t} for r, t in zip(roles, turns, strict=False)])
    return voice.sampler.sample([prompt], 1)[0][0].text


def test_a_line_is_a_question_and_the_whole_conversation_is_seen(monkeypatch, capsys):
    first = greedy("hello")
    second = greedy("hello", first, "and the rain?")
    out, err = talked(monkeypatch, capsys, "hello\n\nand the rain?\n", "--temperature", "0")
    assert out == f"{first}\n{second}\n"
    assert err == ""


def test_reset_forgets_and_system_begins_anew(monkeypatch, capsys):
    out, _ = talked(monkeypatch, capsys, "hello\n/reset\nhello\n", "--temperature", "0")
    first = greedy("hello")
    assert out == f"{first}\n{first}\n"
    said = chat.obeyed("/system be brief", [{"role": "user", "content": "x"}])
    assert said == [{"role": "system", "content": "be brief"}]
    assert chat.obeyed("/reset", [*said, {"role": "user", "content": "x"}]) == said
    assert chat.obeyed("/system", said) == []


def test_exit_ends_it_and_an_unknown_command_lists_those_there_are(monkeypatch, capsys):
    out, err = talked(monkeypatch, capsys, "/dance\n/exit\nhello\n")
    assert out == ""
    assert err.startswith("/dance is not known here.\n  /reset")


def test_the_same_question_gets_another_reply_and_a_seed_the_same_conversation(monkeypatch, capsys):
    text = "hello\n/reset\nhello\n"
    out, _ = talked(monkeypatch, capsys, text, "--temperature", "1", "--seed", "5")
    again, _ = talked(monkeypatch, capsys, text, "--temperature", "1", "--seed", "5")
    assert again == out
    asked = [{"role": "user", "content": "hello"}]
    voice = speaker(base(), SamplingOptions(max_new_tokens=10), UseOptions(device="cpu"))
    assert chat.answered(voice, asked, 0) != chat.answered(voice, asked, 1)


def test_a_conversation_longer_than_the_context_loses_its_beginning_and_says_so(monkeypatch, capsys):
    long = "what is the sun and the moon and the rain? " * 4
    _, err = talked(monkeypatch, capsys, f"{long}\n{long}\n", "--temperature", "0")
    assert "its beginning is cut off" in err


@pytest.mark.parametrize("stop", [(), ("e",), ("th", "is"), ("\n",)])
def test_pieces_are_the_episodes_text(stop):
    for seed in range(4):
        voice = speaker(base(), SamplingOptions(max_new_tokens=24, stop=stop), UseOptions(device="cpu", seed=seed))
        prompt = voice.template.prompt([{"role": "user", "content": "what is the lamp number 3?"}])
        whole = voice.sampler.sample([prompt], 1)[0][0].text
        pieces = list(chat.pieces(voice.sampler, prompt))
        assert "".join(pieces).strip() == whole


@pytest.mark.parametrize(
    ("text", "stops", "held"),
    [("abc", (), 0), ("abc Us", ("User:",), 2), ("abc User", ("User:",), 4), ("aXX", ("XXX",), 2), ("ab", ("b",), 0)],
)
def test_what_may_become_a_stop_string_is_held_back(text, stops, held):
    assert chat.pending(text, stops) == held
