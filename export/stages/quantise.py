"""Stage `quantise`: every student in fp32, int8 and fp16, each measured and judged by the gates of its graph."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from swiftrec.export.compress.equivalence import alone, difference
from swiftrec.export.compress.fp16 import to_half
from swiftrec.export.compress.int8 import Form, form_of, observe, quantise_bert, quantise_static
from swiftrec.export.compress.int8_form import fastest_form
from swiftrec.export.compress.layernorm import vectorise_norms
from swiftrec.export.compress.measurement import TEACHER, Measurements, MeasurementTexts
from swiftrec.export.compress.students import Student, read_students
from swiftrec.export.compress.throughput import Encoder, TorchTeacher, measure_throughput, one_thread, rounds
from swiftrec.export.data.text_variants import Texts
from swiftrec.export.gates import GATES, Gate, at_most, failures, verdict
from swiftrec.export.job import Job
from swiftrec.export.schema.variant import Variant, save_variants
from swiftrec.server.errors import ProviderError
from swiftrec.server.models.device import device_of_graph
from swiftrec.server.models.networks import EncoderModel
from swiftrec.server.models.session import open_session
from swiftrec.server.models.tokenizer import Tokenizer

_FP16, _TENSORRT = "fp16", "trt"


def run(job: Job, output: Path) -> None:
    """Write encoder.<student>-<precision>.onnx of every student and precision, and variants.json."""
    tokenizer = Tokenizer.load(job.folder("onnx") / "tokenizer.json", job.settings.plan.max_tokens)
    texts = MeasurementTexts.draw(Texts.load(job.folder("data")).all, tokenizer, job.settings.seed)
    students = read_students(job.folder("onnx"))
    with one_thread():
        form = int8_form(job, students, texts)
        variants: list[Variant] = []
        with job.progress("quantise", len(students)) as step:
            for student in students:
                variants += make_variants(job, student, texts, form, output)
                step()
        variants = measure(job, students, variants, texts, output)
    variants = [judge(variant, allow_lossy=job.settings.allow_lossy) for variant in variants]
    save_variants(variants, output)
    for variant in variants:
        job.console.print("  " + describe(variant))


def int8_form(job: Job, students: Sequence[Student], texts: MeasurementTexts) -> Form:
    """The form for the instruction set in the settings, or the best on this machine, tried on the first BERT."""
    berts = [student for student in students if student.layers and not failures(student.gates)]
    if job.settings.int8_target != "auto":
        return form_of(job.settings.int8_target)
    if not berts:
        return form_of("vnni")
    with job.progress("choose int8 form", rounds()) as step:
        form, words = fastest_form(job.folder("onnx") / berts[0].graph, berts[0].dimensions, texts, step)
    job.console.print(f"  {words}")
    return form


def make_variants(job: Job, student: Student, texts: MeasurementTexts, form: Form, output: Path) -> list[Variant]:
    """Write the student's graphs in every precision; if its fp32 graph is wrong, only their records are made."""
    fused, gates = job.folder("onnx") / student.graph, student.gates
    if not failures(gates):
        gates = (*gates, *_write_fp32(student, fused, output, texts))
    forms = {"fp32": "", "int8": form.name if student.layers else "", _FP16: ""}
    if job.settings.tensorrt and student.layers:
        forms[_TENSORRT] = "unfused"
    if not failures(gates):
        _write_smaller(job, student, texts, form, {kind: output / _file(student, kind) for kind in forms})
    return [_variant(student, kind, weights, gates) for kind, weights in forms.items()]


def _variant(student: Student, kind: str, form: str, gates: Sequence[Gate]) -> Variant:
    """The record of a graph that is not measured yet; `kind` is its precision, or "trt"."""
    return Variant(
        name=f"{student.name}-{kind}",
        student=student.name,
        precision=_FP16 if kind == _TENSORRT else kind,
        device=device_of_graph(kind),
        file=_file(student, kind),
        layers=student.layers,
        hidden=student.hidden,
        form=form,
        graph_gates=tuple(gates),
    )


def _file(student: Student, kind: str) -> str:
    return f"encoder.{student.name}-{kind}.onnx"


def _write_fp32(student: Student, fused: Path, output: Path, texts: MeasurementTexts) -> list[Gate]:
    """Write the fp32 graph that is shipped: a BERT's is rewritten, and so compared with the fused one."""
    target = output / _file(student, "fp32")
    if not student.layers:
        shutil.copyfile(fused, target)
        return []
    vectorise_norms(fused, target)
    a, b = (alone(EncoderModel(open_session(path)), texts.compared) for path in (fused, target))
    return [at_most("parity with the fused graph", difference(a, b), GATES.max_parity)]


def _write_smaller(job: Job, student: Student, texts: MeasurementTexts, form: Form, files: dict[str, Path]) -> None:
    """Write the graph of every precision in `files` but fp32."""
    fused = job.folder("onnx") / student.graph
    if student.layers:
        quantise_bert(fused, files["int8"], observe(fused, texts.calibration), form)
    else:
        quantise_static(fused, files["int8"])
    to_half(fused, files[_FP16])
    if _TENSORRT in files:
        to_half(job.folder("onnx") / student.traced, files[_TENSORRT])


def measure(
    job: Job, students: Sequence[Student], variants: Sequence[Variant], texts: MeasurementTexts, output: Path
) -> list[Variant]:
    """The variants with their measurements; those whose graph was not made stay as they are."""
    made = [variant for variant in variants if not failures(variant.graph_gates)]
    models: dict[str, Encoder] = {variant.name: EncoderModel(open_session(output / variant.file)) for variant in made}
    on_gpu = _on_gpu(made, output)
    timed = {TEACHER: TorchTeacher(job)} | {v.name: models[v.name] for v in made if v.device == "cpu"} | on_gpu
    with job.progress("measure", rounds() + len(made)) as step:
        clocks = dict.fromkeys(on_gpu, time.perf_counter)
        throughput = measure_throughput(timed, texts.tokenizer, texts.timed, step, clocks)
        measured = Measurements.of_models(output, models, throughput, texts.compared, step)
    shapes = {student.name: student for student in students}
    return [measured.fill(v, shapes[v.student]) if v.name in models else v for v in variants]


def _on_gpu(variants: Sequence[Variant], output: Path) -> dict[str, Encoder]:
    """The variants for a GPU, opened on it, if this machine has one."""
    models: dict[str, Encoder] = {}
    for variant in variants:
        if variant.device != "cpu":
            with contextlib.suppress(ProviderError):
                models[variant.name] = EncoderModel(open_session(output / variant.file, variant.device))
    return models


def judge(variant: Variant, *, allow_lossy: bool) -> Variant:
    """The variant, rejected or excused by the gates of its graph."""
    refused, exception = verdict(variant.graph_gates, allow_lossy=allow_lossy)
    return variant.model_copy(update={"refused": refused, "exception": exception})


def describe(variant: Variant) -> str:
    """A variant in one line."""
    if variant.refused and not variant.cosine:
        return f"{variant.name}: not made, REJECTED ({variant.refused})"
    speed = "not timed here"
    if variant.is_timed:
        speed = (
            f"{variant.texts_per_s_core:.0f} texts/s, {variant.ms_batch1:.2f} ms alone, "
            f"{variant.speedup_vs_teacher_pytorch:.1f}x the PyTorch teacher"
        )
    fidelity = f"cosine {variant.cosine:.5f}, batch {variant.batch_invariance:.0e}"
    state = f"exception ({variant.exception})" if variant.exception else ""
    state = f"REJECTED ({variant.refused})" if variant.refused else state
    return f"{variant.name}: {variant.megabytes:.1f} MB, {speed}, {fidelity} {state}".rstrip()
