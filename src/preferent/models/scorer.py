"""A sequence-classification model as a reward model with one or more heads, and as a critic."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from preferent.models.forward import Backbone
from preferent.models.plan import Plan
from preferent.types import Replies


class ScoringModel(Backbone):
    """``AutoModelForSequenceClassification``: scores at a reply's last token, or a value before each."""

    def __init__(self, model: nn.Module, tokenizer: Any = None, *, sharing: bool) -> None:
        super().__init__(model, sharing=sharing)
        self.tokenizer = tokenizer

    def scores(self, x: Replies) -> Tensor:
        """[r, h] in fp32, read at the last present token."""
        plan = self.plan(x)
        last = plan.states.gather(1, x.present.sum(-1, keepdim=True)).squeeze(1)
        return self.head(self.hidden(plan)[last])

    def values(self, x: Replies, *, plan: Plan | None = None) -> Tensor:
        """[r, t + 1] in fp32, from the first head: before each token was drawn, and after the last present one."""
        plan = plan or self.plan(x)
        return self.head(self.hidden(plan)[plan.states])[..., 0]

    def head(self, hidden: Tensor) -> Tensor:
        """[…, d] to [… , h]."""
        linear = self.base.score
        return linear(hidden.to(linear.weight.dtype)).float()  # type: ignore[no-any-return]


class HeadedTrunk(nn.Module):
    """What ``ScoringModel`` needs of a Hugging Face model, around any trunk: not every architecture has a scorer."""

    def __init__(self, base_model: Any, *, heads: int) -> None:
        super().__init__()
        self.base_model = base_model
        size = base_model.config.get_text_config().hidden_size
        self.score = nn.Linear(size, heads, bias=False, dtype=base_model.dtype, device=base_model.device)

    @property
    def config(self) -> Any:
        return self.base_model.config

    @property
    def dtype(self) -> Any:
        return self.base_model.dtype

    @property
    def device(self) -> Any:
        return self.base_model.device
