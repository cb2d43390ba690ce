"""The network in OpenVINO: needs no compiler, and caches converted networks on disk."""

from __future__ import annotations

import contextlib
import hashlib
import io
import linecache
import logging
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import openvino
import torch
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder
from torch import Tensor, fx, nn

import m2f_ros
from m2f_ros import cache
from m2f_ros.errors import ConfigError, say_once, words_of
from m2f_ros.model import Network
from m2f_ros.model.network import Result
from m2f_ros.model.quantised import Quantisation, quantised
from m2f_ros.pipeline import backends
from m2f_ros.pipeline.backends.openvino_parts import Parts, split

# torch.export patches objects that all threads share, such as nn.Module.
_EXPORTING = threading.Lock()


class OpenVino:
    """See `backends.Backend`. Converts once for each size and batch, and keeps the result on disk.

    Uses PyTorch's number of threads at the time of the conversion (torch.set_num_threads).

    Args:
        model: network on a CPU; its weights stay in float32.
        precision: "fp32", "bf16" for bfloat16 in the operations that it speeds up, or "int8" for the products of the
            network's quantisation in eight bits and the rest in bf16, or fp32 on a processor without bfloat16.
    Raises:
        ConfigError: the precision is unknown, OpenVINO has no bfloat16 on this processor, or the network has no
            quantisation.
    """

    name, dtype, background = "openvino", torch.float32, True

    def __init__(self, model: Network, precision: str = "fp32"):
        if precision not in ("fp32", "bf16", "int8"):
            raise ConfigError(f"backend 'openvino' has no precision {precision!r}; take fp32, bf16 or int8")
        self.model = model.float()
        self.core = core()
        abilities = self.core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bf16" and "BF16" not in abilities:
            raise ConfigError("precision 'bf16': OpenVINO does not have it on this processor; take fp32")
        self._quantisation = None
        if precision == "int8":
            if model.quantisation is None:
                raise ConfigError("precision 'int8': the network has no weights in eight bits; make them: m2f quantize")
            self._quantisation = model.quantisation
        hint = "bf16" if precision == "bf16" or (precision == "int8" and "BF16" in abilities) else "f32"
        self._options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
        self._identity = _identity(model, precision, *machine())
        self._parts = backends.Kept(self._make_parts, backends.SIZES)

    def ready(self, size: tuple[int, int], batch: int = 1) -> bool:
        return self._parts.has(size, batch)

    def sizes(self) -> list[tuple[int, int]]:
        return [size for size, batch in self._parts.keys if batch == 1]

    def forget(self, seconds: float, but: Collection[tuple[int, int]] = ()) -> bool:
        return self._parts.forget(seconds, {(size, 1) for size in but})

    def build(self, size: tuple[int, int], batch: int = 1) -> object:
        return self._parts(size, batch)

    def __call__(self, pixels: Tensor, memory: Tensor | None = None) -> Result:
        parts = self._parts(tuple(pixels.shape[-2:]), len(pixels))
        tensors = parts(
            pixels.permute(0, 2, 3, 1).contiguous(),  # no copy if it is channels_last
            *(() if memory is None else (memory.contiguous(),)),
        )
        if memory is not None:
            memory.copy_(tensors[-1])
            tensors = tensors[:-1]
        return self.model.gives(*(x.permute(0, 3, 1, 2) if x.dim() == 4 else x for x in tensors))

    def _make_parts(self, size: tuple[int, int], batch: int) -> Parts:
        threads = torch.get_num_threads()
        options = {**self._options, "INFERENCE_NUM_THREADS": threads}
        # The rounding of a converted network depends on its number of threads.
        name = f"{self._identity}t{threads}-{size[0]}x{size[1]}-{batch}"
        try:
            return Parts(compiled(name, lambda: split(convert(self.model, size, batch, self._quantisation)), options))
        except Exception as error:  # errors of torch and OpenVINO have no common base class
            reason = f"{type(error).__name__}: {words_of(error, 200)}"
            raise ConfigError(
                f"the network cannot be converted for OpenVINO at {size[0]}x{size[1]} ({reason}); take backend 'eager'"
            ) from error


def compiled(
    name: str, make: Callable[[], Sequence[openvino.Model]], options: dict[str, Any]
) -> list[openvino.CompiledModel]:
    """Return networks compiled for the CPU, from the cache if they are there.

    Args:
        name: says all that the result depends on.
        make: makes the networks, if they are not in the cache.
    """
    path = cache.cache_folder("openvino") / f"{name}.blob"
    if blobs := cache.read(path):
        try:
            return [core().import_model(io.BytesIO(blob), "CPU", options) for blob in blobs]
        except RuntimeError:  # written by another build of the same version
            say_once(f"{path}: refused by this OpenVINO: converted anew")
    found = [core().compile_model(network, "CPU", options) for network in make()]
    cache.write(path, [part.export_model().getvalue() for part in found])
    return found


def machine() -> list[str]:
    """Return what compiled networks depend on beside themselves: the version of OpenVINO and the processor."""
    abilities = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return [openvino.__version__, core().get_property("CPU", "FULL_DEVICE_NAME"), *abilities]


@lru_cache(maxsize=1)
def core() -> openvino.Core:
    """Return OpenVINO's core, one for the process, with the CPU plugin loaded.

    The plugin gives the thread that loads it an alternate signal stack. On CPUs with AMX this stack has no room for two
    signals, and the second one kills the process: a thread that ends at once loads the plugin. (OpenVINO 2026.4,
    SigAltStackSetup in src/plugins/intel_cpu/src/plugin.cpp)
    """

    def load() -> openvino.Core:
        made = openvino.Core()
        made.get_property("CPU", "FULL_DEVICE_NAME")
        return made

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(load).result()


def convert(
    model: Network, size: tuple[int, int], batch: int, quantisation: Quantisation | None = None
) -> openvino.Model:
    """Convert the network for one size: (B, H, W, 3) float32 -> tensors of its result, maps as (B, h, w, channels).

    A network with memory has it as its second input and its last output, float32.
    """
    with _EXPORTING, torch.inference_mode(False), torch.no_grad(), _no_chatter():
        network = _Network(model, size, quantisation).eval()
        memory, example = model.memory(), model.example(*size, batch).permute(0, 2, 3, 1)
        memories = () if memory is None else (memory.detach().expand(batch, *memory.shape).clone(),)
        program = torch.export.export(network, (example, *memories))
        # The steps of openvino.convert_model without its telemetry.
        decoder = TorchFXPythonDecoder.from_exported_program(program, dynamic_shapes=False)
        frontend = FrontEndManager().load_by_framework("pytorch")
        converted = frontend.convert(frontend.load(decoder))
        _forget_sources()
    _keep_coordinates_exact(converted)
    return converted


def _forget_sources() -> None:
    """Delete the source of traced graphs, megabytes for each size, which torch.fx keeps for tracebacks."""
    texts = getattr(getattr(fx.graph_module, "_loader", None), "eval_cache", {})
    for name in list(texts):
        linecache.cache.pop(name, None)
        texts.pop(name, None)


@contextlib.contextmanager
def _no_chatter() -> Iterator[None]:
    """Suppress deprecation warnings of torch and OpenVINO about each other."""

    def wanted(record: logging.LogRecord) -> bool:
        return "not found in decomp table" not in record.getMessage()

    logging.getLogger().addFilter(wanted)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger().removeFilter(wanted)


def _keep_coordinates_exact(network: openvino.Model) -> None:
    """Keep the nodes before deformable attention's sampling points in float32: bfloat16 is 1.5 pixels off."""
    # The attribute has no Python class: it is copied from a model that was read with it.
    ((key, mark),) = core().read_model(_MARKED.encode(), b"").get_parameters()[0].get_rt_info().items()
    found = set()

    def visit(node: openvino.Node) -> None:
        if node.get_type_name() != "MatMul" and node.get_friendly_name() not in found:
            found.add(node.get_friendly_name())
            node.set_rt_info(mark, key)
            for source in node.inputs():
                visit(source.get_source_output().get_node())

    for node in network.get_ordered_ops():
        if node.get_type_name() == "EmbeddingBagOffsets":
            for rows_or_factors in (1, 4):
                visit(node.input_value(rows_or_factors).get_node())


_MARKED = """<net name="marked" version="11"><layers>
<layer id="0" name="x" type="Parameter" version="opset1"><data shape="1" element_type="f32"/>
<rt_info><attribute name="precise" version="0"/></rt_info>
<output><port id="0" precision="FP32"><dim>1</dim></port></output></layer>
<layer id="1" name="y" type="Result" version="opset1">
<input><port id="0" precision="FP32"><dim>1</dim></port></input></layer>
</layers><edges><edge from-layer="0" from-port="0" to-layer="1" to-port="0"/></edges></net>"""


class _Network(nn.Module):
    """The network with its plan as constants, channels-last pixels and maps, and only the result's outputs."""

    def __init__(self, model: Network, size: tuple[int, int], quantisation: Quantisation | None = None):
        super().__init__()
        self.model, self.plan, self.quantisation = model, model.plan(*size), quantisation

    def forward(self, pixels: Tensor, *memory: Tensor) -> tuple[Tensor, ...]:
        with quantised(self.model, self.quantisation):
            output = self.model(pixels.permute(0, 3, 1, 2), self.plan, *memory)
        result = self.model.result(output)
        maps = (x.flatten(2).mT.unflatten(1, x.shape[2:]) if x.dim() == 4 else x for x in result)
        return (*maps, *output[len(result) : len(result) + len(memory)])


def _identity(model: Network, *of: str) -> str:
    """Return a hash of everything except the size that a converted network depends on."""
    identity = hashlib.sha256()
    code = [
        *sorted(Path(__file__).parent.glob("*.py")),
        *sorted((Path(m2f_ros.__file__).parent / "model").rglob("*.py")),
    ]
    for text in (torch.__version__, repr(model.config), model.gives.__name__, *of, *(p.read_text() for p in code)):
        identity.update(text.encode() + b"\0")
    for name, value in model.state_dict().items():
        identity.update(name.encode() + b"\0")
        identity.update(value.numpy().tobytes())
    if quantisation := model.quantisation:
        identity.update(repr(quantisation.ranges).encode())
        for of_products in (quantisation.scales, quantisation.corrections):
            for name, value in of_products.items():
                identity.update(name.encode() + b"\0")
                identity.update(value.numpy().tobytes())
    return identity.hexdigest()[:32]
