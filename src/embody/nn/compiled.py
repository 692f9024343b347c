"""Compilation of steps of a fixed shape, which on a GPU are also captured as CUDA graphs."""

import dataclasses
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from embody.nn.cache import RingCache

__all__ = ["CudaGraphs", "compile_steps"]

_WARM_UPS = 3


def compile_steps(module: nn.Module) -> None:
    """Compile the calls of `module` that have a cache; on a GPU only those whose cache already holds a context.

    The first call of each input shape compiles it; a cache gives two shapes, filling (with a mask) and full. On a CPU
    the weights become constants of the compiled code, in the fastest layout: they must not change afterwards, and no
    gradient flows.
    """
    # Imported here because it takes a second, which only a run that compiles should pay.
    import torch._dynamo.config as dynamo
    import torch._inductor.config as inductor

    plain, on_gpu = _with_own_code(module), next(module.parameters()).is_cuda
    # Guards that check at every call whether the layers have changed took a tenth of a frame's time.
    options: dict[str, Any] = {"guard_filter_fn": torch.compiler.skip_guard_on_all_nn_modules_unsafe}
    if not on_gpu:
        options["cpp_wrapper"] = True  # calling a frame's hundreds of kernels from Python took a quarter of its time
        inductor.freezing = True  # read while tracing, which the `options` of torch.compile do not affect
    # Numbers of rows and frames, and filling and full rings, give more shapes than the default limit of 8.
    dynamo.recompile_limit = max(dynamo.recompile_limit, 64)
    compiled = torch.compile(plain, fullgraph=True, dynamic=False, options=options)
    step = CudaGraphs(compiled) if on_gpu else compiled

    def forward(*inputs: Any, cache: RingCache | None = None, **others: Any) -> Any:
        if cache is None or (on_gpu and cache.empty):
            return plain(*inputs, cache=cache, **others)
        return step(*inputs, cache=cache, **others)

    module.forward = forward


def _with_own_code(module: nn.Module) -> Callable[..., Any]:
    """A copy of `module.forward` with a code object of its own.

    torch.compile finds compiled code by the code object, which all instances of a class share, and without guards it
    would run the code of another instance, with that one's weights.
    """
    shared: Any = type(module).forward
    own = types.FunctionType(
        shared.__code__.replace(), shared.__globals__, shared.__name__, shared.__defaults__, shared.__closure__
    )
    own.__kwdefaults__ = shared.__kwdefaults__
    return types.MethodType(own, module)


class CudaGraphs:
    """Records `step` once for each input shape and cache, then replays it: one launch instead of hundreds.

    Recording runs a step several times, which is harmless: a step only overwrites the frames in progress of its cache.
    The next call overwrites the returned tensors.
    """

    def __init__(self, step: Callable[..., Any]) -> None:
        self.step = step
        self.recorded: dict[Any, tuple[torch.cuda.CUDAGraph, list[Tensor], Any]] = {}
        self.cache: RingCache | None = None

    def __call__(self, *inputs: Any, cache: RingCache, **others: Any) -> Any:
        if cache is not self.cache:  # graphs hold the memory addresses of their cache
            self.recorded.clear()
            self.cache = cache
        given: list[Tensor] = []
        _map(given.append, (inputs, others))
        flags = tuple(other for other in others.values() if isinstance(other, bool))
        key = cache.full, flags, tuple(tensor.shape for tensor in given)
        if key not in self.recorded:
            self.recorded[key] = self._record(inputs, others, cache)
        graph, held, out = self.recorded[key]
        for mine, tensor in zip(held, given, strict=True):
            mine.copy_(tensor)
        graph.replay()
        return out

    def _record(self, inputs: Any, others: Any, cache: RingCache) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Any]:
        held: list[Tensor] = []

        def hold(tensor: Tensor) -> Tensor:
            held.append(tensor.clone())
            return held[-1]

        inputs, others = _map(hold, (inputs, others))
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                self.step(*inputs, cache=cache, **others)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = self.step(*inputs, cache=cache, **others)
        return graph, held, out


def _map(function: Callable[[Tensor], Any], value: Any) -> Any:
    """`value` with `function` applied to every tensor in its tuples, dictionaries and dataclasses."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple):
        return tuple(_map(function, part) for part in value)
    if isinstance(value, dict):
        return {name: _map(function, part) for name, part in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: _map(function, getattr(value, field.name)) for field in dataclasses.fields(value)}
        return type(value)(**parts)
    return value
