"""One catalogue of names: load_base and the memory predictions take the same ones."""

import pytest

from workbench import load_base, lora
from workbench.errors import MemoryModelError, ModelError
from workbench.memory import estimate, shipped
from workbench.memory.configs import model_config
from workbench.models import base, catalogue
from workbench.models.base import locate
from workbench.models.sources import packaged

NAMES = catalogue.names()


def test_the_catalogue_is_what_ships():
    assert sorted(path.stem for path in catalogue.CONFIG_FOLDER.glob("*.json")) == NAMES == shipped()
    assert len({model.hub_id for model in catalogue.CATALOGUE.values()}) == len(NAMES)
    assert [name for name in NAMES if catalogue.CATALOGUE[name].packaged] == [packaged.PACKAGED]


@pytest.mark.parametrize("name", [*NAMES, *catalogue.ALIASES])
def test_memory_predictions_take_every_name(name):
    config = model_config(name)
    assert config == model_config(catalogue.find(name).hub_id) == model_config(catalogue.find(name).config_file)


@pytest.mark.parametrize("name", [*NAMES, *catalogue.ALIASES])
def test_load_base_finds_every_name(name, tmp_path, monkeypatch):
    monkeypatch.setattr(base, "packaged_model", lambda: tmp_path)
    if name == packaged.PACKAGED:
        assert locate(name) == (str(tmp_path), "package", packaged.REVISION)
    else:
        assert locate(name) == (catalogue.find(name).hub_id, "hub", "main")
        assert locate(name, "v2") == (catalogue.find(name).hub_id, "hub", "v2")
    assert locate(catalogue.find(name).hub_id)[1] == "hub", "whoever names the Hub gets the Hub"


def test_a_name_has_one_meaning():
    assert catalogue.find("llama3.2-1b") is catalogue.find("llama-3.2-1b") is catalogue.find("meta-llama/Llama-3.2-1B")
    assert estimate("llama3.2-1b", lora()).components == estimate("llama-3.2-1b", lora()).components
    assert catalogue.canonical("llama3.2-1b") == catalogue.canonical("meta-llama/Llama-3.2-1B") == "llama-3.2-1b"
    assert catalogue.canonical("./mine") == "./mine" and catalogue.find("./mine") is None


def test_a_directory_comes_before_a_name_of_the_catalogue(small_directory, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "olmo2-1b").symlink_to(small_directory)
    assert locate("olmo2-1b")[:2] == (str(small_directory.resolve()), "directory")
    assert model_config("olmo2-1b").hidden_size == 64
    (tmp_path / "llama-3.2-1b").mkdir()
    assert locate("llama-3.2-1b")[1] == "hub" and model_config("llama-3.2-1b").hidden_size == 2048, "an empty one"


@pytest.mark.parametrize(("ask", "error"), [(load_base, ModelError), (model_config, MemoryModelError)])
def test_an_unknown_name_is_answered_with_the_known_ones(ask, error):
    with pytest.raises(error) as caught:
        ask("llama-9")
    assert f"names known here: {', '.join(NAMES)}." in str(caught.value)
