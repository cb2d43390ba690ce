"""Labels with float8 products, which a CPU emulates."""

import numpy as np
import pytest
import torch

from m2f_ros import taxonomy
from m2f_ros.errors import ConfigError
from m2f_ros.model import load
from m2f_ros.model.float8 import Float8Linear
from m2f_ros.pipeline import Frame, Pipeline
from m2f_ros.pipeline.backends import make_backend
from m2f_ros.pipeline.device import choose_precision
from m2f_ros.street import Street

CUDA = torch.device("cuda", 0)


@pytest.mark.heavy
def test_labels_of_the_shipped_model_hold() -> None:
    exact, quantised = load("street"), load("street")
    quantised.use_float8()
    assert sum(isinstance(module, Float8Linear) for module in quantised.modules()) == 4
    pipes = [Pipeline(model, taxonomy.get("cityscapes"), device="cpu", backend="eager") for model in (exact, quantised)]
    scene = Street(2004, 480, 352)
    for i in range(3):
        frame = Frame(np.ascontiguousarray(scene.frame(40 * i).image), "rgb8")
        wanted, found = (pipe.segment(frame, {"label"}).label for pipe in pipes)
        assert 0.995 <= (found == wanted).mean() < 1


@pytest.mark.parametrize("capability, fits", [((8, 6), False), ((8, 7), False), ((8, 9), True), ((9, 0), True)])
def test_only_some_gpus_have_float8(monkeypatch, capability, fits) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "RTX 3090")
    if fits:
        assert choose_precision("fp8", CUDA) == "fp8"
    else:
        with pytest.raises(ConfigError, match="RTX 3090 lacks it; take fp16"):
            choose_precision("fp8", CUDA)


def test_a_network_without_such_layers_is_refused() -> None:
    class Other(torch.nn.Linear):
        def use_float8(self) -> None:
            from m2f_ros.model import Network

            Network.use_float8(self)  # type: ignore[arg-type]

    with pytest.raises(ConfigError, match="precision 'fp8': a Other has no layers for float8 products; take fp16"):
        make_backend("eager", Other(1, 1), "fp8")  # type: ignore[arg-type]
