"""Models go in and out as plain folders; a reference stays; an adapter is all that moves; a critic is its own."""

import json
import logging
import shutil
import sys
import warnings

import pytest
import torch

from preferent.algorithms.sft import Likelihood
from preferent.config import UsageError
from preferent.data.collate import replies
from preferent.data.comparisons import pairs
from preferent.data.template import Template
from preferent.models.device import chosen_device
from preferent.models.load import found, is_scorer, load_policy, load_scorer, load_tokenizer, save
from preferent.models.policy import LanguagePolicy
from preferent.runtime.learner import local_learner
from preferent.types import Prompt, Reply
from tiny_models import tiny
from toys import TEXTS, replies_of, saved_policy, tokenizer

X = replies_of([(4, (3, 5)), (3, (6, 2)), (5, (4,))], high=60)
CONVERSATIONS = [
    [{"role": "user", "content": "Hello, how are you?"}, {"role": "assistant", "content": "I am fine, thank you."}],
    [{"role": "user", "content": "Where is my parcel?"}, {"role": "assistant", "content": "It left."}],
]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A language model's folder."""
    return saved_policy(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    """The folder of an adapter on it that was trained a little, and what the policy then said of X."""
    policy = trained(load_policy(base, lora=2))
    folder = tmp_path_factory.mktemp("adapter") / "model"
    save(policy, folder)
    return folder, said(policy)


def said(policy):
    with torch.no_grad():
        return policy.read(X).logprobs


def trained(policy, steps=3):
    learner = local_learner(policy, lr=0.05)
    for _ in range(steps):
        learner.update(X, Likelihood())
    return policy


def files_in(folder):
    return sorted(path.name for path in folder.iterdir())


# --- references -----------------------------------------------------------------------------------


def test_a_frozen_reference_stays_where_it_is_while_the_policy_trains(base):
    policy = load_policy(base)
    reference, before = policy.frozen(), said(policy)
    trained(policy)
    assert said(reference).equal(before)
    assert not torch.allclose(said(policy), before, atol=0.1)
    assert reference.read(X).logprobs.requires_grad is False


def test_a_frozen_reference_is_a_reader_at_the_policys_temperature(base):
    hot = load_policy(base, temperature=2.0)
    assert said(hot.frozen()).equal(said(hot))
    assert not torch.allclose(said(load_policy(base)), said(hot), atol=0.1)


def test_without_its_adapter_the_policy_is_the_model_before_training_and_stays_it_after_updates(base):
    plain = said(load_policy(base))
    policy = load_policy(base, lora=2)
    reference = policy.frozen()
    torch.testing.assert_close(said(reference), plain)
    torch.testing.assert_close(said(policy), plain)  # a new adapter changes nothing yet
    trained(policy)
    assert said(reference).equal(said(reference))
    torch.testing.assert_close(said(reference), plain)
    assert not torch.allclose(said(policy), plain, atol=0.1)


def test_asking_the_reference_leaves_the_adapter_on_and_trainable(base):
    policy = trained(load_policy(base, lora=2))
    before = said(policy)
    policy.frozen().read(X)
    assert said(policy).equal(before)
    assert all(p.requires_grad == ("lora_" in name) for name, p in policy.named_parameters())


# --- policies in and out --------------------------------------------------------------------------


def test_a_saved_policy_loads_with_plain_transformers_and_says_the_same(base, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    policy = trained(load_policy(base))
    save(policy, tmp_path)
    model, words = AutoModelForCausalLM.from_pretrained(tmp_path).eval(), AutoTokenizer.from_pretrained(tmp_path)
    row = words.apply_chat_template(CONVERSATIONS[0], return_tensors="pt", return_dict=True)["input_ids"]
    with torch.no_grad():
        torch.testing.assert_close(model(row).logits, policy.model(row).logits)
    assert words.chat_template == policy.tokenizer.chat_template
    assert said(load_policy(tmp_path)).equal(said(policy))


def test_a_model_saved_in_half_precision_is_kept_in_fp32(base, tmp_path):
    policy = load_policy(base)
    policy.model.to(torch.bfloat16).save_pretrained(tmp_path)
    policy.tokenizer.save_pretrained(tmp_path)
    assert {p.dtype for p in load_policy(tmp_path).parameters()} == {torch.float32}


def test_a_run_folder_means_the_model_in_it(base):
    run = base.parent
    assert found(run) == found(base) == str(base)
    assert said(load_policy(run)).equal(said(load_policy(base)))


@pytest.mark.parametrize("name", ["gpt2", "Qwen/Qwen2.5-0.5B-Instruct", "org_1/a.b-c"])
def test_a_hub_name_passes_through(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert found(name) == name


def test_there_is_no_dropout_even_in_training(tmp_path):
    model = tiny("GPT-NeoX", hidden_dropout=0.5, attention_dropout=0.5)
    model.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    policy = load_policy(tmp_path).train()
    assert said(policy).equal(said(policy))


# --- adapters -------------------------------------------------------------------------------------


def test_an_adapters_folder_holds_the_adapter_alone_and_loads_with_peft(base, adapter):
    from peft import AutoPeftModelForCausalLM

    folder, expected = adapter
    assert "adapter_model.safetensors" in files_in(folder)
    assert "model.safetensors" not in files_in(folder)
    modules = json.loads((folder / "adapter_config.json").read_text())["target_modules"]
    assert modules == sorted(modules)  # the same bytes from every process
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        theirs = AutoPeftModelForCausalLM.from_pretrained(folder).eval()
    torch.testing.assert_close(said(LanguagePolicy(theirs, sharing=True)), expected)


def test_the_policy_of_an_adapters_folder_is_whole_and_all_of_it_can_be_trained(adapter):
    folder, expected = adapter
    policy = load_policy(folder)
    assert not policy.has_adapter
    torch.testing.assert_close(said(policy), expected, rtol=1e-4, atol=1e-4)
    assert all(p.requires_grad for p in policy.parameters())


def test_a_new_adapter_on_an_adapters_folder_has_the_merged_model_as_its_reference(adapter, tmp_path, caplog):
    folder, expected = adapter
    policy = load_policy(folder, lora=2)
    assert "which PEFT on its own would leave out" in caplog.text
    reference = policy.frozen()
    trained(policy)
    torch.testing.assert_close(said(reference), expected, rtol=1e-4, atol=1e-4)
    save(policy, tmp_path)
    torch.testing.assert_close(said(load_policy(tmp_path)), said(policy), rtol=1e-4, atol=1e-4)


def test_an_adapter_finds_its_model_from_any_working_folder(base, tmp_path, monkeypatch):
    monkeypatch.chdir(base.parent)
    policy = trained(load_policy("model", lora=2))
    save(policy, tmp_path / "adapter")
    monkeypatch.chdir(tmp_path)
    torch.testing.assert_close(said(load_policy("adapter")), said(policy), rtol=1e-4, atol=1e-4)


def test_an_adapter_whose_model_is_gone_says_where_it_should_be(base, tmp_path):
    shutil.copytree(base, tmp_path / "base")
    save(load_policy(tmp_path / "base", lora=2), tmp_path / "adapter")
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(UsageError, match=r"is an adapter, and the model that it belongs to is not where it was"):
        load_policy(tmp_path / "adapter")


def test_an_adapter_begins_the_same_for_the_same_seed_whatever_was_drawn_before(base):
    def drawn(seed):
        torch.rand(seed + 3)
        return {n: p for n, p in load_policy(base, lora=2, seed=seed).named_parameters() if "lora_A" in n}

    first, again, other = drawn(0), drawn(0), drawn(1)
    assert all(first[name].equal(again[name]) for name in first)
    assert not any(first[name].equal(other[name]) for name in first)
    before = torch.get_rng_state()
    load_policy(base, lora=2)
    assert torch.get_rng_state().equal(before)


# --- reward models --------------------------------------------------------------------------------


def rows_of(words):
    template = Template(words)
    made = [template.demonstration(messages) for messages in CONVERSATIONS]
    return replies([(row.prompt, [row.reply]) for row in made])


def plain_scores(folder):
    """As a user of transformers would: render, pad with the folder's tokenizer, read the logits."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    words = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    texts = [words.apply_chat_template(messages, tokenize=False) for messages in CONVERSATIONS]
    rows = words(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    assert rows["attention_mask"].sum(-1).unique().numel() == 2  # or padding would not matter
    with torch.no_grad():
        return model(**rows).logits


@pytest.mark.parametrize("pad", ["<|pad|>", "<|end|>", None])
def test_a_saved_reward_model_gives_our_score_in_plain_transformers_padded_or_not(base, tmp_path, pad):
    """Also where the base pads with its end token, or with nothing: then the end would be taken for padding."""
    shutil.copytree(base, tmp_path / "base")
    words = load_policy(base).tokenizer
    words.pad_token = pad
    words.save_pretrained(tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    config["pad_token_id"] = words.pad_token_id
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))

    scorer = load_scorer(tmp_path / "base", seed=5)
    x = rows_of(scorer.tokenizer)
    assert x.tokens.gather(1, x.present.sum(-1, keepdim=True) - 1).unique().tolist() == [words.eos_token_id]
    ours = scorer.scores(x).detach()
    save(scorer, tmp_path / "rm")
    torch.testing.assert_close(plain_scores(tmp_path / "rm"), ours, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(load_scorer(tmp_path / "rm").scores(x), ours, rtol=1e-5, atol=1e-6)


def test_the_score_is_read_at_the_last_present_token_even_if_padding_looks_like_the_end(base):
    scorer, end = load_scorer(base), tokenizer().eos_token_id
    short, long = Reply((7, 8, end), (True,) * 3), Reply((9, 7, 8, 5, end), (True,) * 5)
    together = replies([(Prompt((4, 5)), [short, long])])
    together.tokens[~together.present] = end
    alone = replies([(Prompt((4, 5)), [short])])
    torch.testing.assert_close(scorer.scores(together)[:1], scorer.scores(alone), rtol=1e-5, atol=1e-6)
    for row, reply in enumerate((short, long)):
        hidden = scorer.base.base_model(torch.tensor([[4, 5, *reply.tokens]])).last_hidden_state[0, -1]
        torch.testing.assert_close(scorer.scores(together)[row], scorer.base.score(hidden), rtol=1e-5, atol=1e-6)


def test_a_new_head_is_drawn_with_its_seed_and_the_trunk_is_the_language_models(base):
    first, again, other = (load_scorer(base, seed=seed) for seed in (0, 0, 1))
    assert first.base.score.weight.equal(again.base.score.weight)
    assert not first.base.score.weight.equal(other.base.score.weight)
    trunk = dict(load_policy(base).base.base_model.named_parameters())
    assert all(p.equal(trunk[name]) for name, p in first.base.base_model.named_parameters())


def test_a_reward_model_may_have_several_heads(base, tmp_path):
    scorer = load_scorer(base, heads=3)
    save(scorer, tmp_path)
    assert load_scorer(tmp_path).scores(X).shape == (len(X.tokens), 3)
    torch.testing.assert_close(load_scorer(tmp_path).scores(X), scorer.scores(X))
    assert load_scorer(tmp_path, heads=2).scores(X).shape == (len(X.tokens), 2)
    assert is_scorer(str(tmp_path))
    assert not is_scorer(str(base))


def test_a_reward_models_adapter_comes_back_with_its_head(base, tmp_path):
    from preferent.algorithms.reward_model import BradleyTerry
    from preferent.types import Comparison, Preference

    scorer = load_scorer(base, lora=2, seed=3)
    learner = local_learner(scorer, lr=0.05)
    before = {name: p.detach().clone() for name, p in learner.weights().items()}
    a, b = Reply((7, 8, 1), (True,) * 3), Reply((9, 1), (True,) * 2)
    for _ in range(3):
        learner.update(pairs([Preference(Comparison(Prompt((4, 5)), (a, b)), (1.0, 0.0))]), BradleyTerry())
    moved = {name for name, p in learner.weights().items() if not p.equal(before[name])}
    assert moved == set(learner.state_dict()["model"])
    assert {name.split(".")[-2] for name in moved if "lora_" not in name} == {"default"}
    assert all("lora_" in name or "score.modules_to_save" in name for name in moved)
    save(scorer, tmp_path)
    assert "model.safetensors" not in files_in(tmp_path)
    assert is_scorer(str(tmp_path))
    torch.testing.assert_close(load_scorer(tmp_path).scores(X), scorer.scores(X), rtol=1e-4, atol=1e-4)


def test_a_reward_model_can_start_from_a_policys_adapter(adapter):
    folder, _ = adapter
    scorer = load_scorer(folder)
    assert scorer.scores(X).shape == (len(X.tokens), 1)
    merged = dict(load_policy(folder).base.base_model.named_parameters())
    assert all(p.equal(merged[name]) for name, p in scorer.base.base_model.named_parameters())


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sentence"),
    [(name, "no such folder") for name in ("./nowhere", "runs/none", "weights.bin", "a/b/c", "/gone", "models/nope/")],
)
def test_a_folder_that_is_not_there_is_said(name, sentence):
    with pytest.raises(UsageError, match=sentence):
        load_policy(name)


def test_a_folder_without_a_model_is_said(tmp_path):
    with pytest.raises(UsageError, match=r"found neither config\.json nor model/config\.json"):
        load_policy(tmp_path)


def test_an_ensemble_where_one_model_is_wanted_is_said(base, tmp_path):
    save(load_scorer(base), tmp_path / "model" / "member-0")
    with pytest.raises(
        UsageError, match=r"holds an ensemble of reward models, not one.*\n.*name a member.*language model"
    ):
        load_policy(tmp_path)


def test_a_tokenizer_without_an_end_is_said(base, tmp_path):
    shutil.copytree(base, tmp_path / "base")
    words = load_policy(base).tokenizer
    words.eos_token = None
    words.save_pretrained(tmp_path / "base")
    with pytest.raises(UsageError, match="no end token, so a reply could never end"):
        load_policy(tmp_path / "base")


@pytest.mark.parametrize("cut", [0, 2000])
def test_damaged_weights_are_said(base, tmp_path, cut):
    shutil.copytree(base, tmp_path / "base")
    with (tmp_path / "base" / "model.safetensors").open("r+b") as file:
        file.truncate(cut)
    with pytest.raises(UsageError, match=rf"The weights in {tmp_path / 'base'} are damaged: "):
        load_policy(tmp_path / "base")


def test_damaged_weights_of_an_adapter_are_said(base, tmp_path):
    save(load_policy(base, lora=2), tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match=f"The weights in {tmp_path} are damaged: "):
        load_policy(tmp_path)


def test_a_tokenizer_without_its_words_is_said(base, tmp_path):
    """Of the model's kind, transformers makes one from nothing, in which every text is no tokens at all."""
    shutil.copytree(base, tmp_path / "base")
    (tmp_path / "base" / "tokenizer.json").unlink()
    with pytest.raises(UsageError, match=r'makes no tokens of "a b": .* Put the tokenizer\.json'):
        load_policy(tmp_path / "base")


def test_a_tokenizers_own_code_is_run_where_its_author_is_trusted(base, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.path", [*sys.path])
    folder = tmp_path / "trusted"
    shutil.copytree(base, folder)
    code = (
        "from transformers import PreTrainedTokenizerFast\n\nclass Mine(PreTrainedTokenizerFast):\n    mark = 'mine'\n"
    )
    (folder / "mine.py").write_text(code)
    said = json.loads((folder / "tokenizer_config.json").read_text())
    said |= {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": [None, "mine.Mine"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    assert load_tokenizer(folder, trust_remote_code=True).mark == "mine"
    assert load_policy(folder, trust_remote_code=True).tokenizer.mark == "mine"
    assert not hasattr(load_tokenizer(folder), "mark")


def test_a_name_that_is_no_folder_and_not_on_the_hub_is_said_once(tmp_path, monkeypatch, caplog):
    """The library's warnings, one for each time that it asks again, are kept from being shown."""
    retries = logging.getLogger("huggingface_hub.utils._http")

    def asked(*_, **__):
        retries.warning("Retrying in 1s [Retry 1/5].")
        raise OSError("no such place")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", asked)
    with pytest.raises(UsageError, match=r"no such place\nThere is no folder models/nope here either\.$"):
        load_policy("models/nope")
    assert caplog.messages == []
    retries.warning("loud again")
    assert caplog.messages == ["loud again"]


@pytest.mark.parametrize("device", ["foo", "cuda:99", "xpu", "cpu:x"])
def test_a_device_that_is_not_there_is_said(device):
    with pytest.raises(UsageError, match=f"--device {device} cannot be used here: expected one of auto, cpu"):
        chosen_device(device)
    assert chosen_device("cpu").type == "cpu"


def test_a_reward_model_is_no_language_model_to_be_tuned(base, tmp_path):
    """Its head would be drawn at random without a word."""
    save(load_scorer(base), tmp_path)
    with pytest.raises(UsageError, match="is a reward model"):
        load_policy(tmp_path)


def test_a_tokenizer_from_scratch_comes_back_as_it_was_and_fits_its_model(base):
    """AutoTokenizer chooses a class by the model's kind, and would add that class's own marks."""
    made, back = tokenizer(), load_policy(base).tokenizer
    for text in (*TEXTS, "I'm 1234 \n\n  x (hello) naïve é 日本 <|end|>", ""):
        assert made(text)["input_ids"] == back(text)["input_ids"]
        assert back.decode(back(text)["input_ids"]) == text
    assert len(back) == len(made) == load_policy(base).text_config.vocab_size
    assert back.backend_tokenizer.to_str() == made.backend_tokenizer.to_str()
