"""TensorRT engines, built from ONNX files. Written for TensorRT 10's API; no test runs it without a GPU."""

from __future__ import annotations

import shlex
from pathlib import Path

import torch

from m2f_ros import cache
from m2f_ros.errors import ConfigError

MOST_BATCH = 8  # images of the largest batch of an engine


def line(onnx: str, name: str, shape: str) -> str:
    """Return the command line of TensorRT's own program for an ONNX file, as a shell reads it.

    name: name of the input. shape: its dimensions without the batch, such as 3x480x672.
    """
    shapes = [
        f"--{which}Shapes={name}:{batch}x{shape}" for which, batch in (("min", 1), ("opt", 1), ("max", MOST_BATCH))
    ]
    engine = onnx.removesuffix(".onnx") + ".engine"
    return shlex.join(["trtexec", f"--onnx={onnx}", f"--saveEngine={engine}", "--stronglyTyped", *shapes])


def build(onnx: Path, to: Path, device: torch.device) -> None:
    """Build an engine for this GPU, in minutes; the timing cache in the user's cache folder shortens the next time.

    All types are those of the ONNX file: coordinates stay in float32.

    Raises:
        ConfigError: TensorRT refuses the network.
    """
    import tensorrt

    from m2f_ros.pipeline.backends.tensorrt import describe_device

    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    tensorrt.init_libnvinfer_plugins(logger, "")
    with torch.cuda.device(device):
        builder = tensorrt.Builder(logger)
        network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = tensorrt.OnnxParser(network, logger)
        if not parser.parse_from_file(str(onnx)):
            reasons = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
            raise ConfigError(f"TensorRT {tensorrt.__version__} refuses the network ({reasons[:300]})")
        config, profile = builder.create_builder_config(), builder.create_optimization_profile()
        for i in range(network.num_inputs):
            given = network.get_input(i)
            shapes = [(batch, *tuple(given.shape)[1:]) for batch in (1, 1, MOST_BATCH)]
            profile.set_shape(given.name, *shapes)
        config.add_optimization_profile(profile)
        named = f"{describe_device(device)}-{tensorrt.__version__}".replace(" ", "_").replace(",", "")
        kept = cache.cache_folder("tensorrt") / f"{named}.timing"
        # The digest of `cache` guards it: TensorRT itself trusts the bytes.
        (before,) = cache.read(kept) or [b""]
        timing = config.create_timing_cache(before)
        config.set_timing_cache(timing, ignore_mismatch=False)
        engine = builder.build_serialized_network(network, config)
        if engine is None:
            raise ConfigError(f"TensorRT {tensorrt.__version__} cannot build the network on {device}")
        cache.write(kept, [bytes(timing.serialize())])
    to.write_bytes(bytes(engine))
