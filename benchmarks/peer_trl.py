"""The other side of ``parity.py``: TRL trains on the rows of a job and writes down every step's loss.

Runs in an environment of its own, where this project is not installed. A job is a folder with ``job.json`` (method,
hyperparameters), ``rows.json`` (text, as TRL's users write it) and ``model/``; the answer is ``losses.json``.
"""

import json
import sys
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

TRAINERS: dict[str, tuple[Any, Any]] = {
    "sft": (SFTTrainer, SFTConfig),
    "reward": (RewardTrainer, RewardConfig),
    "dpo": (DPOTrainer, DPOConfig),
    "kto": (KTOTrainer, KTOConfig),
    "apo-zero": (KTOTrainer, KTOConfig),
}


def main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    rows = Dataset.from_list(json.loads((folder / "rows.json").read_text()))
    trainer_class, config_class = TRAINERS[job["method"]]
    losses: list[float] = []

    class Recorded(trainer_class):
        """Keeps each loss in full: the log rounds it."""

        def compute_loss(self, *arguments: Any, **options: Any) -> Any:
            loss = super().compute_loss(*arguments, **options)
            losses.append(loss.item())
            return loss

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
        max_length=None,
        train_sampling_strategy="sequential",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        **job["options"],
    )
    trainer = Recorded(model=str(folder / "model"), args=config, train_dataset=rows)
    trainer.train()
    (folder / "losses.json").write_text(json.dumps(losses))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
