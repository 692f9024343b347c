"""The tasks of MiniGrid, its actions and the words of its missions, without its package."""

__all__ = ["ACTION_NAMES", "TASKS", "VOCABULARY"]

TASKS = (
    "BabyAI-GoToLocalS5N2-v0",
    "BabyAI-PutNextLocalS5N3-v0",
    "MiniGrid-DoorKey-5x5-v0",
    "MiniGrid-DoorKey-6x6-v0",
    "MiniGrid-Fetch-5x5-N2-v0",
    "MiniGrid-Fetch-6x6-N2-v0",
)

ACTION_NAMES = (("left", "right", "forward", "pick up", "drop", "toggle", "done"),)  # of each factor

# Every word of these tasks' missions; datasets keep it, so new words go to the end.
VOCABULARY: tuple[str, ...] = (
    "<pad>", "<unknown>",
    "a", "and", "ball", "blue", "box", "door", "fetch", "get", "go", "goal", "green", "grey", "key", "must", "next",
    "open", "purple", "put", "red", "the", "then", "to", "use", "yellow", "you",
)  # fmt: skip
