"""Wheel and sdist: what they hold, and what a clean environment with the wheel can do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import pytest

from swiftrec.server.models.bundle import Bundle
from tests.conftest import ROOT

_BUILD = "import sys, setuptools.build_meta as b; folder = sys.argv[1]; b.build_sdist(folder); b.build_wheel(folder)"
_LINKS = ("server", "export", "benchmarks")
_NOT_SHIPPED = {"LOG.md"}


@dataclass(frozen=True, slots=True)
class Distributions:
    """A wheel, an sdist and the wheel made from that sdist."""

    wheel: Path
    sdist: Path
    wheel_of_sdist: Path


@dataclass(frozen=True, slots=True)
class Installation:
    """An environment that holds the wheel, and sees the dependencies of the environment that runs the tests."""

    bin: Path
    site_packages: Path

    def run(self, *command: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment outside the checkout."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("SWIFTREC_", "PYTHON"))}
        path = [str(self.bin / command[0]), *command[1:]]
        return subprocess.run(path, cwd=folder, env=clean, capture_output=True, text=True, check=False, timeout=120)


def run(*command: str, folder: Path) -> None:
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr


def build(sources: Path, folder: Path) -> tuple[Path, Path]:
    """Build without a network; paths of the wheel and the sdist."""
    folder.mkdir()
    run(sys.executable, "-c", _BUILD, str(folder), folder=sources)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def copy_checkout(folder: Path) -> Path:
    """A copy of what a wheel is built from, with its links."""
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*", "artifacts", "build", "dist", "tests", "docs")
    return Path(shutil.copytree(ROOT, folder, symlinks=True, ignore=ignored))


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    folder = tmp_path_factory.mktemp("distributions")
    checkout = copy_checkout(folder / "checkout")
    (checkout / "benchmarks" / "results" / "a-run-of-mine").mkdir()
    (checkout / "benchmarks" / "results" / "a-run-of-mine" / "reference.json").touch()
    wheel, sdist = build(checkout, folder / "made")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    wheel_of_sdist, _ = build(folder / sdist.name.removesuffix(".tar.gz"), folder / "made again")
    return Distributions(wheel, sdist, wheel_of_sdist)


@pytest.fixture(scope="session")
def installation(distributions: Distributions, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", str(folder), folder=folder)
    site_packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    dependencies = Path(sysconfig.get_path("purelib"))
    (site_packages / "dependencies.pth").write_text(f"{dependencies}\n")
    flags = ["--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check", "--quiet"]
    python = str(folder / "bin" / "python")
    run(sys.executable, "-m", "pip", "--python", python, "install", *flags, str(distributions.wheel), folder=folder)
    return Installation(folder / "bin", site_packages)


def files_of_wheel(path: Path) -> set[str]:
    """Names of the package's files; the wheel's own records are left out."""
    with zipfile.ZipFile(path) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def files_of_package() -> set[str]:
    """Every file of the package in the checkout, which it sees through its links."""
    names = set()
    for folder, _, files in os.walk(ROOT / "swiftrec", followlinks=True):
        names |= {str((Path(folder) / name).relative_to(ROOT)) for name in files}
    results = "swiftrec/benchmarks/results/"
    names = {name for name in names if "__pycache__" not in name and Path(name).name not in _NOT_SHIPPED}
    return {name for name in names if not name.startswith(results)} | {f"{results}reference.json"}


def test_wheel_holds_every_file_of_the_package_and_nothing_else(distributions: Distributions) -> None:
    names = files_of_wheel(distributions.wheel)
    assert names == files_of_package()
    assert {name.partition("/")[0] for name in names} == {"swiftrec"}
    assert "swiftrec/py.typed" in names


def test_sdist_holds_the_contract_and_what_make_needs(distributions: Distributions) -> None:
    with tarfile.open(distributions.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        assert not [member.name for member in archive.getmembers() if member.issym() or member.islnk()]
    assert {"Makefile", "pyproject.toml", "constraints.txt", "README.md", "LICENSE", "buf.yaml"} <= names
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "proto").rglob("*.proto")} <= names
    assert files_of_package() <= names
    assert not [name for name in names if name.startswith("tests")]


def test_wheel_made_from_the_sdist_has_the_same_files(distributions: Distributions) -> None:
    assert files_of_wheel(distributions.wheel_of_sdist) == files_of_wheel(distributions.wheel)


def test_links_that_an_archive_lost_are_restored_and_an_old_build_is_left_out(
    distributions: Distributions, tmp_path: Path
) -> None:
    checkout = copy_checkout(tmp_path / "checkout")
    (checkout / "swiftrec" / "server").unlink()
    (checkout / "swiftrec" / "server").write_text("../server")  # as pip unpacks a zip
    (checkout / "swiftrec" / "export").unlink()
    (checkout / "build" / "lib" / "swiftrec").mkdir(parents=True)
    (checkout / "build" / "lib" / "swiftrec" / "removed.py").touch()
    wheel, _ = build(checkout, tmp_path / "made")
    assert files_of_wheel(wheel) == files_of_wheel(distributions.wheel)


@pytest.mark.parametrize("name", _LINKS)
def test_link_of_the_package_is_relative(name: str) -> None:
    assert os.readlink(ROOT / "swiftrec" / name) == f"../{name}"  # noqa: PTH115 (as it is written)


def test_wheel_installs_one_importable_package(installation: Installation, tmp_path: Path) -> None:
    names = {path.name for path in installation.site_packages.iterdir()}
    assert {name for name in names if ".dist-info" not in name} == {"swiftrec", "dependencies.pth"}
    for module in (*_LINKS, "examples", "tests"):
        ended = installation.run("python", "-c", f"import {module}", folder=tmp_path)
        assert f"No module named '{module}'" in ended.stderr
    code = "import swiftrec.server; print(swiftrec.server.__file__)"
    imported = installation.run("python", "-c", code, folder=tmp_path).stdout
    assert imported.startswith(str(installation.site_packages))


@pytest.mark.parametrize(
    ("flags", "printed"),
    [
        (["--version"], "swiftrec "),
        (["--help"], "usage: swiftrec COMMAND"),
        (["serve", "--help"], "usage: swiftrec serve "),
        (["export", "--help"], "usage: swiftrec export "),
        (["ask", "--help"], "usage: swiftrec ask "),
    ],
)
def test_installed_command_runs_outside_the_checkout(
    installation: Installation, tmp_path: Path, flags: list[str], printed: str
) -> None:
    for command in (["swiftrec"], ["python", "-m", "swiftrec"]):
        ended = installation.run(*command, *flags, folder=tmp_path)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert ended.stdout.startswith(printed)


def test_installed_doctor_reads_a_folder(installation: Installation, tmp_path: Path) -> None:
    items = "".join(f"{n},a film about {n}\n" for n in range(60))
    rows = "".join(f"{n % 9},{n},{n}\n" for n in range(60))
    (tmp_path / "items.csv").write_text(f"item_id,text\n{items}")
    (tmp_path / "interactions.csv").write_text(f"user_id,item_id,timestamp\n{rows}")
    ended = installation.run("swiftrec", "doctor", str(tmp_path), folder=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_installed_server_loads_a_bundle_in_its_child_process(
    installation: Installation, bundle: Bundle, tmp_path: Path
) -> None:
    code = f"""
        from pathlib import Path
        from swiftrec.server.pipeline.engine import EngineOptions
        from swiftrec.server.probe import probe

        probe(Path({str(bundle.folder)!r}), EngineOptions(), timeout_s=100)
    """
    ended = installation.run("python", "-c", dedent(code), folder=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_types_of_the_installed_package_are_checked(installation: Installation, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from swiftrec.server.addresses import join_address\n\njoin_address(1, 2)\n")
    python = str(installation.bin / "python")
    command = [sys.executable, "-m", "mypy", "--python-executable", python, "--cache-dir", os.devnull, "mine.py"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert 'Argument 1 to "join_address" has incompatible type "int"; expected "str"' in ended.stdout, ended.stdout
    assert "Found 1 error in 1 file" in ended.stdout
