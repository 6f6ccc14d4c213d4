"""Which variants are shipped, which of them lie on the Pareto front, and which a device runs if nobody says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from swiftrec.export.errors import GateError
from swiftrec.export.quality import QUALITY, Check, is_task, least_of
from swiftrec.export.variants import Variant

_DEVICES = ("cpu", "cuda")
_NEAR_SHARE = 0.95  # of the fastest variant's texts/s: two rounds of one variant differ by as much


@dataclass(frozen=True, slots=True)
class Judged:
    """A variant with what it kept of the teacher and the gates it went through.

    Args:
        variant: what was measured before quality.
        kept: task -> share of the teacher's NDCG@10, and "overlap" of the top ten; empty if it was not evaluated.
        checks: the quality gates.
        is_shipped: whether it is in the bundle.
        refused: why it is not, or by which exception it is; empty if it passed everything.
        unmeasured: gates without a value, since what they are a share of is 0: neither passed nor failed.
        measured_on: the device that gave its answers; empty if none did.
    """

    variant: Variant
    kept: Mapping[str, float]
    checks: Sequence[Check]
    is_shipped: bool
    refused: str
    unmeasured: Sequence[str] = ()
    measured_on: str = ""

    @property
    def quality(self) -> float:
        """Mean share of the teacher's NDCG@10 over the tasks that an encoder can lose on; without them the overlap."""
        shares = [share for gate, share in self.kept.items() if is_task(gate)] or [self.kept.get("overlap", 0.0)]
        return sum(shares) / len(shares)


@dataclass(frozen=True, slots=True)
class Default:
    """The variant that a device runs if nobody says, and the sentence why."""

    name: str
    why: str


def judge(variant: Variant, kept: Mapping[str, float | None], *, allow_lossy: bool, measured_on: str = "") -> Judged:
    """Put a variant through the quality gates.

    One that was refused before stays refused whatever is allowed; one that could not be run here is only shipped where
    lossy ones are. A gate that could not be measured (None) refuses nobody, but keeps from being the default by rule.
    """
    measured = {gate: value for gate, value in kept.items() if value is not None}
    if variant.refused:
        return Judged(variant, measured, [], is_shipped=False, refused=variant.refused)
    if not kept:
        unknown = f"quality was not measured: this machine has no {variant.device}, and its CPU cannot run the graph"
        return Judged(variant, measured, [], is_shipped=allow_lossy, refused=unknown)
    checks = QUALITY.check(measured)
    failed = "; ".join(str(check) for check in checks if not check.has_passed)
    unmeasured = tuple(gate for gate in kept if gate not in measured and least_of(QUALITY.shipped, gate))
    shipped = allow_lossy or not failed
    return Judged(
        variant, measured, checks, is_shipped=shipped, refused=failed, unmeasured=unmeasured, measured_on=measured_on
    )


def fronts(judged: Sequence[Judged]) -> list[str]:
    """Names on the Pareto front of their device, of what was timed and is shipped."""
    timed = [j for j in judged if j.is_shipped and j.variant.texts_per_s_core > 0]
    return [name for device in _DEVICES for name in pareto([j for j in timed if j.variant.device == device])]


def pareto(judged: Sequence[Judged]) -> list[str]:
    """Names of those that no other one beats in speed, quality and size at once."""
    return [a.variant.name for a in judged if not any(_dominates(b, a) for b in judged)]


def _dominates(a: Judged, b: Judged) -> bool:
    ours = (a.variant.texts_per_s_core, a.quality, -a.variant.megabytes)
    theirs = (b.variant.texts_per_s_core, b.quality, -b.variant.megabytes)
    return ours != theirs and all(x >= y for x, y in zip(ours, theirs, strict=True))


def defaults(judged: Sequence[Judged]) -> dict[str, Default]:
    """Device -> its default.

    Raises:
        GateError: no variant is left; names each one's gate, value and threshold.
    """
    shipped = [j for j in judged if j.is_shipped]
    if not any(j.variant.device == "cpu" for j in shipped):
        reasons = ". ".join(f"{j.variant.name}: {j.refused}" for j in judged) or "there is none"
        raise GateError(
            "no variant passed the gates, so no bundle is written (--allow-lossy ships all the same what is lossy, "
            f"never a graph that is wrong). {reasons}"
        )
    return {device: _default(device, shipped) for device in _DEVICES}


def _default(device: str, shipped: Sequence[Judged]) -> Default:
    """The smallest of the fastest within the default's gates; where none is within, the one that keeps most.

    Of variants that are equal in that, the one with the higher quality, then the first by name.
    """
    own = [j for j in shipped if j.variant.device == device and j.variant.texts_per_s_core > 0]
    if not own:
        return _unmeasured(device, shipped)
    within = [j for j in own if not _short(j)]
    if within:
        return _fast(device, len(own), within)
    best = min(own, key=lambda j: (-j.quality, j.variant.megabytes, j.variant.name))
    why = f"{best.variant.name} keeps most of {len(own)} on {device}; none is within the gates of a default: "
    return Default(best.variant.name, why + "; ".join(_short(best)) + ".")


def _fast(device: str, total: int, within: Sequence[Judged]) -> Default:
    """Of the variants that are as fast as the fastest, but for the spread of the measurement, the smallest file."""
    fastest = max(j.variant.texts_per_s_core for j in within)
    near = [j for j in within if j.variant.texts_per_s_core >= _NEAR_SHARE * fastest]
    best = min(near, key=lambda j: (j.variant.megabytes, -j.quality, j.variant.name))
    name, speed = best.variant.name, f"{best.variant.texts_per_s_core:,.0f} texts/s on one core"
    fast = f"the fastest of {total} on {device} ({speed})"
    if len(near) > 1:
        fast = f"the smallest of {len(near)} within 5 % of the fastest of {total} on {device} ({speed})"
    gates = "the gates of a default (shares of NDCG@10: the upper ends of their intervals)"
    return Default(name, f"{name} is {fast} within {gates}: {_least(best)}.")


def _short(judged: Judged) -> list[str]:
    """What keeps it from being a default: the gates that it failed, and those that nobody could measure."""
    failed = [str(check) for check in QUALITY.check(judged.kept, as_default=True) if not check.has_passed]
    return failed + [f"{gate} could not be measured" for gate in judged.unmeasured]


def _unmeasured(device: str, shipped: Sequence[Judged]) -> Default:
    """Nothing was measured there: the fp32 graph of the default student runs on every device."""
    cpu = _default("cpu", shipped).name
    student = next(j.variant.student for j in shipped if j.variant.name == cpu)
    plain = [j.variant.name for j in shipped if j.variant.student == student and j.variant.precision == "fp32"]
    name = plain[0] if plain else cpu
    return Default(name, f"{name} runs on every device; no speed was measured on {device}.")


def _least(judged: Judged) -> str:
    checks = QUALITY.check(judged.kept, as_default=True)
    return ", ".join(f"{c.gate} {c.value:.3f} (at least {c.threshold})" for c in checks)
