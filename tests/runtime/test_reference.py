"""A reference is asked once for each reply; what it said is read again to the last bit, whatever happened between."""

import resource
import shutil
from pathlib import Path

import pytest
import torch
from killing import alone, deaths

from preferent.algorithms.dpo import dpo, referred
from preferent.config import UsageError
from preferent.data.batches import Batches
from preferent.data.comparisons import pairs
from preferent.models.load import load_policy
from preferent.runtime.learner import local_learner
from preferent.runtime.reference import Remembered, keys_of, mark_of
from preferent.testing import Bigram
from preferent.types import Prompt, Replies, Reply
from toys import drawn, preference, replies_of, saved_policy, tiny_policy

KEY = torch.Generator().manual_seed(3)


def said(length):
    return Reply(drawn(KEY, length, 6, 300), tuple(i % 3 != 1 for i in range(length)))


ROWS = [preference(Prompt(drawn(KEY, n, 6, 300)), said(n + 1), said(9 - n)) for n in (3, 5, 2, 7, 4, 6, 3)]
HELD_OUT = [preference(Prompt(drawn(KEY, n, 6, 300)), said(4), said(n)) for n in (4, 2, 5)]


class Counting:
    """A policy, and what it was asked for: the number of replies each time."""

    def __init__(self, policy):
        self.policy = policy
        self.asked = []

    def read(self, x, *, entropy=False):
        self.asked.append(len(x.tokens))
        return self.policy.read(x, entropy=entropy)


def batches_of(rows, *, steps, size=3):
    return Batches(rows, size, pairs, steps=steps)


def learner_of(policy, **rest):
    return local_learner(policy, lr=3e-3, **rest)


def asked(reference, learner, batches, folder, *, mark="one", every=None):
    """The reference, asked for all these batches of replies; how many tokens it was asked for each time."""
    return [told["tokens"] for told in reference.asked(learner, batches, folder, mark=mark, every=every)]


def ahead(data):
    return (data.at(step).replies for step in data.with_news())


def test_no_later_epoch_and_no_later_evaluation_asks_the_reference_again(tmp_path):
    policy, data = tiny_policy(), batches_of(ROWS, steps=9)
    source, learner = Counting(policy.frozen()), learner_of(policy)
    reference, held_out = Remembered(source), pairs(HELD_OUT)
    tokens = asked(reference, learner, [held_out.replies, *ahead(data)], tmp_path)
    assert sum(source.asked) == 2 * (len(ROWS) + len(HELD_OUT))  # the third batch, too, has one new row only
    assert sum(tokens) == sum(pairs([*ROWS, *HELD_OUT]).tokens_each())
    source.asked.clear()
    for _ in dpo(learner, reference, data):
        referred(learner, reference, held_out)
    assert learner.version == 9
    assert source.asked == []


def trained(steps, folder=None, **rest):
    """The weights after so many steps of three of seven rows; with a folder, the reference is remembered there."""
    policy, data = tiny_policy(), batches_of(ROWS, steps=steps)
    learner = learner_of(policy, **rest)
    reference = policy.frozen()
    if folder is not None:
        reference = Remembered(policy)
        asked(reference, learner, ahead(data), folder)
        reference.let_go()
    told = list(dpo(learner, reference, data))
    return told, list(policy.parameters())


@pytest.mark.parametrize("budget", [16_384, 30])
def test_an_epoch_with_a_memory_is_the_epoch_without_to_the_bit(tmp_path, budget):
    """Each log-probability is computed in the batch and the cut in which the step would have it computed."""
    plain, weights = trained(2, token_budget=budget)
    told, others = trained(2, tmp_path, token_budget=budget)
    assert told == plain
    assert told[0]["margin"] == 0
    assert all(ours.equal(theirs) for ours, theirs in zip(weights, others, strict=True))


def test_further_epochs_with_a_memory_are_those_without_to_six_digits(tmp_path):
    """In later epochs a reply lies in another batch, in which the forward pass would round otherwise."""
    _, weights = trained(12)
    _, others = trained(12, tmp_path)
    for ours, theirs in zip(weights, others, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_what_is_remembered_is_what_a_policy_reads_token_by_token(tmp_path):
    policy, x = Bigram(), replies_of([(2, (3, 5)), (1, (4, 2, 1)), (4, (6,))])
    reference = Remembered(policy)
    before = reference.read(x).logprobs  # not asked yet: the source's
    asked(reference, learner_of(policy, token_budget=12), [x], tmp_path)
    reference.let_go()
    assert reference.read(x).logprobs.equal(policy.read(x).logprobs.detach())
    assert reference.read(x[[2, 0]]).logprobs.equal(policy.read(x[[2, 0]]).logprobs.detach())
    assert before.equal(policy.read(x).logprobs.detach())


def test_of_a_batch_half_known_only_the_prompts_that_are_not_are_read(tmp_path):
    x, source = replies_of([(2, (3, 5)), (1, (4, 2)), (4, (6, 3, 2))]), Counting(Bigram())
    reference = Remembered(source)
    asked(reference, learner_of(Bigram()), [x[[1]]], tmp_path)
    assert reference.read(x).logprobs.equal(Bigram().read(x).logprobs.detach())
    reference.read(x)
    assert source.asked == [2, 5, 5]  # reading keeps nothing: of a stream there is no end


def test_a_reply_that_it_was_never_asked_for_is_refused_once_the_source_has_been_let_go(tmp_path):
    x, reference = replies_of([(2, (3, 5)), (1, (4,))]), Remembered(Bigram())
    asked(reference, learner_of(Bigram()), [x[[1]]], tmp_path)
    reference.let_go()
    with pytest.raises(ValueError, match=r"let go before it was asked for replies to 1 of these"):
        reference.read(x)
    with pytest.raises(ValueError, match=r"entropies are not"):
        reference.read(x[[1]], entropy=True)


def test_a_key_tells_apart_prompts_replies_and_what_is_learned():
    def key(prompt, tokens, learn):
        one = torch.ones(1, len(tokens), dtype=torch.bool)
        prompts, length = torch.tensor([prompt]), torch.tensor([len(prompt)])
        (found,) = keys_of(
            Replies(prompts, length, torch.tensor([0]), torch.tensor([tokens]), one, torch.tensor([learn]))
        )
        return found

    kinds = [
        ((5, 6), (7,), (True,)),
        ((5,), (6, 7), (True, True)),
        ((5,), (6, 7), (True, False)),
        ((5,), (7,), (True,)),
    ]
    assert len({key(*kind) for kind in kinds}) == len(kinds)
    x = replies_of([(2, (3, 5)), (1, (4,))])
    assert keys_of(x[[1, 0]]) == [keys_of(x)[i] for i in (2, 0, 1)]  # whatever is beside it, however it is padded


# --- what is on the disk ----------------------------------------------------------------------------


SIZES = [(2, (3, 5)), (1, (4, 2)), (4, (6,)), (3, (2, 2)), (5, (1, 4))]


def kept(folder, *, mark="one", seed=0):
    """Ask a bigram anew over a folder, a file for each batch: what it then knows, and how often it was asked."""
    x, source = replies_of(SIZES), Counting(Bigram(seed=seed))
    reference = Remembered(source)
    asked(reference, learner_of(Bigram()), [x[[i]] for i in range(len(x))], folder, mark=mark, every=1)
    reference.let_go()
    return reference.read(x).logprobs, len(source.asked)


def test_another_run_over_the_same_files_asks_nothing_and_reads_the_same(tmp_path):
    first, n = kept(tmp_path)
    assert n == len(SIZES)
    again, n = kept(tmp_path, seed=1)  # it would say something else
    assert n == 0
    assert again.equal(first)


def test_files_of_other_weights_are_made_again(tmp_path, caplog):
    kept(tmp_path)
    other, n = kept(tmp_path, mark="two", seed=1)
    assert n == len(SIZES)
    assert other.equal(Bigram(seed=1).read(replies_of(SIZES)).logprobs.detach())
    assert "0.safetensors is damaged, or of another reference" in caplog.text
    assert kept(tmp_path, mark="two")[1] == 0


def broken(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "flipped":
        data[-1] ^= 1
    path.write_bytes({"cut": data[:-5], "empty": b"", "foreign": b"hello", "flipped": data}[how])


@pytest.mark.parametrize("how", ["cut", "empty", "foreign", "flipped"])
@pytest.mark.parametrize("which", range(len(SIZES)))
def test_a_damaged_file_is_made_again_with_the_same_bits(tmp_path, which, how):
    first, _ = kept(tmp_path)
    broken(tmp_path / f"{which}.safetensors", how)
    again, n = kept(tmp_path)
    assert again.equal(first)
    assert n == 1
    assert kept(tmp_path)[1] == 0


def test_the_mark_changes_with_weights_temperature_and_precision_and_not_with_an_adapter(tmp_path):
    folder = saved_policy(tmp_path / "base")
    policy, adapted = load_policy(str(folder)), load_policy(str(folder), lora=2)
    marks = [mark_of(policy, bf16=False), mark_of(policy, bf16=True), mark_of(adapted, bf16=False)]
    policy.temperature = 0.7
    marks.append(mark_of(policy, bf16=False))
    policy.temperature = 1.0
    with torch.no_grad():
        next(policy.parameters())[0, 0] += 1e-6
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.add_(1)
    marks.append(mark_of(policy, bf16=False))
    assert len(set(marks)) == len(marks)
    assert mark_of(adapted, bf16=False) == marks[2]


def test_an_adapters_reference_keeps_what_the_policy_says_without_it(tmp_path):
    policy = load_policy(str(saved_policy(tmp_path / "base")), lora=2)
    data, learner = batches_of(ROWS, steps=4), learner_of(policy)
    reference = Remembered(policy.frozen())
    asked(reference, learner, ahead(data), tmp_path / "kept")
    reference.let_go()
    x = pairs(ROWS).replies
    list(dpo(learner, reference, data))
    torch.testing.assert_close(reference.read(x).logprobs, policy.frozen().read(x).logprobs, rtol=0, atol=1e-5)
    assert not torch.allclose(reference.read(x).logprobs, policy.read(x).logprobs, atol=1e-3)


def ask_without_room(folder: Path) -> str:
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
    try:
        kept(folder)
    except UsageError as error:
        return str(error)
    return ""


def test_a_full_disk_ends_with_a_sentence(tmp_path):
    """The largest file that a process may write stands for the room on the disk."""
    assert "0.safetensors could not be written" in alone(ask_without_room, tmp_path)
    assert list(tmp_path.iterdir()) == []


def die_everywhere(folder: Path, power_cut: bool) -> list[str]:
    """Ask, dying at each failpoint in turn; after each death ask once more, to the end."""
    torch.set_num_threads(1)
    straight, _ = kept(folder / "straight")
    seen, place = [], folder / "place"
    for operation in deaths(lambda: kept(place), power_cut):
        again, n = kept(place)
        assert again.equal(straight)
        assert not [path.name for path in place.iterdir() if path.name.startswith(".")]
        seen.append(f"{operation} then {n}")
        shutil.rmtree(place)
    return seen


@pytest.mark.parametrize("power_cut", [False, True])
def test_a_death_at_any_operation_leaves_what_was_asked_and_the_next_run_ends_with_the_same_bits(tmp_path, power_cut):
    seen = alone(die_everywhere, tmp_path, power_cut)
    assert "write .0.safetensors.partial then 5" in seen
    assert "rename 2.safetensors then 3" in seen
    assert seen[-1] == ("sync place then 1" if power_cut else "sync place then 0")
