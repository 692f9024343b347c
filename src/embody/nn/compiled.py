"""Steps of one shape, compiled; on a GPU also captured in a CUDA graph."""

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
    """From now on, compile the calls of `module` that have a cache; on a GPU those that go on from a context.

    Each new shape of the inputs is compiled by its first call; the ring's is one from the first frame to the last, but
    that a full one has no mask. On a CPU the weights as they are then become part of the code, in the layout that
    multiplies fastest: they must not change afterwards, and no gradient flows.
    """
    # A second of imports, which only those who compile should wait for.
    import torch._dynamo.config as dynamo
    import torch._inductor.config as inductor

    plain, on_gpu = _with_code_of_its_own(module), next(module.parameters()).is_cuda
    # Looking at each call whether the layers are still the same took a tenth of a frame.
    options: dict[str, Any] = {"guard_filter_fn": torch.compiler.skip_guard_on_all_nn_modules_unsafe}
    if not on_gpu:
        options["cpp_wrapper"] = True  # a frame has hundreds of kernels: calling them from Python took a quarter of it
        inductor.freezing = True  # read while tracing, where `options` of torch.compile do not reach
    # Rows, rings that fill up and frames a pass give several shapes; past the limit of 8 a call would fail.
    dynamo.recompile_limit = max(dynamo.recompile_limit, 64)
    compiled = torch.compile(plain, fullgraph=True, dynamic=False, options=options)
    step = CudaGraphs(compiled) if on_gpu else compiled

    def forward(*inputs: Any, cache: RingCache | None = None, **others: Any) -> Any:
        if cache is None or (on_gpu and cache.empty):
            return plain(*inputs, cache=cache, **others)
        return step(*inputs, cache=cache, **others)

    module.forward = forward


def _with_code_of_its_own(module: nn.Module) -> Callable[..., Any]:
    """`module.forward`, compiled apart from that of all others of its class.

    What was compiled is found by the code object, which a class's instances share; the weights are not looked at.
    """
    shared: Any = type(module).forward
    own = types.FunctionType(
        shared.__code__.replace(), shared.__globals__, shared.__name__, shared.__defaults__, shared.__closure__
    )
    own.__kwdefaults__ = shared.__kwdefaults__
    return types.MethodType(own, module)


class CudaGraphs:
    """`step`, recorded once for each shape and history, then replayed: one launch instead of hundreds.

    A step only overwrites what is in progress in its cache, so it may be run again while it is recorded. What it
    returns is overwritten by the next call.
    """

    def __init__(self, step: Callable[..., Any]) -> None:
        self.step = step
        self.recorded: dict[Any, tuple[torch.cuda.CUDAGraph, list[Tensor], Any]] = {}
        self.cache: RingCache | None = None

    def __call__(self, *inputs: Any, cache: RingCache, **others: Any) -> Any:
        if cache is not self.cache:  # the addresses of another history
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
    """`value` with `function` of each tensor in its tuples, dictionaries and dataclasses; modules stay as they are."""
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
