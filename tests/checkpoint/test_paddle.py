"""Files of PaddlePaddle: read without running anything, converted exactly."""

import json
import os
import pickle
import pickletools
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from focal_mm import FocalTransformer
from focal_mm.checkpoint import (
    CheckpointError,
    convert_paddle,
    convert_released,
    from_released_args,
    read_checkpoint,
)
from focal_mm.checkpoint.layouts import to_openmmlab
from focal_mm.checkpoint.read import state_dict_of

CONFORMANCE = Path(__file__).parents[1] / "conformance"


def as_paddle(state, *, tables_too=True):
    """Released weights as the ports have them: parameters of two axes transposed."""
    return {
        name: np.ascontiguousarray(value.T)
        if value.ndim == 2 and (tables_too or name.endswith(".weight"))
        else value
        for name, value in state.items()
    }


def written_with(numpy_core, pickled):
    """The pickle as the NumPy that has ``core`` or ``_core`` writes it."""
    parts = []
    ends = [position for _, _, position in pickletools.genops(pickled)][1:]
    operations = zip(pickletools.genops(pickled), [*ends, len(pickled)], strict=True)
    for (opcode, value, start), end in operations:
        part = pickled[start:end]
        if isinstance(value, str) and re.match(r"numpy\._?core\.", value):
            value = re.sub(r"^numpy\._?core", f"numpy.{numpy_core}", value)
            if opcode.name == "GLOBAL":
                part = b"c%b\n" % value.replace(" ", "\n").encode()
            else:
                part = b"\x8c%c%b" % (len(value), value.encode())
        if opcode.name != "FRAME":
            parts.append(part)
    return b"".join(parts)


@pytest.fixture
def released_stage():
    """Case, weights under the released names and data of a stage with its head."""
    case = "v1_224"
    with np.load(CONFORMANCE / "subset.npz") as data:
        arrays = {k.removeprefix(f"{case}/"): data[k] for k in data if case in k}
    state = {k[3:]: v for k, v in arrays.items() if k.startswith("sd/")}
    io = {k[3:]: torch.from_numpy(v) for k, v in arrays.items() if k[:3] == "io/"}
    return (
        json.loads((CONFORMANCE / "subset.json").read_text())["cases"][case],
        state,
        io,
    )


@pytest.mark.parametrize("numpy_core", ["core", "_core"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_port_computes_what_the_released_model_computes(
    protocol, numpy_core, released_stage, tmp_path, relative_error
):
    case, state, io = released_stage
    ported = as_paddle(state)
    ported["layers.3.blocks.0.attn.relative_position_index"] = np.arange(4)
    ported["StructuredToParameterName@@"] = dict.fromkeys(state, "linear_0.w_0")
    path = tmp_path / "focal.pdparams"
    path.write_bytes(written_with(numpy_core, pickle.dumps(ported, protocol)))

    converted = to_openmmlab(state_dict_of(read_checkpoint(path), str(path)))
    config = from_released_args(case["kwargs"], img_size=case["img_size"])
    config.pop("type")
    model = FocalTransformer(**config)
    for name, value in converted.items():
        if name.startswith("backbone."):
            model.get_parameter(name.removeprefix("backbone.")).data.copy_(value)
    out, _ = model.stages[3](model.stages[2].downsample(io["stage2"]))
    assert relative_error(out.permute(0, 3, 1, 2), io["stage3"]) < 1e-5
    pooled = model.norm3(out).mean((1, 2))
    logits = torch.nn.functional.linear(
        pooled, converted["head.fc.weight"], converted["head.fc.bias"]
    )
    assert relative_error(logits, io["logits"]) < 1e-5


@pytest.mark.parametrize("tables_too", [True, False])
def test_tables_are_known_by_their_shape(tables_too, released_stage):
    _, state, _ = released_stage
    expected = convert_released(state)
    converted = convert_paddle(as_paddle(state, tables_too=tables_too))
    assert list(converted) == list(expected)
    for name, value in expected.items():
        assert np.array_equal(converted[name].numpy(), value), name


def released_names(backbone):
    return {
        name.replace("stages.", "layers.", 1).replace("norm3.", "norm.", 1): value
        for name, value in backbone.state_dict().items()
    }


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("overlap", [False, True])
def test_backbone_starts_from_a_file_as_it_is(
    overlap, nested, small_backbone, tmp_path
):
    """Nested containers, as of a training run, have their tensors as called tuples."""
    options = dict(out_indices=(3,), use_conv_embed=overlap)
    source = small_backbone(**options)
    ported = as_paddle({k: v.numpy() for k, v in released_names(source).items()})
    if nested:
        ported = dict(
            model={k: Call(tuple, (k, v)) for k, v in ported.items()}, epoch=3
        )
    path = tmp_path / "focal.pdparams"
    path.write_bytes(pickle.dumps(ported, 4))
    model = small_backbone(
        **options, init_cfg=dict(type="Pretrained", checkpoint=str(path))
    )
    model.init_weights()
    for name, value in source.state_dict().items():
        assert model.state_dict()[name].equal(value), name


def test_slices_of_large_arrays_are_joined(tmp_path):
    """As Paddle cuts arrays of more than 1 GiB with protocols 2 and 3."""
    path = tmp_path / "sliced.pdparams"
    entries = {
        "bias": np.ones(2, np.float32),
        "weight@@.0": np.arange(4.0),
        "weight@@.1": np.arange(4.0, 6.0),
        "UnpackBigParamInfor@@": {
            "weight": dict(OriginShape=(2, 3), slices=["weight@@.0", "weight@@.1"])
        },
    }
    path.write_bytes(pickle.dumps(entries, 2))
    loaded = read_checkpoint(path)
    assert set(loaded) == {"bias", "weight"}
    assert loaded["weight"].equal(torch.arange(6.0).double().view(2, 3))


@pytest.mark.parametrize(
    "array",
    [
        np.asfortranarray(np.arange(6, dtype=np.float16).reshape(2, 3)),
        np.arange(10, dtype=np.int64)[::2],
        np.array(3.0, np.float32),
        np.zeros((0, 3), np.uint8),
        np.array([True, False]),
    ],
)
@pytest.mark.parametrize("protocol", [2, 5])
def test_arrays_of_all_forms(array, protocol, tmp_path):
    path = tmp_path / "array.pdparams"
    path.write_bytes(pickle.dumps(dict(array=array, step=np.float32(1.5)), protocol))
    loaded = read_checkpoint(path)
    assert loaded["array"].numpy().dtype == array.dtype
    assert np.array_equal(loaded["array"].numpy(), array)
    assert loaded["step"] == 1.5


class Call:
    """Pickled as a call, and what state the result is given."""

    def __init__(self, function, *args, state=None):
        self.call = function, args, state

    def __reduce__(self):
        return self.call


EMPTY = np.empty(0, np.float32).__reduce__()
"""How NumPy pickles an array: a function, its arguments, and the state."""

RUN = (os.system, "touch executed")
HOSTILE = {
    "command": Call(*RUN),
    "attributes": Call(getattr, Call(__import__, "os"), "system"),
    "evaluated": Call(eval, "__import__('os').system('touch executed')"),
    "in an object array": np.array([Call(*RUN)], dtype=object),
    "in a field of a dtype": np.array([(1, Call(*RUN))], dtype="f4,O"),
    "dtype of objects": Call(np.dtype, "O"),
    "dtype of other bytes": np.ones(2, ">f4"),
    "array of strings": np.array(["a"]),
    "huge shape": Call(
        *EMPTY[:2], state=(1, (2**40, 2**40), np.dtype("f4"), False, b"")
    ),
    "negative shape": Call(
        *EMPTY[:2], state=(1, (-1, -4), np.dtype("i1"), False, b"abcd")
    ),
    "shape of no integers": Call(
        *EMPTY[:2], state=(1, "4", np.dtype("i1"), False, b"abcd")
    ),
    "missing data": Call(*EMPTY[:2], state=(1, (4,), np.dtype("i1"), False, b"abc")),
    "state of no array": Call(*EMPTY[:2], state={"shape": (4,)}),
    "state of a dtype": Call(np.dtype, "f4", state=(3, "|", Call(*RUN))),
    "state of a function": Call(dict, state={"x": 1}),
    "set": {1, 2},
    "class": Path("a"),
    "tensor": torch.ones(2),
}


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("kind", HOSTILE)
def test_nothing_is_executed(kind, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    is_refused(pickle.dumps({"weight": HOSTILE[kind]}, protocol), tmp_path)
    assert not Path("executed").exists()


BROKEN = {
    "empty": b"",
    "nothing but a protocol": b"\x80\x04",
    "no pickle": b"\x80\x04 paddle",
    "text": b"version https://git-lfs.github.com/spec/v1\n",
    "zip": b"PK\x03\x04" + bytes(60),
    "list": pickle.dumps([1.0]),
    "none": pickle.dumps(None),
    "empty dict": pickle.dumps({}),
    "no arrays": pickle.dumps({"epoch": 3}),
    "object of a persistent id": b"\x80\x02X\x01\x00\x00\x00aQ.",
    "registered extension": b"\x80\x02\x82\x01.",
    "new object": b"\x80\x02cnumpy\ndtype\n)\x81.",
    "state of a stand-in": b"\x80\x02cnumpy\ndtype\n}X\x01\x00\x00\x00aK\x01sb.",
    "forged memo": b"\x80\x02}r\xff\xff\xff\x7f.",
    "forged length": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "dict in itself": b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.",
    "slices that are not there": pickle.dumps(
        {"UnpackBigParamInfor@@": {"a": dict(slices=["b"], OriginShape=(1,))}}
    ),
    "parts that are no dict": pickle.dumps({"UnpackBigParamInfor@@": 1}),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_file(kind, tmp_path):
    is_refused(BROKEN[kind], tmp_path)


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_truncated_file(share, protocol, tmp_path):
    pickled = pickle.dumps({"weight": np.ones(1000), "bias": np.ones(8)}, protocol)
    is_refused(pickled[: int(share * len(pickled))], tmp_path)


def is_refused(contents, folder):
    """In one line, by the reader or because there are no weights."""
    path = folder / "evil.pdparams"
    path.write_bytes(contents)
    with pytest.raises(CheckpointError, match=r"evil\.pdparams") as error:
        state_dict_of(read_checkpoint(path), str(path))
    assert "\n" not in str(error.value)


def test_files_of_torch_are_left_to_it(tmp_path):
    for zipped in (True, False):
        path = tmp_path / "weights.pdparams"
        torch.save({"a": torch.ones(1)}, path, _use_new_zipfile_serialization=zipped)
        assert read_checkpoint(path)["a"].equal(torch.ones(1))


def test_table_that_fits_no_reading():
    state = {
        "layers.0.blocks.0.norm1.weight": np.ones(16),
        "layers.0.blocks.0.attn.relative_position_bias_table": np.ones((170, 3)),
    }
    with pytest.raises(CheckpointError, match=r"bias_table.*\(170, 3\)"):
        convert_paddle(state)
