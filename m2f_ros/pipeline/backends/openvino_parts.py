"""Splits a converted network at the sums of deformable attention, which PyTorch computes much faster.

OpenVINO (2026.4) has only a reference implementation of EmbeddingBagOffsetsSum; PyTorch's is compiled for the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import openvino
import torch
from openvino import opset13 as ops
from torch import Tensor
from torch.nn import functional as F

# Operation that sums rows of a table with weights, and the indices of its inputs.
_SUM = "EmbeddingBagOffsets"
_OPERANDS = {"table": 0, "rows": 1, "factors": 4}


def split(network: openvino.Model) -> list[openvino.Model]:
    """Split the network at its weighted sums into parts, one more than there are sums.

    The parts take over the nodes: `network` is unusable afterwards. Its input is the first input of the first part, its
    results are those of the last part. A tensor that one part passes to a later one has the same name in both. The
    operands of the sum behind a part have the aliases "table", "rows" and "factors"; sum i is named "sums{i}".
    """
    nodes = network.get_ordered_ops()
    sums = {node.get_friendly_name(): i for i, node in enumerate(n for n in nodes if n.get_type_name() == _SUM)}
    part_of = _parts(nodes, sums)
    inputs: list[dict[str, openvino.Node]] = [{} for _ in range(len(sums) + 1)]
    results: list[dict[str, openvino.Node]] = [{} for _ in range(len(sums) + 1)]

    def give(source: openvino.Output, *aliases: str) -> str:
        """Make an output available to later parts. Return its name."""
        owner = source.get_node().get_friendly_name()
        name = f"{owner}:{source.get_index()}"
        results[part_of[owner]].setdefault(name, ops.result(source))
        source.get_tensor().add_names({name, *aliases})
        return name

    def take(name: str, like: openvino.Output, part: int) -> openvino.Output:
        if name not in inputs[part]:
            inputs[part][name] = ops.parameter(list(like.get_shape()), like.get_element_type())
            inputs[part][name].output(0).get_tensor().set_names({name})
        return inputs[part][name].output(0)

    for node in nodes:
        name = node.get_friendly_name()
        if name in sums:
            for operand, index in _OPERANDS.items():
                give(node.input_value(index), operand)
        elif name in part_of:
            for target in node.inputs():
                source, part = target.get_source_output(), part_of[name]
                owner = source.get_node().get_friendly_name()
                if owner in sums:
                    target.replace_source_output(take(f"sums{sums[owner]}", source, part))
                elif part_of.get(owner, part) != part:
                    target.replace_source_output(take(give(source), source, part))

    first = [network.get_parameters()] + [[] for _ in sums]
    last = [[] for _ in sums] + [network.get_results()]
    return [
        openvino.Model([*result.values(), *end], [*start, *taken.values()])
        for result, end, start, taken in zip(results, last, first, inputs, strict=True)
    ]


def _parts(nodes: Sequence[openvino.Node], sums: dict[str, int]) -> dict[str, int]:
    """Return the part of each node that depends on the input, by name: the last possible part.

    A map that only the end of the network needs is then passed on small, before its upsampling.
    """
    dynamic: set[str] = set()
    for node in nodes:
        sources = (target.get_source_output().get_node().get_friendly_name() for target in node.inputs())
        if node.get_type_name() == "Parameter" or not dynamic.isdisjoint(sources):
            dynamic.add(node.get_friendly_name())
    parts: dict[str, int] = {}
    for node in reversed(nodes):
        if node.get_friendly_name() in dynamic:
            users = [t.get_node().get_friendly_name() for out in node.outputs() for t in out.get_target_inputs()]
            least = min((sums[user] if user in sums else parts[user] for user in users), default=len(sums))
            parts[node.get_friendly_name()] = least
    return parts


class Parts:
    """Runs the parts of a network and computes the sums between them.

    Args:
        compiled: compiled parts of `split`, in order.
    """

    def __init__(self, compiled: Sequence[openvino.CompiledModel]):
        *earlier, self._last = [part.create_infer_request() for part in compiled]
        # Tensors passed from part to part, by name; torch owns their memory, the same for every call.
        self._crossing: dict[str, Tensor] = {}
        self._steps: list[tuple[openvino.InferRequest, dict[str, Tensor], list]] = []
        for i, request in enumerate(earlier):
            for port in request.model_outputs:
                tensor = torch.from_numpy(np.empty(tuple(port.shape), port.element_type.to_dtype()))
                request.set_tensor(port, _shared(tensor))
                self._crossing |= dict.fromkeys(port.names, tensor)
            operands = {name: self._crossing.pop(name) for name in _OPERANDS}
            takers = []
            for later in [*earlier[i + 1 :], self._last]:
                for port in later.model_inputs:
                    for name in port.names & self._crossing.keys():
                        later.set_tensor(port, _shared(self._crossing[name]))
                    if f"sums{i}" in port.names:
                        takers.append((later, port))
            number = takers[0][1].shape[0]
            operands |= {name: operands[name].view(number, -1) for name in ("rows", "factors")}
            self._steps.append((request, operands, takers))

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run the network: inputs, float32 and contiguous, as pixels (B, H, W, 3) -> new float32 tensors."""
        first = self._steps[0][0] if self._steps else self._last
        for i, tensor in enumerate(inputs):
            first.set_input_tensor(i, _shared(tensor))
        held = []  # until all parts have run
        for request, bag, takers in self._steps:
            request.infer()
            sums = F.embedding_bag(bag["rows"], bag["table"], per_sample_weights=bag["factors"], mode="sum")
            for taker, port in takers:
                taker.set_tensor(port, _shared(sums))
            held.append(sums)
        results = tuple(torch.empty(tuple(port.shape)) for port in self._last.model_outputs)
        for i, result in enumerate(results):
            self._last.set_output_tensor(i, _shared(result))
        self._last.infer()
        return results


def _shared(tensor: Tensor) -> openvino.Tensor:
    """Return an OpenVINO tensor of the same memory, which the caller keeps alive."""
    return openvino.Tensor(tensor.numpy(), shared_memory=True)
