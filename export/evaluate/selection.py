"""Which variants are shipped, which of them are on the Pareto front, and which one is a device's default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from swiftrec.export.errors import GateError
from swiftrec.export.gates import QUALITY, Gate, failures, threshold_of, verdict
from swiftrec.export.schema.quality import Default
from swiftrec.export.schema.variant import Variant
from swiftrec.server.models.device import devices_with_default

_NEAR_SHARE = 0.95  # of the fastest variant's texts/s: two measurements of one variant differ by as much


def judge(variant: Variant, values: Mapping[str, float | None], *, allow_lossy: bool, measured_on: str = "") -> Variant:
    """Judge a variant by the quality gates; the variant with its gates, and whether it is shipped.

    A variant that stage `quantise` refused stays refused. One that could not be run here is shipped only with
    `allow_lossy`. A gate that could not be measured refuses nothing, but the variant cannot become a default by rule.

    Args:
        variant: as stage `quantise` recorded it.
        values: gate -> value, None if it could not be measured; empty if the variant was not evaluated.
        allow_lossy: whether to ship a variant that failed a quality gate.
        measured_on: the device that computed the answers.
    """
    measured = {gate: value for gate, value in values.items() if value is not None}
    update: dict[str, object] = {"overlap": measured.get("overlap"), "measured_on": measured_on}
    if variant.refused:
        return variant.model_copy(update=update)
    if values:
        gates = tuple(QUALITY.judge(measured))
        unmeasured = (gate for gate in values if gate not in measured and threshold_of(QUALITY.shipped, gate))
        update |= {"gates": gates, "unmeasured": tuple(unmeasured)}
        refused, excused = verdict(gates, allow_lossy=allow_lossy)
    else:
        unknown = f"quality was not measured: this machine has no {variant.device}, and its CPU cannot run the graph"
        refused, excused = ("", unknown) if allow_lossy else (unknown, "")
    excused = "; ".join(filter(None, (excused, variant.exception)))
    return variant.model_copy(update=update | {"shipped": not refused, "refused": refused, "exception": excused})


def fronts(variants: Sequence[Variant]) -> list[str]:
    """Names on the Pareto front of their device, among those that were timed and are shipped."""
    timed = [variant for variant in variants if variant.shipped and variant.is_timed]
    return [name for device in devices_with_default() for name in pareto([v for v in timed if v.device == device])]


def pareto(variants: Sequence[Variant]) -> list[str]:
    """Names of those that no other variant beats in speed, quality and size at once."""
    return [a.name for a in variants if not any(_dominates(b, a) for b in variants)]


def _dominates(a: Variant, b: Variant) -> bool:
    ours = (a.texts_per_s_core, a.quality, -a.megabytes)
    theirs = (b.texts_per_s_core, b.quality, -b.megabytes)
    return ours != theirs and all(x >= y for x, y in zip(ours, theirs, strict=True))


def defaults(variants: Sequence[Variant]) -> dict[str, Default]:
    """Device -> its default.

    Raises:
        GateError: no variant is left; names each one's gate, value and threshold.
    """
    shipped = [variant for variant in variants if variant.shipped]
    if not any(variant.device == "cpu" for variant in shipped):
        reasons = ". ".join(f"{variant.name}: {variant.refused}" for variant in variants) or "there is none"
        raise GateError(
            "no variant passed the gates, so no bundle is written (--allow-lossy ships all the same what is lossy, "
            f"never a graph that is wrong). {reasons}"
        )
    return {device: _default(device, shipped) for device in devices_with_default()}


def _default(device: str, shipped: Sequence[Variant]) -> Default:
    """The smallest of the fastest within the default's gates; if none is within, the one of the highest quality.

    If several are equal in that, quality decides, then the name.
    """
    timed = [variant for variant in shipped if variant.device == device and variant.is_timed]
    if not timed:
        return _unmeasured(device, shipped)
    within = [variant for variant in timed if not _shortfalls(variant)]
    if within:
        return _fast(device, len(timed), within)
    best = min(timed, key=lambda variant: (-variant.quality, variant.megabytes, variant.name))
    why = f"{best.name} keeps the most quality of {len(timed)} on {device}; none is within the gates of a default: "
    return Default(best.name, why + "; ".join(_shortfalls(best)) + ".")


def _fast(device: str, total: int, within: Sequence[Variant]) -> Default:
    """The smallest file of the variants whose speed is within the measurement's spread of the fastest."""
    fastest = max(variant.texts_per_s_core for variant in within)
    near = [variant for variant in within if variant.texts_per_s_core >= _NEAR_SHARE * fastest]
    best = min(near, key=lambda variant: (variant.megabytes, -variant.quality, variant.name))
    speed = f"{best.texts_per_s_core:,.0f} texts/s on one core"
    rank = f"the fastest of {total} on {device} ({speed})"
    if len(near) > 1:
        rank = f"the smallest of {len(near)} within 5 % of the fastest of {total} on {device} ({speed})"
    shares = ", ".join(f"{gate.gate} {gate.value:.3f} (at least {gate.threshold})" for gate in _as_default(best))
    gates = "the gates of a default (shares of NDCG@10: the upper ends of their intervals)"
    return Default(best.name, f"{best.name} is {rank} within {gates}: {shares}.")


def _as_default(variant: Variant) -> list[Gate]:
    """The variant's values, judged by the thresholds of a default."""
    return QUALITY.judge({gate.gate: gate.value for gate in variant.gates}, as_default=True)


def _shortfalls(variant: Variant) -> list[str]:
    """Why a variant cannot be a default: the gates that it failed, and those that could not be measured."""
    failed = list(map(str, failures(_as_default(variant))))
    return failed + [f"{gate} could not be measured" for gate in variant.unmeasured]


def _unmeasured(device: str, shipped: Sequence[Variant]) -> Default:
    """If no speed was measured on the device: the fp32 graph of the CPU's default student, which runs everywhere."""
    cpu = _default("cpu", shipped).name
    student = next(variant.student for variant in shipped if variant.name == cpu)
    plain = [variant.name for variant in shipped if variant.student == student and variant.precision == "fp32"]
    name = plain[0] if plain else cpu
    return Default(name, f"{name} runs on every device; no speed was measured on {device}.")
