"""The part of the old gym that the simulator's server uses."""

registry: dict = {}


class Registered:
    def __init__(self, env_spec: object) -> None:
        self._kwargs = {"env_spec": env_spec}


def spec(environment: str) -> Registered:
    return registry[environment]
