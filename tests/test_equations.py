"""`docs/equations.md` names functions, tests and settings: all of them exist, and no setting is left out."""

import ast
import dataclasses
import functools
import re
from pathlib import Path

import pytest

from embody.config import (
    AgentConfig,
    AgentObjective,
    DynamicsConfig,
    DynamicsObjective,
    ImaginationConfig,
    SamplingConfig,
    StageConfig,
    TokenizerConfig,
    TokenizerObjective,
    TransformerConfig,
)

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "equations.md").read_text()
EQUATIONS = dict(re.findall(r"(?ms)^### (.+?)\n(.+?)(?=^##|\Z)", PAGE))

# Settings that no equation has: parts, sizes of words and heads, how long, how often, from which weights.
SHAPES_AND_RECORDS = {
    *("trunk", "encoder", "decoder"),
    *("width", "vocabulary", "words", "word_width", "hidden"),
    *("epochs", "checkpoint_every", "log_every", "init_from"),
}


@functools.cache
def definitions(path: Path) -> set[str]:
    """Every function and class of a file, methods as `Class.method`."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{method.name}" for method in node.body if isinstance(method, ast.FunctionDef)}
    return found


def named(kind: str, text: str) -> list[tuple[str, str]]:
    """The file and the name of each `file::name` in the item `kind` of an equation."""
    item = re.search(rf"(?ms)^- {kind}:\s(.+?)(?=^- |\Z)", text)
    assert item, f"no {kind}"
    names = re.findall(r"`([^`:]+)::([^`]+)`", item[1])
    assert names and len(names) == item[1].count("`") // 2, item[1]
    return names


def test_the_page_is_read() -> None:
    assert len(EQUATIONS) == PAGE.count("\n### ") > 100


@pytest.mark.parametrize("title", EQUATIONS)
def test_functions_and_tests_exist(title: str) -> None:
    assert EQUATIONS[title].strip().split("\n")[0].strip(), "an equation stands under its heading"
    for kind, folder in ("Function", ROOT / "src" / "embody"), ("Test", ROOT / "tests"):
        for file, name in named(kind, EQUATIONS[title]):
            assert name in definitions(folder / file), f"{file}::{name}"


def test_every_setting_of_the_method_is_named() -> None:
    words = set(re.findall(r"\w+", PAGE))
    architecture = (TransformerConfig, TokenizerConfig, DynamicsConfig, AgentConfig)
    objectives = (TokenizerObjective, DynamicsObjective, AgentObjective, ImaginationConfig)
    for part in (*architecture, *objectives, SamplingConfig, StageConfig):
        fields = {field.name.rstrip("_") for field in dataclasses.fields(part)}
        assert not fields - words - SHAPES_AND_RECORDS, part.__name__
