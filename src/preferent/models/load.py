"""Hugging Face folders and Hub names to policies and scorers, and back to plain folders."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from preferent.config import UsageError
from preferent.models.policy import LanguageActorCritic, LanguagePolicy
from preferent.models.probe import can_share, can_use_own_head
from preferent.models.scorer import ScoringModel

DType = Literal["auto", "float32", "bfloat16"]


def load_policy(
    name: str | Path,
    *,
    device: str = "auto",
    temperature: float = 1.0,
    lora: int = 0,
    lora_alpha: float = 32.0,
    trust_remote_code: bool = False,
) -> LanguagePolicy:
    """A causal language model from a Hugging Face folder, a run folder or the Hub.

    Weights are kept in fp32; a learner computes in bf16 where the device is fast at it. ``lora`` > 0 adds an adapter
    of that rank; an adapter that the folder itself holds is merged first, so that a reference without the new one is
    the model as it was found.
    """
    folder = found(name)
    model = loaded("AutoModelForCausalLM", folder, trust_remote_code=trust_remote_code)
    sharing, own_head = can_share(model), can_use_own_head(model)
    if lora:
        model = with_adapter(model, rank=lora, alpha=lora_alpha)
    policy = LanguagePolicy(model, load_tokenizer(folder), sharing=sharing, own_head=own_head, temperature=temperature)
    return policy.to(chosen_device(device)).eval()


def load_scorer(
    name: str | Path,
    *,
    heads: int | None = None,
    seed: int = 0,
    device: str = "auto",
    lora: int = 0,
    lora_alpha: float = 32.0,
    trust_remote_code: bool = False,
) -> ScoringModel:
    """A reward model. From a language model's folder, its trunk under ``heads`` new heads, drawn with ``seed``."""
    folder = found(name)
    fresh = not is_scorer(folder, trust_remote_code=trust_remote_code)
    if not fresh and heads is not None:
        fresh = read_config(folder, trust_remote_code=trust_remote_code).num_labels != heads
    extra = {"num_labels": heads or 1} if fresh else {}
    model = loaded("AutoModelForSequenceClassification", folder, trust_remote_code=trust_remote_code, **extra)
    if not hasattr(model, "score"):
        raise UsageError(
            f"{type(model).__name__} has no linear head called `score`, so it cannot be a reward model here."
        )
    if fresh:
        new_head(model.score, seed=seed)
    tokenizer = load_tokenizer(folder)
    model.config.pad_token_id = padding(tokenizer)
    sharing = can_share(model)
    if lora:
        model = with_adapter(model, rank=lora, alpha=lora_alpha, task="SEQ_CLS", modules_to_save=["score"])
    return ScoringModel(model, tokenizer, sharing=sharing).to(chosen_device(device)).eval()


def critic_from(source: ScoringModel | LanguagePolicy, *, seed: int = 0) -> ScoringModel:
    """A critic of its own: a reward model's trunk and first head, or a policy's trunk under a head of zeros."""
    if isinstance(source, ScoringModel):
        return copy.deepcopy(source).requires_grad_(True)
    from transformers import AutoModelForSequenceClassification

    base = copy.deepcopy(source.base)
    if source.has_adapter:
        adapted: Any = copy.deepcopy(source.model)
        base = adapted.merge_and_unload()
    config = copy.deepcopy(base.config)
    config.num_labels = 1
    model = AutoModelForSequenceClassification.from_config(config)
    setattr(model, model.base_model_prefix, base.base_model)
    nn.init.zeros_(model.score.weight)
    return ScoringModel(model.requires_grad_(True), source.tokenizer, sharing=source.sharing).eval().to(base.device)


def actor_critic(policy: LanguagePolicy, scorer: ScoringModel | None = None) -> LanguageActorCritic:
    """The policy with a critic that starts from the reward model, or, without one, from the policy itself."""
    return LanguageActorCritic(policy, critic_from(scorer if scorer is not None else policy))


def save(model: LanguagePolicy | ScoringModel, folder: Path) -> None:
    """A plain Hugging Face folder (an adapter's folder where the model has one), with the tokenizer."""
    model.model.save_pretrained(folder)  # type: ignore[operator]
    if model.tokenizer is not None:
        model.tokenizer.save_pretrained(folder)


def found(name: str | Path) -> str:
    """Where a model is: a run folder means the ``model/`` in it; a name that is no folder is one of the Hub."""
    path = Path(name)
    if not path.is_dir():
        if path.suffix or str(name).startswith((".", "/", "~", "runs/")):
            raise UsageError(
                f"{name}: there is no such folder. Expected a Hugging Face folder, a run folder or a Hub name."
            )
        return str(name)
    for place in (path / "model", path):
        if (place / "config.json").is_file() or (place / "adapter_config.json").is_file():
            return str(place)
    if (path / "model").is_dir() and any((path / "model").glob("member-*/config.json")):
        raise UsageError(f"{name} holds an ensemble of reward models; name one of them: {path}/model/member-0.")
    raise UsageError(
        f"{name}: found neither config.json nor model/config.json in this folder. "
        "Expected a Hugging Face folder, or a run that has ended; a run under way has its weights in checkpoints/."
    )


def loaded(auto: str, folder: str, *, trust_remote_code: bool, **extra: Any) -> Any:
    """The model in fp32, without dropout; an adapter found in the folder is merged into its base."""
    import transformers

    if (adapter := Path(folder) / "adapter_config.json").is_file():
        base = json.loads(adapter.read_text())["base_model_name_or_path"]
        return merged(loaded(auto, found(base), trust_remote_code=trust_remote_code, **extra), folder)
    config = read_config(folder, trust_remote_code=trust_remote_code)
    # SDPA leaves soft-capping out without a word, so such models attend eagerly.
    attention = "eager" if getattr(config.get_text_config(), "attn_logit_softcapping", None) else None
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # a new head is meant, and not worth a table of missing keys
    try:
        model = getattr(transformers, auto).from_pretrained(
            folder, dtype=torch.float32, attn_implementation=attention, trust_remote_code=trust_remote_code, **extra
        )
    except (OSError, ValueError) as refused:
        raise UsageError(f"{folder} cannot be loaded as {auto}: {refused}") from refused
    finally:
        transformers.logging.set_verbosity(before)
    return without_dropout(model).eval()


def merged(base: Any, folder: str) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(base, folder).merge_and_unload()


def with_adapter(model: Any, *, rank: int, alpha: float, task: str = "CAUSAL_LM", **extra: Any) -> Any:
    """LoRA (Hu et al. 2021) on every linear layer but the head; everything else is frozen."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules="all-linear", task_type=task, **extra
    )
    return get_peft_model(model, config)


def without_dropout(model: Any) -> Any:
    """Dropout under a shared prefix would be one mask for all replies of a prompt, so there is none."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model


def load_tokenizer(folder: str | Path) -> Any:
    """The folder's tokenizer; it must have an end token, for replies have to end."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(found(folder))
    except (OSError, ValueError) as refused:
        raise UsageError(f"{folder} has no tokenizer that can be loaded: {refused}") from refused
    if tokenizer.eos_token_id is None:
        raise UsageError(
            f"The tokenizer of {folder} has no end token, so a reply could never end. "
            'Set "eos_token" in its tokenizer_config.json.'
        )
    return tokenizer


def padding(tokenizer: Any) -> int:
    """A padding token other than the end token, or a reader of the saved reward model would skip the end."""
    known = [tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id, *tokenizer.all_special_ids]
    for token in known:
        if token is not None and token != tokenizer.eos_token_id:
            return int(token)
    return 0 if tokenizer.eos_token_id != 0 else 1


def read_config(folder: str, *, trust_remote_code: bool) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as refused:
        raise UsageError(f"{folder} is no model that can be loaded: {refused}") from refused


def is_scorer(folder: str, *, trust_remote_code: bool = False) -> bool:
    """Whether the folder holds a reward model."""
    if (Path(folder) / "adapter_config.json").is_file():
        return bool(json.loads((Path(folder) / "adapter_config.json").read_text()).get("task_type") == "SEQ_CLS")
    names = read_config(folder, trust_remote_code=trust_remote_code).architectures or []
    return any(name.endswith("ForSequenceClassification") for name in names)


def new_head(linear: nn.Linear, *, seed: int) -> None:
    """Normal with variance 1 / (d + 1) (Stiennon et al. 2020, appendix B.1)."""
    key = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(linear.weight.shape, generator=key) / (linear.in_features + 1) ** 0.5)


def chosen_device(device: str) -> torch.device:
    if device != "auto":
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fast_bf16(device: torch.device, dtype: DType) -> bool:
    """Whether to compute in bf16: where asked for, or, on auto, on a GPU that has it."""
    if dtype == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return dtype == "bfloat16"
