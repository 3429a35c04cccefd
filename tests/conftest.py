"""What every test can rely on: no network, no access to the learner's own runs and timings, fixed threads and seeds."""

import gc
import inspect
import os
import random
import re
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("workbench", deadline=None, max_examples=60)
settings.load_profile("workbench")

# All of this must be in place before torch or the Hub's client is imported.
OFFLINE = str(Path(__file__).parent / "support" / "offline")
SCRATCH = tempfile.TemporaryDirectory(prefix="workbench-tests-", ignore_cleanup_errors=True)
os.environ.update(
    HF_HUB_OFFLINE="1",
    OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", "2"),
    PYTHONHASHSEED="0",
    PYTHONPATH=os.pathsep.join(filter(None, [OFFLINE, os.environ.get("PYTHONPATH")])),
    TOKENIZERS_PARALLELISM="false",
    WORKBENCH_PROGRESS="0",
    WORKBENCH_DTYPE="float32",  # whatever is fast where the tests run
    WORKBENCH_RUNS=str(Path(SCRATCH.name, "runs")),
)
if OFFLINE not in sys.path:
    # python's own start has imported another sitecustomize, or none
    sys.modules.pop("sitecustomize", None)
    sys.path.insert(0, OFFLINE)
    __import__("sitecustomize")


TESTS = Path(__file__).parent
# What takes seconds: training, simulated steps, and processes that load torch. A test is slow if it asks for one of
# these fixtures or calls one of these functions; where a helper does, it is marked by hand.
SLOW_FIXTURES = {"cluster", "gallery_runs", "lab", "tuned"}
SLOW_WORDS = re.compile(r"\b(run_notebooks?|simulate|sweep|train|write_runs)\(|\bsubprocess\.")
# Files of more than twenty seconds, longest first: two workers are both busy to the end.
LONG_FILES = (
    "notebooks/test_course.py",
    "browser/test_panels_in_lab.py",
    "notebooks/test_rehearsal.py",
    "sweeps/test_sweeps.py",
    "sweeps/test_ray_executor.py",
    "memory/test_closed_form.py",
    "training/test_training.py",
    "models/test_models.py",
    "test_cli.py",
    "notebooks/test_harness.py",
    "study/test_study.py",
    "scoring/test_evaluation.py",
    "adapters/test_adapters.py",
)


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: trains, or starts a kernel, a browser, a cluster or another Python")
    config.addinivalue_line("markers", "quick: trains nothing, though it names a function that does")


def pytest_collection_modifyitems(items):
    """Mark slow tests, which `make check` leaves out, and put the longest files first."""
    for item in items:
        if not item.get_closest_marker("quick") and is_slow(item):
            item.add_marker(pytest.mark.slow)
    place = {TESTS / name: number for number, name in enumerate(LONG_FILES)}
    if gone := [path for path in place if not path.is_file()]:
        raise pytest.UsageError(f"LONG_FILES names files that are not there: {gone}")
    items.sort(key=lambda item: place.get(item.path, len(place)))


def is_slow(item) -> bool:
    function = getattr(item, "function", None)
    return bool(function and (SLOW_FIXTURES & {*item.fixturenames} or SLOW_WORDS.search(inspect.getsource(function))))


@pytest.fixture(autouse=True)
def trains_only_if_slow(request, monkeypatch):
    """A test that trains and is not marked as slow would make `make check` slow."""
    if "accelerate" in sys.modules and not request.node.get_closest_marker("slow"):
        words = "This test trains a model: mark it with @pytest.mark.slow."
        monkeypatch.setattr("accelerate.Accelerator.backward", lambda *_, **__: pytest.fail(words))


@pytest.fixture(scope="session", autouse=True)
def own_cache():
    """The converted model is shared; what `workbench doctor` times while tests run stays out of the learner's cache."""
    from workbench.paths import cache_dir

    models, scratch = cache_dir() / "models", Path(SCRATCH.name, "cache")
    models.mkdir(parents=True, exist_ok=True)
    scratch.mkdir()
    try:
        (scratch / "models").symlink_to(models.resolve())
    except OSError:  # Windows asks for a right that few people have
        shutil.copytree(models, scratch / "models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_CACHE", str(scratch))
        yield


@pytest.fixture(scope="module", autouse=True)
def little_to_collect():
    """Accelerate collects garbage after each training: a third of a second a time where all of this is loaded."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def base():
    """The packaged model, loaded once for all tests. `train` leaves it as it found it, and so must every test."""
    from workbench.models import load_base

    return load_base("smollm2-135m", dtype="float32")  # whatever `workbench doctor` found fast here


@pytest.fixture(autouse=True)
def fixed_seeds():
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def small_directory(base, tmp_path_factory):
    """The directory of a two-layer Llama with random weights and SmolLM2's tokenizer."""
    from support.small_models import write_model

    return write_model(tmp_path_factory.mktemp("small") / "llama", "llama", base.tokenizer)


@pytest.fixture(scope="session")
def small(small_directory):
    """The same model, loaded."""
    from workbench.models import load_base

    return load_base(str(small_directory), dtype="float32")


@pytest.fixture(scope="module")
def gallery_runs(small, tmp_path_factory):
    """What the panels of the gallery show: a store of two runs of the small model, the default one meanwhile."""
    from support import gallery

    folder = tmp_path_factory.mktemp("gallery") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_RUNS", str(folder))
        gallery.train_a_little(small)
        yield folder


@pytest.fixture
def store(tmp_path):
    from workbench.training.store import RunStore

    return RunStore(tmp_path / "runs")
