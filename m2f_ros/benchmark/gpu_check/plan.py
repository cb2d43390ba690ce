"""The parts of the check, the most valuable first, and the time that each may take."""

from __future__ import annotations

from dataclasses import dataclass, field

KIND, FILE = "gpu-check", "gpu_check.json"
LARGE, FULL = "swin-large", (1024, 2048)
PREFLIGHT = "preflight"  # the part that the large ones need
# A size that fits into a few seconds of a CPU.
SMALL_MODEL, SMALL = "swin-tiny", (128, 256)
# The words for what became of a part.
PASSED, FAILED, LATE, NOT_RUN = "passed", "failed", "out of time", "not run"


class FailedPart(Exception):
    """A part that came to its end, but found what is wrong: tests that failed, or no figures."""


@dataclass(frozen=True)
class Part:
    """A part of the check, a process of its own."""

    name: str  # unique
    kind: str  # a key of part.KINDS
    what: str  # in words
    most_s: float  # deadline, counted from its start
    least_s: float  # with less time left the part is not begun
    arguments: dict = field(default_factory=dict)
    needs: str = ""  # name of a part that must have passed, where it was asked for


def parts(cuda: bool, model: str | None, size: tuple[int, int] | None) -> list[Part]:
    """For a machine with a CUDA device, or without.

    Args:
        model: in the place of Swin-L (on a CPU of Swin-T), as `m2f bench` takes it.
        size: (height, width) of the network's input, in the place of 1024x2048 (on a CPU 128x256).
    """
    return _on_cuda(model or LARGE, size or FULL) if cuda else _on_cpu(model or SMALL_MODEL, size or SMALL)


def _on_cuda(model: str, size: tuple[int, int]) -> list[Part]:
    """The deadlines are about twice what a part should take on an H100 or H200. The most valuable come first: nine
    minutes hold all but the last.

    These are estimated from: Swin-L under HF 0.1 s a frame, here 0.015 s; 15 s to make and save its weights
    and another 5 to load them; 5 s to import everything; 1 s for Triton to compile a kernel for one type and shape.
    """
    subject, kernel_tests = {"model": model, "size": size}, {"paths": ["test/kernels"]}
    kernel_tests |= {"ignore": ["test/kernels/test_compile.py"]}  # for other GPUs, and it needs none
    return [
        # 30 s, half of it for the weights that all parts share; twice that where all kernels are compiled.
        Part(PREFLIGHT, "preflight", "the first frames: eager, captured, replayed", 90, 10, subject),
        # 25 s: 300 modules, each captured alone.
        Part("profile", "profile", "kernels of a frame in their order, each module alone, rates of the device", 70, 15,
             subject, PREFLIGHT),
        # 75 s: reference, HF and this pipeline are loaded; 20 rounds of 0.12 s; 10 s of arrivals for each.
        Part("benchmark", "bench", "against Hugging Face: time, throughput, latency at 30 Hz, roofline", 140, 50,
             {**subject, "rounds": 20, "seconds": 10.0}, PREFLIGHT),
        # 60 s: a few hundred frames of a small network, and its kernels' compilation.
        Part("CUDA tests", "tests", "graphs, streams, precision, batches, want of memory", 110, 20,
             {"paths": ["test/cuda"], "ignore": ["test/cuda/test_memory.py"]}),
        # 30 s with pytest-xdist, else 80 s: about 60 compilations.
        Part("kernel tests", "tests", "every kernel against its plain twin, on the device", 110, 20,
             {**kernel_tests, "workers": 6}),
        # 60 s: 500 products, attentions and norms in half a minute; kernels with other block sizes are compiled.
        Part("sweep", "sweep", "products, attention, norms and kernels alone, in all ways", 110, 30, subject),
        # 40 s: the network is compiled and captured, then measured as in the benchmark.
        Part("compile", "bench", "backend compile beside eager", 140, 50,
             {**subject, "rounds": 10, "seconds": 0.0, "backends": ["eager", "compile"]}, PREFLIGHT),
        # 70 s: 15 variants, each 5 rounds of 0.3 s of itself and of the whole.
        Part("ablation", "ablation", "each kernel and arrangement switched off", 100, 30,
             {**subject, "rounds": 5, "seconds": 0.3}, PREFLIGHT),
        # 25 s
        Part("trained weights", "bench", "fp16 labels of the shipped model against fp32", 45, 20,
             {"model": "street", "size": (352, 480), "rounds": 10, "seconds": 0.0}),
        # 20 s
        Part("memory", "tests", "memory over 2,000 frames", 45, 15, {"paths": ["test/cuda/test_memory.py"]}),
        # 25 s
        Part("counters", "counters", "Nsight Compute on the kernels of a frame", 60, 20, subject, PREFLIGHT),
        # 60 s
        Part("sanitizer", "sanitizer", "compute-sanitizer on one case of each kernel test", 100, 20,
             {**kernel_tests, "few": 1}),
        # 40 and 30 s: 9 frames of each size and batch, 5 times by each side.
        *(Part(f"matrix {name}", "matrix", "sizes and batches against Hugging Face", most, 20,
               {"model": name, "points": matrix_points(first)}, needs)
          for name, most, first, needs in ((model, 60, size, PREFLIGHT), (SMALL_MODEL, 45, FULL, ""))),
        # 45 s: 200 images read ahead, played at 30 Hz, recorded. The first second goes by until graphs are captured.
        Part("node", "node", "the ROS node end to end at 1920x1080", 75, 40,
             {"model": model, "rate": 30.0, "frames": 200}, PREFLIGHT),
    ]  # fmt: skip


def _on_cpu(model: str, size: tuple[int, int]) -> list[Part]:
    subject = {"model": model, "size": size}
    return [
        Part("CUDA tests", "tests", "skipped by name", 60, 5, {"paths": ["test/cuda"]}),
        Part("kernel tests", "tests", "one case of every test, kernels through Triton's interpreter", 80, 5,
             {"paths": ["test/kernels"], "ignore": ["test/kernels/test_compile.py"], "few": 1}),
        Part("ablation", "ablation", "each arrangement switched off", 60, 5, {**subject, "rounds": 2, "seconds": 0.0}),
        Part("profile", "profile", "operations of a frame, each module alone, rates of the machine", 40, 5, subject),
        Part(f"matrix {model}", "matrix", "sizes and batches against Hugging Face", 45, 5,
             {"model": model, "points": [[*size, 1], [*size, 2]]}),
    ]  # fmt: skip


def matrix_points(largest: tuple[int, int]) -> list[list[int]]:
    """[height, width, batch] for batches 1, 2, 8 at a size, 3/4 and 1/2 of it: all single frames first."""
    sizes = [[int(side * part) // 32 * 32 for side in largest] for part in (1, 0.75, 0.5)]
    single = [[*size, 1] for size in sizes]
    return single + [[*size, batch] for size in sizes for batch in (2, 8)]
