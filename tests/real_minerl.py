"""Run the server script with the real MineRL package but without Minecraft: MineRL has a fake of Navigate.

python real_minerl.py FOLDER_OF_SERVER --port 0
"""

import sys

sys.path.insert(0, sys.argv.pop(1))

import gym  # noqa: E402
import server  # noqa: E402

make = server.make


def make_fake(environment: str, max_steps: int) -> object:
    env = make(environment, max_steps)  # the Java process starts at the first reset
    spec = gym.spec(environment)._kwargs["env_spec"]
    print("quits", [handler.xml() for handler in spec.server_quit_producers], flush=True)
    return spec.make(fake=True) if environment == "MineRLNavigate-v0" else env


server.make = make_fake
server.main()
