"""Bad input is one clear message and exit code 2, and leaves nothing half-done."""

import json
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
    assert f"{data}: line 2: not JSON: " in refused(capsys, tmp_path / "run", *sft(data))


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
    assert "none of its 1 rows can be used: 1 are too long (max_length)" in refused(
        capsys, tmp_path / "run", *sft(only, "--max-length", "64")
    )
    assert run(*sft(data, "--max-length", "64", "--steps", "1"), "--out", tmp_path / "run") == 0
    assert f"{len(DEMOS)} of {len(DEMOS) + 1} rows · 1 × too long" in capsys.readouterr().err


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


def test_a_damaged_checkpoint_is_refused_with_the_way_out(tmp_path, capsys):
    data = written(tmp_path / "demos.jsonl", DEMOS)
    words = [*sft(data, "--save-every", "1"), "--out", tmp_path / "run"]
    quietly(*words, "--steps", "3")
    file = tmp_path / "run" / "checkpoints" / "step-3" / "learner.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    capsys.readouterr()
    assert run(*words, "--steps", "4", "--resume") == 2
    said = capsys.readouterr().err
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
