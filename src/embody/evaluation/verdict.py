"""Whether a run worked, in words: the first thing that its report and its results page say."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from embody.metrics.policies import POLICIES
from embody.metrics.results_file import Results, lookup
from embody.metrics.rollouts import NEAR
from embody.metrics.tables import decibels, percent, points

__all__ = ["Verdict", "verdict"]

Outcome = Literal["better", "worse", "unclear"]


@dataclass(frozen=True)
class Verdict:
    """The headline, and sentences that complete it."""

    headline: str
    outcome: Outcome = "unclear"
    details: tuple[str, ...] = ()


def verdict(results: Results, success: str = "success") -> Verdict:
    """What the run's most advanced model achieves; `success` is what the game calls a policy's rate in a sentence."""
    policies = lookup(results, "success") or {}
    if "imagination" in policies and "cloning" in policies:
        return _imagination_against_cloning(results, policies, success)
    for policy, missing in (("imagination", "behaviour cloning"), ("cloning", "training in imagination")):
        if policy in policies:
            return _one_policy(results, policies, policy, success, missing)
    if lookup(results, "dynamics.gain_over_copy_db") is not None:
        return _world_model(results)
    if "tokenizer" in results:
        return _tokenizer(results)
    return Verdict("Nothing has been measured yet", details=("`embody evaluate` measures what is trained.",))


def _imagination_against_cloning(results: Results, policies: Mapping[str, Any], success: str) -> Verdict:
    before, after = (policies[policy]["mean"] for policy in ("cloning", "imagination"))
    difference = results["against_cloning"]["imagination"]
    numbers = f"{points(difference['value'])} points, {_interval(difference)}"
    change = f"{success} from {percent(before)} to {percent(after)} ({numbers})"
    outcome: Outcome = "unclear"
    details: list[str] = []
    if difference["low"] > 0:
        headline, outcome = f"Imagination raised {change}", "better"
    elif difference["high"] < 0:
        headline, outcome = f"Imagination lowered {change}", "worse"
    elif before == after == 1:
        headline = f"No clear difference: {success} is 100% after behaviour cloning and after imagination"
    elif before == after == 0:
        headline = f"Neither policy has learned the task: {success} is 0% after behaviour cloning and after imagination"
    else:
        headline = (
            f"No clear difference: {success} is {percent(before)} after behaviour cloning and {percent(after)}"
            " after imagination"
        )
        details.append(f"The difference is {numbers}, which contains 0.")
    details.append(
        f"Both policies played the same {policies['imagination']['episodes']} held-out episodes. The interval accounts"
        " for chance in these episodes, not in training: `embody compare` combines runs with several training seeds."
    )
    details += [*_others(policies), *_controls(results, policies), *_world(results)]
    return Verdict(headline, outcome, tuple(details))


def _one_policy(results: Results, policies: Mapping[str, Any], policy: str, success: str, missing: str) -> Verdict:
    rate, random = policies[policy], policies.get("random")
    headline = f"After {POLICIES[policy].name}, {success} is {percent(rate['mean'])} ({_interval(rate)})"
    outcome: Outcome = "unclear"
    if random:
        relation = "no different from"
        if rate["low"] > random["high"]:
            relation, outcome = "above", "better"
        elif rate["high"] < random["low"]:
            relation, outcome = "below", "worse"
        headline += f", {relation} the random policy's {percent(random['mean'])}"
    lacking = f"What imagination changes is unknown: the results hold no {missing}."
    return Verdict(headline, outcome, (lacking, *_others(policies), *_world(results)))


def _world_model(results: Results) -> Verdict:
    outcome: Outcome = "better" if results["dynamics"]["gain_over_copy_db"] > 0 else "worse"
    return Verdict(_gain(results["dynamics"]), outcome, (_psnr(results["dynamics"]), "No trained policy was measured."))


def _tokenizer(results: Results) -> Verdict:
    psnr = lookup(results, "tokenizer.psnr_db")
    quality = "without an error" if psnr is None else f"at {decibels(psnr)} PSNR"
    dreams = "No dream was measured: the run has no world model, or no held-out recording with actions."
    return Verdict(f"The tokenizer reconstructs held-out frames {quality}", details=(dreams,))


# --- sentences ------------------------------------------------------------------------------------------------------


def _interval(value: Mapping[str, float]) -> str:
    """The interval of a share, or of a difference of shares, in percent or points."""
    low, high = (round(100 * value[end], 6) for end in ("low", "high"))  # as in `points`
    return f"95% interval {low:.1f} to {high:.1f}"


def _others(policies: Mapping[str, Any]) -> list[str]:
    """The rates to compare with: those of the random policy and of the recordings."""
    found = [
        f"{title} {percent(policies[policy]['mean'])}"
        for policy, title in (("random", "the random policy"), ("demonstrations", "the held-out demonstrations"))
        if policy in policies
    ]
    return [f"For comparison: {', '.join(found)}."] if found else []


def _controls(results: Results, policies: Mapping[str, Any]) -> list[str]:
    sentences = []
    for name, policy in POLICIES.items():
        difference = lookup(results, f"against_cloning.{name}")
        if policy.control and difference:
            sentences.append(
                f"Control, {policy.name}: {percent(policies[name]['mean'])} ({points(difference['value'])} points"
                f" against behaviour cloning, {_interval(difference)})."
            )
    return sentences


def _world(results: Results) -> list[str]:
    dynamics = lookup(results, "dynamics") or {}
    return [] if dynamics.get("gain_over_copy_db") is None else [f"{_gain(dynamics)}. {_psnr(dynamics)}"]


def _gain(dynamics: Mapping[str, Any]) -> str:
    gain = dynamics["gain_over_copy_db"]
    if gain > 0:
        return f"Dreams are {decibels(gain)} above copying the last frame"
    return f"Dreams are {decibels(-gain)} below copying the last frame: they predict no better than a still picture"


def _psnr(dynamics: Mapping[str, Any]) -> str:
    dream, copy = (decibels(dynamics[key]) for key in ("psnr_db", "copy_psnr_db"))
    return f"PSNR over horizons 1-{NEAR} on held-out recordings: {dream} for dreams, {copy} for copies."
