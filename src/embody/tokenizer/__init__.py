"""The video tokenizer: encodes frames as a few continuous latents and decodes them, causally in time."""

from embody.tokenizer.loss import TokenizerLoss
from embody.tokenizer.lpips import Lpips
from embody.tokenizer.model import Tokenizer

__all__ = ["Lpips", "Tokenizer", "TokenizerLoss"]
