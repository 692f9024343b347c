"""What is measured: names, shapes and units, the same for both sides. Nothing here imports torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["FULL", "OURS", "PRECISIONS", "SIDES", "TINY", "WORKLOADS", "Precision", "Shapes", "Workload", "chosen"]

Precision = Literal["float32", "bfloat16"]

SIDES = ("embody", "compiled", "peer")  # `compiled` is embody too
OURS = SIDES[:2]
_AS_IT_IS = ("embody", "peer")  # what others say of the compiler is not said again
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")


@dataclass(frozen=True)
class Shapes:
    """One model for all workloads: a layer in four attends along time, the others inside a frame."""

    side: int = 64  # pixels
    patch: int = 8
    width: int = 256
    head: int = 64
    mlp: int = 704  # SwiGLU; 8/3 of the width, up to a multiple of 64
    tokenizer_depth: int = 4  # encoder and decoder each
    depth: int = 8
    latents: int = 16  # a frame, one spatial token each
    channels: int = 32
    registers: int = 6
    actions: int = 17
    passes: int = 4  # K
    rows: int = 4  # of a training batch
    frames: int = 64  # generated in one interactive session
    dreams: int = 16
    horizon: int = 15
    head_width: int = 1024  # of the policy's and value's MLP

    @property
    def tokens(self) -> int:
        """A frame's: spatial, action, (tau, d), registers."""
        return self.latents + 2 + self.registers


FULL = Shapes()
TINY = Shapes(
    side=16,
    width=32,
    head=16,
    mlp=64,
    depth=4,
    latents=4,
    channels=8,
    registers=2,
    rows=2,
    frames=3,
    dreams=3,
    horizon=2,
    head_width=32,
)


@dataclass(frozen=True)
class Workload:
    """One unit of it is timed at a time."""

    name: str
    title: str
    kind: Literal["tokenizer", "dynamics", "interactive", "imagination", "acting"]
    length: int  # frames a row; of the context where frames are generated
    bootstrap: Literal["none", "all", "quarter"] = "none"  # rows with the bootstrap term
    sides: tuple[str, ...] = SIDES

    @property
    def generates(self) -> bool:
        """Counted in frames a second; else in seconds a step."""
        return self.kind in ("interactive", "imagination", "acting")

    def frames(self, shapes: Shapes) -> int:
        """Frames learnt from, or generated, in one unit."""
        if self.kind in ("interactive", "acting"):
            return shapes.frames
        return shapes.dreams * shapes.horizon if self.kind == "imagination" else shapes.rows * self.length


_ALL = (
    Workload("W1", "tokenizer step", "tokenizer", 8),
    Workload("W2", "dynamics step, T = 32", "dynamics", 32),
    # The peer bootstraps every row or none; embody's default, a quarter of the rows, has nothing to stand beside.
    Workload("W2-bootstrap", "dynamics step, T = 32, bootstrap on all rows", "dynamics", 32, "all", _AS_IT_IS),
    Workload("W2-quarter", "dynamics step, T = 32, bootstrap on a quarter", "dynamics", 32, "quarter", ("embody",)),
    *(Workload(f"W2-T{T}", f"dynamics step, T = {T}", "dynamics", T, sides=_AS_IT_IS) for T in (16, 64, 128)),
    Workload("W3", "interactive after 16 frames", "interactive", 16),
    *(Workload(f"W3-{n}", f"interactive after {n} frames", "interactive", n, sides=_AS_IT_IS) for n in (32, 64)),
    Workload("W3-128", "interactive after 128 frames", "interactive", 128),
    Workload("W4", "imagination and update", "imagination", 16),
    Workload("W5", "acting at 64x64", "acting", 16, sides=OURS),
    Workload("W5-minigrid", "acting, preset minigrid", "acting", 10, sides=OURS),
    Workload("W5-crafter", "acting, preset crafter", "acting", 16, sides=OURS),
)
WORKLOADS = {workload.name: workload for workload in _ALL}


def chosen(names: Sequence[str]) -> list[Workload]:
    """Those named; `W2` also stands for `W2-...`, and no name for all."""
    found = []
    for name in names:
        family = [w for w in _ALL if w.name == name or w.name.startswith(f"{name}-")]
        if not family:
            raise ValueError(f"--workloads {name}: choose among {', '.join(WORKLOADS)}")
        found += [w for w in family if w not in found]
    return found or list(_ALL)
