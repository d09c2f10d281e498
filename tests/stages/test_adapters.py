"""Every way of training with `--lora`: it writes an adapter that moved, and goes on to the bit where it stopped."""

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import DEMOS, PREFS, PROMPTS, RATED, SMALL, base, kept, older, quietly, reward, reward_models, written

from preferent.runtime.track import rows as metrics_in

STEADY = [*SMALL, "--lora", "2", "--lr", "1e-2", "--batch", "4", "--schedule", "constant", "--warmup", "0"]
BRIEF = "--reward {brief}"
FOLLOW = "--follow 0.5 --follow-every 1"
PAIRS = "dpo --data {prefs}"
GRPO = "grpo --data {prompts} --reward {topical} --reward {brief} --group 3"
RUNS = {
    "sft": "sft --data {demos}",
    "dft": "sft --data {demos} --objective dft",
    "reward": "reward --data {prefs} --members 2",
    "dpo": f"{PAIRS}",
    "dpo that follows, with aot and wpo": f"{PAIRS} --objective aot --weigh {FOLLOW}",
    "dpo on uncertain pairs": f"{PAIRS} --uncertainty {{rm}}",
    "simpo": f"{PAIRS} --objective simpo",
    "kto": "kto --data {rated}",
    "bco": "kto --data {rated} --objective bco",
    "apo-zero": "kto --data {rated} --objective apo-zero",
    "online dpo": f"online-dpo --data {{prompts}} {BRIEF}",
    "online dpo that follows": f"online-dpo --data {{prompts}} {BRIEF} {FOLLOW}",
    "judging itself": f"online-dpo --data {{prompts}} --self-reward {{older}} {FOLLOW}",
    "xpo": f"xpo --data {{prompts}} {BRIEF} --alpha 1e-3",
    "nash-md": f"nash-md --data {{prompts}} {BRIEF} --replies 2",
    "spin": "spin --data {demos}",
    "raft": f"raft --data {{prompts}} {BRIEF} --replies 4 --draw-every 2",
    "rso": f"rso --data {{prompts}} {BRIEF} --replies 4",
    "distillation": "distill --data {prompts} --teacher {older} --temperature 0.7",
    "grpo": f"{GRPO} --mini-batch 2 --grpo-epochs 2",
    "dapo": f"{GRPO} --objective dapo --resample 1 --overlong-buffer 4 --mask-truncated",
    "gdpo": f"{GRPO} --objective gdpo --end-penalty 0",
    "rloo": f"{GRPO} --objective rloo",
    "remax": f"{GRPO} --objective remax",
    "reinforce++": f"{GRPO} --objective reinforce++",
    "safe-rlhf": f"{GRPO} --objective rloo --cost {{brief}} --cost-limit -0.2 --cost-rate 0.5",
    "ppo": "ppo --data {prompts} --reward {rm} --kl-target 0.1 --mini-batch 2",
    "ppo-ptx": "ppo --data {prompts} --reward {rm} --ptx-data {demos} --ptx-batch 3 --entropy-bonus 0.01 --dual-clip 3",
}
SILENT = {"sft", "dft", "reward", "dpo", "kto"}  # commands that draw nothing


@pytest.fixture(scope="module")
def places():
    rows = {"demos": DEMOS, "prefs": PREFS, "prompts": PROMPTS, "rated": RATED}
    files = {name: written(kept() / f"{name}-adapted.jsonl", each) for name, each in rows.items()}
    return files | {"older": older(), "rm": reward_models(), "brief": reward("brief"), "topical": reward("topical")}


def left(folder):
    """Every number of a run that is not a time, and its adapters' weights."""
    told = [{k: v for k, v in row.items() if k != "time"} for row in metrics_in(folder / "metrics.jsonl")]
    return told, [load_file(file) for file in sorted((folder / "model").rglob("adapter_model.safetensors"))]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_trains_an_adapter_and_goes_on_to_the_bit(name, places, tmp_path):
    command, *rest = RUNS[name].format(**places).split()
    drawing = [] if command in SILENT else ["--max-new-tokens", "6"]
    words = [command, "--model", base(), *rest, *STEADY, *drawing]
    quietly(*words, "--steps", "3", "--out", tmp_path / "straight")
    quietly(*words, "--steps", "2", "--out", tmp_path / "resumed")
    quietly(*words, "--steps", "3", "--resume", "--out", tmp_path / "resumed")
    (told, straight), (again, resumed) = (left(tmp_path / run) for run in ("straight", "resumed"))
    assert again == told
    assert [row["skipped"] for row in told] == [0, 0, 0]
    assert len(straight) == len(resumed) == (2 if name == "reward" else 1)
    for one, other in zip(straight, resumed, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
        assert any(weights.any() for key, weights in one.items() if "lora_B" in key)  # where it starts, B is 0
