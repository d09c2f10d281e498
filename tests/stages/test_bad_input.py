"""Bad input is one clear message and exit code 2, and leaves nothing half-done."""

import json
import re
import shutil
from pathlib import Path

import pytest
from tiny_runs import DEMOS, PREFS, PROMPTS, SMALL, base, left, quietly, reward, rows_of, run, written

from preferent.runtime.run import Run
from preferent.runtime.track import rows as metrics_in

FAST = [*SMALL, "--batch", "6"]


def refused(capsys, out, *words):
    """What a command says that is refused; its folder is not there, so that the same command can be given again."""
    assert run(*words, "--out", out) == 2
    assert not out.exists()
    return capsys.readouterr().err


def dpo(data, *words):
    return ["dpo", "--model", base(), "--data", data, *FAST, *words]


def sft(data, *words):
    return ["sft", "--model", base(), "--data", data, *FAST, *words]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "choosen": "b", "rejected": "c"}, 'line 3: column "choosen" is not known here (did you mean '),
        ({"prompt": "a", "chosen": "b"}, 'line 3: a missing column: no "rejected" beside "chosen", "prompt".'),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "line 3: chosen and rejected are equal"),
        ({"prompt": "a", "chosen": "b", "rejected": ""}, "line 3: an empty reply: rejected."),
        ({"prompt": "", "chosen": "b", "rejected": "c"}, "line 3: an empty prompt"),
        ({"prompt": None, "chosen": "b", "rejected": "c"}, "line 3: prompt is null."),
        ({"prompt": "a", "chosen": "b", "rejected": None}, "line 3: rejected is null."),
    ],
)
def test_a_row_that_cannot_be_used_is_named_by_its_line(tmp_path, capsys, row, message):
    data = written(tmp_path / "prefs.jsonl", [*PREFS[:2], row, *PREFS[2:]])
    said = refused(capsys, tmp_path / "run", *dpo(data))
    assert f"{data}: {message}" in said
    assert f"`preferent data check {data}` lists every such row" in said
    assert "`--skip-bad-rows` leaves them out and writes them to prefs.bad.jsonl" in said


def test_a_broken_line_is_named_by_its_number(tmp_path, capsys):
    data = tmp_path / "demos.jsonl"
    data.write_text("\n".join([json.dumps(DEMOS[0]), '{"prompt": "x", "completion', json.dumps(DEMOS[1])]))
    assert f"{data}: line 2: not JSON: unterminated string starting at character 17." in refused(
        capsys, tmp_path / "run", *sft(data)
    )


def test_a_mended_file_trains_with_the_same_command(tmp_path, capsys):
    data = written(tmp_path / "prefs.jsonl", [{"prompt": "a", "chosen": "b"}, *PREFS])
    words = dpo(data, "--steps", "1")
    refused(capsys, tmp_path / "run", *words)
    written(tmp_path / "prefs.jsonl", PREFS)
    assert run(*words, "--out", tmp_path / "run") == 0


def test_bad_rows_are_skipped_where_that_is_said_and_listed_in_a_side_file(tmp_path, capsys):
    equal = {"prompt": "a", "chosen": "b", "rejected": "b"}
    data = written(tmp_path / "prefs.jsonl", [PREFS[0], equal, *PREFS[1:], {"prompt": "a"}])
    assert run(*dpo(data, "--skip-bad-rows", "--steps", "1"), "--out", tmp_path / "run") == 0
    assert f"{len(PREFS)} of {len(PREFS) + 2} rows" in capsys.readouterr().err
    listed = rows_of(tmp_path / "run" / "prefs.bad.jsonl")
    assert [row["line"] for row in listed] == [2, len(PREFS) + 2]
    assert "equal" in listed[0]["reason"]
    assert json.loads(listed[0]["raw"]) == equal


@pytest.mark.parametrize(
    ("content", "message"), [("", "there is no row in it"), ("\n\n", "there is no row in it"), (None, "no such file")]
)
def test_a_file_without_rows_is_refused(tmp_path, capsys, content, message):
    data = tmp_path / "demos.jsonl"
    if content is not None:
        data.write_text(content)
    assert message in refused(capsys, tmp_path / "run", *sft(data))


def test_rows_longer_than_allowed_are_dropped_counted_or_an_error(tmp_path, capsys):
    long = {"prompt": "sun " * 60, "completion": "yes."}
    data = written(tmp_path / "demos.jsonl", [*DEMOS, long])
    assert f"{len(DEMOS) + 1}: too long: " in refused(
        capsys, tmp_path / "run", *sft(data, "--truncation", "error", "--max-length", "64")
    )
    only = written(tmp_path / "only.jsonl", [long])
    said = refused(capsys, tmp_path / "run", *sft(only, "--max-length", "64"))
    assert re.search(r"only.jsonl: the only row has \d+ tokens, and at most 64 fit\.\n64 is --max-length; ", said)
    assert run(*sft(data, "--max-length", "64", "--steps", "1"), "--out", tmp_path / "run") == 0
    assert f"{len(DEMOS)} of {len(DEMOS) + 1} rows · 1 × too long" in capsys.readouterr().err


def test_prompts_of_which_none_fits_are_refused_with_the_longest_the_limit_and_the_remedy(tmp_path, capsys):
    long = [{"prompt": "sun " * n} for n in (70, 90)]
    data = written(tmp_path / "prompts.jsonl", long)
    words = ["ppo", "--model", base(), "--data", data, "--reward", reward("brief"), *FAST, "--max-new-tokens", "66"]
    said = refused(capsys, tmp_path / "run", *words)
    longest = re.search(r"none of its 2 rows can be used: 2 are too long \(the longest has (\d+) tokens, and ", said)
    assert int(longest[1]) > 90
    assert "at most 30 fit).\n30 is --max-length 96 less --max-new-tokens 66; --truncation left cuts prompts." in said
    written(tmp_path / "prompts.jsonl", [*long, {"prompt": ""}])
    assert "2 are too long" in refused(capsys, tmp_path / "run", *words, "--skip-bad-rows")


def test_the_check_that_is_named_finds_what_was_refused(tmp_path, capsys):
    data = written(tmp_path / "demos.jsonl", [*DEMOS, {"prompt": "sun " * 60, "completion": "yes."}])
    said = refused(capsys, tmp_path / "run", *sft(data, "--truncation", "error", "--max-length", "64"))
    command = re.search("`preferent (.*?)` lists", said)[1].split()
    assert command[-2:] == ["--max-length", "64"]
    run(*command)
    assert "1  too long for max_length 64: line 25" in capsys.readouterr().out
    said = refused(capsys, tmp_path / "run", *dpo(data))  # demonstrations are no preferences
    command = re.search("`preferent (.*?)` lists", said)[1].split()
    assert run(*command) == 1


def test_a_length_beyond_the_models_context_is_refused(tmp_path, capsys):
    data = written(tmp_path / "demos.jsonl", DEMOS)
    said = refused(capsys, tmp_path / "run", "sft", "--model", base(), "--data", data)
    assert "--max-length 1024 is more than the model can read: its context is 128 tokens." in said
    assert "Give --max-length 128 or less" in said
    prompts = written(tmp_path / "prompts.jsonl", PROMPTS)
    words = ["ppo", "--model", base(), "--data", prompts, "--reward", reward("brief"), "--max-length", "100"]
    assert "--max-length 100 leaves no room for a prompt before --max-new-tokens 256" in refused(
        capsys, tmp_path / "run", *words
    )


def model_with(tmp_path, *, without=(), **changes):
    """The tiny model's folder with other entries in its tokenizer's configuration."""
    folder = tmp_path / "model"
    shutil.copytree(Path(base()) / "model", folder)
    file = folder / "tokenizer_config.json"
    kept = {name: value for name, value in json.loads(file.read_text()).items() if name not in without}
    file.write_text(json.dumps(kept | changes))
    return folder


@pytest.mark.parametrize("how", [{"eos_token": None}, {"without": ["eos_token"]}], ids=["null", "missing"])
def test_a_tokenizer_without_an_end_token_is_refused(tmp_path, capsys, how):
    """Where the entry is missing, the family's own end token would stand outside the model's vocabulary."""
    folder = model_with(tmp_path, **how)
    data = written(tmp_path / "demos.jsonl", DEMOS)
    words = ["sft", "--model", folder, "--data", data, *FAST]
    assert "has no end token, so a reply could never end" in refused(capsys, tmp_path / "run", *words)


def test_a_template_that_renders_the_prompt_otherwise_for_each_reply_is_refused(tmp_path, capsys):
    folder = model_with(tmp_path)
    (folder / "chat_template.jinja").write_text(
        "{{ messages[-1].content | length }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    data = written(tmp_path / "prefs.jsonl", PREFS)
    said = refused(capsys, tmp_path / "run", "dpo", "--model", folder, "--data", data, *FAST)
    assert f"{data}: line 1: a prompt that changes with its reply: the chat template rewrites it at character" in said
    command = re.search("`preferent (.*?)` lists", said)[1].split()
    assert run(*command) == 1
    assert "a prompt that changes with its reply" in capsys.readouterr().out


def test_an_unknown_option_is_refused_with_the_nearest(tmp_path, capsys):
    data = written(tmp_path / "demos.jsonl", DEMOS)
    said = refused(capsys, tmp_path / "run", *sft(data), "--learning-rate", "1e-3")
    assert "--learning-rate is not known here (did you mean --lr or --learn?)." in said


def test_a_folder_in_use_is_refused_and_stays_as_it_is(tmp_path, capsys):
    data = written(tmp_path / "demos.jsonl", DEMOS)
    with Run(tmp_path / "run", {"out": "run"}):
        assert run(*sft(data, "--resume"), "--out", tmp_path / "run") == 2
        assert f"Output folder in use: {tmp_path / 'run'} by pid " in capsys.readouterr().err
    before = left(tmp_path / "run")
    assert run(*sft(data), "--out", tmp_path / "run") == 2
    assert "is not empty: go on with the run in it (--resume), or choose another --out." in capsys.readouterr().err
    assert left(tmp_path / "run") == before


@pytest.mark.parametrize("name", ["sft", "sample", "evaluate"])
def test_a_place_that_cannot_be_written_to_is_refused_before_the_work(name, tmp_path, capsys):
    data, out = written(tmp_path / "demos.jsonl", DEMOS), tmp_path / "demos.jsonl" / "out"
    words = sft(data) if name == "sft" else [name, base(), "--prompts", data]
    assert run(*words, "--out", out) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"{out} cannot be written (")
    assert said.endswith("): choose another --out.\n")


def test_a_config_fed_back_does_not_resume(tmp_path, capsys):
    data = written(tmp_path / "demos.jsonl", DEMOS)
    quietly(*sft(data), "--steps", "1", "--resume", "--out", tmp_path / "run")
    for config in (tmp_path / "run", tmp_path / "run" / "config.yaml"):
        assert run("sft", "--config", config) == 2
        assert "is not empty" in capsys.readouterr().err
    with (tmp_path / "run" / "config.yaml").open("a") as file:
        file.write("resume: true\n")  # as earlier versions saved it
    assert run("sft", "--config", tmp_path / "run") == 2


def test_a_damaged_checkpoint_is_refused_with_the_way_out(tmp_path, capsys):
    data = written(tmp_path / "demos.jsonl", DEMOS)
    words = [*sft(data, "--save-every", "1"), "--out", tmp_path / "run"]
    quietly(*words, "--steps", "3")
    file = tmp_path / "run" / "checkpoints" / "step-3" / "learner.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    before = [(tmp_path / "run" / name).read_bytes() for name in ("config.yaml", "manifest.json")]
    capsys.readouterr()
    assert run(*words, "--steps", "4", "--resume") == 2
    said = capsys.readouterr().err
    assert [(tmp_path / "run" / name).read_bytes() for name in ("config.yaml", "manifest.json")] == before
    assert f"Damaged checkpoint: {file}: its SHA-256 is not" in said
    assert "To go on from step 2 instead, delete the folder" in said
    shutil.rmtree(file.parent)
    assert run(*words, "--steps", "4", "--resume") == 0
    assert [row["step"] for row in metrics_in(tmp_path / "run" / "metrics.jsonl")] == [1, 2, 3, 4]


@pytest.mark.parametrize("name", ["ppo", "grpo"])
def test_a_reward_that_is_no_number_dumps_the_batch_and_stops_the_run_after_three(name, tmp_path, capsys):
    from safetensors.torch import load_file

    data = written(tmp_path / "prompts.jsonl", PROMPTS)
    words = [name, "--model", base(), "--data", data, "--reward", reward("nothing"), *FAST, "--max-new-tokens", "8"]
    assert run(*words, "--steps", "5", "--out", tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert "loss nan" in said
    assert "3 batches gave none, so the run stops." in said
    assert [row["skipped"] for row in metrics_in(tmp_path / "run" / "metrics.jsonl")] == [1, 1]
    dumped = sorted((tmp_path / "run" / "bad_batches").iterdir())
    assert len(dumped) == 3
    assert {"replies.tokens", "advantage"} <= load_file(dumped[0]).keys()
    assert "model" not in left(tmp_path / "run")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--patience", "2"], "--patience counts evaluations without a better --keep-best"),
        (["--keep-best", "eval/nll"], "--keep-best eval/nll is measured on held-out rows, so it needs --eval-data."),
        (["--keep-best", "eval/length"], "--keep-best: expected a metric that is known to get better"),
        (["--streaming"], "say how long to train: --steps"),
        (["--model", "runs/none"], "runs/none: there is no such folder."),
    ],
)
def test_options_that_do_not_go_together_are_refused_before_anything_is_read(tmp_path, capsys, words, message):
    data = written(tmp_path / "demos.jsonl", DEMOS)
    assert message in refused(capsys, tmp_path / "run", *sft(data), *words)


def test_a_best_metric_that_never_comes_is_refused_at_the_first_evaluation(tmp_path, capsys):
    data = written(tmp_path / "demos.jsonl", DEMOS)
    words = sft(data, "--eval-data", data, "--eval-every", "1", "--keep-best", "eval/accuracy")
    assert "There is no metric eval/accuracy" in refused(capsys, tmp_path / "run", *words)


def test_a_column_that_the_reward_wants_and_the_data_lacks_is_named(tmp_path, capsys):
    data = written(tmp_path / "prompts.jsonl", [{"prompt": row["prompt"]} for row in PROMPTS])
    words = ["grpo", "--model", base(), "--data", data, "--reward", reward("topical"), *FAST, "--max-new-tokens", "8"]
    assert "wants the column 'topic'" in refused(capsys, tmp_path / "run", *words)


def test_skipped_updates_are_said_and_a_run_that_ends_on_one_writes_no_model(tmp_path, capsys):
    data = written(tmp_path / "demos.jsonl", DEMOS)
    words = [
        *sft(data, "--lr", "1e30", "--schedule", "constant", "--warmup", "0", "--steps", "3"),
        "--out",
        tmp_path / "run",
    ]
    assert run(*words) == 2
    said = capsys.readouterr().err
    dumped = sorted((tmp_path / "run" / "bad_batches").iterdir())
    assert len(dumped) == 2
    assert all(f"skipped: loss nan, gradient norm nan. Its batch is in {path}." in said for path in dumped)
    assert "2 of 3 updates were skipped" in said
    assert "no model is written" in said
    assert "model" not in left(tmp_path / "run")
    assert run(*words, "--resume") == 2  # nor does it when asked again


def test_a_run_that_skipped_an_update_and_went_on_says_so(tmp_path, capsys):
    """The reward is no number in the first step only."""
    (tmp_path / "mine.py").write_text(
        "calls = []\n"
        "def once(episodes):\n"
        "    calls.append(0)\n"
        "    return [len(e.text) if len(calls) > 1 else float('nan') for e in episodes]\n"
    )
    data = written(tmp_path / "prompts.jsonl", PROMPTS)
    words = ["grpo", "--model", base(), "--data", data, "--reward", f"{tmp_path / 'mine.py'}:once", *FAST]
    assert run(*words, "--max-new-tokens", "8", "--steps", "2", "--out", tmp_path / "run") == 0
    assert "1 of 2 updates was skipped" in capsys.readouterr().err
    assert "model" in left(tmp_path / "run")


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("def f(:\n", ":f", "synt.py, line 1: invalid syntax."),
        ("def f(:\n", "", "synt.py, line 1: invalid syntax."),
        ("def brief(e):\n    return 0\ndef _own():\n    return 0\n", "", "synt.py:brief; it has brief."),
    ],
)
def test_a_file_of_rewards_that_cannot_be_used_is_refused_in_a_sentence(tmp_path, capsys, content, name, message):
    (tmp_path / "synt.py").write_text(content)
    data = written(tmp_path / "prompts.jsonl", PROMPTS)
    words = ["grpo", "--model", base(), "--data", data, "--reward", f"{tmp_path / 'synt.py'}{name}", *FAST]
    assert message in refused(capsys, tmp_path / "run", *words, "--max-new-tokens", "8")


def test_memory_that_runs_out_in_a_run_is_told_in_a_sentence_with_what_helps(tmp_path, capsys):
    """Where nothing can be cut smaller: here, in a reward that asks for more than any machine has."""
    (tmp_path / "greedy.py").write_text("import torch\n\ndef greedy(episodes):\n    return torch.empty(1 << 50)\n")
    prompts = written(tmp_path / "prompts.jsonl", PROMPTS)
    words = ["--data", prompts, "--reward", f"{tmp_path}/greedy.py:greedy", "--max-new-tokens", "4", *SMALL]
    assert run("grpo", "--model", base(), *words, "--out", tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert "Memory does not suffice for this run" in said
    for option in ("--dry-run", "--lora", "--load-4bit", "--optimizer adamw8bit", "--checkpoint-activations"):
        assert option in said
    assert "Traceback" not in said
