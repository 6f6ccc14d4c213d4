"""Stage `quantise`: every student in fp32, int8 and fp16, measured side by side, with what each failed of the gates."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from swiftrec.export import gates
from swiftrec.export.compress.calibration_texts import calibration_texts, joined_texts
from swiftrec.export.compress.equivalence import Vectors, alone, difference, invariance, mean_cosine
from swiftrec.export.compress.fp16 import to_half
from swiftrec.export.compress.int8 import FORMS, Form, form_of, observe, quantise_bert, quantise_static
from swiftrec.export.compress.layernorm import vectorise_norms
from swiftrec.export.compress.pytorch import TorchTeacher, one_thread
from swiftrec.export.compress.students import Student, read_students
from swiftrec.export.compress.throughput import Encoder, Pace, race, rounds
from swiftrec.export.data.text_variants import Texts
from swiftrec.export.gates import Outcome
from swiftrec.export.stages.runner import Job
from swiftrec.export.variants import Variant, save_variants
from swiftrec.server.errors import ProviderError
from swiftrec.server.models.networks import EncoderModel
from swiftrec.server.models.session import open_session
from swiftrec.server.models.tokenizer import Tokenizer

_CALIBRATION_TEXTS = 256
_MEASURED_TEXTS = 58  # joined ones, each length from 3 to 60 words once
_SHORT_TEXTS = 58
_TEACHER = "teacher"
_LEVEL = 0.95  # a form this near the fastest counts as fast
_DEVICES = {"fp32": "cpu", "int8": "cpu", "fp16": "cuda", "trt": "tensorrt"}
_HALF = ("fp16", "trt")


@dataclass(frozen=True, slots=True)
class Made:
    """A graph that was made, before it is judged; `gates` are those of the fp32 graph that it was made of.

    If one of these failed there is no graph, only its name.
    """

    student: Student
    precision: str
    form: str
    gates: tuple[Outcome, ...]

    @property
    def name(self) -> str:
        """The variant's name."""
        return f"{self.student.name}-{self.precision}"

    @property
    def file(self) -> str:
        """The variant's file."""
        return f"encoder.{self.name}.onnx"

    @property
    def is_there(self) -> bool:
        """Whether it could be made."""
        return not gates.failures(self.gates)

    @property
    def is_fp32(self) -> bool:
        """Whether it is what the others are compared with."""
        return self.precision == "fp32"


@dataclass(frozen=True, slots=True)
class Material:
    """What all measurements share: token ids to calibrate with and to compare vectors of, and texts to time."""

    tokenizer: Tokenizer
    calibration: list[list[int]]
    compared: list[list[int]]
    timed: list[str]

    @classmethod
    def of(cls, job: Job) -> Material:
        """From the texts of the data set."""
        rng, texts = np.random.default_rng(job.settings.seed), Texts.load(job.folder("data")).all
        tokenizer = Tokenizer.load(job.folder("onnx") / "tokenizer.json", job.settings.plan.max_tokens)
        calibration = tokenizer.encode(calibration_texts(texts, _CALIBRATION_TEXTS, rng))
        timed = joined_texts(texts, _MEASURED_TEXTS, rng)
        short = [texts[n] for n in rng.permutation(len(texts))[:_SHORT_TEXTS]]
        return cls(tokenizer, calibration, tokenizer.encode([*timed, *short]), timed)


def run(job: Job, out: Path) -> None:
    """Write encoder.<student>-<precision>.onnx of every student and precision, and variants.json."""
    material, ladder = Material.of(job), read_students(job.folder("onnx"))
    with one_thread():
        form = choose_form(job, material, ladder)
        with job.progress("quantise", len(ladder)) as step:
            made: list[Made] = []
            for student in ladder:
                made += _make(job, student, material, form, out)
                step()
        variants = _measure(job, material, made, out)
    save_variants(variants, out)
    for variant in variants:
        job.console.print("  " + describe(variant))


def _make(job: Job, student: Student, material: Material, form: Form, out: Path) -> list[Made]:
    """The student's graphs in every precision; no more than their names if its fp32 graph is wrong."""
    fused, outcomes = job.folder("onnx") / student.graph, student.gates
    if not gates.failures(outcomes):
        outcomes = (*outcomes, *_write_fp32(student, fused, out, material))
    forms = {"fp32": "", "int8": form.name if student.layers else "", "fp16": ""}
    if job.settings.tensorrt and student.layers:
        forms["trt"] = "unfused"
    made = [Made(student, precision, name, outcomes) for precision, name in forms.items()]
    if not gates.failures(outcomes):
        files = {graph.precision: out / graph.file for graph in made}
        _write_smaller(job, student, files, material, form)
    return made


def _write_fp32(student: Student, fused: Path, out: Path, material: Material) -> list[Outcome]:
    """The fp32 graph that is shipped: a BERT's is rewritten, and so held against the one that PyTorch was."""
    target = out / f"encoder.{student.name}-fp32.onnx"
    if not student.layers:
        shutil.copyfile(fused, target)
        return []
    vectorise_norms(fused, target)
    a, b = (alone(EncoderModel(open_session(path)), material.compared) for path in (fused, target))
    return [gates.at_most("parity with the fused graph", difference(a, b), gates.GATES.max_parity)]


def _write_smaller(job: Job, student: Student, files: dict[str, Path], material: Material, form: Form) -> None:
    """Every precision but fp32."""
    fused = job.folder("onnx") / student.graph
    if student.layers:
        quantise_bert(fused, files["int8"], observe(fused, material.calibration), form)
    else:
        quantise_static(fused, files["int8"])
    to_half(fused, files["fp16"])
    if "trt" in files:
        to_half(job.folder("onnx") / student.traced, files["trt"])


def choose_form(job: Job, material: Material, ladder: Sequence[Student]) -> Form:
    """The form of the instruction set that was asked for, or the most precise of those that are fastest here.

    Measured on the first BERT of the ladder. A form whose sums overflow on this processor shows in the cosine.
    """
    berts = [student for student in ladder if student.layers and not gates.failures(student.gates)]
    if job.settings.int8_target != "auto" or not berts:
        return form_of("vnni" if job.settings.int8_target == "auto" else job.settings.int8_target)
    fused = job.folder("onnx") / berts[0].graph
    ranges = observe(fused, material.calibration)
    rows = material.compared[::4]
    exact = alone(EncoderModel(open_session(fused)), rows)
    with tempfile.TemporaryDirectory(dir=job.root) as scratch, job.progress("choose int8 form", rounds()) as step:
        models: dict[str, Encoder] = {}
        for form in FORMS:
            path = Path(scratch) / f"{form.name}.onnx"
            quantise_bert(fused, path, ranges, form)
            models[form.name] = EncoderModel(open_session(path))
        paces = race(models, material.tokenizer, material.timed[::4], step)
    cosines = {name: mean_cosine(alone(model, rows), exact, berts[0].dimensions) for name, model in models.items()}
    best = choose(cosines, {name: pace.texts_per_s for name, pace in paces.items()})
    seen = ", ".join(f"{n} {paces[n].texts_per_s:.0f} texts/s cosine {cosines[n]:.5f}" for n in models)
    job.console.print(f"  int8 form {best}: {seen}")
    return Form(best)


def choose(cosines: dict[str, float], speeds: dict[str, float]) -> str:
    """The most precise form within 5 % of the fastest among those that pass the gate, or among all if none does."""
    kept = [name for name in cosines if cosines[name] >= gates.GATES.min_cosine] or list(cosines)
    fastest = max(speeds[name] for name in kept)
    return max((name for name in kept if speeds[name] >= _LEVEL * fastest), key=cosines.__getitem__)


def _measure(job: Job, material: Material, made: list[Made], out: Path) -> list[Variant]:
    models = {g.name: EncoderModel(open_session(out / g.file)) for g in made if g.is_there}
    racing: dict[str, Encoder] = {_TEACHER: TorchTeacher(job)}
    racing |= {g.name: models[g.name] for g in made if g.is_there and _DEVICES[g.precision] == "cpu"}
    on_gpus = _on_gpus(made, out)
    variants, exact = [], dict[str, Vectors]()
    with job.progress("measure", rounds() + len(made)) as step:
        clocks = dict.fromkeys(on_gpus, time.perf_counter)
        paces = race(racing | on_gpus, material.tokenizer, material.timed, step, clocks)
        for graph in made:
            if graph.is_there:
                model = models[graph.name]
                vectors = alone(model, material.compared)
                if graph.is_fp32:
                    exact[graph.student.name] = vectors
                cosine = mean_cosine(vectors, exact[graph.student.name], graph.student.dimensions)
                changed = invariance(model, material.compared, vectors)
                variants.append(_judge(job, out, graph, paces, cosine, changed))
            else:
                variants.append(_variant(job, graph, graph.gates))
            step()
    return variants


def _on_gpus(made: Sequence[Made], out: Path) -> dict[str, Encoder]:
    """What is made for a GPU, where this machine has one to be timed on (never run on one yet)."""
    found: dict[str, Encoder] = {}
    for graph in made:
        device = _DEVICES[graph.precision]
        if graph.is_there and device != "cpu":
            with contextlib.suppress(ProviderError):
                found[graph.name] = EncoderModel(open_session(out / graph.file, device))
    return found


def _judge(job: Job, out: Path, graph: Made, paces: dict[str, Pace], cosine: float, changed: float) -> Variant:
    """The variant with its figures and every gate that it went through."""
    size, pace = (out / graph.file).stat().st_size, paces.get(graph.name)
    most = gates.GATES.max_invariance_half if graph.precision in _HALF else gates.GATES.max_invariance
    outcomes = [*graph.gates, gates.at_most("batch invariance", changed, most)]
    if not graph.is_fp32:
        share = size / (out / f"encoder.{graph.student.name}-fp32.onnx").stat().st_size
        is_rival = _DEVICES[graph.precision] == "cpu"  # where the fp32 graph is timed
        faster = pace.speedup(paces[f"{graph.student.name}-fp32"]) if pace and is_rival else None
        outcomes += gates.smaller_precision(cosine, share, faster, is_static=not graph.student.layers)
    measured = replace(
        _variant(job, graph, outcomes), megabytes=round(size / 1e6, 1), cosine=cosine, batch_invariance=changed
    )
    if not pace:
        return measured
    return replace(
        measured,
        texts_per_s_core=round(pace.texts_per_s, 1),
        ms_batch1=round(pace.ms_batch1, 3),
        speedup_vs_teacher_pytorch=round(pace.speedup(paces[_TEACHER]), 2),
        texts_per_s_range=_rounded(pace.texts_per_s_range, 1),
        speedup_range=_rounded(pace.speedup_range(paces[_TEACHER]), 2),
    )


def _rounded(ends: tuple[float, float], places: int) -> tuple[float, float]:
    return round(ends[0], places), round(ends[1], places)


def _variant(job: Job, graph: Made, outcomes: Sequence[Outcome]) -> Variant:
    """What it is and what it failed, without figures."""
    refused, exception = gates.verdict(outcomes, allow_lossy=job.settings.allow_lossy)
    return Variant(
        name=graph.name,
        student=graph.student.name,
        precision="fp16" if graph.precision == "trt" else graph.precision,
        device=_DEVICES[graph.precision],
        file=graph.file,
        layers=graph.student.layers,
        hidden=graph.student.hidden,
        megabytes=0,
        texts_per_s_core=0,
        ms_batch1=0,
        speedup_vs_teacher_pytorch=0,
        cosine=0,
        batch_invariance=0,
        refused=refused,
        exception=exception,
        form=graph.form,
        gates=tuple(outcomes),
    )


def describe(variant: Variant) -> str:
    """A variant in one line."""
    if variant.refused and not variant.cosine:
        return f"{variant.name}: not made, REFUSED ({variant.refused})"
    speed = (
        f"{variant.texts_per_s_core:.0f} texts/s, {variant.ms_batch1:.2f} ms alone, "
        f"{variant.speedup_vs_teacher_pytorch:.1f}x the PyTorch teacher"
        if variant.texts_per_s_core
        else "not timed here"
    )
    fidelity = f"cosine {variant.cosine:.5f}, batch {variant.batch_invariance:.0e}"
    end = (
        f"REFUSED ({variant.refused})"
        if variant.refused
        else f"exception ({variant.exception})" * bool(variant.exception)
    )
    return f"{variant.name}: {variant.megabytes:.1f} MB, {speed}, {fidelity} {end}".rstrip()
