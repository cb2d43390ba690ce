"""The training loop: steps, checkpoints that resume exactly, evaluation, and a clean end whatever happens."""

from __future__ import annotations

import copy
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from m2f_ros import taxonomy as taxonomies
from m2f_ros.errors import TrainingError
from m2f_ros.model import save
from m2f_ros.training.config import TrainConfig
from m2f_ros.training.data import Batch, Samples, batches, counters
from m2f_ros.training.distributed import Group, join
from m2f_ros.training.evaluate import evaluate, normalise, pictures
from m2f_ros.training.evaluate_panoptic import evaluate_panoptic
from m2f_ros.training.log import Log
from m2f_ros.training.losses import denominators, training_loss
from m2f_ros.training.matching import targets_from_labels
from m2f_ros.training.network import build_network, freeze, freeze_norms
from m2f_ros.training.optimiser import build_optimiser, rate_at, update_average
from m2f_ros.training.sets import DataSet, evaluation_sets
from m2f_ros.training.state import read_state, write_state, writing

_AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def train(
    config: TrainConfig,
    out: Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    max_minutes: float | None = None,
    progress: bool = True,
    street: Callable[..., Any] | None = None,
) -> bool:
    """Train until the schedule ends, the time is up, or SIGTERM or SIGINT asks to stop.

    out receives last.pt (the whole state), log.jsonl (losses and scores), model/ (the averaged weights, as
    m2f_ros.model.load reads them, renewed at every evaluation) and, where the config says so, tensorboard/. Returns
    whether the schedule was completed; where not, resume=True goes on as if there had been no break, bit for bit on
    one CPU thread.

    Started by torchrun, each process takes its share of every batch, with the numbers of one process that has them
    all but for rounding; out is on a file system that all of them see, and a run may go on with another number of
    processes.

    street: what draws the simulated streets that the config names, see m2f_ros.training.sets.

    Raises:
        TrainingError: data is missing or wrong, out cannot be written or holds another run, or the loss is
            not finite; the state before that step is then in last.pt.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    with join(device) as (group, place):
        run = Run(config, Path(out), place, group)
        with closing(run):
            run.start(resume)
            _loop(run, max_minutes, progress and group.rank == 0, street)
        if run.step < config.schedule.end and group.rank == 0:
            print(f"stopped at step {run.step} of {config.schedule.end}; --resume goes on from there", flush=True)
    return run.step >= config.schedule.end


def _loop(run: Run, max_minutes: float | None, progress: bool, street: Callable[..., Any] | None) -> None:
    config, group, steps = run.config, run.group, run.config.schedule.end
    samples, sets = Samples(config, street), evaluation_sets(config.data, street)
    deadline = time.monotonic() + 60 * max_minutes if max_minutes is not None else float("inf")
    bar = tqdm(total=steps, initial=run.step, unit="step", disable=not progress, mininterval=1.0, smoothing=0.05)
    # Closing the loader stops its workers before anything else happens, an error's report included.
    with (
        _stop_requests() as stop,
        bar,
        closing(batches(samples, run.step, group.rank, group.size)) as loader,
    ):
        began, logged = time.monotonic(), run.step
        for batch in loader:
            losses = run.advance(batch)
            bar.update()
            bar.set_postfix(loss=f"{losses['loss']:.3f}", rate=f"{losses['rate']:.1e}", refresh=False)
            if run.step % config.log_every == 0:
                pace = 1000 * (time.monotonic() - began) / (run.step - logged)
                run.log({**losses, "ms_per_step": round(pace, 1)})
                began, logged = time.monotonic(), run.step
            last = run.step == steps
            if last or run.step % config.evaluate_every == 0:
                run.evaluate(sets, bar)
                began, logged = time.monotonic(), run.step
            # All processes stop after the same step, whichever was asked to.
            wanted = bool(stop) or time.monotonic() > deadline
            over = group.sum(torch.tensor(float(wanted), device=run.device)) > 0
            if last or over or run.step % config.save_every == 0:
                run.save()
            if over and not last:
                break


class Run:
    """The state of a training run and the steps that change it."""

    def __init__(self, config: TrainConfig, out: Path, device: torch.device, group: Group | None = None):
        """Raises TrainingError where the config does not fit the number of processes."""
        self.config, self.out, self.device, self.group = config, out, device, group or Group()
        schedule = config.schedule
        if schedule.batch % (self.group.size * schedule.accumulate):
            raise TrainingError(
                f"schedule.batch {schedule.batch} does not share out to {self.group.size} processes x "
                f"{schedule.accumulate} parts (schedule.accumulate); take a multiple"
            )
        if self.group.size > 1 and not schedule.freeze_norms:
            raise TrainingError("schedule.freeze_norms: false needs whole batches; train in one process, or set true")
        self.taxonomy = taxonomies.get(config.data.taxonomy)
        first = self.group.rank == 0 and not (out / "last.pt").exists()
        # The initial weights depend on the seed alone.
        torch.manual_seed(config.seed)
        model = build_network(config.model, config.data.taxonomy, say=print if first else lambda line: None)
        self.model = model.to(device)
        freeze(self.model, config.model.freeze)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimiser = build_optimiser(self.model, config.schedule)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        self.network = self.model
        if self.group.size > 1:
            self.network = DistributedDataParallel(self.model)
        self.record: Log | None = None
        self.step = 0

    def start(self, resume: bool) -> None:
        """Make or enter the output folder; with resume, take up the state in its last.pt if there is one."""
        last = self.out / "last.pt"
        if last.exists() and not resume:
            raise TrainingError(f"{self.out} holds a run already; add --resume to go on, or name another --out")
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrainingError(f"{self.out}: cannot be made ({error.strerror}); name another --out") from None
        if last.exists():
            state = read_state(last, self.config, self.device)
            try:
                for name in ("model", "average", "optimiser", "scaler"):
                    getattr(self, name).load_state_dict(state[name])
            except (RuntimeError, ValueError):  # weights of another shape; groups of parameters of another size
                raise TrainingError(
                    f"{last}: of another network than model.weights ({self.config.model.weights}) gives; resume with "
                    "the checkpoint it was started from, or name another --out"
                ) from None
            self.step = state["step"]
        if self.group.rank == 0:
            self.record = Log(self.out, self.step, self.config.tensorboard)

    def advance(self, batch: Batch) -> dict[str, float]:
        """One step on this process's share of the batch: forward, loss, backward, update.

        Returns the losses of the whole batch and the rate, for the log.
        """
        schedule, group = self.config.schedule, self.group
        self.model.train()
        if schedule.freeze_norms or self.config.model.freeze != "none":
            freeze_norms(self.model.backbone)
        rate = rate_at(self.step, schedule)
        for settings in self.optimiser.param_groups:
            settings["lr"] = rate * settings["factor"]
        self.optimiser.zero_grad(set_to_none=True)
        try:
            losses = self._backward(batch)
        except torch.OutOfMemoryError:
            raise TrainingError(
                f"{self.device} has too little memory for step {self.step + 1}: raise schedule.accumulate, or lower "
                "augment.crop or schedule.batch"
            ) from None
        self.scaler.unscale_(self.optimiser)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), schedule.clip or float("inf"))
        # A gradient that overflows in fp16 is no fault: the scaler leaves that step out and scales less.
        excused = self.scaler.is_enabled() and self.scaler.get_scale() > 1
        for what, value in (("loss", losses["loss"]), ("gradient", norm)):
            if not (torch.isfinite(value) or (what == "gradient" and excused)):
                self.save()
                files = ", ".join(name for part in group.gather(batch.files) for name in part)
                raise TrainingError(
                    f"the {what} of step {self.step + 1} is not finite (batch: {files}); the state before it is in "
                    f"{self.out / 'last.pt'}; a lower schedule.rate is the usual cure"
                )
        self.scaler.step(self.optimiser)
        self.scaler.update()
        update_average(self.average, self.model, self.step, schedule.average)
        self.step += 1
        values = {**losses, "gradient": norm}
        return {"step": self.step, **{k: round(v.item(), 5) for k, v in values.items()}, "rate": rate}

    def _backward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Gradients of the whole batch's loss, in parts; returns its losses, summed over all processes."""
        config, group = self.config, self.group
        labels = batch.labels.to(self.device)
        targets = targets_from_labels(labels, self.taxonomy.unlabelled, config.loss.ignore_unlabelled)
        queries = self.model.config.num_queries
        sums = group.sum(denominators(targets, queries, config.loss).to(self.device)).cpu()
        # The random points of an image come from its number, so that nothing before or beside it matters.
        numbers = counters(self.step, config.schedule.batch, group.rank, group.size)
        seeds = [int(np.random.SeedSequence([config.seed, n]).generate_state(1)[0]) for n in numbers]
        precision = _AUTOCAST[config.precision]
        size = len(targets) // config.schedule.accumulate
        total: dict[str, torch.Tensor] = {}
        for first in range(0, len(targets), size):
            part = slice(first, first + size)
            last = first + size == len(targets)
            # Gradients are exchanged once, behind the last part.
            with nullcontext() if last or group.size == 1 else self.network.no_sync():
                with torch.autocast(self.device.type, precision, enabled=precision is not None):
                    output = self.network(normalise(batch.images[part].to(self.device), self.model))
                loss, parts = training_loss(output, targets[part], config.loss, sums, seeds[part])
                # The processes' gradients are averaged, but the loss of the batch is the sum of theirs.
                self.scaler.scale(loss * group.size).backward()
            for name, value in {"loss": loss.detach(), **parts}.items():
                total[name] = total.get(name, 0) + value
        return dict(zip(total, group.sum(torch.stack(list(total.values()))), strict=True))

    def evaluate(self, sets: list[DataSet], bar: tqdm) -> None:
        """Score the averaged weights on every evaluation set, and keep them as out/model."""
        scores = {data.name: evaluate(self.average, data, self.taxonomy, self.device, self.group) for data in sets}
        if self.config.data.panoptic:
            for data in sets:
                scores[data.name] |= evaluate_panoptic(self.average, data, self.taxonomy, self.device, self.group)
        if self.record is None:
            return
        shown = sets if self.config.tensorboard else []
        images = {data.name: pictures(self.average, data, self.taxonomy, self.device) for data in shown}
        self.record.scores(self.step, scores, images)
        for score, title in (("miou", "mIoU"), ("pq", "PQ")):
            line = ", ".join(f"{name} {s[score]:.3f}" for name, s in scores.items() if s.get(score) is not None)
            if line:
                bar.write(f"step {self.step}: {title} {line}")
        with writing(self.out / "model"):
            save(self.average, self.out / "model", torch.float16 if self.config.kept_as == "fp16" else torch.float32)

    def log(self, losses: dict[str, float]) -> None:
        """Note what `advance` returned."""
        if self.record is not None:
            self.record.losses(losses)

    def close(self) -> None:
        """End the log; no step after it."""
        # Left to the end, it takes the group's thread with it, which waits for Python's lock (seen in torch 2.13).
        self.network = self.model
        if self.record is not None:
            self.record.close()

    def save(self) -> None:
        """Write last.pt whole or not at all: the state before stays until the new one is on the disk."""
        if self.group.rank == 0:
            parts = {name: getattr(self, name).state_dict() for name in ("model", "average", "optimiser", "scaler")}
            write_state(self.out / "last.pt", self.config, {"step": self.step, **parts})


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """A list that is empty until SIGTERM or SIGINT arrives; the step under way is finished first."""
    received: list[int] = []
    before = {s: signal.signal(s, lambda number, _: received.append(number)) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
