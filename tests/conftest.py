"""Fixtures shared by all tests: processes that start in a moment, and a small folder of images."""

from __future__ import annotations

import os
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # tests are modules: `ranks`, `ledger` … are imported by name

# What a config leaves open is then the same on CPUs that have bf16 in hardware and on those that have not.
os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX512_CORE_VNNI"
# Many processes share the CPUs: threads that spin while they wait for each other would slow all of them.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

from ranks import Ranks, warm_up

EXTRAS = [
    "cluster/test_processes.py::test_a_process_that_does_not_come_*",
    "commands/test_models.py::test_without_a_pattern_the_limit_*",
    "end_to_end/test_audit.py::test_a_run_keeps_*",
    "end_to_end/test_audit.py::test_flipped_*",
    "end_to_end/test_comparison.py::test_real_runs_*",
    "end_to_end/test_crossval.py::test_all_folds_*",
    "end_to_end/test_eval.py::test_views_*",
    "end_to_end/test_faults.py::*hangs-1*",
    "end_to_end/test_faults.py::*is killed-1*",
    "end_to_end/test_faults.py::test_a_fault_on_one_process_*out of CPU memory*",
    "end_to_end/test_faults.py::test_a_fault_on_one_process_*raises-1*",
    "end_to_end/test_faults.py::test_a_fault_on_one_process_*runs out of memory-1*",
    "end_to_end/test_faults.py::test_a_process_killed_before_it_joins_*",
    "end_to_end/test_faults.py::test_a_process_with_loader_workers_*",
    "end_to_end/test_faults.py::test_a_signal_in_an_evaluation_*3*",
    "end_to_end/test_faults.py::test_an_image_that_hangs_*",
    "end_to_end/test_faults.py::test_processes_that_were_suspended_*",
    "end_to_end/test_faults.py::test_under_torchrun_*",
    "end_to_end/test_faults.py::test_when_the_main_process_is_killed_under_torchrun_*",
    "end_to_end/test_files_that_go_bad.py::test_in_training_*",
    "end_to_end/test_fine_tuning.py::*fast_mode*",
    "end_to_end/test_fine_tuning.py::*norms of batches*",
    "end_to_end/test_fine_tuning.py::*norms of layers*",
    "end_to_end/test_kill.py::*1-0-0*",
    "end_to_end/test_kill.py::*2-2-0*",
    "end_to_end/test_launchers.py::*",
    "end_to_end/test_machines.py::test_all_begin_*",
    "end_to_end/test_machines.py::test_an_old_run_*",
    "end_to_end/test_machines.py::test_without_a_shared_disk_*",
    "end_to_end/test_objectives.py::*bf16*",
    "end_to_end/test_objectives.py::test_a_kill_costs_nothing*",
    "end_to_end/test_objectives.py::test_the_same_bits_*float32-TwoViews*",
    "end_to_end/test_odd_models.py::test_a_model_that_remembers_*",
    "end_to_end/test_presets.py::test_a_kill_of_a_run_on_features_*",
    "end_to_end/test_presets.py::test_only_the_head_*",
    "end_to_end/test_run.py::test_a_compiled_run_*",
    "end_to_end/test_run.py::test_a_save_that_takes_longer_*",
    "end_to_end/test_run.py::test_a_terminal_that_is_stopped_*",
    "end_to_end/test_run.py::test_settings_train*2]",
    "end_to_end/test_workers.py::*True*",
    "end_to_end/test_world_sizes.py::*8]",
    "end_to_end/test_world_sizes.py::*bf16-12*",
    "end_to_end/test_world_sizes.py::*float32-12*",
    "end_to_end/test_world_sizes.py::test_a_run_stopped_on_4_*",
    "end_to_end/test_world_sizes.py::test_the_same_pixels_*",
    "export/test_exporting.py::test_int8_*",
    "inference/test_prediction.py::test_eval_predict_and_python_agree_*",
    "launch/test_node.py::test_a_machine_that_waits_*",
    "launch/test_node.py::test_two_machines_*",
    "launch/test_spot_watch.py::test_every_clouds_notice_*",
    "report/test_findings.py::test_a_sick_machine_*",
    "soak/test_models.py::*",
    "test_api.py::test_a_run_that_fails_*",
    "test_api.py::test_ctrl_c_*",
    "test_api.py::test_runs_in_one_process_*",
    "test_readme.py::test_the_commands_work*docs/*",
]
"""Tests that are slow and seldom break, or whose neighbors cover most of the same: make test-extras runs them.

Patterns of a test's name under tests/."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark EXTRAS. A pattern that matches nothing in a file that was collected is a mistake."""
    names = {item.nodeid.partition("tests/")[2]: item for item in items}
    files = {name.partition("::")[0] for name in names}
    for pattern in EXTRAS:
        found = [item for name, item in names.items() if fnmatchcase(name, pattern.replace("[", "[[]"))]
        for item in found:
            item.add_marker(pytest.mark.extras)
        if not found and pattern.partition("::")[0] in files and not any("::" in word for word in sys.argv):
            raise pytest.UsageError(f"tests/conftest.py: EXTRAS names {pattern!r}, and there is no such test")


@pytest.fixture(scope="session")
def server():
    """The process that ranks are forked from. Its imports take most of a minute on a busy machine."""
    warm_up()


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory):
    """Tests keep decoded images apart from those of the person who runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def one_thread():
    """One thread sums in one order, however many CPUs the machine has, and keeps out of the way of other tests."""
    import torch  # takes seconds, and most tests do without

    torch.set_num_threads(1)


@pytest.fixture
def ranks(server, tmp_path, monkeypatch):
    """Starts distcls on one or more processes, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    with Ranks(tmp_path) as started:
        yield started


@pytest.fixture
def write_config(tmp_path, monkeypatch):
    """Writes a config, x.yaml, into the current folder, so that errors say x.yaml:LINE."""
    monkeypatch.chdir(tmp_path)

    def write_yaml(text):
        Path("x.yaml").write_text(text, encoding="utf-8")
        return Path("x.yaml")

    return write_yaml
