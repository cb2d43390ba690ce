"""The network compiled by torch.compile: with the kernels, captured, and with the labels of the eager one."""

import pytest
import torch

from m2f_ros.model import load
from m2f_ros.pipeline.backends import make_backend

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
ALL = frozenset({"label", "overlay", "confidence"})


def test_the_compiled_graph_has_the_kernels(small_model, monkeypatch) -> None:
    from torch._dynamo.backends.common import aot_autograd
    from torch._higher_order_ops import triton_kernel_wrap

    compile, graphs, warnings = torch.compile, [], []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiler = aot_autograd(fw_compiler=keep)
    monkeypatch.setattr(torch, "compile", lambda model, **options: compile(model, backend=compiler, **options))
    # A kernel that it cannot analyse is taken to write all its arguments, which costs copies.
    monkeypatch.setattr(triton_kernel_wrap.log, "warning", lambda *of, **options: warnings.append(of))
    backend = make_backend("compile", load(small_model).to("cuda"), "fp16")
    backend.build((96, 160))
    (graph,) = graphs
    indices = [node.kwargs["kernel_idx"] for node in graph.graph.nodes if "kernel_idx" in node.kwargs]
    table = triton_kernel_wrap.kernel_side_table
    assert {"_window_attention", "_deformable_attention"} <= {table.get_kernel(i).fn.__name__ for i in indices}
    assert not warnings


@pytest.mark.slow
def test_compiled_frames_are_captured_and_the_same(pipeline, street, same) -> None:
    compiled, eager = pipeline(backend="compile", slots=2), pipeline(graphs=False)
    for frame in street(6):
        same(compiled.segment(frame, ALL), eager.segment(frame, ALL), part=0.01)
    assert compiled.counters == {"captures": 2, "evictions": 0, "fallbacks": 0}
