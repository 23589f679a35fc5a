"""Two processes over gloo train on the loaded digits; each writes what it saw into a folder."""

import sys
from pathlib import Path

import lightning as L
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from loaded_digits import LoadedDigits


class Recorder(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)
        self.train_x: list[Tensor] = []
        self.val_x: list[Tensor] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        self.train_x.append(x)
        return torch.nn.functional.cross_entropy(self.layer(x.flatten(1)), y)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.val_x.append(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


if __name__ == "__main__":
    model = Recorder()
    trainer = L.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=2,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, LoadedDigits(batch_size=50, num_workers=2))
    seen = {"train_x": torch.cat(model.train_x), "val_x": torch.cat(model.val_x)}
    sizes = torch.tensor([len(x) for x in model.val_x])
    torch.save(seen | {"val_sizes": sizes}, Path(sys.argv[1]) / f"rank{trainer.global_rank}.pt")
