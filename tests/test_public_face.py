"""What `import embody` offers, and costs."""

import subprocess
import sys

import pytest

import embody


def test_importing_the_package_imports_nothing_of_it() -> None:
    script = "import sys, embody; print([m for m in sys.modules if m.startswith(('embody.', 'torch', 'numpy'))])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there() -> None:
    assert all(getattr(embody, name).__module__.startswith("embody.") for name in embody.__all__)
    assert dir(embody) == embody.__all__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        embody.nothing  # noqa: B018
