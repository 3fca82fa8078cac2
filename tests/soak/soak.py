"""Kills and stops runs hundreds of times, and counts what was lost: by hand, since it takes a quarter of an hour.

    python tests/soak/soak.py                      # 200 kills, 100 signals
    python tests/soak/soak.py --kills 6 --signals 4

Runs of 2 and 4 processes go on from kill to kill until they are done. A third of the kills fall where the run is
then, a third in evaluations, a third while a checkpoint is being written. What enters the network is compared,
micro-batch by micro-batch, with a run that was never killed; so are the final bits. A signal goes to one process.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "end_to_end"))
sys.path.insert(0, str(Path(__file__).parents[1]))

import ledger
from ranks import Group, Ranks, read_json, warm_up
from test_kill import SETTINGS, STEPS, await_status

MOMENTS = ["anywhere", "evaluate", "save"]
SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--signals", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warm_up()
    draw, counts, start = random.Random(options.seed), Counter(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Ranks(Path(folder)) as ranks:
        os.chdir(folder)
        soaks = {size: Soak(ranks, size, draw, counts) for size in (2, 4)}
        moments = [MOMENTS[i % 3] for i in range(options.kills)]
        draw.shuffle(moments)
        ends = [("kill", moment) for moment in moments] + [("signal", "anywhere")] * options.signals
        for number, (how, moment) in enumerate(ends, start=1):
            soaks[2 if draw.random() < 0.6 else 4].end(how, moment)
            print(f"\r{number}/{len(ends)}  {dict(counts)}", end="", file=sys.stderr, flush=True)
        for soak in soaks.values():
            soak.finish()
    print(f"\nin {time.monotonic() - start:.0f} s, seed {options.seed}")
    for what, count in sorted(counts.items()):
        print(f"{count:5d}  {what}")
    return int(any(count for what, count in counts.items() if what.startswith("LOST")))


class Soak:
    """Runs of one world size, each killed again and again; begun anew when one is done."""

    def __init__(self, ranks: Ranks, world_size: int, draw: random.Random, counts: Counter[str]) -> None:
        self.ranks, self.world_size, self.draw, self.counts = ranks, world_size, draw, counts
        self.number, self.step = 0, 0
        ledgers = ranks.folder / f"ledger{world_size}"
        ledgers.mkdir()
        self.ledgers = ledgers
        model = f"model.args={{ledger: {ledgers}}}"
        self.words = ["train", *SETTINGS, "data.cache=0" if world_size == 2 else "data.cache=4 GB", model]
        ranks.run(*self.words, "--name", f"whole{world_size}", world_size=world_size)
        self.expected = self._ledger()
        self.digest = ledger.digest(ranks.folder / "runs" / f"whole{world_size}", STEPS)

    @property
    def run_dir(self) -> Path:
        return self.ranks.folder / "runs" / f"soak{self.world_size}-{self.number}"

    def end(self, how: str, moment: str) -> None:
        """Start or go on, and end the run at a drawn step; a run that is done by then is checked, and another begun."""
        group = self.ranks.start(*self.words, "--name", self.run_dir.name, world_size=self.world_size)
        target = self.draw.randint(self.step + 1, min(self.step + 12, STEPS))
        phase = moment if moment == "evaluate" else None
        status = await_status(self.run_dir, group, target, phase)
        if moment == "save":
            self._await_writing(group)
        time.sleep(self.draw.random() * 0.005)
        if how == "kill":
            group.kill()
        else:
            os.kill(self.draw.choice(group.processes).pid or 0, self.draw.choice(SIGNALS))
        codes = group.wait()
        self._check_ledger(group)
        if status is None or codes == [0] * self.world_size:
            self.counts["ended before its turn"] += 1
            self.finish()
        elif how == "kill":
            writing = any((self.run_dir / "checkpoints").glob(".writing-*"))
            self.counts[f"killed while writing {'a checkpoint' if writing else 'none'}, in {status['phase']}"] += 1
            self.step = max((int(p.name[5:]) for p in self.run_dir.glob("checkpoints/step-*")), default=0)
        elif codes == [75] * self.world_size:
            ended = read_json(self.run_dir / "status.json")
            saved = (self.run_dir / "checkpoints" / f"step-{ended['step']:08d}").exists()
            self.counts["left with 75 at one step, saved" if saved else "LOST: left with 75, not saved"] += 1
            self.step = ended["step"]
        else:
            self.counts[f"LOST: exit codes {codes}"] += 1
            print(group.output(), file=sys.stderr)
            self.finish()
        if self.step >= STEPS - 2:
            self.finish()

    def finish(self) -> None:
        """Let the run come to its end, and compare its bits."""
        if self.run_dir.exists():
            group = self.ranks.start(*self.words, "--name", self.run_dir.name, world_size=self.world_size)
            group.wait()
            self._check_ledger(group)
            same = ledger.digest(self.run_dir, STEPS) == self.digest
            self.counts["runs ended with the same bits" if same else "LOST: runs with other bits"] += 1
            shutil.rmtree(self.run_dir)
        self.number, self.step = self.number + 1, 0

    def _await_writing(self, group: Group) -> None:
        end = time.monotonic() + 20
        while group.alive() and time.monotonic() < end:
            if any((self.run_dir / "checkpoints").glob(".writing-step-*")):
                return

    def _check_ledger(self, group: Group) -> None:
        """What entered the network since the start is what enters it at those steps in a run never killed."""
        output = group.output()
        found = re.search(r"resuming from step ([\d,]+)", output)
        start = int(found[1].replace(",", "")) if found else 0
        self.counts["LOST: torn checkpoints found"] += "is unusable" in output
        for rank, rows in self._ledger().items():
            per_step = len(self.expected[rank]) // STEPS
            expected = self.expected[rank][start * per_step :][: len(rows)]
            self.counts["LOST: other images than planned"] += rows != expected
            self.counts["micro-batches compared"] += len(rows)

    def _ledger(self) -> dict[int, list[list[str]]]:
        """Read and empty it. A kill may have cut its last line."""
        found = {}
        for file in sorted(self.ledgers.glob("rank*.jsonl")):
            found[int(file.stem[4:])] = list(_whole_lines(file))
            file.unlink()
        return found


def _whole_lines(file: Path) -> Iterator[list[str]]:
    for line in file.read_text().splitlines():
        if line.endswith("]"):
            yield json.loads(line)


if __name__ == "__main__":
    sys.exit(main())
