"""The other side of ``parity.py``: TRL trains on the rows of each job and writes down what every step says.

Runs in an environment of its own, where this project is not installed. A job is a folder with ``job.json`` (method,
hyperparameters), ``rows.json`` (text, as TRL's users write it) and ``model/``; the answer is ``curves.json``.
"""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    RLOOConfig,
    RLOOTrainer,
    SFTConfig,
    SFTTrainer,
)
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.gmpo import GMPOConfig, GMPOTrainer
from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

TRAINERS: dict[str, tuple[Any, Any]] = {
    "sft": (SFTTrainer, SFTConfig),
    "reward": (RewardTrainer, RewardConfig),
    "dpo": (DPOTrainer, DPOConfig),
    "tr-dpo": (DPOTrainer, DPOConfig),
    "kto": (KTOTrainer, KTOConfig),
    "cpo": (CPOTrainer, CPOConfig),
    "orpo": (ORPOTrainer, ORPOConfig),
    "grpo": (GRPOTrainer, GRPOConfig),
    "gmpo": (GMPOTrainer, GMPOConfig),
    "rloo": (RLOOTrainer, RLOOConfig),
    "online-dpo": (OnlineDPOTrainer, OnlineDPOConfig),
}
OLDER = ("cpo", "orpo", "online-dpo")  # which cannot do without a length and a tokenizer
DRAWING = ("grpo", "gmpo", "rloo")
GROUP = 4  # replies to a prompt
WEIGHTS = [1.0, 0.5]  # of the two rewards


def main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    rows = json.loads((folder / "rows.json").read_text())
    trainer_class, config_class = TRAINERS[job["method"]]
    draws, online = job["method"] in DRAWING, job["method"] == "online-dpo"
    kind = drawing(trainer_class) if draws else OnlineGiven if online else trainer_class
    curves: dict[str, list[float]] = {"loss": [], "grad_norm": []}

    class Recorded(kind):
        """Keeps each loss in full, for the log rounds it, and each gradient's norm."""

        def compute_loss(self, *arguments: Any, **options: Any) -> Any:
            loss = super().compute_loss(*arguments, **options)
            curves["loss"].append(loss.item() - self.likelihood)
            return loss

        def training_step(self, *arguments: Any, **options: Any) -> Any:
            loss = super().training_step(*arguments, **options)
            if online:  # which asks for no loss
                curves["loss"].append(loss.item())
            return loss

        likelihood = 0.0  # of ORPO, which is the prompt's too

        def get_batch_loss_metrics(self, *arguments: Any, **options: Any) -> Any:
            loss, metrics = super().get_batch_loss_metrics(*arguments, **options)
            if job["method"] == "orpo":
                self.likelihood = metrics["nll_loss"]
            return loss, metrics

        def log(self, logs: dict[str, float], *arguments: Any, **options: Any) -> None:
            if "grad_norm" in logs:
                curves["grad_norm"].append(logs["grad_norm"])
            super().log(logs, *arguments, **options)

    config = config_class(**said(job, folder))
    words = AutoTokenizer.from_pretrained(folder / "model") if job["method"] in OLDER else None
    place = in_turn if online else together
    more = {"reward_funcs": [partial(place, which=i) for i in range(len(WEIGHTS))]} if draws or online else {}
    model = str(folder / "model")
    trainer = Recorded(model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=words, **more)
    if draws and "vllm_importance_sampling_mode" in job["options"]:
        trainer.use_vllm = True  # only now, when nobody asks any more whether it is installed
    trainer.train()
    (folder / "curves.json").write_text(json.dumps(curves))


def said(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """TRL's arguments."""
    options = {
        "output_dir": str(folder / "out"),
        "max_steps": job["steps"],
        "per_device_train_batch_size": job["batch"],
        "learning_rate": job["lr"],
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch",
        "adam_beta1": job["betas"][0],
        "adam_beta2": job["betas"][1],
        "weight_decay": 0.0,
        "max_grad_norm": job["max_grad_norm"],
        "logging_steps": 1,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    if job["method"] in DRAWING:
        options |= {"num_generations": GROUP, "shuffle_dataset": False, "reward_weights": WEIGHTS}
        options["per_device_train_batch_size"] *= GROUP
    else:
        if job["method"] == "online-dpo":
            options["reward_weights"] = WEIGHTS
        options["max_length"] = 1024 if job["method"] in OLDER else None
        options["train_sampling_strategy"] = "sequential"
    return options | job["options"]


def drawing(trainer_class: Any) -> Any:
    """The trainer, which is given its replies, and what was said of them by the policy that drew them."""

    class Given(trainer_class):
        rows: list[dict[str, Any]]  # of this step: a prompt's stands once for each of its replies

        def each(self, name: str) -> list[Any]:
            return [row[name][i % GROUP] for i, row in enumerate(self.rows)]

        def _generate_single_turn(self, *_: Any, **__: Any) -> Any:
            return self.each("replies") if trainer_class is RLOOTrainer else (self.each("replies"), self.each("old"))

        def _generate_and_score_completions(self, inputs: Any) -> Any:
            self.rows = inputs
            output = super()._generate_and_score_completions(inputs)
            if trainer_class is not RLOOTrainer and not self.use_vllm:
                told = [torch.tensor(each) for each in self.each("old")]
                output["old_per_token_logps"] = torch.nn.utils.rnn.pad_sequence(told, batch_first=True)
            return output

    return Given


class OnlineGiven(OnlineDPOTrainer):
    """Is given its replies: the first two of each prompt's."""

    def training_step(self, model: Any, inputs: Any, *rest: Any) -> Any:
        self.given = inputs["replies"]
        return super().training_step(model, inputs, *rest)

    def _generate(self, model: Any, prompts: Any, images: Any = None) -> Any:
        texts = self.processing_class.apply_chat_template(prompts, add_generation_prompt=True, tokenize=False)
        asked = self.processing_class(
            texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
        )
        replies = [torch.tensor(each[i]) for i in (0, 1) for each in self.given]
        tokens, there = (
            torch.nn.utils.rnn.pad_sequence(each, batch_first=True)
            for each in (replies, [torch.ones_like(reply) for reply in replies])
        )
        return asked["input_ids"].repeat(2, 1), asked["attention_mask"].repeat(2, 1), tokens, there, None


def together(completions: Any, *, which: int, marks: Any, **_: Any) -> list[float]:
    """One of the rewards, as it is given, where a prompt's replies stand beside one another."""
    return [each[i % GROUP][which] for i, each in enumerate(marks)]


def in_turn(completions: Any, *, which: int, marks: Any, **_: Any) -> list[float]:
    """The same where all prompts' first replies stand before their second ones."""
    return [each[2 * i // len(marks)][which] for i, each in enumerate(marks)]


if __name__ == "__main__":
    for place in sys.argv[1:]:
        main(Path(place))
