"""The other side of ``parity.py``: TRL trains on the rows of each job and writes down every step's loss.

Runs in an environment of its own, where this project is not installed. A job is a folder with ``job.json`` (method,
hyperparameters), ``rows.json`` (text, as TRL's users write it) and ``model/``; the answer is ``losses.json``.
"""

import json
import sys
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

TRAINERS: dict[str, tuple[Any, Any]] = {
    "sft": (SFTTrainer, SFTConfig),
    "reward": (RewardTrainer, RewardConfig),
    "dpo": (DPOTrainer, DPOConfig),
    "tr-dpo": (DPOTrainer, DPOConfig),
    "kto": (KTOTrainer, KTOConfig),
    "cpo": (CPOTrainer, CPOConfig),
    "orpo": (ORPOTrainer, ORPOConfig),
}
OLDER = ("cpo", "orpo")  # which cannot do without a length and a tokenizer


def main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    rows = Dataset.from_list(json.loads((folder / "rows.json").read_text()))
    trainer_class, config_class = TRAINERS[job["method"]]
    losses: list[float] = []

    class Recorded(trainer_class):
        """Keeps each loss in full: the log rounds it."""

        def compute_loss(self, *arguments: Any, **options: Any) -> Any:
            loss = super().compute_loss(*arguments, **options)
            losses.append(loss.item() - self.likelihood)
            return loss

        likelihood = 0.0  # of ORPO, which is the prompt's too

        def get_batch_loss_metrics(self, *arguments: Any, **options: Any) -> Any:
            loss, metrics = super().get_batch_loss_metrics(*arguments, **options)
            if job["method"] == "orpo":
                self.likelihood = metrics["nll_loss"]
            return loss, metrics

    config = config_class(
        output_dir=str(folder / "out"),
        max_steps=job["steps"],
        per_device_train_batch_size=job["batch"],
        learning_rate=job["lr"],
        lr_scheduler_type="constant",
        optim="adamw_torch",
        adam_beta1=job["betas"][0],
        adam_beta2=job["betas"][1],
        weight_decay=0.0,
        max_grad_norm=job["max_grad_norm"],
        max_length=1024 if job["method"] in OLDER else None,
        train_sampling_strategy="sequential",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        **job["options"],
    )
    words = AutoTokenizer.from_pretrained(folder / "model") if job["method"] in OLDER else None
    model = str(folder / "model")
    trainer = Recorded(model=model, args=config, train_dataset=rows, processing_class=words)
    trainer.train()
    (folder / "losses.json").write_text(json.dumps(losses))


if __name__ == "__main__":
    for place in sys.argv[1:]:
        main(Path(place))
