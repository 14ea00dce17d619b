"""One thread per test process, and no test that depends on a clock; which tests are the quick ones."""

import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
settings.register_profile("lab", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("lab")

QUICK = {
    *("geometry", "scan", "scan_selected", "ssd", "mixer", "mamba2", "spectral", "layers", "windows", "tiles"),
    *("nafnet", "every_network", "metrics", "loss"),
    *("erf", "field_statistics", "pooling", "field_table", "erf_panels", "plots", "verdicts"),
    *("scan_rows", "module_rows", "module_columns", "row_map", "activations"),
    *("weights", "provenance", "arrays", "images", "fuzz", "environment", "imports"),
}
"""The files of `pytest --quick`: laws of the scan, the turns, the networks, fields and rows; weights, readers, imports.

No browser, no cluster, no training, no notebook, and hardly a process besides the tests' own."""


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="the quick tier: files in tests/conftest.py, no slow tests")


def pytest_ignore_collect(collection_path, config):
    """Other files are not even imported."""
    if config.getoption("quick") and collection_path.is_file():
        return collection_path.stem.removeprefix("test_") not in QUICK or None
    return None


def pytest_collection_modifyitems(config, items):
    if config.getoption("quick"):
        items[:] = [item for item in items if not item.get_closest_marker("slow")]
