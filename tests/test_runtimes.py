"""Every slim model that a plan promises a runtime, run in it: the logits are those of the masked dense model.

`make test-runtimes` prints the differences. A runtime that cannot be installed is skipped, with the reason.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.parts.runtimes.environments import NotInstallable, installed
from benchmarks.parts.runtimes.measure import Measurement, measure
from benchmarks.parts.runtimes.pairs import PLUGIN, WAYS, cases, promised_pairs
from benchmarks.parts.runtimes.slim_models import Case, write_case
from benchmarks.parts.runtimes.table import summary, table
from service.contract.options import Layout, Unit
from service.models.families.runtimes.per_layer_limits import IN_BACK_END, IN_PLUGIN

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

# Builds the stock class for the config alone, without code of the checkpoint.
STOCK_CLASS = """
import json, sys
from transformers import AutoConfig, AutoModelForCausalLM, __version__
for directory in sys.stdin.read().splitlines():
    config = AutoConfig.from_pretrained(directory)
    layers = AutoModelForCausalLM.from_config(config, trust_remote_code=False).model.layers
    widths = [layer.mlp.down_proj.in_features for layer in layers]
    print(json.dumps({"version": __version__, "widths": widths}))
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[Case, Path]:
    """The slim and dense models, each in its directory."""
    root = tmp_path_factory.mktemp("runtimes")
    return {case: write_case(case, root) for case in cases(quick=False)}


@pytest.fixture(scope="module")
def shown() -> Iterator[list[Measurement]]:
    """The measurements of all tests, which are printed as one table at the end."""
    found: list[Measurement] = []
    yield found
    print(f"\n{table(found)}\n{json.dumps(summary(found))}")  # noqa: T201 - what `make test-runtimes` is for


@pytest.mark.parametrize("way", WAYS)
def test_promised_pairs_hold(
    way: str, written: dict[Case, Path], shown: list[Measurement], tmp_path_factory: pytest.TempPathFactory
) -> None:
    pairs = [pair for pair in promised_pairs(written, quick=True) if pair.way == way]
    assert pairs
    found = list(measure(pairs, written, tmp_path_factory.getbasetemp()))
    shown += found
    if not any(each.was_run for each in found):
        pytest.skip(found[0].problem or "")
    assert {each.pair.case.name: each.problem or each.difference for each in found if not each.holds} == {}


def test_what_is_promised_for_layers_of_different_widths_is_run(written: dict[Case, Path]) -> None:
    own = {
        (pair.way, pair.case.family)
        for pair in promised_pairs(written, quick=True)
        if pair.case.layout is Layout.per_layer
    }
    assert {family for way, family in own if way == "vllm, transformers back end"} == {*IN_BACK_END}
    assert {family for way, family in own if way == f"vllm, {PLUGIN}"} == {*IN_PLUGIN}


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_transformers_does_not_build_layers_of_different_widths_by_itself_yet(
    family: str, written: dict[Case, Path]
) -> None:
    """Where this fails, transformers reads `per_layer_config`: a checkpoint may then name the stock class, and needs no
    code of its own."""
    try:
        python = installed("transformers")
    except NotInstallable as error:
        pytest.skip(str(error))
    case = Case(family, Layout.per_layer, (Unit.ffn, Unit.heads))
    slim = written[case] / "slim"
    run = [str(python), "-W", "ignore", "-c", STOCK_CLASS]
    output = subprocess.run(run, input=str(slim), check=True, capture_output=True, text=True).stdout
    told: dict[str, Any] = json.loads(output)
    config = json.loads((slim / "config.json").read_bytes())
    assert told["widths"] == [config["intermediate_size"]] * 2, f"transformers {told['version']} builds other widths"
