"""An adapter merged into its model, or several models averaged into one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import click

from preferent.config import UsageError, flatten

if TYPE_CHECKING:
    from preferent.models.policy import LanguagePolicy
    from preferent.models.scorer import ScoringModel
    from preferent.rewards.learned import Scale


@dataclass(frozen=True, kw_only=True)
class Options:
    """Merge an adapter into its model, or average models of one kind and shape, into a plain Hugging Face folder.

    With --average, an ensemble of reward models becomes one that costs as little as one (WARM, Ramé et al. 2024), and
    policies become a soup (Wortsman et al. 2022). It works as far as the models began from the same weights and did not
    move far: try the result on held-out comparisons (`preferent evaluate --reward OUT --preferences …`).

    Examples:
        preferent merge runs/sft-lora --out runs/sft-merged
        preferent merge runs/rm --average --out runs/rm-average
    """

    positional: ClassVar[str] = "models"
    models: Annotated[
        tuple[str, ...], "an adapter's folder or run; with --average, an ensemble's run, or several models"
    ]
    out: Annotated[Path, "folder that is written: config.yaml, manifest.json and model/"]
    average: Annotated[bool, "average the weights of the models"] = False
    trust_remote_code: Annotated[bool, "run Python code that comes with the model; only for authors you trust"] = False


def run(options: Options) -> None:
    """Load, merge or average, and write."""
    from preferent.models.load import save
    from preferent.rewards.load import members_in, write_scales
    from preferent.runtime import files
    from preferent.runtime.card import card
    from preferent.runtime.run import Run

    folders = [folder for name in options.models for folder in members_in(name)]
    refuse_nonsense(options, folders)
    with Run(options.out, flatten(options), resume=None, inputs=folders, command="merge") as run:
        model = averaged(folders, trust=options.trust_remote_code) if options.average else whole(folders[0], options)
        with files.whole(run.model_folder) as folder:
            save(model, folder)
            if scales := mean_scales(folders):
                write_scales(folder, scales)
            files.write(folder / "README.md", card(run.folder).encode())
    click.echo(f"{' + '.join(folders)} → {options.out}/model")


def refuse_nonsense(options: Options, folders: Sequence[str]) -> None:
    if options.average and len(folders) < 2:
        raise UsageError(f"--average needs several models, or an ensemble; {folders[0]} is one.")
    if not options.average and len(folders) > 1:
        raise UsageError(f"These are {len(folders)} models: --average makes one of them; an adapter is merged alone.")
    if not options.average and not (Path(folders[0]) / "adapter_config.json").is_file():
        raise UsageError(f"{folders[0]} is no adapter (no adapter_config.json), so there is nothing to merge.")


def whole(folder: str, options: Options) -> LanguagePolicy | ScoringModel:
    """The model with its adapter's weights added to its own: what loading does anyway."""
    return opened(folder, trust=options.trust_remote_code)


def opened(folder: str, *, trust: bool) -> LanguagePolicy | ScoringModel:
    from preferent.models.load import is_scorer, load_policy, load_scorer

    load: Any = load_scorer if is_scorer(folder, trust_remote_code=trust) else load_policy
    model: LanguagePolicy | ScoringModel = load(folder, device="cpu", trust_remote_code=trust)
    return model


def averaged(folders: Sequence[str], *, trust: bool) -> LanguagePolicy | ScoringModel:
    """The mean of the models' weights, in fp32; two models are in memory at a time."""
    import torch

    first = opened(folders[0], trust=trust)
    total = {name: value.detach().double() for name, value in first.named_parameters()}
    for folder in folders[1:]:
        other = opened(folder, trust=trust)
        refuse_unlike(first, other, folders[0], folder)
        for name, value in other.named_parameters():
            total[name] += value.detach()
    with torch.no_grad():
        for name, value in first.named_parameters():
            value.copy_(total[name] / len(folders))
    return first


def refuse_unlike(a: Any, b: Any, here: str, there: str) -> None:
    """Raise UsageError for models whose weights do not stand for the same things."""
    from preferent.rewards.load import same_text

    shapes, others = ({name: tuple(p.shape) for name, p in model.named_parameters()} for model in (a, b))
    if type(a.base) is not type(b.base):
        raise UsageError(f"{here} is a {type(a.base).__name__} and {there} a {type(b.base).__name__}: no average.")
    for name in sorted({*shapes, *others}):
        if shapes.get(name) != others.get(name):
            raise UsageError(
                f"{here} and {there} differ in shape: {name} is {shapes.get(name, 'not there')} and "
                f"{others.get(name, 'not there')}. Only models of one shape have an average."
            )
    if not same_text(a.tokenizer, b.tokenizer):
        raise UsageError(
            f"{here} and {there} have different tokenizers or chat templates, so their weights do not mean the same."
        )


def mean_scales(folders: Sequence[str]) -> dict[str, Scale] | None:
    """To first order the scale of the averaged reward model, whose score is the mean of the members' scores.

    Of several heads, that of each. Raises UsageError where the models' heads are not the same.
    """
    from preferent.rewards.learned import Scale
    from preferent.rewards.load import SCORE, scales_in

    if not all((Path(folder) / SCORE).is_file() for folder in folders):
        return None
    each = [scales_in(folder) for folder in folders]
    if other := next((i for i, scales in enumerate(each) if list(scales) != list(each[0])), None):
        named = [", ".join(each[i]) or "one without a name" for i in (0, other)]
        raise UsageError(f"{folders[0]} has the heads {named[0]}, and {folders[other]} {named[1]}: no average.")
    n = len(each)
    return {
        name: Scale(sum(scales[name].mean for scales in each) / n, sum(scales[name].std for scales in each) / n)
        for name in each[0]
    }
