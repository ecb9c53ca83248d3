"""What several rooms' tests stand on."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_endpoint import Server

from cameleer.log import quiet_libraries
from cameleer.models.tiny import save_tiny_llama

WORDS = ("a", "b", "c", "d", "e", "f", "g", "h", "one", "two", "three", "four", "?", ".")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The data sets beside the repository, in ../shared/data."""
    directory = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    if not directory.is_dir():
        pytest.skip("the data sets are not beside the repository, in ../shared/data")
    return directory


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with random weights, and a tokenizer of twenty words."""
    with quiet_libraries():
        return save_tiny_llama(
            tmp_path_factory.mktemp("tiny"), WORDS, hidden_size=64, num_layers=2, max_tokens=128
        )


@pytest.fixture
def own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory of a user, whose Python files are forgotten after the test."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(f"{tmp_path}/"):
            del sys.modules[name]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """An endpoint without a key, whose answers a test scripts."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with Server() as server:
        # A short poll, so that shutting down takes no time.
        threading.Thread(target=server.serve_forever, args=(0.005,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="session")
def real_ladder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of four steps of SFT and four of GRPO, truly run. To be read only."""
    from fakes import grpo, held_out, sft, tiny_llama

    from cameleer.distributed.launch import run
    from cameleer.recipe import Ladder, Model

    root = tmp_path_factory.mktemp("ladder")
    model = tiny_llama(root / "llama")
    stages = (
        sft(model, root / "runs", heldout=held_out()),
        grpo(model, root / "runs", heldout=held_out(), model=Model(source="stage:sft")),
    )
    run(Ladder(name="both", stages=stages))
    return root / "runs" / "both"
