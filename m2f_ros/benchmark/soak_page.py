"""docs/soak.md, made of the JSON of `m2f soak` and of nothing else."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from m2f_ros.benchmark.soak import GOOD, RATE_SHARE, Soak, criteria, load, warm_up
from m2f_ros.errors import ConfigError
from m2f_ros.files import refuse_foreign, replace_own, whole

INTRODUCTION = """\
# The soak

Made by `m2f soak-report` from the JSON of `m2f soak` (`make soak MINUTES=60`). Edit neither: measure again.

The real node process, over real DDS, with two good cameras, `raw` (Image, bgr8) and `jpeg` (CompressedImage), and
hostile ones beside them. First the good cameras are alone, for the rate that the others are held against; then the
hostile ones begin. At the end the node gets SIGTERM.

| hostile | what comes |
| --- | --- |
| sizes | good images, each of another size, thin ones among them |
| stamps | good images whose stamps jump, stand still, are negative, or lie decades ahead |
| pictures | JPEG and PNG, cut off, with bytes changed, left out or filled in, or of another format |
| fields | Images with a wrong size, step, encoding, byte order or amount of data |
| cdr | serialised Image, CompressedImage and CameraInfo, cut off or with bytes and lengths changed |
| info | CameraInfo with values of all kinds |
| peers | publishers and listeners come and go, with all kinds of QoS; each minute the hostile process is a new one |
| calls | parameters are set, rightly and wrongly; all services of parameters and of the lifecycle are called |
"""


def write_page(results: Path, out: Path) -> None:
    """Write the page of one JSON and its plot, in images/ beside it.

    Raises:
        ConfigError: the JSON is none of `m2f soak`; matplotlib is not installed; the page cannot be written.
        OutputError: another page or picture is there.
    """
    soak = load(results)
    picture = out.parent / "images" / f"{out.stem}.png"
    try:
        refuse_foreign(out, _is_own, [f"images/{picture.name}"])
        picture.parent.mkdir(parents=True, exist_ok=True)
        with whole(picture) as partial:
            draw(soak, partial)
        replace_own(out, page(soak, picture.name), _is_own)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error.strerror}") from None


def _is_own(text: str) -> bool:
    return "Made by `m2f soak-report`" in text


def page(soak: Soak, picture: str) -> str:
    """The whole text. picture: name of the plot, in images/."""
    machine, found = soak.machine, criteria(soak)
    missed = sum(not criterion.met for criterion in found)
    height, width = soak.image
    hostile = f"hostile: {', '.join(soak.hostile)}; seed {soak.seed}" if soak.hostile else "no hostile camera"
    verdict = f"**{missed} of {len(found)} criteria missed.**" if missed else f"**All {len(found)} criteria met.**"
    return "\n".join(
        [
            INTRODUCTION,
            "## The run\n",
            f"{verdict} `{soak.model}`, good images of {width}x{height} at {soak.rate_hz:g} Hz each, for "
            f"{soak.minutes:g} minutes; `max_pixels` as many as they have; {hostile}. On "
            f"{machine.cpu} ({machine.system}, {machine.cores} of "
            f"{machine.cores_in_all} cores, {machine.memory_gib:.0f} GiB), the cameras and the listeners on the same "
            f"cores. {soak.date[:10]}, commit {(soak.commit or 'unknown')[:12]}{' and changes' if soak.dirty else ''}.",
            f"Versions: {', '.join(f'{name} {version}' for name, version in soak.versions.items())}.",
            "",
            f"    {soak.command}",
            "",
            _table(
                ["what", "must", "reached", ""],
                [[c.what, c.bound, c.reached, "met" if c.met else "**missed**"] for c in found],
            ),
            f"![Memory, file descriptors, threads, log, rates and latency over the run](images/{picture})",
            "",
            "## What was sent\n",
            _table(["kind", "messages"], [[kind, str(count)] for kind, count in soak.sent.items()])
            if soak.sent
            else "Nothing but good images.\n",
            "## What the node counted\n",
            "By its last message on `/diagnostics`. The newest frame of a camera waits: DDS' history or the node, as "
            "`newer`, drops frames that come faster than the node takes them. Bytes that are no message do not become "
            "frames.\n",
            _cameras(soak),
        ]
    )


def _cameras(soak: Soak) -> str:
    keys = list(dict.fromkeys(key for values in soak.cameras.values() for key in values))
    rows = [[name, *(values.get(key, "") for key in keys)] for name, values in soak.cameras.items()]
    return _table(["camera", *keys], rows)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def draw(soak: Soak, path: Path) -> None:
    """Write a PNG. ConfigError without matplotlib."""
    if not importlib.util.find_spec("matplotlib"):
        raise ConfigError("the plots need matplotlib; pip install matplotlib")
    from matplotlib.figure import Figure  # without pyplot: no display, no state

    samples = soak.samples
    minutes = [sample.time_s / 60 for sample in samples]
    figure = Figure(figsize=(13, 6.5), dpi=80, layout="constrained")
    memory, handles, log, rates, latency, work = figure.subplots(2, 3).flat
    for name, label in (("resident_mb", "resident"), ("anonymous_mb", "heap"), ("shared_mb", "shared memory")):
        memory.plot(minutes, [getattr(sample, name) for sample in samples], label=label)
    memory.set_title("memory of the node, MB", fontsize=10)
    for name, label in (("files", "file descriptors"), ("threads", "threads")):
        handles.plot(minutes, [getattr(sample, name) for sample in samples], label=label)
    handles.set_title("file descriptors and threads", fontsize=10)
    log.plot(minutes, [sample.log_lines for sample in samples], label="lines of log")
    log.set_title("lines of log so far", fontsize=10)
    alone = [sample for sample in samples if sample.time_s < 0]
    for number, camera in enumerate(GOOD):
        colour = f"C{number}"
        rates.plot(minutes, [sample.rates_hz[number] for sample in samples], label=camera, color=colour)
        if alone:
            bound = RATE_SHARE * sum(sample.rates_hz[number] for sample in alone) / len(alone)
            rates.axhline(bound, color=colour, linestyle=":", linewidth=1)
        for values, style in ((_known(soak, "p50_ms", number), "-"), (_known(soak, "p99_ms", number), ":")):
            label = f"{camera} {'p50' if style == '-' else 'p99'}"
            latency.plot(minutes, values, style, label=label, color=colour, linewidth=1)
    rates.set_title("labels a second (dots: half of the rate alone)", fontsize=10)
    latency.set_title("from stamp to label, ms", fontsize=10)
    latency.set_yscale("log")
    work.plot(minutes, [sample.cores for sample in samples], label="cores of the node")
    work.plot(minutes, [sample.shm_mb / 1000 for sample in samples], label="/dev/shm, GB")
    work.set_title("CPU and /dev/shm", fontsize=10)
    for axis in (memory, handles, log, rates, work):
        axis.set_ylim(bottom=0)
    for axis in (memory, handles, log, rates, latency, work):
        axis.axvline(0, color="black", linewidth=0.8)
        axis.axvline(warm_up(soak) / 60, color="grey", linewidth=0.8, linestyle="--")
        axis.set_xlabel("minutes of hostile cameras", fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=8, frameon=False)
    figure.savefig(path, format="png", metadata={"Software": None})


def _known(soak: Soak, name: str, number: int) -> list[float]:
    """NaN, which is not drawn, where there was no label."""
    values = [getattr(sample, name)[number] for sample in soak.samples]
    return [value if value >= 0 else float("nan") for value in values]
