"""What a run of the benchmark measures, checked before anything is loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass

from m2f_ros.errors import ConfigError

STRIDE = 32  # m2f_ros.model.STRIDE; a report does without torch, which that imports
OTHERS = ("hf", "compiled", "openvino", "onnxruntime")
BACKENDS = ("eager", "compile", "openvino")
PRECISIONS = ("fp32", "tf32", "fp16", "bf16")


@dataclass(frozen=True)
class Settings:
    """One run.

    Attributes:
        model: swin-tiny, swin-small, swin-base or swin-large (the Cityscapes configuration); a name, folder or hub id
            as `m2f_ros.model.load` takes it.
        size: (height, width) of the network's input, multiples of 32.
        frame_size: (height, width) of the frames that go in; None: `size`. The simulated street is drawn at it, frames
            of another source are scaled to it beforehand.
        frames: a source as `m2f_ros.replay` opens it.
        different_frames: so many of the source are taken, or as many more as fill the last batch, and repeated.
        against: of OTHERS; empty measures this pipeline alone.
        backends: of BACKENDS; each is measured.
        device: auto, cpu, cuda, cuda:1, …
        precision: of PRECISIONS, both sides (but see others.make); None: fp16 on CUDA, fp32 on a CPU.
        batch: frames at once, as of so many cameras.
        threads: of the CPU; None: one for each core that this process may use.
        warmup: rounds that are not counted.
        rounds: of which each gives one time of every contestant.
        rate: arrivals a second (of `batch` frames each) for the latency; None: 30 on CUDA, 4/5 of what this pipeline
            reaches on a CPU.
        seconds: for how long frames arrive; 0 leaves this measurement out.
    Raises:
        ConfigError: a value that is not possible.
    """

    model: str = "swin-tiny"
    size: tuple[int, int] = (256, 512)
    frame_size: tuple[int, int] | None = None
    frames: str = "street"
    different_frames: int = 8
    against: tuple[str, ...] = ("hf",)
    backends: tuple[str, ...] = ("eager",)
    device: str = "auto"
    precision: str | None = None
    batch: int = 1
    threads: int | None = None
    warmup: int = 2
    rounds: int = 20
    rate: float | None = None
    seconds: float = 10.0

    def __post_init__(self) -> None:
        for side in self.size:
            if side < STRIDE or side % STRIDE:
                near = "x".join(str(max(STRIDE, round(side / STRIDE) * STRIDE)) for side in self.size)
                raise ConfigError(
                    f"--size {self.size[0]}x{self.size[1]}: height and width of the network's input must be multiples "
                    f"of {STRIDE}; take {near}"
                )
        if self.frame_size and not all(1 <= side <= 16384 for side in self.frame_size):
            raise ConfigError(f"--frame-size {self.frame_size[0]}x{self.frame_size[1]}: sides must be 1 to 16384")
        for option, values, known in (("against", self.against, OTHERS), ("backend", self.backends, BACKENDS)):
            for value in values:
                if value not in known:
                    raise ConfigError(f"--{option} {value}: not known; take some of {', '.join(known)}")
            if len(set(values)) != len(values):
                raise ConfigError(f"--{option} {','.join(values)}: names one of them twice")
        if not self.backends:
            raise ConfigError(f"--backend: names none; take some of {', '.join(BACKENDS)}")
        if self.precision not in (None, *PRECISIONS):
            raise ConfigError(f"--precision {self.precision}: not known; take one of {', '.join(PRECISIONS)}")
        for option, least in (("batch", 1), ("threads", 1), ("warmup", 1), ("rounds", 1), ("different_frames", 1)):
            value = getattr(self, option)
            if value is not None and value < least:
                raise ConfigError(f"--{option.replace('_', '-')} {value}: must be at least {least}")
        if self.rate is not None and not 0 < self.rate <= 1000:
            raise ConfigError(f"--rate {self.rate:g}: must be above 0 and at most 1000 a second")
        if not 0 <= self.seconds <= 3600:
            raise ConfigError(f"--seconds {self.seconds:g}: must be 0 to 3600")


def parse_size(text: str, option: str) -> tuple[int, int]:
    """ "256x512", HEIGHTxWIDTH, -> (256, 512). ConfigError for anything else."""
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if not found:
        raise ConfigError(f"{option} {text!r}: must be HEIGHTxWIDTH in pixels, such as 256x512")
    return int(found[1]), int(found[2])


def parse_names(text: str) -> tuple[str, ...]:
    """ "hf,compiled" -> ("hf", "compiled"); "none" and "" -> ()."""
    return () if text == "none" else tuple(name.strip() for name in text.split(",") if name.strip())
