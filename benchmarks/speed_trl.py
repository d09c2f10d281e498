"""The peer's side of ``speed.py``: TRL's trainers, and ``generate`` of transformers, one step when told to.

Runs in an environment of its own, where this project is not installed. A job is a folder with ``job.json``,
``rows.json`` (text, as TRL's users write it, in the order in which steps take it) and ``model/``.
"""

import importlib
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from pace import Pace, length
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    StoppingCriteria,
    StoppingCriteriaList,
    TrainerCallback,
)


class Turns(TrainerCallback):
    """Waits before each step, and tells its time after it."""

    def __init__(self, pace: Pace, each: int) -> None:
        self.pace = pace
        self.each = each  # steps in a round
        self.losses: list[list[float]] = []  # of each step, its micro-batches'

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.pace.ready()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        if not self.losses:
            self.pace.turn()
        self.losses.append([])

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if len(self.losses) == self.each:
            self.pace.done(losses=[sum(each) / max(len(each), 1) for each in self.losses])
            self.losses.clear()


def train(job: dict[str, Any], folder: Path, pace: Pace) -> None:
    from datasets import Dataset

    names = {"sft": "SFT", "reward": "Reward", "dpo": "DPO", "kto": "KTO", "grpo": "GRPO", "online-dpo": "OnlineDPO"}
    name, online = names[job["kind"]], job["kind"] == "online-dpo"
    module = importlib.import_module("trl.experimental.online_dpo" if online else "trl")
    trainer_class, config_class = getattr(module, f"{name}Trainer"), getattr(module, f"{name}Config")
    turns = Turns(pace, job["each"])

    class Timed(trainer_class):
        def compute_loss(self, model: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
            loss = super().compute_loss(model, inputs, *arguments, **options)
            turns.losses[-1].append(loss.item())
            return loss

        def training_step(self, *arguments: Any, **options: Any) -> Any:
            loss = super().training_step(*arguments, **options)
            if online:  # which asks for no loss
                turns.losses[-1].append(loss.item())
            return loss

    options = dict(job["options"])
    if job["kind"] == "grpo":
        options |= {"shuffle_dataset": False, "num_generations": job["group"], "max_completion_length": job["new"]}
        more = {"reward_funcs": brief}
    elif online:  # two replies to a prompt, always
        options |= {"max_new_tokens": job["new"], "max_length": 1024, "temperature": 1.0}
        options |= {"train_sampling_strategy": "sequential"}
        more = {"reward_funcs": brief, "processing_class": AutoTokenizer.from_pretrained(folder / "model")}
    else:
        options |= {"max_length": None, "train_sampling_strategy": "sequential"}
        more = {}
    config = config_class(
        output_dir=str(folder / "out"),
        max_steps=job["steps"],
        per_device_train_batch_size=job["batch"] * (1 if online else job.get("group", 1)),
        learning_rate=job["lr"],
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        **options,
    )
    rows = Dataset.from_list(json.loads((folder / "rows.json").read_text()))
    start = "reward" if job["kind"] == "reward" else "model"
    trainer = Timed(model=str(folder / start), args=config, train_dataset=rows, callbacks=[turns], **more)
    trainer.train()


def brief(completions: Any, completion_ids: Any, **_: Any) -> list[float]:
    """Even tokens are worth having: a reward with spread, as cheap as can be."""
    return [sum(token % 2 == 0 for token in ids) / max(len(ids), 1) for ids in completion_ids]


def ppo(job: dict[str, Any], folder: Path, pace: Pace) -> None:
    """TRL 1.10's trainer, which has no call at the beginning of a step: its rows wait for a turn instead."""
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(folder / "model", padding_side="left")
    policy, reference = (AutoModelForCausalLM.from_pretrained(folder / "model") for _ in range(2))
    reward, value = (
        AutoModelForSequenceClassification.from_pretrained(folder / "reward", num_labels=1) for _ in range(2)
    )
    rows = [{"input_ids": row["tokens"]} for row in json.loads((folder / "rows.json").read_text())]
    config = PPOConfig(
        output_dir=str(folder / "out"),
        total_episodes=job["steps"] * job["batch"],
        per_device_train_batch_size=job["batch"],
        local_rollout_forward_batch_size=job["batch"],
        num_mini_batches=1,
        num_ppo_epochs=job["options"]["epochs"],
        num_sample_generations=0,
        response_length=job["new"],
        temperature=1.0,
        learning_rate=job["lr"],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    turns = Turns(pace, 1)
    trainer = PPOTrainer(
        config, tokenizer, policy, reference, reward, Dataset.from_list(rows), value, callbacks=[turns]
    )

    class Waiting:
        def __init__(self, rows: Any) -> None:
            self.rows = rows

        def __iter__(self) -> Any:
            for row in self.rows:
                turns.on_step_begin()
                yield row

    trainer.dataloader = Waiting(trainer.dataloader)
    trainer.train()


@torch.no_grad()
def score(job: dict[str, Any], folder: Path, pace: Pace) -> None:
    """Log-probabilities of given replies: the model over padded rows, and TRL's way of picking tokens' logits."""
    from trl.trainer.utils import selective_log_softmax

    tokenizer = AutoTokenizer.from_pretrained(folder / "model", padding_side="right")
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32).eval()
    rows = json.loads((folder / "rows.json").read_text())
    sides = []
    for row in rows:
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
        for name in ("chosen", "rejected"):
            whole = tokenizer.apply_chat_template(row["prompt"] + row[name], return_dict=False)
            sides.append((whole, len(prompt)))
    pace.ready()
    size = 2 * job["batch"]
    for first in range(0, len(sides), size * job["each"]):
        pace.turn()
        losses = []
        for at in range(first, first + size * job["each"], size):
            batch = sides[at : at + size]
            padded = tokenizer.pad({"input_ids": [whole for whole, _ in batch]}, return_tensors="pt")
            shortest = min(prompt for _, prompt in batch)
            logits = model(**padded, logits_to_keep=padded["input_ids"].shape[1] - shortest + 1).logits[:, :-1]
            logps = selective_log_softmax(logits, padded["input_ids"][:, shortest:])
            place = torch.arange(shortest, padded["input_ids"].shape[1])
            starts, ends = (torch.tensor(each)[:, None] for each in ([p for _, p in batch], [len(w) for w, _ in batch]))
            mask = (place >= starts) & (place < ends)
            losses.append(((logps * mask).sum() / mask.sum()).item())
        pace.done(losses=losses)


class Lengths(StoppingCriteria):
    """A reply's first token says how long it is."""

    def __init__(self, prompt: int, longest: Callable[[Any], Any]) -> None:
        self.prompt, self.longest = prompt, longest

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        return input_ids.shape[1] - self.prompt >= self.longest(input_ids[:, self.prompt])


@torch.no_grad()
def sample(job: dict[str, Any], folder: Path, pace: Pace) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder / "model", padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32).eval()
    rows = json.loads((folder / "rows.json").read_text())
    longest = partial(length, low=8, high=job["new"])
    pace.ready()
    for step in range(job["steps"]):
        prompts = rows[step * job["batch"] : (step + 1) * job["batch"]]
        pace.turn()
        padded = tokenizer.pad({"input_ids": [each["tokens"] for each in prompts]}, return_tensors="pt")
        width = padded["input_ids"].shape[1]
        drawn = model.generate(
            **padded,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=job["new"],
            eos_token_id=None if not job["ending"] else tokenizer.eos_token_id,
            num_return_sequences=job["group"],
            pad_token_id=tokenizer.pad_token_id,
            stopping_criteria=StoppingCriteriaList([Lengths(width, longest)]) if job["ending"] else None,
        )
        replies = drawn[:, width:]
        lengths = longest(replies[:, 0]) if job["ending"] else torch.full((len(drawn),), job["new"])
        pace.done(tokens=int(lengths.sum()))


def main(folder: Path) -> None:
    transformers.utils.logging.set_verbosity_error()
    job = json.loads((folder / "job.json").read_text())
    {"sampling": sample, "scoring": score, "ppo": ppo}.get(job["kind"], train)(job, folder, Pace())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
