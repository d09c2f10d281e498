"""bitsandbytes: weights in four bits under an adapter (QLoRA, Dettmers et al. 2023), moments in eight."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from preferent.config import UsageError
from preferent.models.device import DType, chosen_device, fast_bf16

# Wherever it is imported, by PEFT too, it remarks on a faster kernel that yet another package would bring.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def bitsandbytes(flag: str) -> Any:
    """The library. Raises UsageError, naming the flag that needs it, where it is not installed."""
    try:
        import bitsandbytes
    except ImportError as missing:
        raise UsageError(
            f"{flag} needs bitsandbytes, which is not installed: pip install 'preferent[quantised]'."
        ) from missing
    return bitsandbytes


def quantised(folder: str, *, lora: int, device: str, dtype: DType | None) -> dict[str, Any]:
    """What ``from_pretrained`` is told of weights in four bits, multiplied in ``dtype``; nothing where it is None.

    NormalFloat with quantised scales, as in the paper: about 4.13 bits a weight. Embeddings, norms and heads stay
    whole. Raises UsageError where such weights would have to be trained, or an adapter rounded into them.
    """
    if dtype is None:
        return {}
    if not lora:
        raise UsageError(
            "Weights in four bits cannot be trained themselves: --load-4bit needs --lora, such as --lora 16."
        )
    if (Path(folder) / "adapter_config.json").is_file():
        raise UsageError(
            f"{folder} is an adapter, and adding it to weights in four bits would round it away. Make one model of "
            f"both first, `preferent merge {folder} --out merged`, and take --model merged."
        )
    bitsandbytes("--load-4bit")
    from transformers import BitsAndBytesConfig

    place = chosen_device(device)
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if fast_bf16(place, dtype) else torch.float32,
    )
    return {"quantization_config": config, "device_map": {"": place}}


def unpacked(model: Any) -> Any:
    """The model, its four-bit layers told to stay as they are.

    On a CPU with bf16 instructions a layer that reads without gradients would lay its weights out anew for a faster
    kernel, round their scales, and from then on say something else, also where it learns; nor can every size be so laid
    out.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def in_four_bits(model: Any) -> bool:
    return bool(getattr(model, "is_loaded_in_4bit", False))
