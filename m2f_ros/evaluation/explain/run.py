"""`m2f explain`: reads the frame, runs the model, writes the page."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from m2f_ros.errors import ConfigError, SourceError
from m2f_ros.evaluation.explain import regions
from m2f_ros.evaluation.explain.page import page
from m2f_ros.evaluation.explain.watched import watch
from m2f_ros.evaluation.report.page import check_libraries
from m2f_ros.files import whole, write_whole
from m2f_ros.frame.bgr import to_bgr
from m2f_ros.model import load
from m2f_ros.pipeline.classes import taxonomy_of
from m2f_ros.results import Results
from m2f_ros.sources.open import is_street, open_source
from m2f_ros.sources.sample import Sample
from m2f_ros.taxonomy import Taxonomy, merge_table

COMMAND = "m2f explain"
PAGE = "explain.html"


@dataclass(frozen=True)
class Options:
    """Options of `m2f explain`.

    Attributes:
        source: image, folder, bag, video or street.
        frame: number of the frame, from 0; or its name, or its stamp in seconds with nine decimals.
        model: see `PipelineSettings`.
        labels, taxonomy, topic: of the source; see `open_source`.
        at: x, y of a pixel to explain; None for none.
        segments: most segments to explain.
        mistakes: most mistakes to explain.
    """

    source: str
    frame: str = "0"
    model: str = "street"
    labels: str | None = None
    taxonomy: str | None = None
    topic: str | None = None
    at: tuple[int, int] | None = None
    segments: int = 6
    mistakes: int = 3


def explain(options: Options, out: Path) -> Path:
    """Write the page and its pictures into a folder; return the page's path.

    Raises:
        SourceError: the source has no such frame.
        ConfigError: the pixel is not in the image, the model's results are not explained, or a library is missing.
    """
    results = Results(out, COMMAND, [options.source, options.labels])
    check_libraries()
    sample, truth_taxonomy = _sample(options)
    assert sample.frame is not None
    network = load(options.model)
    taxonomy = taxonomy_of(options.model, network.config)
    height, width = sample.frame.size
    if options.at and not (0 <= options.at[0] < width and 0 <= options.at[1] < height):
        raise ConfigError(f"--at {options.at[0]},{options.at[1]}: the image has {width}x{height} pixels")
    watched = watch(network, taxonomy, sample.frame, to_bgr(sample.frame))
    truth, notes = None, []
    if sample.label is not None and truth_taxonomy is not None:
        table = merge_table(taxonomy, truth_taxonomy)
        names = truth_taxonomy.names
        truth = regions.truth_of(watched, sample.label, names, table, truth_taxonomy.unlabelled)
    else:
        notes.append("without truth: nothing is said on what is wrong")
    found = [regions.at(watched, truth, *options.at)] if options.at else []
    if truth is not None:
        found += regions.mistakes(watched, truth, options.mistakes)
    found += regions.segments(watched, truth, options.segments)
    title = f"{sample.name or options.source}, explained"
    made = page(
        title, f"Frame {options.frame} of {options.source}; model {options.model}.", watched, truth, found, notes
    )
    with results:
        results.clear()
        names_of = [f"pictures/{name}" for name in made.pictures]
        results.claim([PAGE, *names_of])
        (out / "pictures").mkdir(exist_ok=True)
        for name, data in made.pictures.items():
            with whole(out / "pictures" / name) as partial:
                partial.write_bytes(data)
        write_whole(out / PAGE, made.html)
    return out / PAGE


def _sample(options: Options) -> tuple[Sample, Taxonomy | None]:
    source = open_source(
        options.source,
        labels=options.labels,
        taxonomy=options.taxonomy,
        topic=options.topic,
    )
    wanted = options.frame
    sample: Sample | None
    if re.fullmatch(r"0|[1-9]\d{0,8}", wanted):  # 0007 is a name
        sample = next(iter(source.samples(int(wanted))), None)
    elif is_street(options.source):
        raise ConfigError(f"--frame {wanted}: frames of a street have numbers, from 0")
    else:
        sample = next((one for one in source if wanted in (one.name, _seconds(one.stamp_ns))), None)
    if sample is None or sample.frame is None:
        raise SourceError(f"{options.source}: there is no frame {wanted} that can be read; numbers count from 0")
    return sample, source.taxonomy


def _seconds(stamp_ns: int) -> str:
    return f"{stamp_ns // 10**9}.{stamp_ns % 10**9:09d}"
