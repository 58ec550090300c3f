"""Settings and fixtures that all tests share."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

GOLDEN = Path(__file__).resolve().parent / "golden"
TALKING = ("test/evaluation/test_through_ros.py", "test/cli/test_demo.py")
"""Files outside test/ros/ whose tests start the node."""


def _claim_ros_domain() -> tuple[int, IO[str]]:
    """A ROS domain that no other test process on this machine uses; it is ours while the file
    stays open."""
    for offset in range(100):
        domain = (
            1 + (os.getpid() + offset) % 100
        )  # above 101 the ports meet the ephemeral ones of Linux
        handle = (Path(tempfile.gettempdir()) / f"stemseg-test-domain-{domain}.lock").open("a")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.close()
            continue
        return domain, handle
    raise RuntimeError("all ROS domains from 1 to 100 are in use by other test processes")


# Set before any test imports rclpy or torch; processes that tests start inherit them.
_domain, _domain_lock = _claim_ros_domain()
os.environ["ROS_DOMAIN_ID"] = str(_domain)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
# Shared memory of processes that tests kill stays behind, and its ports with it.
os.environ.setdefault("FASTDDS_BUILTIN_TRANSPORTS", "UDPv4")
# One core for each process that tests beside others, also where the process that shares out the
# tests, which came by here before, has left its own number: threads of which one waits for a core
# spin, and cost twenty times as much.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
else:
    os.environ.setdefault("OMP_NUM_THREADS", str(min(2, os.cpu_count() or 1)))
# What engines keep of networks is made once for all tests, and does not mix with the user's.
os.environ.setdefault("STEMSEG_CACHE", str(GOLDEN.parents[1] / ".pytest_cache" / "stemseg"))
# A job in the background of a script starts with SIGINT ignored, one under nohup with SIGHUP, and
# processes inherit that: tests that send these signals to their children would wait in vain.
for _number, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Path]:
    """golden(name) is the path of a golden file, for example golden("network_davis.npz")."""

    def path(name: str) -> Path:
        found = GOLDEN / name
        if not found.is_file():
            raise FileNotFoundError(f"no golden file {found}")
        return found

    return path


@pytest.fixture(autouse=True)
def _threads_stay() -> Iterator[None]:
    """What a test does to the threads of PyTorch and OpenCV ends with it: sums in another order
    give other last bits, and tests compare processes bit for bit."""
    import cv2
    import torch

    before = torch.get_num_threads(), cv2.getNumThreads()
    yield
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for marker, missing in (("gpu", _gpu_missing), ("ros", _ros_missing)):
        marked = [item for item in items if item.get_closest_marker(marker)]
        reason = missing() if marked else ""
        for item in marked if reason else []:
            item.add_marker(pytest.mark.skip(reason=reason))
        if marker == "ros":
            # On a starved machine discovery now and then stays half done for good: a node is seen
            # without some of its topics or services. The summary tells what was run again.
            for item in marked:
                item.add_marker(pytest.mark.flaky(reruns=2, reruns_delay=1))


def pytest_sessionfinish() -> None:
    """PyTorch's notes of tensors that other processes sent outlive what their ends call, which
    would print an ignored exception for each below the summary."""
    reductions = sys.modules.get("torch.multiprocessing.reductions")
    if reductions is not None:
        reductions.shared_cache.clear()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """How "make test" shares the tests among its processes."""
    from xdist.scheduler import LoadFileScheduling  # pytest runs without it, too

    class FilesAndRos(LoadFileScheduling):
        """Files as wholes, and one process for all that talk over DDS: discovery and deadlines of
        one such test do not suffer from another. They wait more than they compute."""

        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "ros" if file.startswith("test/ros/") or file in TALKING else file

    return FilesAndRos(config, log)


def _gpu_missing() -> str:
    import torch

    return "" if torch.cuda.is_available() else "no CUDA device"


def _ros_missing() -> str:
    if importlib.util.find_spec("rclpy") is None:
        return "rclpy is not installed"
    return "" if importlib.util.find_spec("stemseg") else "the stemseg messages are not built"
