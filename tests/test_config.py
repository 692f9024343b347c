"""Every setting is explained by a whole sentence, whose range is the one that is checked."""

import ast
import dataclasses
import inspect
import textwrap
import typing
from typing import Any

import pytest

from embody.config import Config
from embody.config.bounds import Range


def parts(kind: Any) -> list[Any]:
    """The dataclass `kind` and those in its fields."""
    hints = typing.get_type_hints(kind)
    return [kind, *(p for hint in hints.values() if dataclasses.is_dataclass(hint) for p in parts(hint))]


def sentences(kind: Any) -> dict[str, str]:
    """The text under each field of a dataclass."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            found[field.target.id] = " ".join(str(text.value.value).split())
    return found


def ranges(hint: Any) -> set[str]:
    """The ranges of a field's numbers, as messages name them."""
    own = {str(allowed) for allowed in getattr(hint, "__metadata__", ()) if isinstance(allowed, Range)}
    return own.union(*(ranges(inner) for inner in typing.get_args(hint)))


@pytest.mark.parametrize("kind", dict.fromkeys(parts(Config)), ids=lambda kind: kind.__name__)
def test_every_setting_has_a_sentence_with_its_range(kind: Any) -> None:
    texts, hints = sentences(kind), typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        assert texts.get(field.name, "").endswith("."), field.name
        for allowed in ranges(hints[field.name]):
            assert allowed in texts[field.name], f"{field.name}: {texts[field.name]} does not say {allowed}"
