"""What all other tests here spoil is in order: it runs, even with a text far too long."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest


def test_the_job_runs_and_a_text_of_100_000_characters_is_cut(job: Any) -> None:
    job.spoil_row(text="bake a cake " * 9_000)
    result = job.run()
    assert result.exit_code == 0, result.output
    summary = json.loads((job.out / "summary.json").read_text(encoding="utf-8"))
    assert summary["finished"]
    assert summary["rows"]["train"] == 16


def test_a_job_of_local_files_asks_no_server(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries may report what they load to a server, and wait for it."""
    asked: list[Any] = []

    def refuse(*arguments: Any, **_: Any) -> Any:
        asked.append(arguments[:2])
        raise socket.gaierror("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert job.run().exit_code == 0
    assert asked == []
