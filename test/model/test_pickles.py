"""Pickles of strangers that torch's unpickler would work on for ever, or die of."""

import pickle
import zipfile
from collections import OrderedDict

import pytest
import torch

from m2f_ros.model import pickles
from m2f_ros.model.pickles import load_pickle

NODES = 50_000  # fewer than the package takes, in less time
BEGIN, EMPTY_DICT, EMPTY_TUPLE, EMPTY_LIST, ONE = b"\x80\x02", b"}", b")", b"]", b"K\x01"
# Each of the one before, twice.
TUPLES = b"".join(b"q%ch%c\x86" % (i, i) for i in range(60))
LISTS = b"".join(b"q%c]h%cah%ca" % (i, i, i) for i in range(60))
# Multiples of 2^61 - 1 all have the hash 0.
NUMBERS = b"".join(b"\x8a\x0a%b" % (((1 << 61) - 1) * i << 8).to_bytes(10, "little") + ONE for i in range(1, 1000))
STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n%bX\x03\x00\x00\x00cpu%btQ"
BAD = {
    "a key whose hash takes for ever": (EMPTY_DICT + EMPTY_TUPLE + TUPLES + ONE + b"s", "comes to more than"),
    "a tuple deeper than the stack": (EMPTY_DICT + EMPTY_TUPLE + b"\x85" * 10**6 + ONE + b"s", "deeper than"),
    "a tuple for a key": (EMPTY_DICT + EMPTY_TUPLE + ONE + b"s", "a key that is no text"),
    "tuples for keys": (EMPTY_DICT + b"(" + EMPTY_TUPLE + ONE + b"u", "a key that is no text"),
    "keys of one hash": (EMPTY_DICT + b"(" + NUMBERS + b"u", "a key that is no text"),
    "a set of tuples": (b"c__builtin__\nset\n]" + EMPTY_TUPLE + b"a\x85R", "a set that is not empty"),
    "a billion laughs": (EMPTY_LIST + LISTS, "comes to more than"),
    "a list in itself": (b"]q\x00h\x00a", "holds itself"),
    "many values": (b"(" + ONE * NODES + b"t", "comes to more than"),
    "a storage named by a tuple": (STORAGE % (EMPTY_TUPLE, ONE), "a storage whose name"),
    "a mark that is missing": (ONE + b"t", "a value is missing"),
    "a value that is missing": (ONE + b"\x86", "a value is missing"),
    "a value below a mark": (ONE + b"(\x85", "a value is missing"),
    "nothing to note": (b"q\x00", "a value is missing"),
    "nothing noted": (b"h\x00", "a value is missing"),
    "a file that is cut": (b"X\xff\x00\x00\x00a", "bytes in a"),
    "an instruction of its own": (b"cos\nsystem\n\x8c\x00\x85R", "weights_only"),
}


def archive(path, content):
    torch.save({}, path)
    with zipfile.ZipFile(path) as file:
        parts = {part.filename: file.read(part) for part in file.infolist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, old in parts.items():
            file.writestr(name, content if name.endswith("data.pkl") else old)


def plain(path, content):
    torch.save({}, path, _use_new_zipfile_serialization=False)
    with path.open("rb") as file:
        for _ in range(3):
            pickle.load(file)
        head = path.read_bytes()[: file.tell()]
    path.write_bytes(head + content)


@pytest.mark.parametrize("form", [archive, plain])
@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD)
def test_what_is_refused(tmp_path, monkeypatch, form, content, message):
    monkeypatch.setattr(pickles, "NODES", NODES)
    form(tmp_path / "file", BEGIN + content + b".")
    with pytest.raises(Exception, match=message):
        load_pickle(tmp_path / "file", "cpu")


def test_the_archive_s_pickle_is_found_as_torch_finds_it(tmp_path):
    """In any case of letters; and there is but one."""
    path = tmp_path / "file"
    for name in ("a/data.pkl", "a/DATA.PKL"):
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("a/version", "3\n")
            file.writestr(name, BEGIN + EMPTY_TUPLE + TUPLES + b".")
        with pytest.raises(ValueError, match="comes to more than"):
            load_pickle(path, "cpu")
    with zipfile.ZipFile(path, "w") as file:
        for name in ("a/data.pkl", "a/DATA.PKL"):
            file.writestr(name, BEGIN + EMPTY_DICT + b".")
    with pytest.raises(ValueError, match="holds 2 pickles"):
        load_pickle(path, "cpu")


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_saves_is_read(tmp_path, zipped):
    network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    optimiser = torch.optim.AdamW([{"params": [p], "lr": 0.1} for p in network.parameters()])
    network(torch.ones(4, 2)).sum().backward()
    optimiser.step()
    shared = [1, (2, "a")]
    plain = {"list": list(range(3000)), "shared": {"a": shared, 1: shared}, "none": None, "big": 1 << 200, 2.5: True}
    state = {
        "model": network.state_dict(),
        "parameters": OrderedDict(network.named_parameters()),
        "tied": {"a": network[0].weight, "b": network[0].weight},
        "half": torch.ones(2, dtype=torch.bfloat16),
        "optimiser": optimiser.state_dict(),
        "size": torch.Size([1, 2]),
        "dtype": torch.float16,
        "plain": plain,
    }
    torch.save(state, tmp_path / "file", _use_new_zipfile_serialization=zipped)
    found = load_pickle(tmp_path / "file", "cpu")
    assert found["plain"] == plain and found["dtype"] is torch.float16
    assert found["optimiser"]["param_groups"] == optimiser.state_dict()["param_groups"]
    assert all(torch.equal(value, found["model"][key]) for key, value in network.state_dict().items())
    assert found["tied"]["a"] is found["tied"]["b"]
