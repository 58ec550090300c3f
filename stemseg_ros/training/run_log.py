"""The logs of a run: log.csv, train.log and TensorBoard's events."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stemseg_ros.records import Image

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger("stemseg_ros.training")


@dataclass(slots=True)
class RunLog:
    """Writes numbers to log.csv and, if installed, to TensorBoard."""

    path: Path
    board: SummaryWriter | None

    def numbers(
        self, step: int, rate: float, clips_per_second: float, means: dict[str, float]
    ) -> None:
        """Write one line: means of the losses since the last one, learning rate, clips per
        second."""
        fields = {"step": step, "rate": rate, **means, "clips_per_second": clips_per_second}
        with self.path.open("a", encoding="utf-8") as file:
            if file.tell() == 0:
                file.write(",".join(fields) + "\n")
            file.write(",".join(f"{value:.6g}" for value in fields.values()) + "\n")
        if self.board is not None:
            for name, value in means.items():
                self.board.add_scalar(name if name == "gradient" else f"loss/{name}", value, step)
            self.board.add_scalar("rate", rate, step)
            self.board.add_scalar("clips_per_second", clips_per_second, step)

    def picture(self, step: int, name: str, image: Image) -> None:
        """Write a picture, BGR, to TensorBoard."""
        if self.board is not None:
            self.board.add_image(name, image[..., ::-1].copy(), step, dataformats="HWC")


@contextmanager
def run_log(out: Path, step: int) -> Iterator[RunLog]:
    """The logs of a run folder, open; what a killed run wrote after ``step`` is removed.

    Messages of the training modules go to train.log as well.
    """
    path = out / "log.csv"
    _forget_after(path, step)
    handler = logging.FileHandler(out / "train.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    board = _board(out / "tensorboard", step)
    try:
        yield RunLog(path, board)
    finally:
        if board is not None:
            board.close()
        log.setLevel(level)
        log.removeHandler(handler)
        handler.close()


def _board(folder: Path, step: int) -> SummaryWriter | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        log.warning("no TensorBoard logs: pip install 'stemseg-ros[train]' brings tensorboard")
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)


def _forget_after(path: Path, step: int) -> None:
    if not path.is_file():
        return
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    kept = [row for row in rows if len(row) == len(header) and int(row[0]) <= step]
    path.write_text("".join(",".join(row) + "\n" for row in [header, *kept]), encoding="utf-8")
