"""Small networks of transformers, one or more of each family."""

from __future__ import annotations

import ast
import importlib.util
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from m2f_ros.model import Instances, PixelLogits
from m2f_ros.model.adapters.huggingface import ROWS, TASKS, AdaptedConfig

LABELS = ("road", "car", "sky")
_RESNET = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
_RESNET |= {"layer_type": "basic", "out_features": ["stage1", "stage2", "stage3", "stage4"]}
_CONVNEXT = {"model_type": "convnext", "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
_CONVNEXT |= {"out_features": ["stage1", "stage2", "stage3", "stage4"]}
_SWIN = {"model_type": "swin", "embed_dim": 8, "depths": [1, 2, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 3}
_SWIN |= {"out_features": ["stage1", "stage2", "stage3", "stage4"], "image_size": 96}
_VIT = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 64}
_VIT |= {"patch_size": 8}
_MASKED = {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 32}
_MASKED |= {"encoder_layers": 1, "decoder_layers": 3, "num_attention_heads": 4, "dim_feedforward": 32, "num_queries": 5}
_DETR = {"model_type": "detr", "d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 4}
_DETR |= {"decoder_attention_heads": 4, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_queries": 5}
_DETR |= {"backbone_config": _RESNET}
_MASKFORMER = {"fpn_feature_size": 32, "mask_feature_size": 32, "decoder_config": _DETR}
_ONEFORMER = {"conv_dim": 32, "mask_dim": 32, "hidden_dim": 32, "encoder_feedforward_dim": 32, "encoder_layers": 1}
_ONEFORMER |= {"decoder_layers": 3, "num_attention_heads": 4, "dim_feedforward": 32, "num_queries": 6}
_ONEFORMER |= {"query_dec_layers": 1, "text_encoder_num_layers": 1, "text_encoder_width": 32, "common_stride": 4}
_DINOV3 = {"num_register_tokens": 1, "num_blocks": 2, "num_queries": 5}
_DINOV2 = {"model_type": "rf_detr_dinov2", "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
_DINOV2 |= {"image_size": 64, "patch_size": 8, "num_windows": 2, "mlp_ratio": 2, "out_features": ["stage2", "stage4"]}
_RF_DETR = {"d_model": 32, "decoder_layers": 2, "decoder_ffn_dim": 32, "decoder_self_attention_heads": 2}
_RF_DETR |= {"decoder_cross_attention_heads": 4, "decoder_n_points": 2, "num_queries": 6, "group_detr": 2}
_RF_DETR |= {"intermediate_size": 32, "c2f_num_blocks": 1, "backbone_config": _DINOV2}
# Name, which begins with the family's -> the keys of config.json that make it small.
SHAPES: dict[str, dict] = {
    "segformer": {
        "hidden_sizes": [8, 8, 16, 16],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 1, 2, 2],
        "decoder_hidden_size": 16,
    },
    "upernet, convnext": {"hidden_size": 16, "use_auxiliary_head": False, "backbone_config": _CONVNEXT},
    "upernet, swin": {
        "hidden_size": 16,
        "auxiliary_channels": 8,
        "auxiliary_in_channels": 32,
        "backbone_config": _SWIN,
    },
    "beit": _VIT | {"out_indices": [1, 2, 3, 4], "use_relative_position_bias": True, "use_auxiliary_head": False},
    "dpt": _VIT
    | {
        "patch_size": 16,
        "backbone_out_indices": [0, 1, 2, 3],
        "neck_hidden_sizes": [8, 8, 16, 16],
        "fusion_hidden_size": 16,
        "reassemble_factors": [4, 2, 1, 0.5],
        "use_auxiliary_head": False,
    },
    "mobilenet_v2": {"depth_multiplier": 0.25, "output_stride": 16, "depth_divisible_by": 4, "min_depth": 4},
    "mobilevit": {
        "hidden_sizes": [16, 16, 16],
        "neck_hidden_sizes": [4, 8, 8, 16, 16, 16, 32],
        "num_attention_heads": 2,
        "aspp_out_channels": 16,
        "output_stride": 16,
    },
    "mask2former, resnet": _MASKED | {"backbone_config": _RESNET},
    "mask2former, convnext": _MASKED | {"backbone_config": _CONVNEXT},
    "maskformer": _MASKFORMER | {"backbone_config": _RESNET},
    "oneformer": _ONEFORMER | {"backbone_config": _SWIN},
    "eomt": _VIT | {"num_upscale_blocks": 1, "num_blocks": 2, "num_queries": 5, "num_register_tokens": 1},
    "eomt_dinov3": _VIT | _DINOV3 | {"num_upscale_blocks": 1},
    "rf_detr": _RF_DETR,
    "videomt": {key: value for key, value in _VIT.items() if key != "intermediate_size"}
    | {"mlp_ratio": 2, "num_upscale_blocks": 1, "num_blocks": 2, "num_queries": 5, "num_register_tokens": 1},
}
SQUARE = ("beit", "dpt", "eomt", "eomt_dinov3", "rf_detr", "videomt")


def config(name: str, **more: object) -> AdaptedConfig:
    """Return the config of a small network of SHAPES; `more` are attributes of AdaptedConfig."""
    kind = name.partition(",")[0]
    row, shape = ROWS[kind], SHAPES[name]
    square = name in SQUARE
    stride = 64 if square else 16 if kind == "mobilenet_v2" else 32
    values: dict = {"bgr": kind == "mobilevit", "task": "semantic" if kind == "oneformer" else ""}
    values |= {"resize": ("only", stride, stride)} if square else {}
    values |= {"averaged": False} if name == "rf_detr" else {}
    text = json.dumps(shape | dict(row.fixed), sort_keys=True)
    return AdaptedConfig(kind, text, stride, LABELS, row.processor_type, **values | more)


CASES = {name: config(name) for name in SHAPES}
# make test has four of the families in full, .ci/run all.
MORE = SHAPES.keys() - {"segformer", "eomt", "rf_detr", "videomt"}


@torch.no_grad()
def theirs(name: str, **more: object) -> nn.Module:
    """Return transformers' own network, random, in eval mode; its labels vary over a picture.

    more: further keys of config.json.
    """
    import transformers

    torch.manual_seed(1)
    row = ROWS[name.partition(",")[0]]
    make = getattr(transformers, row.network)
    shape = SHAPES[name] | dict(row.fixed) | {"id2label": dict(enumerate(LABELS))} | more
    network = make(make.config_class(**shape)).eval()
    for parameter in network.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.05)
    named = dict(network.named_modules())
    if row.gives is PixelLogits:
        convolutions = [m for m in named.values() if isinstance(m, nn.Conv2d) and m.out_channels == len(LABELS)]
        _standardise(network, convolutions[-1], (0, 2, 3), 2)
        return network
    if row.gives is Instances:
        maps, embedding = named["spatial_features_proj"], named["query_features_proj"]
        classes, field = named["model.class_embed"], "pred_masks"
    else:
        maps = next(m for n, m in named.items() if n.endswith(("decoder.mask_projection", "layernorm2d")))
        classes = next(m for n, m in named.items() if n.endswith(("class_predictor", "decoder.class_embed")))
        *_, embedding = (
            m for n, m in named.items() if isinstance(m, nn.Linear) and ("mask_embed" in n or "mask_head" in n)
        )
        field = "masks_queries_logits"
    _standardise(network, maps, (0, 2, 3), 4)
    _standardise(network, embedding, (0, 1), 1)
    masks = run(network, _picture())[field]
    for parameter in maps.parameters():
        parameter.mul_(4 / masks.std())
    _standardise(network, classes, (0, 1), 4)
    return network


def _picture() -> Tensor:
    patches = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    return patches.repeat_interleave(16, 2).repeat_interleave(16, 3)


def _standardise(network: nn.Module, last: nn.Module, axes: tuple[int, ...], deviation: float) -> None:
    """Give the output of a linear module a mean of 0 and a deviation over a picture."""
    seen = []
    hook = last.register_forward_hook(lambda module, inputs, output: seen.append(output))
    run(network, _picture())
    hook.remove()
    factor = deviation / (seen[-1].std(axes) + 1e-6)
    last.weight.mul_(factor.view(-1, *[1] * (last.weight.dim() - 1)))
    bias = 0 if last.bias is None else last.bias
    last.bias = nn.Parameter((bias - seen[-1].mean(axes)) * factor)


@torch.no_grad()
def run(network: nn.Module, pixels: Tensor, task: str = "semantic"):
    """Return transformers' output for normalised pixels."""
    more = {}
    if hasattr(network.config, "task_seq_len"):
        tokens = torch.zeros(len(pixels), network.config.task_seq_len)
        tokens[:, : len(TASKS[task])] = torch.tensor(TASKS[task], dtype=torch.float32)
        more = {"task_inputs": tokens}
    if network.config.model_type == "videomt":
        outputs = network(pixel_values_videos=pixels[:, None])  # clips of one frame
        outputs.patch_offsets = None  # which EoMT's processor asks for
        return outputs
    return network(pixel_values=pixels, **more)


def picture(height: int, width: int) -> np.ndarray:
    """Return (height, width, 3) uint8 blocks of random colour."""
    blocks = np.random.default_rng(3).integers(0, 256, (height // 9 + 1, width // 9 + 1, 3), np.uint8)
    return np.ascontiguousarray(blocks.repeat(9, 0).repeat(9, 1)[:height, :width])


def processor(name: str, folder: Path, **options: object):
    """Return transformers' own image processor, which resizes to 64 x 64 or 64 x 96."""
    import transformers

    row = ROWS[name.partition(",")[0]]
    size = {"height": 64, "width": 64 if name in SQUARE else 96}
    if name == "rf_detr":
        return RfDetrProcessor(**{"do_resize": True, "size": size} | options)
    if row.processor == "OneFormer":
        classes = {str(i): {"name": x, "isthing": 0} for i, x in enumerate(LABELS)}
        (folder / "classes.json").write_text(json.dumps(classes))
        options = {"repo_path": str(folder), "class_info_file": "classes.json"} | options
    if row.processor in ("MobileNetV2", "MobileViT"):
        options = {"do_center_crop": False} | options
    # VidEoMT's own needs torchvision, and has the keys and steps of EoMT's for one frame.
    kind = "Eomt" if row.video else row.processor
    return getattr(transformers, f"{kind}ImageProcessorPil")(**{"do_resize": True, "size": size} | options)


class RfDetrProcessor:
    """Stands for transformers' RfDetrImageProcessor, whose module needs torchvision: its own post-processing, from its
    source; its pixels, by its steps.
    """

    def __init__(self, **options):
        self.size = options["size"]
        self._file = {"image_processor_type": "RfDetrImageProcessor"} | options
        spec = importlib.util.find_spec("transformers")
        text = Path(spec.origin).parent.joinpath("models/rf_detr/image_processing_rf_detr.py").read_text()
        (kind,) = (x for x in ast.parse(text).body if isinstance(x, ast.ClassDef) and x.name == "RfDetrImageProcessor")
        (found,) = (x for x in kind.body if getattr(x, "name", "") == "post_process_instance_segmentation")
        names: dict = {"torch": torch, "F": F}
        exec("from __future__ import annotations\n" + ast.unparse(found), names)
        self._instances = names[found.name]

    def save_pretrained(self, folder: Path) -> None:
        Path(folder, "preprocessor_config.json").write_text(json.dumps(self._file))

    def __call__(self, images: np.ndarray, **more: object) -> dict:
        pixels = torch.from_numpy(images).permute(2, 0, 1)[None] * (1 / 255)
        size = (self.size["height"], self.size["width"])
        pixels = F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=False)
        mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        return {"pixel_values": (pixels - mean) / std}

    def post_process_instance_segmentation(self, outputs, **options):
        return self._instances(self, outputs, **options)

    def post_process_semantic_segmentation(self, outputs, target_sizes):
        """Classes of the library's instances at the node's default threshold; 255 without one."""
        labels = []
        for found in self.post_process_instance_segmentation(outputs, threshold=0.8, target_sizes=target_sizes):
            table = torch.full((len(found["segments_info"]) + 2,), 255)
            for segment in found["segments_info"]:
                table[segment["id"]] = segment["label_id"]
            labels.append(table[found["segmentation"].long()])  # -1, no instance, is the last entry
        return labels


def write(name: str, folder: Path, **options: object):
    """Write a checkpoint as transformers does. Return its network and its image processor."""
    network, process = theirs(name), processor(name, folder, **options)
    network.save_pretrained(folder)
    process.save_pretrained(folder)
    if ROWS[name.partition(",")[0]].video:
        keys = json.loads((folder / "preprocessor_config.json").read_text())
        del keys["image_processor_type"]
        (folder / "preprocessor_config.json").unlink()
        keys["video_processor_type"] = "VideomtVideoProcessor"
        (folder / "video_preprocessor_config.json").write_text(json.dumps(keys))
    return network, process
