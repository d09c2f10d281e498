"""What a dry run shows, and how well it foretells the memory that the run needs."""

import sys
from pathlib import Path

import pytest
import torch
from tiny_runs import PREFS, SMALL, base, kept, quietly, run, written

from preferent.models.forward import Backbone
from preferent.models.head import CACHED, CHUNK
from preferent.models.load import load_policy, with_adapter
from preferent.models.policy import LanguagePolicy
from preferent.models.probe import can_share
from preferent.models.recompute import recompute_layers
from preferent.stages.memory import (
    Work,
    copied,
    cut,
    estimated,
    kept_by,
    kept_bytes,
    laid_out,
    made_by,
    row_of,
    said_of,
    updates_of,
    weighed,
)
from tiny_models import PLAIN, SHARING, tiny

FREE = ["--max-length", "96", "--batch", "6"]
GROUPS = [(10, (5, 5)), (20, (10, 10)), (10, (5,)), (30, (40,))]  # of 20, 40, 15 and 70 tokens


@pytest.fixture(scope="module")
def prefs():
    return written(kept() / "planned.jsonl", [*PREFS, {**PREFS[0], "rejected": "no"}])


def planned(capsys, *words):
    assert run("dpo", "--model", base(), "--out", "nowhere", "--dry-run", *words) == 0
    return capsys.readouterr().out.splitlines()


def after(lines, start):
    return next(line for line in lines if line.startswith(start)).removeprefix(start).strip()


def test_options_are_shown_with_a_mark_on_those_that_were_given(capsys, prefs):
    text = " ".join(" ".join(planned(capsys, "--data", prefs, *FREE, "--beta", "0.3")).split())
    for word in ("beta 0.3*", "objective dpo ·", "batch 6*", "lr 1e-06 ·", "dry_run on*", "keep_best none", "lora 0 "):
        assert word in text


def test_data_is_shown_with_its_lengths_and_how_often_it_comes(capsys, prefs):
    """24 prompts, one with two opinions, make 24 rows; 4 steps of 6 are one epoch."""
    lines = planned(capsys, "--data", prefs, *FREE)
    assert after(lines, "  rows") == "24"
    assert after(lines, "  steps") == "4 of 6 rows: 1.00 epochs · 4 updates"
    assert after(lines, "  prompt").startswith("tokens: median ")


def test_a_reference_takes_memory_only_where_a_stream_needs_a_copy_of_it(capsys, prefs):
    whole = planned(capsys, "--data", prefs, *FREE)
    count = f"{sum(p.numel() for p in load_policy(base()).parameters()):,} parameters"
    assert after(whole, "  policy") == f"{count}, {count.split()[0]} of them trained"
    once = "asked once before the first step: no memory of its own"
    assert after(whole, "  reference") == f"the policy as it starts, {once}"
    assert "reference/" in after(whole, "writes")
    adapted = planned(capsys, "--data", prefs, *FREE, "--lora", "2")
    assert after(adapted, "  reference") == f"the policy with its adapter switched off, {once}"
    assert not any(line.startswith("  weights: reference") for line in (*whole, *adapted))
    streamed = planned(capsys, "--data", prefs, *FREE, "--streaming", "--steps", "3")
    assert after(streamed, "  reference") == f"{count}, 0 of them trained"
    assert after(streamed, "  weights: reference") == after(streamed, "  weights: policy")


def test_a_stream_is_taken_to_be_as_long_as_may_be(capsys, prefs):
    lines = planned(capsys, "--data", prefs, *FREE, "--streaming", "--steps", "3")
    assert after(lines, "  streamed") == "3 steps of 6 rows; how long they are is not known beforehand"
    assert "1 row of 896 tokens" in after(
        lines, "  activations"
    )  # six prompts of 48, with two replies of 48 each, and 32 places


def test_a_plain_path_is_said(tmp_path, capsys):
    from preferent.models.load import save_folder

    save_folder(tiny("Bloom", vocab_size=400), load_policy(base()).tokenizer, tmp_path / "bloom")
    data = written(tmp_path / "prefs.jsonl", PREFS)
    assert run("dpo", "--model", tmp_path / "bloom", "--data", data, *SMALL, "--dry-run", "--out", "nowhere") == 0
    assert "every reply with a prompt of its own (plain path)" in capsys.readouterr().out


# --- memory ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SHARING, *PLAIN])
def test_what_is_kept_is_a_parabola_of_the_width(name):
    """Fitted on rows of up to 128 or 256 tokens, right to 2 % on longer ones, for every architecture."""
    model = tiny(name)
    trunk = Backbone(model, sharing=can_share(model))
    width = 320 if trunk.branching else 192
    plan = trunk.plan(row_of(width, trunk))
    assert kept_by(trunk, bf16=False)(1, width) == pytest.approx(
        kept_bytes(trunk, lambda: trunk.hidden(plan)), rel=0.02
    )


def test_only_what_autograd_keeps_is_counted_and_no_parameters():
    """y = (x·W)² keeps x for W's gradient and x·W for the square: 3·4 + 3·5 numbers, not W's 20."""
    linear = torch.nn.Linear(4, 5, bias=False)
    x = torch.randn(3, 4)
    assert kept_bytes(linear, lambda: linear(x) ** 2) == 4 * (12 + 15)


def test_a_step_is_cut_into_updates_and_micro_batches_as_the_learner_does():
    work = Work([GROUPS, GROUPS[:1]], token_budget=60, mini_batch=3)
    assert list(updates_of(work)) == [GROUPS[:3], GROUPS[3:], GROUPS[:1]]
    assert list(cut(GROUPS, 60)) == [GROUPS[:2], GROUPS[2:3], GROUPS[3:]]
    assert list(cut(GROUPS, 1)) == [[group] for group in GROUPS]


def test_rows_are_laid_out_as_the_model_will_see_them():
    """Alone, every reply has a row as wide as the longest; shared, two rows of 40 hold 20 + 15 and 40."""
    model = tiny("Qwen2")
    assert laid_out(GROUPS, Backbone(model, sharing=False)) == (6, 70)
    assert laid_out(GROUPS[:3], Backbone(model, sharing=True)) == (2, 40)


def test_parts_add_up(tmp_path):
    """One micro-batch: 3 × the weights (with the moments), what is kept, the logits and what the allocator loses."""
    policy = load_policy(base(), device="cpu")
    work = Work([GROUPS], token_budget=8192)
    found = estimated({"policy": policy, "reference": policy}, [policy], [policy], work, bf16=False)
    size = 4 * sum(p.numel() for p in policy.parameters())
    parts = dict(found.parts)
    assert parts.pop("weights: policy") >= size
    assert parts.pop("weights: reference") == 0  # the same tensors
    assert parts["AdamW's moments"] == 2 * size
    n = 75 * policy.text_config.vocab_size
    assert parts["logits"] == 4 * (n + 3 * n)  # kept once, and three times what is worked on at a time: here, all
    working = parts["activations"] + parts["logits"] + parts["lost to the allocator"]
    assert found.peak == pytest.approx(weighed({"policy": policy})["policy"] + 2 * size + max(working, size))


def test_several_micro_batches_hold_gradients_beside_activations():
    policy = load_policy(base(), device="cpu")
    one, several = (
        estimated({"policy": policy}, [policy], [policy], Work([GROUPS[3:] * 4], budget), bf16=False)
        for budget in (8192, 70)
    )
    assert several.parts["activations"] < one.parts["activations"]
    size = several.parts["gradients"]
    extra = several.peak - several.parts["weights: policy"] - 3 * size
    assert extra == pytest.approx(sum(several.parts[n] for n in ("activations", "logits", "lost to the allocator")))


def test_layers_that_are_computed_again_are_counted_by_their_inputs():
    policy, work = LanguagePolicy(tiny("Qwen2"), sharing=True), Work([GROUPS], token_budget=8192)
    each = {"policy": policy}, [policy], [policy], work
    whole = estimated(*each, bf16=False)
    recompute_layers(policy)
    again = estimated(*each, bf16=False)
    assert again.parts["activations"] < whole.parts["activations"]
    assert again.peak < whole.peak


def test_logits_are_counted_as_the_head_holds_them():
    """In place and in fp32 they are kept up to a chunk of 2²⁴; a head that does more holds three of them."""
    policy = LanguagePolicy(tiny("Qwen2"), sharing=True)
    v = policy.text_config.vocab_size
    few, many = 20, 2 * CHUNK // v
    work = 3 * CACHED
    assert said_of(policy, few, 64, bf16=False) == 4 * (few * v + 3 * few * v)
    assert said_of(policy, many, 64, bf16=False) == 4 * work
    assert said_of(policy, many, 64, bf16=True) == 4 * 3 * CHUNK
    itself = LanguagePolicy(tiny("Qwen2"), sharing=True, own_head=False)
    assert said_of(itself, few, 64, bf16=False) == 4 * (3 * few * v + 64 * v)


def test_an_adapter_keeps_little_more_and_makes_half_as_much_again():
    """So a run with one loses more to the allocator. Drawing replies takes a second copy of the weights."""
    model = tiny("Qwen2")
    linear = [m.weight.nbytes for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "head" not in n]
    plain = LanguagePolicy(model, sharing=True)
    made, kept = made_by(plain), kept_by(plain, bf16=False).token
    assert copied(plain) == 0
    config = {"base": "base", "rank": 4, "alpha": 8.0, "seed": 0}
    adapted = LanguagePolicy(with_adapter(tiny("Qwen2"), **config), sharing=True)
    assert kept_by(adapted, bf16=False).token < 1.5 * kept
    assert made_by(adapted) > 1.5 * made
    assert copied(adapted) == sum(linear) + 2 * max(linear)
    work = Work([GROUPS, GROUPS], token_budget=60, drawn=(2, 20))
    found = estimated({"policy": adapted}, [adapted], [adapted], work, bf16=False)
    assert found.parts["weights: adapter added"] == copied(adapted)
    assert found.phases["sampling"] >= found.phases["updating"] + copied(adapted)


@pytest.mark.parametrize("lora", [0, 4])
def test_a_copy_in_bf16_from_which_replies_are_drawn_is_held_all_the_time(lora):
    """Two bytes for each weight, no second sum of weights and adapter, and keys and values of half the size."""
    policy = load_policy(base(), device="cpu", lora=lora)
    size = 2 * sum(p.numel() for name, p in policy.named_parameters() if "lora" not in name)
    works = [Work([GROUPS, GROUPS], token_budget=60, drawn=(2, 20), half=half) for half in (False, True)]
    without, found = (estimated({"policy": policy}, [policy], [policy], work, bf16=True) for work in works)
    assert found.parts["weights: copy in bf16"] == size
    assert "weights: adapter added" not in found.parts
    assert found.parts["sampler"] < without.parts["sampler"]
    assert found.phases["updating"] == without.phases["updating"] + size


@pytest.mark.parametrize("name", ["Qwen2", "Llama"])
def test_what_a_pass_makes_is_what_its_operations_allocate(name):
    """As the profiler counts it, operation by operation."""
    model = tiny(name)
    trunk = Backbone(model, sharing=can_share(model))
    made = []
    for plan in (trunk.plan(row_of(64, trunk)), trunk.plan(row_of(256, trunk))):
        with torch.no_grad(), torch.profiler.profile(profile_memory=True) as profile:
            trunk.hidden(plan)
        sizes = [e.self_cpu_memory_usage for e in profile.events() if e.name != "[memory]"]
        made.append((sum(size for size in sizes if size > 0), plan.tokens.numel()))
    (a, n), (b, m) = made
    assert made_by(trunk) == pytest.approx((b - a) / (m - n), rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", [None, "dpo, 512 wide, 6 layers, LoRA, layers computed again"])
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_the_estimate_is_within_a_quarter_of_the_measured_peak(name, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import memory

    row = memory.compared(name or next(iter(memory.CONFIGURATIONS)))
    assert row["error"] <= memory.TOLERANCE


def test_a_dry_run_of_an_ensemble_counts_every_member(prefs, capsys):
    quietly("reward", "--model", base(), "--data", prefs, *FREE, "--members", "3", "--dry-run", "--out", "nowhere")
    assert run("reward", "--model", base(), "--data", prefs, *FREE, "--members", "3", "--dry-run", "--out", "no") == 0
    said = capsys.readouterr().out
    assert [f"weights: member {i}" in said for i in range(4)] == [True, True, True, False]
