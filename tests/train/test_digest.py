"""Digests: equal for equal content, others for content that differs in anything."""

from __future__ import annotations

from pathlib import Path

import torch

from coralx.train.digest import digest, digest_model, fingerprint


def test_a_fingerprint_is_of_names_types_shapes_bytes_and_facts() -> None:
    zeros, facts = torch.zeros(2, 3), {"stage": "S"}
    made = [
        fingerprint({"a": zeros}, facts),
        fingerprint({"b": zeros}, facts),
        fingerprint({"a": zeros.int()}, facts),  # the same bytes
        fingerprint({"a": zeros.T}, facts),
        fingerprint({"a": zeros + 1}, facts),
        fingerprint({"a": zeros}, {"stage": "T"}),
    ]
    assert len(set(made)) == len(made)


def test_a_fingerprint_does_not_depend_on_order_or_layout() -> None:
    one, two = torch.arange(6.0).view(2, 3), torch.ones(1)
    turned = one.T.contiguous().T
    assert turned.stride() != one.stride()
    found = fingerprint({"a": one, "b": two}, {"x": "1", "y": "2"})
    assert found == fingerprint({"b": two, "a": turned}, {"y": "2", "x": "1"})


def test_parts_of_a_digest_do_not_run_together() -> None:
    assert digest(["ab", "c"]) != digest(["a", "bc"])
    assert digest(["ab"]) == digest([b"ab"])


def test_a_model_is_known_by_its_settings_and_weights(tmp_path: Path) -> None:
    files = {"config.json": "{}", "model-1.safetensors": "one", "model-2.safetensors": "two"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    whole, seen = digest_model(str(tmp_path)), set()
    (tmp_path / "README.md").write_text("says nothing")
    (tmp_path / "folder.json").mkdir()
    assert digest_model(str(tmp_path)) == whole
    for name, text in files.items():
        (tmp_path / name).write_text(text + " ")
        seen.add(digest_model(str(tmp_path)))
        (tmp_path / name).write_text(text)
    (tmp_path / "config.json").rename(tmp_path / "adapter.json")
    seen.add(digest_model(str(tmp_path)))
    assert len(seen | {whole}) == 5
