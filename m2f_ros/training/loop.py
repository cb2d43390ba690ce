"""The training loop: steps, checkpoints that resume exactly, evaluation, and a clean end."""

from __future__ import annotations

import copy
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from m2f_ros import signals
from m2f_ros import taxonomy as taxonomies
from m2f_ros.errors import M2fError, TrainingError
from m2f_ros.model import Mask2Former, save
from m2f_ros.model.checkpoint import FILES as CHECKPOINT_FILES
from m2f_ros.results import Results
from m2f_ros.training.check import check_data
from m2f_ros.training.config import TrainConfig, inputs_of
from m2f_ros.training.data import Batch, Samples, batches, counters
from m2f_ros.training.distributed import Group, join
from m2f_ros.training.evaluate import evaluate, evaluate_panoptic, normalise, pictures
from m2f_ros.training.history import History
from m2f_ros.training.log import Log, read_scores
from m2f_ros.training.losses import denominators, training_loss
from m2f_ros.training.matching import targets_from_labels
from m2f_ros.training.network import anneal, build_network, check_fit, explained, freeze, freeze_norms, queries_of
from m2f_ros.training.optimiser import build_optimiser, rate_at, update_average
from m2f_ros.training.sets import DataSet, evaluation_sets
from m2f_ros.training.state import essentials, find_state, is_state, keep, read_state, take_back, write_state, writing

# Files of a run, but for tensorboard/, whose files have names of their own.
FILES = (
    *("last.pt", "previous.pt", "log.jsonl"),
    *(f"{model}/{file}" for model in ("model", "model_last") for file in CHECKPOINT_FILES),
)
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
    """Train until the schedule ends, no better score comes, the time is up, or SIGTERM or SIGINT asks to stop.

    Started by torchrun, each process takes its share of every batch; but for rounding the numbers are those of a single
    process. `out` is on a file system that all of them see, and a run may go on with another number of processes.

    Args:
        out: folder for last.pt (the whole state), log.jsonl (losses and scores), the averaged weights as
            m2f_ros.model.load reads them, in model/ (best score) and model_last/ (last evaluation), and, where the
            config asks for it, tensorboard/.
        resume: go on from last.pt as if there had been no break, bit for bit on one CPU thread.
        street: draws the simulated streets that the config names, see m2f_ros.training.sets.
    Returns:
        True if the run was completed.
    Raises:
        TrainingError, LabelError: data is missing or wrong, out cannot be written or holds another run, or the loss
            is not finite. last.pt then has the last good state.
    """
    # The loader forks its workers: a lock that a thread of OpenCV's pool holds then would stay locked in the worker.
    cv2.setNumThreads(0)
    if config.threads:
        torch.set_num_threads(config.threads)
    with join(device) as (group, place):
        run = Run(config, Path(out), place, group)
        with closing(run):
            run.start(resume)
            _loop(run, max_minutes, progress and group.rank == 0, street)
        if not run.complete and group.rank == 0:
            print(f"stopped at step {run.step} of {config.schedule.end}; --resume goes on from there", flush=True)
    return run.complete


def _loop(run: Run, max_minutes: float | None, progress: bool, street: Callable[..., Any] | None) -> None:
    config, group, steps = run.config, run.group, run.config.schedule.end
    samples, sets = Samples(config, street), evaluation_sets(config.data, street)
    check_data(samples, sets, group, progress, run.say)
    deadline = time.monotonic() + 60 * max_minutes if max_minutes is not None else float("inf")
    # A run may have ended in its evaluation.
    if run.to_evaluate:
        run.evaluate(sets)
    if run.complete:
        return
    if run.saved is None:
        run.save()
    bar = tqdm(total=steps, initial=run.step, unit="step", disable=not progress, mininterval=1.0, smoothing=0.05)
    # Closing the loader stops its workers before anything else happens, an error's report included.
    with (
        _stop_requests() as stop,
        bar,
        run.rescue(),
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
            if run.to_evaluate:
                run.save()  # before all that can fail
                run.evaluate(sets)
                began, logged = time.monotonic(), run.step
            # All processes stop after the same step, whichever was asked to.
            wanted = bool(stop) or time.monotonic() > deadline
            over = group.sum(torch.tensor(float(wanted), device=run.device)) > 0
            if run.saved != run.step and (over or run.step % config.save_every == 0):
                run.save()
            if run.complete or over:
                break
    if run.complete and group.rank == 0:
        keep(run.last)


class _Diverged(TrainingError):
    """Weights, a loss or a gradient are not finite."""


class Run:
    """The state of a training run and the steps that change it."""

    def __init__(self, config: TrainConfig, out: Path, device: torch.device, group: Group | None = None):
        """Raises TrainingError where the config does not fit the number of processes, OutputError where the folder
        holds something else or an input."""
        self.config, self.out, self.device, self.group = config, out, device, group or Group()
        # Before anything there is touched. Earlier versions kept no list: a state says that the folder is of a run.
        self.results = Results(out, "m2f train", inputs_of(config), adopt=is_state(self.last))
        schedule = config.schedule
        if schedule.batch % (self.group.size * schedule.accumulate):
            raise TrainingError(
                f"schedule.batch {schedule.batch} does not share out to {self.group.size} processes x "
                f"{schedule.accumulate} parts (schedule.accumulate); take a multiple"
            )
        if self.group.size > 1 and not schedule.freeze_norms:
            raise TrainingError("schedule.freeze_norms: false needs whole batches; train in one process, or set true")
        self.essentials = essentials(config)
        self.taxonomy = taxonomies.get(config.data.taxonomy)
        first = self.group.rank == 0 and not find_state(self.last)
        # The initial weights depend on the seed alone.
        torch.manual_seed(config.seed)
        model = build_network(config.model, config.data.taxonomy, say=print if first else lambda line: None)
        check_fit(model, config)
        self.model = model.to(device)
        freeze(self.model, config.model.freeze)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimiser = build_optimiser(self.model, config.schedule)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        self.network: nn.Module = self.model
        if self.group.size > 1:
            # Some of transformers' networks have layers that their results do not depend on.
            unused = not isinstance(self.model, Mask2Former)
            self.network = DistributedDataParallel(self.model, find_unused_parameters=unused)
        self.record: Log | None = None
        self.step = 0
        # The step of the state in last.pt.
        self.saved: int | None = None
        self.history = History(config, {})

    @property
    def last(self) -> Path:
        """File of the whole state."""
        return self.out / "last.pt"

    @property
    def to_evaluate(self) -> bool:
        """True where this step's weights are to be scored, and have not been."""
        due = self.step == self.config.schedule.end or (self.step and self.step % self.config.evaluate_every == 0)
        return bool(due) and self.step not in self.history.scores

    @property
    def complete(self) -> bool:
        """True where the schedule has ended, or the scores have stopped rising."""
        return self.step >= self.config.schedule.end or self.history.exhausted

    def say(self, line: str) -> None:
        """Print a line without breaking the progress bar; only the process of rank 0 does."""
        if self.group.rank == 0:
            tqdm.write(line)

    def start(self, resume: bool) -> None:
        """Make or enter the output folder; with resume, take up the state in its last.pt if there is one."""
        there = find_state(self.last)
        if there and not resume:
            raise TrainingError(f"{self.out} holds a run already; add --resume to go on, or name another --out")
        changes = self._take_up() if there else {}
        if self.group.rank == 0:
            self.results.claim(FILES, keep=True)
            self.results.close()
        # Without model_last, model holds the weights scored last, not the best: earlier scores do not count.
        if (self.out / "model_last").exists() or not self.config.data.evaluate:
            self.history = History(self.config, read_scores(self.out, self.step))
        if self.group.rank == 0:
            self.record = Log(self.out, self.step, self.config.tensorboard)
            if changes:
                self.record.changes(self.step, changes)
                told = ", ".join(f"{key} {now} (before: {was})" for key, (was, now) in changes.items())
                self.say(f"from step {self.step} on with {told}")

    def _take_up(self) -> dict[str, list]:
        """Go on from the state in last.pt; returns the keys of the config that have changed, see `read_state`."""
        state = read_state(self.last, self.essentials, self.device)
        settings = [{k: v for k, v in group.items() if k != "params"} for group in self.optimiser.param_groups]
        try:
            for name in ("model", "average", "optimiser"):
                getattr(self, name).load_state_dict(state[name])
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError):  # other weights, groups, or things
            raise TrainingError(
                f"{self.last}: of another network than model.weights ({self.config.model.weights}) gives; resume with "
                "the checkpoint it was started from, or name another --out"
            ) from None
        for group, own in zip(self.optimiser.param_groups, settings, strict=True):
            group.update(own)  # as this config has them
        if state["scaler"]:  # nothing, where the precision was another
            self.scaler.load_state_dict(state["scaler"])
        self.step = self.saved = state["step"]
        return state["changes"]

    def advance(self, batch: Batch) -> dict[str, float]:
        """One step on this process's share of the batch: forward, loss, backward, update.

        Returns the losses of the whole batch and the rate, for the log.
        """
        schedule, group = self.config.schedule, self.group
        self.model.train()
        if schedule.freeze_norms or self.config.model.freeze != "none":
            freeze_norms(self.model.encoder())
        rate = rate_at(self.step, schedule)
        for settings in self.optimiser.param_groups:
            settings["lr"] = rate * settings["factor"]
        self.optimiser.zero_grad(set_to_none=True)
        try:
            losses = self._backward(batch)
        except (torch.OutOfMemoryError, ValueError) as error:
            raise explained(error, self.step + 1, self.device) from None
        self.scaler.unscale_(self.optimiser)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), schedule.clip or float("inf"))
        # A gradient that overflows in fp16 is no fault: the scaler leaves that step out and scales less.
        excused = self.scaler.is_enabled() and self.scaler.get_scale() > 1
        for what, value in (("loss", losses["loss"]), ("gradient", norm)):
            if not (torch.isfinite(value) or (what == "gradient" and excused)):
                files = ", ".join(name for part in group.gather(batch.files) for name in part)
                self._give_up(f"the {what} of step {self.step + 1} is not finite (batch: {files})")
        if self.saved == self.step and group.rank == 0:
            keep(self.last)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        update_average(self.average, self.model, self.step, schedule.average)
        self.step += 1
        anneal(self.model, self.average, self.step / schedule.end)
        values = {**losses, "gradient": norm}
        return {"step": self.step, **{k: round(v.item(), 5) for k, v in values.items()}, "rate": rate}

    def _backward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Gradients of the whole batch's loss, in parts; returns its losses, summed over all processes."""
        config, group = self.config, self.group
        labels = batch.labels.to(self.device)
        targets = targets_from_labels(labels, self.taxonomy.unlabelled, config.loss.ignore_unlabelled)
        sums = group.sum(denominators(targets, queries_of(self.model), config.loss).to(self.device)).cpu()
        # The random points of an image depend on its number alone, not on the images before or beside it.
        numbers = counters(self.step, config.schedule.batch, group.rank, group.size)
        seeds = [int(np.random.SeedSequence([config.seed, n]).generate_state(1)[0]) for n in numbers]
        precision = _AUTOCAST[config.precision]
        size = len(targets) // config.schedule.accumulate
        total: dict[str, torch.Tensor] = {}
        for first in range(0, len(targets), size):
            part = slice(first, first + size)
            last = first + size == len(targets)
            torch.manual_seed(seeds[first])  # dropout, too, is that of an uninterrupted run
            # Gradients are exchanged once, behind the last part.
            shared = self.network if isinstance(self.network, DistributedDataParallel) and not last else None
            with shared.no_sync() if shared is not None else nullcontext():
                with torch.autocast(self.device.type, precision, enabled=precision is not None):
                    output = self.network(normalise(batch.images[part].to(self.device), self.model))
                loss, parts = training_loss(output, targets[part], config.loss, sums, seeds[part])
                # The processes' gradients are averaged, but the loss of the batch is the sum of theirs.
                self.scaler.scale(loss * group.size).backward()
            for name, value in {"loss": loss.detach(), **parts}.items():
                total[name] = total.get(name, 0) + value
        return dict(zip(total, group.sum(torch.stack(list(total.values()))), strict=True))

    def _give_up(self, what: str) -> None:
        """End a run that has diverged. A state whose next step diverges is replaced by the one before it."""
        cure = f"{self.last} has the last good state: --resume with a lower schedule.rate is the usual cure"
        if self.saved == self.step:
            back = self.group.rank == 0 and take_back(self.last)
            if not any(self.group.gather(back)):
                cure = f"so it is from the state in {self.last} on: start anew, with a lower schedule.rate"
        raise _Diverged(f"{what}; {cure}")

    def evaluate(self, sets: list[DataSet]) -> None:
        """Score the averaged weights on every evaluation set; keep them as out/model_last, the best as out/model."""
        if sets:
            self._keep("model_last")
        # A run whose first evaluation fails leaves a model, too.
        new = not sets or not (self.out / "model" / "config.json").exists()
        if new:
            self._keep("model")
        shown = sets if self.config.tensorboard and self.group.rank == 0 else []
        try:
            scores = {data.name: evaluate(self.average, data, self.taxonomy, self.device, self.group) for data in sets}
            if self.config.data.panoptic:
                for data in sets:
                    scores[data.name] |= evaluate_panoptic(self.average, data, self.taxonomy, self.device, self.group)
            images = {data.name: pictures(self.average, data, self.taxonomy, self.device) for data in shown}
        except torch.OutOfMemoryError:
            raise TrainingError(
                f"{self.device} has too little memory to score whole images: set model.max_pixels and add --resume, "
                f"which begins with the scores of step {self.step}"
            ) from None
        self.history.scores[self.step] = scores
        if self.history.best in (None, self.step) and not new:
            self._keep("model")
        for line in self.history.describe(self.step):
            self.say(line)
        if self.history.exhausted:
            self.say(f"step {self.step}: early stopping, for {self.config.early_stopping} evaluations were no better")
        if self.record is not None:
            self.record.scores(self.step, scores, images)

    def _keep(self, name: str) -> None:
        """Write the averaged weights as a checkpoint."""
        if self.group.rank == 0:
            with writing(self.out / name):
                save(self.average, self.out / name, torch.float16 if self.config.kept_as == "fp16" else torch.float32)

    def log(self, losses: dict[str, float]) -> None:
        """Note what `advance` returned."""
        if self.record is not None:
            self.record.losses(losses)

    def close(self) -> None:
        """End the log; no step after it."""
        # DistributedDataParallel freed at the end of the process waits for the group's thread, which waits for Python's
        # lock (seen in torch 2.13).
        self.network = self.model
        if self.record is not None:
            self.record.close()

    def save(self) -> None:
        """Write last.pt whole or not at all; the state before stays beside it until the next step.

        Raises TrainingError where it cannot be written, or weights are not finite.
        """
        if not all(torch.isfinite(value).all() for value in self.model.parameters()):
            self._give_up(f"weights are not finite after step {self.step}")
        if self.group.rank == 0:
            parts = {name: getattr(self, name).state_dict() for name in ("model", "average", "optimiser", "scaler")}
            write_state(self.last, self.essentials, {"step": self.step, **parts})
        self.saved = self.step

    @contextmanager
    def rescue(self) -> Iterator[None]:
        """Save the steps done so far when an error ends the run, if the weights are finite."""
        try:
            yield
        except _Diverged:
            raise
        except M2fError:
            if self.saved != self.step:
                self.save()
            raise


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """A list that is empty until a signal asks to stop; the step under way is finished first."""
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        received.append(number)
        if number == signal.SIGHUP:
            signals.leave_terminal()

    before = signals.listen(note)
    try:
        yield received
    finally:
        signals.restore(before)
