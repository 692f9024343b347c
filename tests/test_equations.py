"""`docs/equations.md` names functions, tests and settings: all of them exist, and no setting is left out."""

import ast
import dataclasses
import re
from pathlib import Path

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
LINES = [line for line in (ROOT / "docs" / "equations.md").read_text().splitlines() if line.startswith("| ")]
ROWS = [re.split(r"(?<!\\)\|", line)[1:-1] for line in LINES if not line.startswith(("| ---", "| equation"))]

# Settings that no equation has: parts, sizes of words and heads, how long and how often.
SHAPES_AND_RECORDS = {
    *("trunk", "encoder", "decoder"),
    *("width", "vocabulary", "words", "word_width", "hidden"),
    *("epochs", "checkpoint_every", "log_every"),
}


def names_in(folder: str) -> dict[Path, set[str]]:
    """Every function, class, setting and attribute that the files of `folder` define."""
    found = {}
    for path in (ROOT / folder).rglob("*.py"):
        named: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                named.add(node.name)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                named.add(node.target.id)
            elif isinstance(node, ast.Assign):
                named |= {target.attr for target in node.targets if isinstance(target, ast.Attribute)}
        found[path] = named
    return found


def test_every_row_is_whole() -> None:
    assert len(ROWS) > 50
    for row in ROWS:
        assert len(row) == 5, row
        assert row[0].strip() and row[2].strip() and row[3].strip(), row


def test_every_setting_of_the_method_is_named() -> None:
    named = set(re.findall(r"\w+", (ROOT / "docs" / "equations.md").read_text()))
    architecture = (TransformerConfig, TokenizerConfig, DynamicsConfig, AgentConfig)
    objectives = (TokenizerObjective, DynamicsObjective, AgentObjective, ImaginationConfig)
    for part in (*architecture, *objectives, SamplingConfig, StageConfig):
        fields = {field.name.rstrip("_") for field in dataclasses.fields(part)}
        assert not fields - named - SHAPES_AND_RECORDS, part.__name__


def test_every_test_exists() -> None:
    tests = {path.name: names for path, names in names_in("tests").items()}
    for row in ROWS:
        file = ""
        assert "::" in row[3] or "test_" in row[3], row
        for named_file, test in re.findall(r"(test_\w+\.py)?(?:::(test_\w+)(?!\w*\.\.\.))?", row[3]):
            file = named_file or file
            if named_file or test:
                assert file in tests, row
            if test and not test.endswith("_"):
                assert test in tests[file], f"{file}::{test}"


def test_every_function_exists() -> None:
    known = set().union(*names_in("src").values())
    for row in ROWS:
        for name in re.findall(r"`(?!embody )([\w.]+)[^`]*`", row[2]):
            assert name.split(".")[-1] in known | {"imagination", "rope", "muon"}, f"{name} in {row[0]}"
