"""Video tokenizer: frames to a few continuous latents and back, causal in time."""

from embody.tokenizer.loss import TokenizerLoss
from embody.tokenizer.lpips import Lpips
from embody.tokenizer.model import Tokenizer

__all__ = ["Lpips", "Tokenizer", "TokenizerLoss"]
