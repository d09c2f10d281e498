"""The table of methods is complete and true: each row's command can be typed, and no objective is missing."""

import importlib
import json
import shlex
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from preferent.cli import COMMANDS, main
from preferent.config import UsageError, build, words
from preferent.stages import grpo
from preferent.stages.methods import METHODS, Family
from preferent.stages.objective import OBJECTIVES, PairOptions, objective_of

WHERE = {"model": "runs/sft", "data": ("rows.jsonl",), "out": "runs/x", "reward": ("runs/rm",), "prompts": ("p.jsonl",)}
WHERE |= {"file": "loop.yaml", "held_out": ("h.jsonl",), "annotator": "people"}
WHERE |= {"teacher": "runs/larger", "models": ("runs/rm",)}

TESTS = Path(__file__).parents[1]
PAIRS = ("test_objectives", "test_every_objective_learns_what_was_preferred")
GROUPS = ("test_reinforcement", "test_every_relative_of_grpo_raises_the_reward")
CAREFUL = "test_a_policy_chases_what_one_member_overrates_unless_the_reward_is_careful"
EXPLOITED = "test_in_adversarial_rounds_the_reward_model_is_taught_what_it_would_be_exploited_for"
LEARNS = {
    "SFT": ("test_sft", "test_the_likelihood_of_the_demonstrations_rises_to_what_their_distribution_allows"),
    "DFT": ("test_self_play", "test_dynamic_fine_tuning_learns"),
    "SPIN": ("test_self_play", "test_spin_raises_the_likelihood_of_demonstrations"),
    "on-policy distillation": ("test_self_play", "test_a_student_comes_to_say_what_its_teacher_says"),
    **dict.fromkeys(
        [
            "DPO",
            "cDPO",
            "robust DPO",
            "DPO with an offset",
            "IPO",
            "hinge on log-ratios",
            "SLiC (hinge on likelihoods)",
            "SimPO",
            "CPO",
            "ORPO",
            "APO-zero",
            "APO-down",
            "NCA",
            "SPPO",
            "EXO",
            "DPO-positive",
            "R-DPO (length-regularised)",
            "DPO a token",
            "LD-DPO (length-desensitised)",
            "f-DPO",
            "AOT",
            "WPO",
        ],
        PAIRS,
    ),
    "DiscoPOP": (
        "test_objectives",
        "test_discopop_learns_what_it_nearly_knew_and_elsewhere_the_opposite_up_to_its_local_optimum",
    ),
    "TR-DPO": ("test_fixed_points", "test_a_reference_that_follows_lets_the_policy_go_on_beyond_the_best_one"),
    "uncertain pairs": ("test_ensembles", "test_dpo_believes_most_what_members_agree_on"),
    "DPO with likelihood (RPO)": ("test_dpo", "test_the_likelihood_term_is_that_of_the_better_replies"),
    **dict.fromkeys(
        ["KTO", "BCO", "APO-zero, unpaired"],
        ("test_kto", "test_it_starts_at_its_reference_with_a_known_loss_and_parts_good_from_bad"),
    ),
    "iterated online loop": (
        "test_rounds",
        "test_each_round_of_asking_and_reinforcing_brings_more_of_what_is_wanted",
    ),
    **dict.fromkeys(
        ["iterated DPO", "iterated DPO, frozen reference"],
        (
            "test_fixed_points",
            "test_iterated_dpo_goes_a_round_further_each_time_its_reference_is_moved_and_stays_where_it_is_not",
        ),
    ),
    "online DPO": ("test_online", "test_online_dpo_raises_the_reward"),
    "iterated online DPO": (
        "test_fixed_points_drawn",
        "test_iterated_online_dpo_goes_on_from_each_rounds_best_policy_to_the_next",
    ),
    "self-rewarding (DICE)": (
        "test_self_play",
        "test_a_policy_that_judges_itself_goes_on_where_preferences_led_it",
    ),
    "XPO": ("test_self_play", "test_xpo_raises_the_reward_and_learns_who_wins"),
    "Nash-MD": ("test_self_play", "test_nash_md_beats_its_opponent_and_skips_a_step_without_answers"),
    "RAFT": ("test_online", "test_raft_raises_the_reward"),
    "best-of-n distillation": ("test_online", "test_best_of_n_distillation_goes_to_the_best_of_n"),
    "RSO (draws its own pairs)": (
        "test_online",
        "test_rso_raises_the_reward_and_with_soft_labels_reaches_the_best_policy",
    ),
    "PPO": ("test_reinforcement", "test_ppo_raises_the_reward_and_its_critic_learns_what_is_to_come"),
    "PPO-ptx": ("test_reinforcement", "test_text_beside_the_replies_stays_likely_while_the_reward_rises"),
    **dict.fromkeys(
        ["GRPO", "Dr. GRPO", "GSPO", "CISPO", "GMPO", "SAPO", "REINFORCE", "RLOO", "REINFORCE++", "MaxRL"], GROUPS
    ),
    "DAPO": ("test_drawing", "test_dapo_learns_with_all_its_parts"),
    "GDPO": ("test_reinforcement", "test_rewards_normalised_apart_are_all_learned_from"),
    "ReMax": ("test_reinforcement", "test_remax_raises_the_reward_over_that_of_the_likeliest_reply"),
    "Safe-RLHF": ("test_fixed_points_drawn", "test_safe_rlhf_reaches_the_best_policy_that_keeps_its_limit"),
    "Bradley-Terry": ("test_reward_model", "test_it_ranks_replies_that_it_never_saw"),
    "Thurstone": ("test_attributes", "test_thurstone_brings_back_a_utility_that_decides_by_normal_chances"),
    "Plackett-Luce": ("test_listwise", "test_rankings_drawn_as_plackett_and_luce_say_bring_back_the_utility"),
    "the best of several": ("test_listwise", "test_the_best_picked_out_with_the_softmaxs_chances_brings_it_back_too"),
    "attributes": ("test_attributes", "test_each_head_comes_to_say_its_rating_and_a_missing_one_is_left_out"),
    "aspects": ("test_attributes", "test_each_aspect_trains_its_own_head"),
    "cost model": ("test_safe_rlhf", "test_a_cost_model_finds_the_order_and_where_harm_begins"),
    "smoothed labels": ("test_attributes", "test_smoothing_bounds_how_far_apart_a_certain_pair_is_driven"),
    "adversarial rounds": ("test_ensembles", EXPLOITED),
    "ensemble": ("test_ensembles", CAREFUL),
    "averaged weights (WARM)": ("test_merge", "test_the_average_of_an_ensemble_has_the_mean_of_every_weight"),
    "centred rewards": (
        "test_reward_model",
        "test_centring_keeps_scores_near_zero_and_hardly_moves_their_differences",
    ),
    "margins": ("test_reward_model", "test_a_margin_drives_scores_further_apart"),
    "best of n": (
        "test_bandit",
        "test_best_of_n_draws_as_its_formula_says_and_leaves_its_policy_no_further_than_its_bound",
    ),
}


def asked(command, *, several=False):
    """The module of a row's command, and its options with what every run needs besides."""
    name, *rest = shlex.split(command)
    module = importlib.import_module(COMMANDS[name][0])
    known = {word.flag: word for word in words(module.Options)}
    given = {word.name: WHERE[word.name] for word in known.values() if word.required and word.name in WHERE}
    if several:
        given["reward"] = ("runs/rm", "rules.py:polite")
    while rest:
        word = known[rest.pop(0)]
        if word.kind is bool:
            given[word.name] = True
        else:
            value = rest.pop(0)
            given[word.name] = (*given.get(word.name, ()), value) if word.many else value
    return module, build(module.Options, given)


@pytest.mark.parametrize("row", METHODS, ids=lambda row: row.name)
def test_every_command_of_the_table_can_be_typed(row):
    module, options = asked(row.command, several="two --reward" in row.needs)
    if module is grpo:
        grpo.objective_of(options)
    for value in vars(options).values():
        if isinstance(value, PairOptions):
            objective_of(value)
    assert row.family in get_args(Family)
    assert row.paper
    assert row.needs


def test_every_method_has_a_test_that_it_learns():
    """On the toy model, in seconds. A new row says here which one it is."""
    assert LEARNS.keys() == {row.name for row in METHODS}
    for file, name in LEARNS.values():
        (path,) = TESTS.rglob(f"{file}.py")
        assert f"def {name}(" in path.read_text(), (file, name)


def test_no_method_stands_there_twice():
    assert len({row.name for row in METHODS}) == len(METHODS) == len({row.command for row in METHODS})


def test_no_objective_is_missing():
    told = {row.command for row in METHODS}
    first = {
        "dpo": "dpo",
        "grpo": "grpo",
        "reward": "bradley-terry",
        "kto": "kto",
        "sft": "sft",
    }  # the objective of a command without a word
    for command in sorted({row.command.split()[0] for row in METHODS}):
        for name in objectives(importlib.import_module(COMMANDS[command][0]).Options):
            asked_so = f"{command} --objective {name} "
            assert name == first.get(command) or any(f"{row} ".startswith(asked_so) for row in told), (command, name)


def objectives(options):
    """The names that a command's --objective takes."""
    word = next((word for word in words(options) if word.name == "objective"), None)
    if word is None:
        return ()
    return word.choices or (OBJECTIVES if "dpo" in get_type_hints(options) else ())


def test_the_list_can_be_narrowed(capsys):
    assert main(["methods", "simpo"]) == 0
    assert "SimPO" in (said := capsys.readouterr().out)
    assert "IPO " not in said
    assert main(["methods", "--family", "policy gradient", "--json"]) == 0
    assert {row["family"] for row in json.loads(capsys.readouterr().out)} == {"policy gradient"}
    assert main(["methods", "--family", "pair"]) == 2
    assert "did you mean pairs?" in capsys.readouterr().err
    assert main(["methods", "nothing-like-it"]) == 2
    assert "lists them all" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("kto", "KTO is `preferent kto`"),
        ("grpo", "GRPO is `preferent grpo`"),
        ("cdpo", "cDPO is `preferent dpo --flip 0.1`"),
        ("wpo", "WPO is `preferent dpo --weigh`"),
        ("tr-dpo", "TR-DPO is `preferent dpo --follow 0.6`"),
        ("rpo", "`preferent dpo --likelihood 1`"),
        ("DPO", "write dpo"),
        ("dpo,simpo", "repeat the flag: --objective dpo --objective simpo"),
        ("dpo=x", 'a weight is a number, as in dpo=0.5; got "x"'),
        ("simop", "did you mean simpo"),
    ],
)
def test_an_objective_that_does_not_exist_is_told_what_it_may_be(said, hint):
    with pytest.raises(UsageError) as told:
        objective_of(PairOptions(objective=(said,)))
    assert hint in str(told.value)


def test_the_table_is_as_wide_as_columns_says_where_it_is_piped(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["methods", "--family", "pairs"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80
    monkeypatch.delenv("COLUMNS")
    assert main(["methods", "--family", "pairs"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) > 80
