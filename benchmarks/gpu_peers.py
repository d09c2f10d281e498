"""The peers of ``gpu.py``: a plain loop over padded rows, ``generate`` of transformers, TRL where it is installed."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from speed_trl import Lengths, brief
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid
from transformers import PreTrainedTokenizerFast, StoppingCriteriaList, TrainerCallback

from preferent.models.room import no_room, release
from preferent.types import Prompt, Replies

BETA, KL, CLIP = 0.1, 0.04, 0.2
Row = tuple[list[int], int]  # a prompt with a reply, and the prompt's length


def rows_of(x: Replies) -> list[Row]:
    """The prompt again for each of its replies."""
    prompts = [row[:n].tolist() for row, n in zip(x.prompts, x.prompt_length.tolist(), strict=True)]
    lengths = x.present.sum(-1).tolist()
    each = zip(x.prompt_of.tolist(), x.tokens, lengths, strict=True)
    return [(prompts[p] + row[:n].tolist(), len(prompts[p])) for p, row, n in each]


def said(model: Any, rows: Sequence[Row], *, bf16: bool) -> tuple[Tensor, Tensor]:
    """Log-probabilities [m, w - 1] of padded rows' next tokens, from all logits, and which of them are a reply's."""
    device, width = model.device, max(len(row) for row, _ in rows)
    ids = torch.tensor([row + [0] * (width - len(row)) for row, _ in rows], device=device)
    place = torch.arange(1, width, device=device)
    starts = torch.tensor([n for _, n in rows], device=device)[:, None]
    ends = torch.tensor([len(row) for row, _ in rows], device=device)[:, None]
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        attended = (torch.arange(width, device=device) < ends).long()
        logits = model(input_ids=ids, attention_mask=attended, use_cache=False).logits[:, :-1]
    logp = -cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return logp.view(len(rows), -1), (place >= starts) & (place < ends)


@dataclass
class Padded:
    """What a plain loop does: rows padded to the longest of a micro-batch, which is halved until it fits.

    Four rows at most: more would have over 2³¹ logits, which not every kernel can count.
    """

    model: Any
    reference: Any
    bf16: bool
    micro: int = 4
    kept: dict[int, list[Tensor]] = field(default_factory=dict)  # of a batch, what the reference said of each row

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, weight_decay=0.0, fused=True)

    def update(self, i: int, x: Replies, kind: str, gain: Tensor | None = None) -> tuple[float, float]:
        """Loss and gradient norm of one step over the ``i``-th batch; ``gain`` [r] are GRPO's advantages."""
        while True:
            try:
                return self.step(i, rows_of(x), kind, gain)
            except RuntimeError as error:
                if not no_room(error) or self.micro <= 2:
                    raise
            self.micro //= 2
            release()

    def asked(self, model: Any, rows: Sequence[Row]) -> list[Tensor]:
        """[w - 1] of each row."""
        found: list[Tensor] = []
        with torch.no_grad():
            for at in range(0, len(rows), self.micro):
                part = rows[at : at + self.micro]
                logp, mask = said(model, part, bf16=self.bf16)
                found += [row[: len(tokens) - 1] for row, (tokens, _) in zip(logp * mask, part, strict=True)]
        return found

    def step(self, i: int, rows: Sequence[Row], kind: str, gain: Tensor | None) -> tuple[float, float]:
        self.optimizer.zero_grad(set_to_none=True)
        old = self.asked(self.model, rows) if kind == "grpo" else []
        kept = [] if kind == "sft" else self.kept.get(i) or self.asked(self.reference, rows)
        count = {"sft": sum(len(r) - n for r, n in rows), "dpo": len(rows) // 2, "grpo": len(rows)}[kind]
        losses = []
        for at in range(0, len(rows), self.micro):
            here = slice(at, at + self.micro)
            logp, mask = said(self.model, rows[here], bf16=self.bf16)
            before, then = (
                torch.nn.utils.rnn.pad_sequence(each[here], batch_first=True) if each else None for each in (kept, old)
            )
            total = loss_of(kind, logp * mask, mask, before, then, None if gain is None else gain[here].to(mask.device))
            (total / count).backward()
            losses.append(total.detach() / count)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return torch.stack(losses).sum().item(), norm.item()


def loss_of(kind: str, logp: Tensor, mask: Tensor, before: Any, old: Any, gain: Any) -> Tensor:
    """Summed over tokens, pairs or replies."""
    if kind == "sft":
        return -logp.sum()
    if kind == "dpo":
        ratio = (logp - before).sum(-1)
        return -logsigmoid(BETA * (ratio[0::2] - ratio[1::2])).sum()
    share = (logp - old).exp()
    best = (share * gain[:, None]).minimum(share.clamp(1 - CLIP, 1 + CLIP) * gain[:, None])
    each = KL * 0.5 * (logp - before) ** 2 - best
    return ((each * mask).sum(-1) / mask.sum(-1)).sum()


@torch.no_grad()
def generated(
    model: Any, prompts: Sequence[Prompt], n: int, *, longest: int, length: Callable[[Any], Any]
) -> list[list[list[int]]]:
    """``n`` replies to each prompt, drawn by transformers from rows padded on the left."""
    width = max(len(p.tokens) for p in prompts)
    gaps = [width - len(p.tokens) for p in prompts]
    ids = torch.tensor([[0] * gap + list(p.tokens) for gap, p in zip(gaps, prompts, strict=True)], device=model.device)
    seen = torch.arange(width, device=model.device) >= torch.tensor(gaps, device=model.device)[:, None]
    drawn = model.generate(
        input_ids=ids, attention_mask=seen.long(), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
        max_new_tokens=longest, num_return_sequences=n, pad_token_id=0,
        stopping_criteria=StoppingCriteriaList([Lengths(width, length)]),
    )[:, width:].tolist()  # fmt: skip
    replies = [row[: min(longest, length(row[0]))] for row in drawn]
    return [replies[i : i + n] for i in range(0, len(replies), n)]


class Enough(RuntimeError):
    """No more steps are wanted."""


class Threaded(TrainerCallback):
    """A trainer in a thread of its own, which makes a step when it is told to."""

    def __init__(self) -> None:
        self.go, self.done = threading.Semaphore(0), threading.Semaphore(0)
        self.failed: BaseException | None = None
        self.over = False

    def start(self, train: Callable[[], object]) -> None:
        def run() -> None:
            try:
                train()
            except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError, OSError) as error:
                self.failed = error
            self.done.release()

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()
        self.wait()

    def wait(self) -> None:
        self.done.acquire()
        if self.failed is not None:
            raise RuntimeError(f"TRL's trainer stopped: {type(self.failed).__name__}: {self.failed}") from self.failed

    def turn(self) -> None:
        self.go.release()
        self.wait()

    def end(self) -> None:
        self.over = True
        self.go.release()
        self.thread.join()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.done.release()
        self.go.acquire()
        if self.over:
            raise Enough


def words(vocabulary: int) -> Any:
    """A tokenizer whose words are the numbers of its tokens: TRL's trainers take text."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit

    names = [str(i) for i in range(vocabulary)]
    made = Tokenizer(WordLevel({name: i for i, name in enumerate(names)}, unk_token=names[0]))
    made.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token=names[1], pad_token=names[0])


def trl_side(
    kind: str, model: Any, batches: Sequence[Any], folder: str, *, group: int, longest: int, bf16: bool
) -> Threaded:
    """TRL's trainer for ``kind``, about to make its first step. ImportError where TRL is not installed."""
    import trl
    from datasets import Dataset

    def text(tokens: Sequence[int]) -> str:
        return " ".join(map(str, tokens))

    rows: list[dict[str, str]] = []
    for batch in batches:
        if kind == "grpo":
            rows += [{"prompt": text(prompt.tokens)} for prompt in batch]
            continue
        sides = [(text(row[:n]), " " + text(row[n:])) for row, n in rows_of(batch)]
        if kind == "sft":
            rows += [{"prompt": prompt, "completion": reply} for prompt, reply in sides]
        else:
            pairs = zip(sides[0::2], sides[1::2], strict=True)
            rows += [{"prompt": a, "chosen": b, "rejected": d} for (a, b), (_, d) in pairs]
    name = {"sft": "SFT", "dpo": "DPO", "grpo": "GRPO"}[kind]
    each = len(rows) // len(batches) * (group if kind == "grpo" else 1)
    size = min(2 if kind == "dpo" else 4, each)  # a pair is two rows
    more: dict[str, Any] = {"max_length": None} if kind != "grpo" else {
        "num_generations": group, "max_completion_length": longest, "shuffle_dataset": False, "beta": KL,
    }  # fmt: skip
    config = getattr(trl, f"{name}Config")(
        output_dir=folder, max_steps=len(batches), per_device_train_batch_size=size,
        gradient_accumulation_steps=each // size, learning_rate=1e-5, lr_scheduler_type="constant",
        optim="adamw_torch_fused", bf16=bf16, use_cpu=model.device.type == "cpu", gradient_checkpointing=False,
        report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True, **more,
    )  # fmt: skip
    turns, start = Threaded(), str(Path(folder) / "model")  # TRL makes the reference from a folder of its own accord
    model.save_pretrained(start)
    rewards = {"reward_funcs": brief} if kind == "grpo" else {}
    trainer = getattr(trl, f"{name}Trainer")(
        model=start, args=config, train_dataset=Dataset.from_list(rows),
        processing_class=words(model.config.vocab_size), callbacks=[turns], **rewards,
    )  # fmt: skip
    turns.start(trainer.train)
    return turns
