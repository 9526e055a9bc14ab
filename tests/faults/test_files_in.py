"""Rows F01-F22 of the fault table: checkpoints, indexes, recipes and names made by an enemy or by accident."""

from __future__ import annotations

import json
import os
import pickle
import struct
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nashsolve.integrations.checkpoints import finish, reader
from nashsolve.integrations.checkpoints.adapters import choose_adapter, find_layers
from nashsolve.integrations.checkpoints.errors import CheckpointRefused
from nashsolve.integrations.checkpoints.folder import INDEX, open_checkpoint, read_header
from nashsolve.integrations.checkpoints.paths import check_name
from nashsolve.integrations.checkpoints.planning import plan
from nashsolve.integrations.checkpoints.recipe import load_recipe
from nashsolve.integrations.checkpoints.running import run
from nashsolve.integrations.checkpoints.strict_yaml import load_text
from tests.checkpoints.build import moe_config, moe_tensors, small_moe, write_file, write_folder
from tests.checkpoints.fault import contents

ONE = {"x": ("F32", np.ones((2, 2), np.float32))}


def recipe(model: Path, **more: Any) -> dict[str, Any]:
    return {"job": "experts", "model": str(model), "groups": {"num_experts_out": 3}, "router": "mean", **more}


def raw_file(path: Path, header: bytes, data: bytes = b"", length: int | None = None) -> Path:
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)
    return path


def entry(dtype: str = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def header_of(entries: Any) -> bytes:
    return json.dumps(entries).encode()


class Bomb:
    """Unpickling this would leave a trace."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("unpickled",)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("pytorch_model.bin", id="F01-bin"),
        pytest.param("model.pt", id="F01-pt"),
        pytest.param("model.ckpt", id="F01-ckpt"),
        pytest.param("model.pkl", id="F01-pkl"),
        pytest.param("model.safetensors", id="F01-renamed-pickle"),
        pytest.param("zip", id="F01-renamed-torch-archive"),
    ],
)
def test_pickles_are_never_opened(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    if kind == "zip":
        with zipfile.ZipFile(folder / "model.safetensors", "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(Bomb()))
    else:
        (folder / kind).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointRefused, match="can run code"):
        open_checkpoint(folder)
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize("where", [pytest.param("config", id="F02-config"), pytest.param("files", id="F02-py-files")])
def test_model_code_stays_behind(where: str, tmp_path: Path) -> None:
    model = small_moe(tmp_path / "m")
    code = {"auto_map": {"AutoModel": "modeling_evil.Evil"}, "model_file": "evil.py"}
    (model / "config.json").write_text(json.dumps(moe_config(**code)))
    (model / "modeling_evil.py").write_text("raise SystemExit('imported')")
    run(recipe(model), tmp_path / "out")
    written = contents(tmp_path / "out")
    if where == "files":
        assert not [name for name in written if name.endswith(".py")]
        assert "modeling_evil" not in sys.modules
    else:
        assert not set(code) & set(json.loads(written["config.json"]))


@pytest.mark.parametrize(
    "length",
    [
        pytest.param(0, id="F03-zero"),
        pytest.param(10**6, id="F03-beyond-file"),
        pytest.param(100_000_001, id="F03-over-100MB"),
        pytest.param(2**64 - 1, id="F03-2-to-64"),
        pytest.param(None, id="F03-four-bytes"),
    ],
)
def test_header_length(length: int | None, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"\x01\x02\x03\x04") if length is None else raw_file(path, b"{}", b"", length)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointRefused, match=r"header claims|too few"):
            read_header(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("header", "match"),
    [
        pytest.param(b'{"\xff": 1}', "UTF-8", id="F04-utf8"),
        pytest.param(b'{"x": ', "strict JSON", id="F04-json"),
        pytest.param(b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested|strict", id="F04-depth"),
        pytest.param(b'{"x": {"dtype": "F32", "shape": [1e400], "data_offsets": [0, 4]}}', "shape", id="F04-1e400"),
        pytest.param(b'{"x": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 4]}}', "NaN", id="F04-nan"),
        pytest.param(b'{"x": ' + b"9" * 5000 + b"}", "strict JSON|exactly", id="F04-long-integer"),
        pytest.param(b"[]", "JSON object", id="F04-list"),
        pytest.param(b'{"x": 3}', "exactly dtype", id="F04-entry"),
        pytest.param(b'{"__metadata__": {"a": 1}}', "strings", id="F04-metadata"),
        pytest.param(b'{"x": {"dtype": "F32", "shape": [true], "data_offsets": [0, 4]}}', "shape", id="F04-bool"),
    ],
)
def test_header_text(header: bytes, match: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointRefused, match=match):
        read_header(raw_file(tmp_path / "x.safetensors", header, b"\0" * 4))


@pytest.mark.parametrize(
    "place",
    [
        pytest.param("tensor", id="F05-tensor"),
        pytest.param("field", id="F05-field"),
        pytest.param("index", id="F05-index"),
        pytest.param("config", id="F05-config"),
    ],
)
def test_duplicate_keys(place: str, tmp_path: Path) -> None:
    one = '"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'
    if place in ("tensor", "field"):
        text = f"{{{one}, {one}}}" if place == "tensor" else f"{{{one[:-1]}, " + '"dtype": "F32"}}'
        with pytest.raises(CheckpointRefused, match="twice"):
            read_header(raw_file(tmp_path / "x.safetensors", text.encode(), b"\0" * 4))
        return
    model = small_moe(tmp_path / "m", shards=2)
    path = model / (INDEX if place == "index" else "config.json")
    text = path.read_text()
    path.write_text(text.replace("{", '{"metadata": {}, "model_type": "a", "model_type": "b",', 1))
    with pytest.raises(CheckpointRefused, match="twice"):
        open_checkpoint(model)


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param({"a": entry(offsets=(0, 4)), "b": entry(offsets=(2, 6))}, id="F06-overlap"),
        pytest.param({"a": entry(offsets=(0, 4)), "b": entry(offsets=(5, 9))}, id="F06-hole"),
        pytest.param({"a": entry(offsets=(4, 8))}, id="F06-starts-late"),
        pytest.param({"a": entry(offsets=(4, 0))}, id="F06-reversed"),
        pytest.param({"a": entry(offsets=(-4, 0))}, id="F06-negative"),
        pytest.param({"a": entry(offsets=(0, 4)), "b": entry(offsets=(4, 80))}, id="F06-past-end"),
        pytest.param({"a": entry(offsets=(0, 4, 8))}, id="F06-three"),
        pytest.param({"a": entry(offsets=(0.0, 4.0))}, id="F06-floats"),
        pytest.param({"a": entry(shape=(2**60,), offsets=(0, 2**62))}, id="F06-beyond-2-to-53"),
    ],
)
def test_offsets(entries: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointRefused):
        read_header(raw_file(tmp_path / "x.safetensors", header_of(entries), b"\0" * 8))


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param({"a": entry(shape=(2**40, 2**40), offsets=(0, 4))}, id="F07-overflow"),
        pytest.param({"a": entry(shape=(2**32, 2**32, 0), offsets=(0, 4))}, id="F07-zero-times-huge"),
        pytest.param({"a": entry(shape=(2,), offsets=(0, 4))}, id="F07-size-mismatch"),
        pytest.param({"a": entry(shape=(-1,), offsets=(0, 4))}, id="F07-negative-axis"),
        pytest.param({"a": entry(shape=(1,) * 9, offsets=(0, 4))}, id="F07-nine-axes"),
    ],
)
def test_shapes(entries: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointRefused):
        read_header(raw_file(tmp_path / "x.safetensors", header_of(entries), b"\0" * 4))


@pytest.mark.parametrize("first", [pytest.param("a", id="F07-empty-first"), pytest.param("z", id="F07-empty-last")])
def test_empty_tensors_may_share_an_offset(first: str, tmp_path: Path) -> None:
    entries = {first: entry(shape=(0, 3), offsets=(0, 0)), "m": entry(), "e": entry(shape=(0,), offsets=(4, 4))}
    header, _ = read_header(raw_file(tmp_path / "x.safetensors", header_of(entries), b"\0" * 4))
    assert {t.name: t.size for t in header.tensors} == {first: 0, "m": 1, "e": 0}


@pytest.mark.parametrize(
    ("dtype", "nbytes"),
    [
        pytest.param("F8_E4M3", 4, id="F08-f8-e4m3"),
        pytest.param("F8_E5M2", 4, id="F08-f8-e5m2"),
        pytest.param("I4", 2, id="F08-i4"),
        pytest.param("Q", 4, id="F08-unknown"),
        pytest.param("packed", 0, id="F08-packed-u8-experts"),
        pytest.param("config", 0, id="F08-quantization-config"),
    ],
)
def test_quantised_formats(dtype: str, nbytes: int, tmp_path: Path) -> None:
    if dtype == "packed":
        tensors = moe_tensors(layers=1)
        as_bytes = {
            n: ("I64", np.zeros(v.shape, np.int64)) if "experts" in n else (d, v) for n, (d, v) in tensors.items()
        }
        model = write_folder(tmp_path / "m", as_bytes, moe_config())
        assert "not a floating-point format" in " ".join(plan(recipe(model)).unsupported)
        with pytest.raises(CheckpointRefused, match="experts of model"):
            run(recipe(model), tmp_path / "out")
        return
    if dtype == "config":
        model = write_folder(tmp_path / "m", moe_tensors(), moe_config(quantization_config={"quant_method": "fp8"}))
        with pytest.raises(CheckpointRefused, match=r"quantised.*fp8"):
            open_checkpoint(model)
        return
    path = raw_file(tmp_path / "x.safetensors", header_of({"bad": entry(dtype, (4,), (0, nbytes))}), b"\0" * nbytes)
    with pytest.raises(CheckpointRefused, match=rf"tensor 'bad' has dtype '{dtype}'"):
        read_header(path)


@pytest.mark.parametrize(
    "change",
    [pytest.param(-1, id="F09-truncated"), pytest.param(1, id="F09-trailing"), pytest.param(-15, id="F09-half")],
)
def test_file_length(change: int, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_file(path, ONE)
    raw = path.read_bytes()
    path.write_bytes(raw[:change] if change < 0 else raw + b"\0" * change)
    with pytest.raises(CheckpointRefused, match="truncated or with trailing"):
        read_header(path)


@pytest.mark.parametrize("count", [pytest.param(10**6, id="F10-1e6")])
def test_a_million_tensors(count: int, tmp_path: Path) -> None:
    body = b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i for i in range(count))
    path = raw_file(tmp_path / "x.safetensors", b"{" + body + b"}")
    tracemalloc.start()
    begin = time.process_time()
    try:
        with pytest.raises(CheckpointRefused, match="more than 200000 tensors"):
            read_header(path)
        took = time.process_time() - begin
        assert tracemalloc.get_traced_memory()[1] < 300 * 2**20
    finally:
        tracemalloc.stop()
    assert took < 2


BAD_NAMES = {
    "parent": "../model.safetensors",
    "windows-parent": "..\\model.safetensors",
    "absolute": "/etc/model.safetensors",
    "drive": "C:model.safetensors",
    "unc": "\\\\host\\share\\model.safetensors",
    "nul": "model\0.safetensors",
    "newline": "model\n.safetensors",
    "device": "nul.safetensors",
    "com1": "COM1.safetensors",
    "hidden": ".model.safetensors",
    "trailing-space": "model.safetensors ",
    "long": "m" * 300 + ".safetensors",
    "empty": "",
    "pickle": "model.bin",
    "star": "mo*del.safetensors",
}


@pytest.mark.parametrize("name", [pytest.param(v, id=f"F11-{k}") for k, v in BAD_NAMES.items()])
def test_shard_names(name: str, tmp_path: Path) -> None:
    model = small_moe(tmp_path / "m", shards=2)
    index = json.loads((model / INDEX).read_text())
    index["weight_map"][next(iter(index["weight_map"]))] = name
    (model / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointRefused):
        open_checkpoint(model)
    with pytest.raises(CheckpointRefused):
        check_name(name, "index")


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("symlink", id="F11-symlink"),
        pytest.param("fifo", id="F11-fifo"),
        pytest.param("directory", id="F11-directory"),
        pytest.param("config-symlink", id="F11-config-symlink"),
    ],
)
def test_only_regular_files(kind: str, tmp_path: Path) -> None:
    model = small_moe(tmp_path / "m")
    path = model / ("config.json" if kind.startswith("config") else "model.safetensors")
    aside = tmp_path / "elsewhere"
    path.rename(aside)
    if kind.endswith("symlink"):
        path.symlink_to(aside)
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(CheckpointRefused, match=r"link|regular"):
        open_checkpoint(model)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("missing", id="F12-missing"),
        pytest.param("extra", id="F12-extra"),
        pytest.param("twice", id="F12-twice"),
        pytest.param("moved", id="F12-moved"),
        pytest.param("expert", id="F12-expert-missing"),
        pytest.param("no-index", id="F12-no-index"),
        pytest.param("no-shard", id="F12-no-shard"),
    ],
)
def test_names_and_index_agree(kind: str, tmp_path: Path) -> None:
    if kind == "expert":
        tensors = moe_tensors(layers=1)
        gone = "model.layers.0.mlp.experts.3.up_proj.weight"
        del tensors[gone]
        checkpoint = open_checkpoint(write_folder(tmp_path / "m", tensors, moe_config()))
        with pytest.raises(CheckpointRefused, match=r"experts\.3\.up_proj"):
            find_layers(checkpoint, choose_adapter(checkpoint.config))
        return
    model = small_moe(tmp_path / "m", shards=2)
    index = json.loads((model / INDEX).read_text())
    first, second = sorted(set(index["weight_map"].values()))
    if kind == "missing":
        index["weight_map"]["model.ghost"] = first
    elif kind == "extra":
        del index["weight_map"]["model.embed_tokens.weight"]
    elif kind == "twice":
        write_file(model / second, {"model.embed_tokens.weight": ("F32", np.ones(2, np.float32))})
    elif kind == "moved":
        index["weight_map"]["model.embed_tokens.weight"] = second
    (model / INDEX).write_text(json.dumps(index))
    if kind == "no-index":
        (model / INDEX).unlink()
    if kind == "no-shard":
        (model / second).unlink()
    with pytest.raises(CheckpointRefused, match=r"ghost|embed_tokens|no model\.safetensors\.index|is missing in m"):
        open_checkpoint(model)


@pytest.mark.parametrize("kind", [pytest.param("shape", id="F13-shape"), pytest.param("dtype", id="F13-dtype")])
def test_experts_differ(kind: str, tmp_path: Path) -> None:
    tensors = moe_tensors(layers=1)
    name = "model.layers.0.mlp.experts.2.up_proj.weight"
    dtype, values = tensors[name]
    tensors[name] = (dtype, values[:-1]) if kind == "shape" else ("F32", values.astype(np.float32))
    checkpoint = open_checkpoint(write_folder(tmp_path / "m", tensors, moe_config()))
    with pytest.raises(CheckpointRefused, match=r"expert 0 is BF16 12x8 .* expert 2 is (BF16 11x8|F32 12x8)"):
        find_layers(checkpoint, choose_adapter(checkpoint.config))


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        pytest.param("model.layers.1.mlp.experts.2.up_proj.weight", 0x7FC0, id="F14-nan-expert"),
        pytest.param("model.layers.0.mlp.gate.weight", 0x7F80, id="F14-inf-router"),
        pytest.param("lm_head.weight", 0xFF80, id="F14-minus-inf-copied"),
    ],
)
def test_weights_that_are_not_finite(name: str, bits: int, tmp_path: Path) -> None:
    tensors = moe_tensors()
    tensors[name][1].reshape(-1)[5] = bits
    model = write_folder(tmp_path / "m", tensors, moe_config())
    with pytest.raises(CheckpointRefused, match=rf"{name}.* 1 values .* at entry 5"):
        run(recipe(model), tmp_path / "out")
    assert not (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize("how", [pytest.param("touch", id="F15-touched"), pytest.param("replace", id="F15-replaced")])
def test_input_changes_during_the_run(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_moe(tmp_path / "m", shards=3)
    victim = model / "model-00003-of-00003.safetensors"
    real, calls = reader.Reader.read_into, []

    def read_into(self: Any, *args: Any, **kwargs: Any) -> None:
        calls.append(1)
        if len(calls) == 20:
            if how == "touch":
                os.utime(victim, ns=(1, 1))
            else:
                copy = victim.read_bytes()
                victim.unlink()
                victim.write_bytes(copy)
        real(self, *args, **kwargs)

    monkeypatch.setattr(reader.Reader, "read_into", read_into)
    with pytest.raises(CheckpointRefused, match="changed while"):
        run(recipe(model), tmp_path / "out")
    assert len(calls) >= 20
    assert not [n for n in contents(tmp_path / "out") if n.endswith((".safetensors", ".json"))]


@pytest.mark.parametrize("at", [pytest.param(0, id="F16-first-read"), pytest.param(30, id="F16-later")])
def test_read_errors_are_exceptions(at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_moe(tmp_path / "m")
    calls: list[int] = []

    class Broken:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def preadv(self, *args: Any) -> int:
            calls.append(1)
            if len(calls) - 1 == at:
                raise OSError(5, "Input/output error")
            return os.preadv(*args)

    monkeypatch.setattr(reader, "os", Broken())
    with pytest.raises(OSError, match="Input/output error"):
        run(recipe(model), tmp_path / "out")
    assert not (tmp_path / "out" / "nashsolve.json").exists()


BOMB = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(20)
)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        pytest.param("job: !!python/object/apply:os.system [ls]", "constructor|tag", id="F17-tag"),
        pytest.param(BOMB, "aliases", id="F17-alias-bomb"),
        pytest.param("job: experts\njob: experts", "line 2.*twice", id="F17-duplicate"),
        pytest.param("job: [", "YAML|expected", id="F17-syntax"),
        pytest.param("a: " + "[" * 200 + "]" * 200, "deeply", id="F17-depth"),
        pytest.param("? [1, 2]\n: 3", "not a word", id="F17-list-key"),
        pytest.param("- a\n- b", "mapping", id="F17-list"),
        pytest.param("job: expert", "choose experts", id="F17-job"),
        pytest.param("job: experts\nmodel: m\nrouter: mean\ngroups: {num_experts_out: '3'}", "integer", id="F17-type"),
        pytest.param("job: experts\nmodel: m\nrouter: meen\ngroups: {num_experts_out: 3}", "'mean'", id="F17-choice"),
        pytest.param("job: experts\nmodel: m\nruoter: mean", "Did you mean 'router'", id="F17-unknown-key"),
        pytest.param("job: experts\nmodel: m\nrouter: mean\ngroups: {by: given}", "given needs", id="F17-given"),
        pytest.param("\x00", "special characters|YAML", id="F17-control"),
    ],
)
def test_recipes(text: str, match: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(CheckpointRefused, match=match):
        load_recipe(path)


@pytest.mark.parametrize(
    "where",
    [
        pytest.param("same", id="F18-same"),
        pytest.param("inside", id="F18-inside"),
        pytest.param("around", id="F18-around"),
        pytest.param("link", id="F18-through-a-link"),
        pytest.param("hard-link", id="F18-hard-link"),
    ],
)
def test_output_is_not_input(where: str, tmp_path: Path) -> None:
    model = small_moe(tmp_path / "box" / "m")
    before = contents(model)
    out = {"same": model, "inside": model / "out", "around": tmp_path / "box"}.get(where, tmp_path / "out")
    if where == "link":
        out.symlink_to(model)
    elif where == "hard-link":
        out.mkdir()
        os.link(model / "model.safetensors", out / "model.safetensors")
    with pytest.raises(CheckpointRefused, match=r"lie in each other|hard link"):
        run(recipe(model), out)
    assert contents(model) == before


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("a\x1b[31mred", id="F19-escape"),
        pytest.param("x" * 10_000, id="F19-10kB"),
        pytest.param("", id="F19-empty"),
        pytest.param("a\u202eb", id="F19-right-to-left"),
    ],
)
def test_odd_tensor_names(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointRefused) as caught:
        read_header(raw_file(tmp_path / "x.safetensors", header_of({name: entry()}), b"\0" * 4))
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400


@pytest.mark.parametrize("value", [pytest.param([1], id="F19-metadata-list"), pytest.param(entry(), id="F19-metadata")])
def test_metadata_is_no_tensor(value: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointRefused, match="__metadata__"):
        read_header(raw_file(tmp_path / "x.safetensors", header_of({"__metadata__": value}), b"\0" * 4))


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("link", id="F20-symlink"),
        pytest.param("huge", id="F20-huge"),
        pytest.param("foreign", id="F20-not-listed"),
        pytest.param("good", id="F20-copied"),
    ],
)
def test_files_beside_the_weights(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_moe(tmp_path / "m")
    secret = tmp_path / "secret"
    secret.write_text("secret")
    name = "tokenizer.json" if kind != "foreign" else "run_me.py"
    if kind == "link":
        (model / name).symlink_to(secret)
    else:
        (model / name).write_text("text" * (100 if kind == "huge" else 1))
    if kind == "huge":
        monkeypatch.setattr(finish, "MAX_COPY", 300)
    run(recipe(model), tmp_path / "out")
    assert (name in contents(tmp_path / "out")) == (kind == "good")


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("no-revision", id="F21-no-revision"),
        pytest.param("branch", id="F21-branch"),
        pytest.param("pinned", id="F21-pinned"),
        pytest.param("offline", id="F21-offline"),
        pytest.param("folder", id="F21-folder-with-revision"),
    ],
)
def test_hub(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    model, asked = small_moe(tmp_path / "m"), []
    commit = "0123456789abcdef0123456789abcdef01234567"

    def download(name: str, **how: Any) -> str:
        asked.append((name, how))
        return str(model)

    monkeypatch.setattr(hub, "snapshot_download", download)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", kind == "offline")
    revision = {"no-revision": None, "branch": "main"}.get(kind, commit)
    name = str(model) if kind == "folder" else "org/name"
    wanted = {**recipe(Path("unused"), revision=revision), "model": name}
    if kind == "pinned":
        made = plan(wanted)
        assert asked[0][0] == "org/name" and asked[0][1]["revision"] == commit
        assert not [p for p in asked[0][1]["allow_patterns"] if p.endswith((".py", ".bin", "*"[1:] + "pt"))]
        assert made.identity()["recipe"]["revision"] == commit
        assert made.identity()["inputs"][0]["files"]["model.safetensors"]["header_sha256"]
        return
    with pytest.raises(CheckpointRefused, match=r"full commit|not in the cache|no revision"):
        plan(wanted)
    assert not asked


@pytest.mark.parametrize("what", [pytest.param("paths", id="F22-paths"), pytest.param("metadata", id="F22-metadata")])
def test_outputs_keep_secrets(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_supersecret")
    tensors = moe_tensors()
    folder = tmp_path / "private-home" / "m"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(moe_config()))
    write_file(folder / "model.safetensors", tensors, {"format": "pt", "trained_by": "someone@example.org"})
    run(recipe(folder), tmp_path / "out")
    for name, raw in contents(tmp_path / "out").items():
        if what == "paths":
            assert b"private-home" not in raw and b"hf_supersecret" not in raw and bytes(tmp_path) not in raw, name
        else:
            assert b"someone@example.org" not in raw, name


@pytest.mark.parametrize("text", [pytest.param("a: 1\nb: [x, 2.5, true]", id="F17-plain-yaml-is-read")])
def test_plain_yaml(text: str) -> None:
    assert load_text(text, "x") == {"a": 1, "b": ["x", 2.5, True]}
