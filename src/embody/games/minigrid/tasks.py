"""MiniGrid's tasks, actions and words, written out so that datasets can be used without the package `minigrid`."""

__all__ = ["ACTION_NAMES", "TASKS", "VOCABULARY"]

TASKS = (
    "BabyAI-GoToLocalS5N2-v0",
    "BabyAI-PutNextLocalS5N3-v0",
    "MiniGrid-DoorKey-5x5-v0",
    "MiniGrid-DoorKey-6x6-v0",
    "MiniGrid-Fetch-5x5-N2-v0",
    "MiniGrid-Fetch-6x6-N2-v0",
)

ACTION_NAMES = (("left", "right", "forward", "pick up", "drop", "toggle", "done"),)  # the choices of its only factor

# Every word of these tasks' missions. Datasets store the places of words, so new words go to the end.
VOCABULARY: tuple[str, ...] = (
    "<pad>", "<unknown>",
    "a", "and", "ball", "blue", "box", "door", "fetch", "get", "go", "goal", "green", "grey", "key", "must", "next",
    "open", "purple", "put", "red", "the", "then", "to", "use", "yellow", "you",
)  # fmt: skip
