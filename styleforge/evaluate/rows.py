"""Everything that is measured of single pictures, by one process or many."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from .. import processes
from ..metrics import cache
from ..metrics.artfid import content_distance
from ..metrics.checkerboard import checkerboard
from .judge import Judge
from .measures import COMPARED
from .studio import RESIZE, Studio
from .task import Task

Rows = dict[str, dict[str, Tensor]]  # by maker and measure: a number, or a row of them, for each picture

BATCH = 8
CACHED = 2  # to be raised when a row is computed in another way


class Work:
    """The batches of this process, and what all of them have found."""

    def __init__(self, progress: Callable[[int, int], object] | None) -> None:
        self.accelerator = processes.join() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else None
        self.rank, self.count = 0, 1
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.accelerator:
            self.rank, self.count = self.accelerator.process_index, self.accelerator.num_processes
            self.device = self.accelerator.device
        self.first = self.rank == 0
        self.progress, self.done, self.total = progress, 0, 0

    def batches(self, pictures: int) -> Iterator[slice]:
        """The same batches whoever works on them: others would round differently."""
        for start in range(self.rank * BATCH, pictures, self.count * BATCH):
            yield slice(start, min(start + BATCH, pictures))
            self.note(BATCH * self.count)

    def note(self, pictures: int) -> None:
        """Tell that so many more pictures are done, here and elsewhere."""
        self.done = min(self.done + pictures, self.total)
        if self.progress:
            self.progress(self.done, self.total)

    def anywhere(self, flag: bool) -> bool:
        """Whether a flag is set in any process."""
        return processes.anywhere(self.accelerator, flag)[0] if self.accelerator else flag

    def together(self, rows: Tensor) -> Tensor:
        """Rows of all processes, each of which has left those of the others at 0."""
        if self.accelerator is None:
            return rows
        return self.accelerator.reduce(rows.to(self.device), reduction="sum").cpu()

    def wait(self) -> None:
        """Until all processes are here."""
        if self.accelerator:
            self.accelerator.wait_for_everyone()


def measured(studio: Studio, judge: Judge, work: Work) -> Rows:
    """What is measured of each picture that comes in, and of all that is made of it."""
    count, task = len(studio.sources), studio.task
    known = [*COMPARED, "checkerboard", *(["content distance"] if judge.network else [])]
    single = [name for name in task.measures if name in known]
    rows: Rows = {maker: _tables(count, judge.widths, single) for maker in studio.makers}
    for here in work.batches(count):
        made = [studio.make(number) for number in range(here.start, here.stop)]
        batch = {maker: torch.cat([each[maker] for each in made]) for maker in rows}
        seen = {maker: judge.see(pictures) for maker, pictures in batch.items()}
        for maker, tables in rows.items():
            beside = [name for name in COMPARED if name in single]
            found = {name: COMPARED[name](batch[task.truth], batch[maker]) for name in beside}
            found |= {"checkerboard": checkerboard(batch[maker])} | seen[maker][0]
            if judge.network:
                found["content distance"] = content_distance(seen[maker][1], seen[task.truth][1]).cpu()
            for name, values in found.items():
                tables[name][here] = values
    for maker, tables in rows.items():
        left_out = {name for name, of in task.measures.items() if of.paired} if maker in studio.alone else set()
        rows[maker] = {name: work.together(table) for name, table in tables.items() if name not in left_out}
    return {maker: tables | _gains(tables, rows[task.base], task) for maker, tables in rows.items()}


def _gains(tables: dict[str, Tensor], base: dict[str, Tensor], task: Task) -> dict[str, Tensor]:
    """How much more each picture has than its input."""
    of = {name: measure.gain for name, measure in task.measures.items() if measure.gain in tables}
    return {} if tables is base else {name: tables[gained] - base[gained] for name, gained in of.items()}


def _tables(count: int, widths: dict[str, int], single: Sequence[str] = ()) -> dict[str, Tensor]:
    rows = {name: torch.zeros(count, width, dtype=torch.float64) for name, width in widths.items()}
    return rows | {name: torch.zeros(count, dtype=torch.float64) for name in single}


def goals(studio: Studio, judge: Judge, work: Work) -> dict[str, Tensor]:
    """Rows (m, d) of the paintings by kind."""
    files = studio.targets
    key = cache.digest(files, CACHED, judge.name, judge.sha256, studio.size, RESIZE)
    known = cache.read(key)
    if not work.anywhere(known is None):
        work.note(len(files))
        return known
    tables = _tables(len(files), judge.widths)
    for here in work.batches(len(files)):
        for kind, rows in judge.see(torch.cat([studio.square(file) for file in files[here]]))[0].items():
            tables[kind][here] = rows
    tables = {kind: work.together(rows) for kind, rows in tables.items()}
    if work.first:
        cache.write(key, tables)
    return tables
