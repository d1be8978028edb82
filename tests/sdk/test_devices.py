"""A device that is not there is named before any file is opened; a container's quota of processors is kept."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hardprompts import devices, load_backend
from hardprompts.devices import available_cpus, available_devices, checked_device, threads_advice, use_threads
from hardprompts.errors import BackendError


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: False)


@pytest.mark.usefixtures("two_gpus")
def test_devices_that_are_there_are_taken():
    assert available_devices() == ["cpu", "cuda:0", "cuda:1"]
    for name in ("cpu", "cuda", "cuda:1"):
        assert checked_device(name) == torch.device(name)
    assert checked_device(None) == torch.device("cuda")


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("name", ["mps", "xpu", "xpu:1", "cuda:2", "cuda:7"])
def test_a_device_that_is_not_there_is_named_with_those_that_are(name, tmp_path):
    # The folder lacks everything, which would be blamed if it were opened first.
    with pytest.raises(BackendError, match=f"no device '{name}' here; this torch sees cpu, cuda:0, cuda:1$"):
        load_backend(f"transformers:{tmp_path}", device=name)


def test_a_word_that_is_no_device_is_refused():
    with pytest.raises(BackendError, match="unknown device 'gpu'; this torch sees cpu"):
        load_backend("emoji", device="gpu")


# --- processors ---------------------------------------------------------------------------

V1 = "4:memory:/docker/abc\n3:{names}:/docker/abc\n0::/\n"


@pytest.fixture
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The number of threads of torch, which is 8 at first, and what it was set to."""
    chosen = [8]
    monkeypatch.setattr(torch, "get_num_threads", lambda: chosen[-1])
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    devices.keep_to_quota.cache_clear()
    yield chosen
    devices.keep_to_quota.cache_clear()


def system(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.usefixtures("eight_cpus")
@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, 8),  # not Linux
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "250000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "1600000 100000\n"}, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "damaged"}, 8),
        (  # a service in a slice, whose quota is the smaller one
            {
                "proc/self/cgroup": "0::/user.slice/job.service\n",
                "sys/fs/cgroup/user.slice/cpu.max": "300000 100000\n",
                "sys/fs/cgroup/user.slice/job.service/cpu.max": "500000 100000\n",
            },
            3,
        ),
        (  # version 1: a container sees its own group at the top
            {
                "proc/self/cgroup": V1.format(names="cpu,cpuacct"),
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "400000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            4,
        ),
        (
            {
                "proc/self/cgroup": V1.format(names="cpu"),
                "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us": "150000\n",
                "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_period_us": "50000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
    ],
)
def test_a_quota_of_processors_is_read(files: dict[str, str], cpus: int, tmp_path: Path) -> None:
    assert available_cpus(system(tmp_path, files)) == cpus


def test_processors_that_a_process_may_not_run_on_do_not_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5}, raising=False)
    assert available_cpus(tmp_path) == 2
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cpus(tmp_path) == 1


@pytest.mark.usefixtures("toy_plugin")
def test_a_quota_is_kept_from_the_first_opening_on(threads: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "available_cpus", lambda: 2)
    load_backend("toy", device="cpu")
    assert threads == [8, 2]
    torch.set_num_threads(5)  # by the user, who knows better
    load_backend("toy", device="cpu")
    assert threads == [8, 2, 5]


@pytest.mark.usefixtures("toy_plugin")
@pytest.mark.parametrize("case", ["environment", "asked for", "fewer already"])
def test_who_says_how_many_threads_is_heard(case: str, threads: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "available_cpus", lambda: 2)
    if case == "environment":
        monkeypatch.setenv("OMP_NUM_THREADS", "8")
    elif case == "asked for":
        use_threads(6)
    else:
        threads.append(1)
    before = threads[-1]
    load_backend("toy", device="cpu")
    use_threads(None)
    assert threads[-1] == before


def test_less_than_one_thread_is_refused() -> None:
    for wrong in (0, -1):
        with pytest.raises(ValueError, match=f"threads must be at least 1, got {wrong}"):
            use_threads(wrong)


def test_a_line_of_advice_where_others_are_busy(threads: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "getloadavg", lambda: (3.2, 0.0, 0.0), raising=False)
    assert threads_advice() == (
        "other processes keep this machine busy (a load of 3.2), and 8 threads wait for each other: --threads 1 may be "
        "faster"
    )
    monkeypatch.setattr(os, "getloadavg", lambda: (0.3, 9.0, 9.0), raising=False)
    assert threads_advice() == ""
    monkeypatch.setattr(os, "getloadavg", lambda: (9.0, 9.0, 9.0), raising=False)
    threads.append(1)
    assert threads_advice() == ""
    threads.append(2)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert threads_advice() == ""
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.delattr(os, "getloadavg", raising=False)  # Windows
    assert threads_advice() == ""
