"""Compares an export with PyTorch on frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from m2f_ros.errors import ConfigError
from m2f_ros.export.settings import Bound
from m2f_ros.frame.frame import Frame
from m2f_ros.model import Network
from m2f_ros.model.network import Result
from m2f_ros.model.quantised import Quantisation, quantised
from m2f_ros.pipeline import Pipeline
from m2f_ros.pipeline.backends.eager import Eager
from m2f_ros.pipeline.backends.exported import load_runtime
from m2f_ros.pipeline.build import PipelineSettings, build_pipeline
from m2f_ros.pipeline.exported import Export
from m2f_ros.pipeline.resize import Resize
from m2f_ros.taxonomy import Taxonomy


class Answer(NamedTuple):
    """The outputs for one frame: (H, W) labels and uint8 confidence."""

    label: np.ndarray
    confidence: np.ndarray


class Rounding(Eager):
    """Eager, with the rounding of a quantisation: None for none."""

    def __init__(self, model: Network, quantisation: Quantisation | None = None):
        super().__init__(model)
        self.quantisation = quantisation

    def __call__(self, pixels: Tensor, memory: Tensor | None = None) -> Result:
        with quantised(self.model, self.quantisation):
            return super().__call__(pixels, memory)


def compare(
    folder: Path,
    network: Network,
    taxonomy: Taxonomy,
    frames: Sequence[Frame],
    sizes: Sequence[tuple[int, int]],
    device: torch.device,
    bound: Bound,
    quantisation: Quantisation | None = None,
) -> float:
    """Return the share of pixels with PyTorch's label at the worst of some network sizes.

    Args:
        folder: export, as it will be used.
        network: the model on the CPU, in float32.
        frames: two or more; of the one size for a whole export.
        sizes: (height, width) of the network's input, for an export of logits.
        bound: how far labels and confidences may differ.
        quantisation: products that the export has in eight bits: PyTorch rounds them, too.
    Raises:
        ConfigError: the labels or confidences differ more: says how.
    """
    export = Export.read(folder)
    whole = export.manifest.gives == "labels"
    shares = []
    for size in sizes:
        resize = Resize("fixed", height=size[0], width=size[1], stride=network.config.stride)
        backend = Rounding(network, quantisation)
        ours = Pipeline(network, taxonomy, device="cpu", precision="fp32", backend=backend, resize=resize)
        expected = [_segment(ours, [frame])[0] for frame in frames]
        if whole:
            found = _run_whole(export, frames, device)
        else:
            theirs = build_pipeline(PipelineSettings(str(folder), device=str(device), resize=resize))
            # A batch, too: it may be of any number.
            found = [*_segment(theirs, frames[:2]), *(_segment(theirs, [frame])[0] for frame in frames[2:])]
            theirs.close()
        shares.append(_share(size, expected, found, taxonomy, bound))
    return min(shares)


def _segment(pipeline: Pipeline, frames: Sequence[Frame]) -> list[Answer]:
    with pipeline.submit_batch(frames, {"label", "confidence"}) as results:
        return [Answer(np.array(result.label), np.array(result.confidence)) for result in results]


def _run_whole(export: Export, frames: Sequence[Frame], device: torch.device) -> list[Answer]:
    export.check()
    run = load_runtime(export, device)
    batches = [frames[:2], *([frame] for frame in frames[2:])]
    found: list[Answer] = []
    with torch.inference_mode():
        for batch in batches:
            label, confidence = run(torch.from_numpy(np.stack([frame.data for frame in batch])).to(device))
            found += map(Answer, label.cpu().numpy(), confidence.cpu().numpy())
    return found


def _share(
    size: tuple[int, int], expected: Sequence[Answer], found: Sequence[Answer], taxonomy: Taxonomy, bound: Bound
) -> float:
    """Return the share of equal labels. Raises ConfigError beyond the bound."""
    at_least, levels = bound
    where = f"the export is refused: at {size[0]}x{size[1]}"
    equal = [(a.label == b.label).mean() for a, b in zip(expected, found, strict=True)]
    share = float(np.mean(equal))
    if not share >= at_least:
        worst = int(np.argmin(equal))
        one, other = (answers[worst].label.astype(np.int64) for answers in (expected, found))
        pairs = one * (1 << 16) + other
        values, counts = np.unique(pairs[one != other], return_counts=True)
        before, after = divmod(int(values[counts.argmax()]), 1 << 16)
        names = [taxonomy.classes[i].name if i < len(taxonomy.classes) else str(i) for i in (before, after)]
        raise ConfigError(
            f"{where} {100 * share:.3f} % of {len(equal)} frames' labels are PyTorch's, and {100 * at_least:g} % are "
            f"asked; frame {worst} has {100 * equal[worst]:.3f} %, and most often {names[0]} became {names[1]}"
        )
    far = [np.abs(a.confidence.astype(int) - b.confidence).astype(int) for a, b in zip(expected, found, strict=True)]
    near = float(np.mean([(x <= levels).mean() for x in far]))
    if not near >= at_least:
        raise ConfigError(
            f"{where} {100 * near:.3f} % of {len(equal)} frames' confidences are within {levels} of PyTorch's, and "
            f"{100 * at_least:g} % are asked; the furthest is {max(x.max() for x in far)} off"
        )
    return share
