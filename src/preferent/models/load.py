"""Hugging Face folders and Hub names to policies and scorers, and back to plain folders."""

from __future__ import annotations

import copy
import json
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from torch import nn

from preferent.config import UsageError
from preferent.models.device import DType, chosen_device
from preferent.models.fast import fast
from preferent.models.policy import LanguageActorCritic, LanguagePolicy
from preferent.models.probe import can_share, can_use_own_head
from preferent.models.quantised import in_four_bits, quantised, unpacked
from preferent.models.room import suffices
from preferent.models.scorer import HeadedTrunk, ScoringModel

log = logging.getLogger(__name__)
M = TypeVar("M", bound=nn.Module)
SMALLER = "Take a smaller --model, or hold its weights in an eighth: --load-4bit, with --lora; or another --device."
HUB = r"\w[\w.-]*/\w[\w.-]*|[\w-]+"  # what a name there looks like; one with a dot and no owner is taken for a file


def load_policy(
    name: str | Path,
    *,
    device: str = "auto",
    temperature: float = 1.0,
    lora: int = 0,
    lora_alpha: float = 32.0,
    four_bits: DType | None = None,
    seed: int = 0,
    trust_remote_code: bool = False,
) -> LanguagePolicy:
    """A causal language model from a Hugging Face folder, a run folder or the Hub.

    Weights are kept in fp32; a learner computes in bf16 where the device is fast at it. ``lora`` > 0 adds an adapter
    of that rank, drawn with ``seed``; an adapter that the folder itself holds is merged first, so that a reference
    without the new one is the model as it was found. ``four_bits`` holds what lies under the adapter in four bits, and
    says what to multiply in.
    """
    folder = found_policy(name, trust_remote_code=trust_remote_code)
    extra = quantised(folder, lora=lora, device=device, dtype=four_bits)
    model = loaded("AutoModelForCausalLM", folder, trust_remote_code=trust_remote_code, **extra)
    nn.Module.to(model, chosen_device(device))  # what a model can do is asked where it will do it
    sharing, own_head = can_share(model), can_use_own_head(model)
    if lora:
        model = with_adapter(model, base=folder, rank=lora, alpha=lora_alpha, seed=seed)
    policy = LanguagePolicy(
        model,
        load_tokenizer(folder, model.config.get_text_config().vocab_size, trust_remote_code=trust_remote_code),
        sharing=sharing,
        own_head=own_head,
        temperature=temperature,
    )
    return placed(policy, folder, device)


def load_scorer(
    name: str | Path,
    *,
    heads: int | None = None,
    seed: int = 0,
    device: str = "auto",
    lora: int = 0,
    lora_alpha: float = 32.0,
    four_bits: DType | None = None,
    trust_remote_code: bool = False,
) -> ScoringModel:
    """A reward model. From a language model's folder, its trunk under ``heads`` new heads, drawn with ``seed``."""
    folder = found(name)
    fresh = not is_scorer(folder, trust_remote_code=trust_remote_code)
    if not fresh and heads is not None:
        fresh = read_config(folder, trust_remote_code=trust_remote_code).num_labels != heads
    extra = quantised(folder, lora=lora, device=device, dtype=four_bits)
    extra |= {"num_labels": heads or 1, "ignore_mismatched_sizes": True} if fresh else {}
    model = loaded("AutoModelForSequenceClassification", folder, trust_remote_code=trust_remote_code, **extra)
    if not hasattr(model, "score"):
        raise UsageError(
            f"{type(model).__name__} has no linear head called `score`, so it cannot be a reward model here."
        )
    if fresh:
        new_head(model.score, seed=seed)
    tokenizer = load_tokenizer(folder, model.config.get_text_config().vocab_size, trust_remote_code=trust_remote_code)
    model.config.pad_token_id = padding(tokenizer, model.config.get_text_config().vocab_size)
    if model.config.pad_token_id in tokenizer.all_special_ids:  # else it would cut words in two
        tokenizer.pad_token_id = model.config.pad_token_id
    nn.Module.to(model, chosen_device(device))
    sharing = can_share(model)
    if lora:
        adapter = {"task_type": "SEQ_CLS", "modules_to_save": ["score"]}
        model = with_adapter(model, base=folder, rank=lora, alpha=lora_alpha, seed=seed, **adapter)
    return placed(ScoringModel(model, tokenizer, sharing=sharing), folder, device)


def placed(model: M, folder: str, device: str) -> M:
    with suffices(f"for the weights of {folder} on this device", SMALLER):
        return model.to(chosen_device(device)).eval()


def critic_from(source: ScoringModel | LanguagePolicy) -> ScoringModel:
    """A critic of its own: a reward model's trunk and first head, or a policy's trunk under a head of zeros."""
    if isinstance(source, ScoringModel):
        return copy.deepcopy(source).requires_grad_(True)
    if in_four_bits(source.base):
        raise UsageError(
            "A critic that starts from a policy in four bits could not be trained: name a reward model with --reward, "
            "from which it starts, or leave --load-4bit out."
        )
    adapted: Any = copy.deepcopy(source.model)
    base = adapted.merge_and_unload() if source.has_adapter else adapted
    model = HeadedTrunk(base.base_model, heads=1)
    nn.init.zeros_(model.score.weight)
    return ScoringModel(model.requires_grad_(True), source.tokenizer, sharing=source.sharing).eval()


def actor_critic(
    policy: LanguagePolicy, scorer: ScoringModel | None = None, *, mean: float = 0.0, std: float = 1.0
) -> LanguageActorCritic:
    """The policy with a critic that starts from the reward model, or, without one, from the policy itself.

    ``mean`` and ``std`` are the scale of the reward, (score - mean) / std: the critic predicts on it from the start,
    but for the mean where the head has no bias to hold it.
    """
    critic = critic_from(scorer if scorer is not None else policy)
    if scorer is not None:
        rescale(critic.base.score, mean=mean, std=std)
    return LanguageActorCritic(policy, critic)


@torch.no_grad()
def rescale(head: Any, *, mean: float, std: float) -> None:
    """Make a linear head, with or without a bias, say (score - mean) / std or score / std."""
    head.weight.div_(std)
    if getattr(head, "bias", None) is not None:
        head.bias.sub_(mean).div_(std)


def save(model: LanguagePolicy | ScoringModel, folder: Path) -> None:
    """A plain Hugging Face folder (an adapter's folder where the model has one), with the tokenizer."""
    # PEFT would look for the base model's configuration to see whether embeddings were added; they are not.
    extra = {"save_embedding_layers": False} if model.has_adapter else {}
    save_folder(model.model, model.tokenizer, folder, **extra)


def save_folder(model: Any, tokenizer: Any, folder: Path, **extra: Any) -> None:
    """The same for a Hugging Face model."""
    with quietly():
        model.save_pretrained(folder, **extra)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)


@contextmanager
def quietly() -> Iterator[None]:
    """Without the library's bars and remarks: a new head is meant, and not worth a table of missing keys."""
    from transformers.utils import logging as remarks

    verbosity, bars = remarks.get_verbosity(), remarks.is_progress_bar_enabled()
    remarks.set_verbosity_error()
    remarks.disable_progress_bar()
    try:
        yield
    finally:
        remarks.set_verbosity(verbosity)
        if bars:
            remarks.enable_progress_bar()


def found(name: str | Path) -> str:
    """Where a model is: a run folder means the ``model/`` in it; a name that is no folder is one of the Hub."""
    path = Path(name)
    if not path.is_dir():
        if path.exists() or str(name).startswith("runs/") or not re.fullmatch(HUB, str(name)):
            raise UsageError(
                f"{name}: there is no such folder. Expected a Hugging Face folder, a run folder or a Hub name."
            )
        return str(name)
    for place in (path / "model", path):
        if (place / "config.json").is_file() or (place / "adapter_config.json").is_file():
            return str(place)
    if (path / "model").is_dir() and any((path / "model").glob("member-*/config.json")):
        raise UsageError(
            f"{name} holds an ensemble of reward models, not one model.\nFor a reward model, name a member: "
            f"{path}/model/member-0. For a language model, name another run, such as the one that it began from."
        )
    raise UsageError(
        f"{name}: found neither config.json nor model/config.json in this folder. "
        "Expected a Hugging Face folder, or a run that has ended; a run under way has its weights in checkpoints/."
    )


def found_policy(name: str | Path, *, trust_remote_code: bool = False) -> str:
    """Where a language model is. Raises UsageError where there is none or a reward model; nothing is loaded yet."""
    folder = found(name)
    if is_scorer(folder, trust_remote_code=trust_remote_code):
        raise UsageError(f"{name} is a reward model, which says no text: expected a language model.")
    return folder


@contextmanager
def reading(folder: str, otherwise: str) -> Iterator[None]:
    """Around a library that reads a folder or asks the Hub: what it refuses is a UsageError, ``otherwise`` and why.

    The Hub is asked again and again, with a warning each time, where a misspelt folder is taken for one of its names.
    """
    retries = logging.getLogger("huggingface_hub.utils._http")
    level = retries.level
    retries.setLevel(logging.ERROR)
    try:
        yield
    except SafetensorError as damaged:
        raise UsageError(
            f"The weights in {folder} are damaged: {damaged}. Copy them again from where they came, or make them anew."
        ) from damaged
    except (OSError, ValueError) as refused:
        here = "" if Path(folder).is_dir() else f"\nThere is no folder {folder} here either."
        raise UsageError(f"{otherwise}: {refused}{here}") from refused
    finally:
        retries.setLevel(level)


def loaded(auto: str, folder: str, *, trust_remote_code: bool, **extra: Any) -> Any:
    """The model in fp32, without dropout; an adapter found in the folder is merged into its base."""
    import transformers

    if (adapter := Path(folder) / "adapter_config.json").is_file():
        said = json.loads(adapter.read_text())
        if said.get("task_type") == "SEQ_CLS":
            extra = {"num_labels": heads_in(folder)} | extra
        base = loaded(auto, base_of(folder, said), trust_remote_code=trust_remote_code, **extra)
        return merged(base, folder)
    config = read_config(folder, trust_remote_code=trust_remote_code)
    # SDPA leaves soft-capping out without a word, so such models attend eagerly.
    attention = "eager" if getattr(config.get_text_config(), "attn_logit_softcapping", None) else None
    beside = suffices(f"to load the weights of {folder}", SMALLER)
    with beside, reading(folder, f"{folder} cannot be loaded as {auto}"), quietly():
        model = getattr(transformers, auto).from_pretrained(
            folder, dtype=torch.float32, attn_implementation=attention, trust_remote_code=trust_remote_code, **extra
        )
    return fast(unpacked(without_dropout(model)).eval())


def base_of(folder: str, adapter: Mapping[str, Any]) -> str:
    """Where the model is that an adapter belongs to."""
    name = str(adapter["base_model_name_or_path"])
    try:
        return found(name)
    except UsageError as error:
        raise UsageError(
            f"{folder} is an adapter, and the model that it belongs to is not where it was: {error}\n"
            "Write its place into base_model_name_or_path in adapter_config.json."
        ) from error


def heads_in(folder: str) -> int:
    """How many heads the reward model has whose adapter this is: they are saved with it."""
    from safetensors import safe_open

    weights = Path(folder) / "adapter_model.safetensors"
    with reading(folder, f"{folder} has no adapter that can be loaded"), safe_open(weights, framework="pt") as file:
        name = next(name for name in file.keys() if name.endswith("score.weight"))  # noqa: SIM118  (not a mapping)
        return int(file.get_slice(name).get_shape()[0])


def merged(base: Any, folder: str) -> Any:
    """A model with an adapter's weights added to its own."""
    from peft import PeftConfig, PeftModel

    config = PeftConfig.from_pretrained(folder)
    config.task_type = None  # it belongs to the trunk: a language model's goes into the reward model built on it, too
    with reading(folder, f"{folder} has no adapter that can be loaded"), without_peft_remarks():
        # PEFT freezes what it is put on.
        return PeftModel.from_pretrained(base, folder, config=config).merge_and_unload().requires_grad_(True)


def with_adapter(model: Any, *, base: str, rank: int, alpha: float, seed: int, **extra: Any) -> Any:
    """LoRA (Hu et al. 2021) on every linear layer but the head; everything else is frozen.

    ``base`` is where the model came from, as the adapter will say. It may itself be an adapter's folder, which PEFT
    would forget: it would name the model below that.
    """
    from peft import LoraConfig, get_peft_model

    if (Path(base) / "adapter_config.json").is_file():
        log.warning(
            "The new adapter stands on that of %s, which PEFT on its own would leave out without a word: "
            "`preferent merge` makes one model of all that can be loaded anywhere.",
            base,
        )
    extra = {"task_type": "CAUSAL_LM"} | extra
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules="all-linear", **extra)
    with without_peft_remarks(), torch.random.fork_rng():
        torch.manual_seed(seed)
        adapted = get_peft_model(model, config)
    said = adapted.peft_config["default"]
    said.base_model_name_or_path = str(Path(base).resolve()) if Path(base).is_dir() else base
    said.target_modules = sorted(said.target_modules)  # a set is written in another order by every process
    return adapted


@contextmanager
def without_peft_remarks() -> Iterator[None]:
    """PEFT asks transformers for an attribute by its old name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        yield


def without_dropout(model: Any) -> Any:
    """Dropout under a shared prefix would be one mask for all replies of a prompt, so there is none."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model


def load_tokenizer(folder: str | Path, vocabulary: int | None = None, *, trust_remote_code: bool = False) -> Any:
    """The folder's tokenizer; it must have an end token, among the model's ``vocabulary``, for replies have to end."""
    from transformers import AutoTokenizer

    place = found(folder)
    with reading(place, f"{folder} has no tokenizer that can be loaded"):
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=trust_remote_code)
    # Where its files are missing, transformers makes one of the model's kind that knows no words.
    if not tokenizer("a b", add_special_tokens=False)["input_ids"]:
        raise UsageError(
            f'The tokenizer of {folder} makes no tokens of "a b": its words are missing. '
            "Put the tokenizer.json that belongs to the model beside its weights."
        )
    # Without one of its own, a tokenizer may bring its family's, which the model has never seen.
    if tokenizer.eos_token_id is None or (vocabulary is not None and tokenizer.eos_token_id >= vocabulary):
        raise UsageError(
            f"The tokenizer of {folder} has no end token, so a reply could never end. "
            'Set "eos_token" in its tokenizer_config.json.'
        )
    return tokenizer


def padding(tokenizer: Any, vocabulary: int) -> int:
    """A padding token other than the end token, or a reader of the saved reward model would skip the end.

    Transformers reads the score at the last token that is not this one; rows padded with the end token, as the
    tokenizers of some models do on their own, would be read there.
    """
    known = [tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id, *tokenizer.all_special_ids]
    for token in known:
        if token is not None and token != tokenizer.eos_token_id and token < vocabulary:
            return int(token)
    return 0 if tokenizer.eos_token_id != 0 else 1


def read_config(folder: str, *, trust_remote_code: bool) -> Any:
    from transformers import AutoConfig

    with reading(folder, f"{folder} is no model that can be loaded"):
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)


def is_scorer(folder: str, *, trust_remote_code: bool = False) -> bool:
    """Whether the folder holds a reward model."""
    if (Path(folder) / "adapter_config.json").is_file():
        return bool(json.loads((Path(folder) / "adapter_config.json").read_text()).get("task_type") == "SEQ_CLS")
    names = read_config(folder, trust_remote_code=trust_remote_code).architectures or []
    return any(name.endswith("ForSequenceClassification") for name in names)


def new_head(linear: nn.Linear, *, seed: int) -> None:
    """Normal with a deviation of 1 / (d + 1), so that an untrained head says next to nothing.

    Stiennon et al. 2020 (appendix B.1) take its square root: then the first scores differ by about 1 for no reason.
    """
    key = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(linear.weight.shape, generator=key) / (linear.in_features + 1))
