"""Checkpoints of strangers: a network or a CheckpointError of one line, whatever is in the files."""

import json
import os
import resource
import shutil
import tempfile
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from m2f_ros.errors import CheckpointError
from m2f_ros.model import Mask2Former, ModelConfig, SwinConfig, build, load, save

CONFIG, IMAGES, WEIGHTS, BIN = "config.json", "preprocessor_config.json", "model.safetensors", "pytorch_model.bin"
INDEX = f"{WEIGHTS}.index.json"
BIAS = "class_predictor.bias"
ZEROS = torch.zeros(1 << 16)
# Examples that hypothesis tries, in every run of the tests and in the long one.
EXAMPLES = pytest.mark.parametrize("examples", [15, pytest.param(500, marks=pytest.mark.slow)])
SHAPE = dict(hidden_dim=32, heads=2, encoder_layers=1, encoder_ffn=16, decoder_layers=1, decoder_ffn=16, num_queries=3)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    save(build(ModelConfig(SwinConfig(8, (1, 1, 1, 1), (1, 1, 1, 1), window_size=2), ("road", "car"), **SHAPE)), folder)
    return folder


@pytest.fixture
def folder(good, tmp_path):
    return shutil.copytree(good, tmp_path / "model")


def try_to_load(folder):
    """The message of the error, or "" for a network."""
    try:
        assert isinstance(load(folder), Mask2Former)
    except CheckpointError as error:
        message = str(error)
        assert message
        assert "\n" not in message
        assert len(message) < 2100
        return message
    return ""


def write(folder, file, content):
    path = folder / file
    path.unlink(missing_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def parts_of(folder):
    """Header and data of the file of weights."""
    content = (folder / WEIGHTS).read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def with_header(folder, header, data, length=None):
    text = json.dumps(header).encode()
    write(folder, WEIGHTS, (len(text) if length is None else length).to_bytes(8, "little") + text + data)


NUMBERS = st.integers(-(10**10), 10**10) | st.sampled_from([0, 1, 2, 10**6, 2**63, 10**30]) | st.floats()
ANY = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=8) | st.just("x" * 5000),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
OTHER_KEYS = [
    "num_labels",
    "hidden_size",
    "num_hidden_layers",
    "backbone",
    "pre_norm",
    "feature_strides",
    "pruned_heads",
]


@EXAMPLES
def test_any_value_of_any_key_of_the_json_files(good, examples):
    @settings(max_examples=examples, deadline=None)
    @given(st.data())
    def check(data):
        file = data.draw(st.sampled_from([CONFIG, CONFIG, IMAGES]))
        content = json.loads((good / file).read_text())
        target = content["backbone_config"] if file == CONFIG and data.draw(st.booleans()) else content
        key = data.draw(st.sampled_from([*target, *OTHER_KEYS]))
        if data.draw(st.integers(0, 9)):
            target[key] = data.draw(ANY)
        else:
            target.pop(key, None)
        with tempfile.TemporaryDirectory() as name:
            folder = shutil.copytree(good, Path(name) / "model")
            write(folder, file, content)
            try_to_load(folder)

    check()


@EXAMPLES
def test_any_header_and_any_byte_of_the_weights(good, examples):
    @settings(max_examples=examples, deadline=None)
    @given(st.data())
    def check(data):
        with tempfile.TemporaryDirectory() as name:
            folder = shutil.copytree(good, Path(name) / "model")
            header, values = parts_of(folder)
            if data.draw(st.booleans()):
                row = header[data.draw(st.sampled_from([key for key in header if key != "__metadata__"]))]
                row[data.draw(st.sampled_from(["dtype", "shape", "data_offsets"]))] = data.draw(
                    st.sampled_from(["F64", "F16", "F8_E4M3", "F4", "C64", "BOOL"])
                    | st.lists(NUMBERS, max_size=4)
                    | ANY
                )
                with_header(folder, header, values)
            else:
                content = bytearray((folder / WEIGHTS).read_bytes())
                for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=5)):
                    content[place] = data.draw(st.integers(0, 255))
                write(folder, WEIGHTS, bytes(content))
            try_to_load(folder)

    check()


@EXAMPLES
def test_any_byte_of_a_pickle(good, examples):
    @settings(max_examples=examples, deadline=None)
    @given(st.data())
    def check(data):
        with tempfile.TemporaryDirectory() as name:
            folder = shutil.copytree(good, Path(name) / "model")
            torch.save(load_file(folder / WEIGHTS), folder / BIN)
            (folder / WEIGHTS).unlink()
            content = bytearray((folder / BIN).read_bytes())
            for place in data.draw(st.lists(st.integers(0, 20000) | st.integers(-5000, -1), min_size=1, max_size=5)):
                content[place] = data.draw(st.integers(0, 255))
            write(folder, BIN, bytes(content))
            try_to_load(folder)

    check()


def config(**changes):
    def change(folder):
        content = json.loads((folder / CONFIG).read_text())
        backbone = {key[5:]: changes.pop(key) for key in list(changes) if key.startswith("swin_")}
        content["backbone_config"] |= backbone
        content = {key: value for key, value in (content | changes).items() if value is not ...}
        write(folder, CONFIG, content)

    return change


def images(**changes):
    return lambda folder: write(folder, IMAGES, json.loads((folder / IMAGES).read_text()) | changes)


def head(length=None, **row):
    def change(folder):
        header, data = parts_of(folder)
        header[BIAS] |= row
        with_header(folder, header, data, length)

    return change


def pickled(change):
    def rewrite(folder):
        torch.save(change(load_file(folder / WEIGHTS)), folder / BIN)
        (folder / WEIGHTS).unlink()

    return rewrite


def bomb(folder):
    """Parts that are compressed: 100 MB in 0.1 MB."""
    pickled(lambda state: state)(folder)
    with zipfile.ZipFile(folder / BIN, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("a/data/999", "w") as part:
        for _ in range(10):
            part.write(bytes(10**7))


def instead(file, make):
    def change(folder):
        (folder / file).unlink()
        make(folder / file)

    return change


def sparse(path):
    with path.open("wb") as file:
        file.truncate(1 << 40)


def shards(names, make=lambda folder: None):
    def change(folder):
        (folder / WEIGHTS).rename(folder / "a.safetensors")
        write(folder, INDEX, {"weight_map": {str(i): name for i, name in enumerate(names)}})
        make(folder)

    return change


HOSTILE = {
    "a million layers": (config(encoder_layers=10**6), "encoder_layers is 1000000; it must be a whole number from 1"),
    "a million blocks": (config(swin_depths=[1, 1, 10**6, 1]), "depths is .* 4 whole numbers from 1 to 64"),
    "more layers than there are": (config(decoder_layers=60), "lacks .* weights"),
    "more queries than there are": (config(num_queries=4096), "has shape .* config.json asks for"),
    "window of a billion": (config(swin_window_size=10**9), "window_size is 1000000000; it must be .* from 1 to 32"),
    "true for a number": (config(swin_depths=[True] * 4), "4 whole numbers"),
    "heads that do not divide": (config(swin_num_heads=[3, 1, 1, 1]), "each must divide its stage's channels"),
    "infinite": (config(swin_mlp_ratio=float("inf")), "holds Infinity"),
    "MLP of nothing": (config(swin_mlp_ratio=1e-9), "of 8 channels it leaves none"),
    "a billion classes": (config(id2label=..., label2id=..., num_labels=10**9), "at most 65535 fit"),
    "many names": (config(id2label={str(i): "a" for i in range(10**5)}), "at most 65535 fit"),
    "class names with gaps": (config(id2label={"0": "a", "2": "b"}), "has the ids 0 to 2 for 2 classes"),
    "a class name that moves the cursor": (config(id2label={"0": "\x1b[2J", "1": "b"}), "has control characters"),
    "a long id": (config(label2id={"a": "9" * 5000}), ""),
    "pixels": (config(min_pixels=10**9), "min_pixels is 1000000000; it must be"),
    "an empty list for pixels": (config(max_pixels=[]), "max_pixels is .*; it must be"),
    "depth": (lambda folder: write(folder, CONFIG, b"[" * 10**6), "deeper than 64"),
    "std 0": (images(image_std=[0, 1, 1]), "image_std must be above 0"),
    "mean below 0": (images(image_mean=[-1, 0, 0]), "means must be 0 to 255"),
    "factor of nothing": (images(rescale_factor=1e-320), "rescale_factor is"),
    "a size of a billion": (
        images(do_resize=True, size={"height": 10**9, "width": 10**9}),
        "whole numbers from 1 to 8192",
    ),
    "a header of 2^60 bytes": (head(length=1 << 60), "its header says that it has 1152921504606846976 bytes"),
    "a header that is the file": (head(length=10**5), "is damaged or truncated"),
    "a shape of 10^9": (head(shape=[10**9]), "is damaged or truncated"),
    "offsets that overlap": (head(data_offsets=[4, 16]), "is damaged or truncated"),
    "an unknown dtype": (head(dtype="X"), "is damaged or truncated"),
    "a compressed archive": (bomb, "the archive is compressed"),
    "an expanded tensor": (pickled(lambda s: s | {BIAS: torch.zeros(1).expand(10**12)}), "has fewer numbers"),
    "one memory for all": (
        pickled(lambda s: {key: ZEROS[: v.numel()].view(v.shape) for key, v in s.items()}),
        "",
    ),
    "sparse": (pickled(lambda s: s | {BIAS: torch.zeros(3).to_sparse()}), "sparse, quantised or empty"),
    "nested": (pickled(lambda s: s | {BIAS: torch.nested.nested_tensor([torch.zeros(3)])}), "sparse, quantised or"),
    "without values": (pickled(lambda s: s | {BIAS: torch.zeros(3, device="meta")}), "sparse, quantised or empty"),
    "parameters": (pickled(lambda s: {key: torch.nn.Parameter(value) for key, value in s.items()}), ""),
    "a double beyond floats": (
        pickled(lambda s: s | {BIAS: torch.full((3,), 1e300, dtype=torch.float64)}),
        "holds NaN or infinite values",
    ),
    "uneven parts": (
        pickled(
            lambda s: {
                key: torch.cat([v, v[:1]]) if ".q_proj." in key else v[:-1] if ".k_proj." in key else v
                for key, v in s.items()
            }
        ),
        "q_proj.weight has shape",
    ),
    "a pipe": (instead(CONFIG, os.mkfifo), "is no regular file"),
    "a pipe for weights": (instead(WEIGHTS, os.mkfifo), "has no model.safetensors"),
    "a device": (instead(CONFIG, lambda path: path.symlink_to("/dev/zero")), "is no regular file"),
    "a terabyte": (instead(CONFIG, sparse), "is larger than the 16 MiB"),
    "a terabyte of weights": (instead(WEIGHTS, sparse), "is damaged or truncated"),
    "a loop": (instead(WEIGHTS, lambda path: path.symlink_to(path)), "has no model.safetensors"),
    "a shard above": (shards(["../a.safetensors"]), "is no index of shards"),
    "a shard elsewhere": (shards(["/tmp/a.safetensors"]), "is no index of shards"),
    "a shard of a zero byte": (shards(["a\0"]), "is no index of shards"),
    "a shard of half a character": (shards(["\ud800"]), "is no index of shards"),
    "the folder above": (shards([".."]), "link out of its folder|is missing"),
    "many shards": (shards(f"{i}" for i in range(2000)), "names 2000 shards"),
    "a link out of the folder": (
        shards(["b.safetensors"], lambda folder: (folder / "b.safetensors").symlink_to("/etc/passwd")),
        "is a link out of its folder, to /etc/passwd",
    ),
    "a link inside": (
        shards(["b.safetensors"], lambda folder: (folder / "b.safetensors").symlink_to("a.safetensors")),
        "",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("change", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_checkpoints(folder, change, message):
    """Without a message the network is loaded. All together take less than 1 GB more than the libraries."""
    change(folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = try_to_load(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20
    if message:
        with pytest.raises(AssertionError, match=message):
            raise AssertionError(found)
    else:
        assert not found


def test_the_hub_s_cache_of_links_is_read(good, tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0123"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for i, path in enumerate(good.iterdir()):
        shutil.copy(path, blobs / str(i))
        name = "a.safetensors" if path.name == WEIGHTS else path.name
        (snapshot / name).symlink_to(f"../../blobs/{i}")
    write(blobs, "index", {"weight_map": {"a": "a.safetensors"}})
    (snapshot / INDEX).symlink_to("../../blobs/index")
    assert not try_to_load(snapshot)


def test_links_as_colcon_installs_them_are_read(good, tmp_path):
    source, share = tmp_path / "source", tmp_path / "share"
    shutil.copytree(good, source)
    (source / WEIGHTS).rename(source / "a.safetensors")
    write(source, INDEX, {"weight_map": {"a": "a.safetensors"}})
    share.mkdir()
    for path in source.iterdir():
        (share / path.name).symlink_to(path)
    assert not try_to_load(share)


def test_what_editors_of_windows_write(folder):
    for file in (CONFIG, IMAGES):
        write(folder, file, b"\xef\xbb\xbf" + (folder / file).read_bytes().replace(b"\n", b"\r\n"))
    assert not try_to_load(folder)


@pytest.mark.parametrize("name", ["a\0", "x" * 5000, "~nobody-of-that-name/x", "x" * 300 + "/" + "y" * 300, "\ud800"])
def test_what_is_no_name(name):
    with pytest.raises(CheckpointError, match="neither a folder, nor a shipped model"):
        load(name)
