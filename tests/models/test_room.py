"""Memory that does not suffice for what cannot be cut smaller."""

import pytest
import torch
from torch import nn

from preferent.config import UsageError
from preferent.models.load import placed
from preferent.models.room import suffices

REFUSED = 1 << 50  # numbers that no machine holds: PyTorch really says so


class Heavy(nn.Module):
    """A model whose weights fit on no device."""

    def to(self, device):
        self.weights = torch.empty(REFUSED, device=device)
        return self


def test_memory_that_runs_out_is_told_in_a_sentence_and_anything_else_as_it_is():
    with pytest.raises(UsageError) as refused, suffices("to bake", "A smaller cake helps."):
        torch.empty(REFUSED)
    assert str(refused.value).startswith("Memory does not suffice to bake. A smaller cake helps.\n([enforce fail at ")
    with pytest.raises(UsageError, match="out of memory"), suffices("to bake", ""):
        raise MemoryError
    with pytest.raises(RuntimeError, match="shape"), suffices("to bake", ""):
        torch.zeros(2).view(3)


def test_a_model_that_fits_on_no_device_is_named_with_what_helps():
    with pytest.raises(UsageError, match=r"weights of runs/heavy on this device.*--load-4bit, with --lora"):
        placed(Heavy(), "runs/heavy", "cpu")
