"""Pictures of a run: films, stored as arrays for the report's player, their PNG sprites, and an animated GIF.

Legend: N films side by side, T timesteps, H W pixels.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from embody.errors import UserError
from embody.saving.atomic_write import write_bytes
from embody.saving.reading import read_npz

__all__ = ["Film", "action_captions", "dream_gif", "png", "read_films", "read_pairs", "write_films", "write_pairs"]

_ARRAY_BYTES = 2**28  # of the pictures in one file
PAPER, INK, DREAM = (255, 255, 255), (60, 60, 60), (217, 95, 2)


@dataclass(frozen=True)
class Film:
    """A film: one strip of frames, or several that play together (such as real and imagined)."""

    title: str  # such as the mission
    strips: dict[str, NDArray[np.uint8]]  # name -> [T, H, W, 3], all of one shape
    captions: tuple[str, ...]  # T, shown under the frames: the action that led to each
    given: int = 0  # number of context frames, after which frames are imagined; 0 if nothing is imagined

    def __post_init__(self) -> None:
        shapes = {strip.shape for strip in self.strips.values()}
        assert len(shapes) == 1 and next(iter(shapes))[0] == len(self.captions), (
            f"film {self.title!r}: strips {sorted(shapes)} and {len(self.captions)} captions differ"
        )


def action_captions(actions: NDArray[np.int64], names: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The names of actions `[T, A]`, factor by factor; `names[a][i]` is choice i of factor a. Timestep 0 has none."""
    spoken = [", ".join(names[a][i] for a, i in enumerate(row)) for row in actions.tolist()]
    return ("", *spoken[1:])


def write_films(path: Path, films: Sequence[Film]) -> None:
    """Write `films` to one `.npz`, atomically. The report shows every `.npz` in a run's `pictures` folder."""
    arrays: dict[str, NDArray[Any]] = {"films": np.array(len(films))}
    for i, film in enumerate(films):
        arrays[f"{i}/title"] = np.array(film.title)
        arrays[f"{i}/captions"] = np.array(film.captions)
        arrays[f"{i}/given"] = np.array(film.given)
        for name, strip in film.strips.items():
            arrays[f"{i}/strips/{name}"] = strip
    _write_arrays(path, arrays)


def read_films(path: Path) -> list[Film]:
    """The films that `write_films` wrote; a `UserError` if the file holds none."""
    arrays = read_npz(path, _ARRAY_BYTES)
    if "films" not in arrays:
        raise UserError(f"{path} holds no films: delete it and run `embody evaluate` again")
    films = []
    for i in range(int(arrays["films"])):
        start = f"{i}/strips/"
        strips = {key.removeprefix(start): arrays[key] for key in arrays if key.startswith(start)}
        captions = tuple(arrays[f"{i}/captions"].tolist())
        films.append(Film(str(arrays[f"{i}/title"]), strips, captions, int(arrays[f"{i}/given"])))
    return films


def write_pairs(path: Path, original: NDArray[np.uint8], reconstructed: NDArray[np.uint8]) -> None:
    """Write originals and their reconstructions, uint8 `[N, H, W, 3]` each, to one `.npz`, atomically."""
    assert original.shape == reconstructed.shape, (original.shape, reconstructed.shape)
    _write_arrays(path, {"original": original, "reconstructed": reconstructed})


def read_pairs(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(original, reconstructed) as `write_pairs` wrote them; a `UserError` if the file holds none."""
    arrays = read_npz(path, _ARRAY_BYTES)
    if not {"original", "reconstructed"} <= arrays.keys():
        raise UserError(f"{path} holds no reconstructions: delete it and run `embody evaluate` again")
    return arrays["original"], arrays["reconstructed"]


def _write_arrays(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    write_bytes(path, content.getbuffer())


def png(frames: NDArray[np.uint8]) -> bytes:
    """A PNG of frames uint8 `[R, C, H, W, 3]`, laid out as R rows and C columns."""
    rows, columns, height, width, _ = frames.shape
    sheet = frames.swapaxes(1, 2).reshape(rows * height, columns * width, 3)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(sheet)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def dream_gif(
    path: Path,
    real: NDArray[np.uint8],
    imagined: NDArray[np.uint8],
    given: int,
    scale: int = 3,
    milliseconds: int = 250,
) -> None:
    """Write an endless animated GIF: N films side by side, real above imagined, each uint8 `[N, T, H, W, 3]`.

    From timestep `given` on, where the context ends, the imagined frames have an orange border. Written atomically.
    """
    assert real.shape == imagined.shape and real.shape[1] > 0, (real.shape, imagined.shape)
    images = [_dream_timestep(real[:, t], imagined[:, t], t >= given, scale) for t in range(real.shape[1])]
    palette = _palette(images)
    first, *rest = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    pause = [milliseconds] * (len(images) - 1) + [4 * milliseconds]
    content = io.BytesIO()
    first.save(content, "GIF", save_all=True, append_images=rest, duration=pause, loop=0, optimize=True)
    write_bytes(path, content.getbuffer())


def _palette(images: Sequence[Image.Image]) -> Image.Image:
    """One palette for all frames, so that colours do not flicker: the 128 commonest colours, and 128 for the rest."""
    montage = np.concatenate([np.asarray(image) for image in images])
    colours, counts = np.unique(montage.reshape(-1, 3), axis=0, return_counts=True)
    exact = colours[np.argsort(-counts, kind="stable")[:128]]
    summary = Image.fromarray(montage).quantize(128, Image.Quantize.MEDIANCUT).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette([*exact.reshape(-1).tolist(), *summary])
    return palette


def _dream_timestep(real: NDArray[np.uint8], imagined: NDArray[np.uint8], dreaming: bool, scale: int) -> Image.Image:
    """One timestep of the GIF: two rows of frames with their names at the left, `[N, H, W, 3]` each."""
    n, height, width, _ = real.shape
    gap, margin = 3 * scale, 56
    cell_width, cell_height = width * scale + gap, height * scale + gap
    image = Image.new("RGB", (margin + n * cell_width + gap, 2 * cell_height + gap), PAPER)
    draw = ImageDraw.Draw(image)
    for row, (name, frames, edge) in enumerate((("real", real, INK), ("dream", imagined, DREAM if dreaming else INK))):
        top = gap + row * cell_height
        draw.text((8, top + height * scale // 2), name, fill=edge, anchor="lm", font_size=14)
        for i, frame in enumerate(frames):
            left = margin + gap + i * cell_width
            box = (left - scale, top - scale, left + width * scale + scale - 1, top + height * scale + scale - 1)
            draw.rectangle(box, fill=edge)
            big = Image.fromarray(np.ascontiguousarray(frame)).resize((width * scale, height * scale), 0)
            image.paste(big, (left, top))
    return image
