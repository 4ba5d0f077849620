"""Names that distributions register: read without importing, and named in errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from flux_core.config import component, register_components, registry, type_name
from flux_core.config.installed import installed, registration
from flux_core.errors import ConfigError

from ...distributions import write_distribution


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the module path."""
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_name_is_a_transform_unless_it_says_its_kind(site: Path) -> None:
    names = {"Waves": "acme_kinds:Recorder", "tokenizer.Words": "acme_kinds:Recorder [extra]"}
    mark = write_distribution(site, "acme-kinds", "1.0", names)
    waves, words = registration("Waves", "here"), registration("Words", "here")
    assert waves is not None and words is not None
    assert (waves.kind, words.kind) == ("transform", "tokenizer")
    assert (words.target, words.distribution, words.version) == (
        *("acme_kinds:Recorder", "acme-kinds", "1.0"),
    )
    assert not mark.exists(), "no module is imported to find its names"
    assert type_name(component("Waves")) == "Waves"
    assert mark.exists()


def test_two_distributions_that_offer_one_name_are_an_error_that_names_both(site: Path) -> None:
    marks = [
        write_distribution(site, name, "1.0", {"Same": f"{name.replace('-', '_')}:Recorder"})
        for name in ("acme-one", "acme-two")
    ]
    with pytest.raises(ConfigError, match=r"^model.type: 'Same' is registered by acme-one .* and"):
        component("Same", "model")
    assert not any(mark.exists() for mark in marks)


def test_no_distribution_can_take_one_of_our_names(site: Path) -> None:
    mark = write_distribution(site, "acme-thief", "1.0", {"AlohaToPi": "acme_thief:Recorder"})
    with pytest.raises(ConfigError, match="'AlohaToPi' is registered by flux-core .* and acme-thi"):
        component("AlohaToPi")
    assert component("ResizeImages").__name__ == "ResizeImages", "other names still work"
    assert not mark.exists()


def test_this_process_cannot_take_one_of_our_names_either(site: Path) -> None:
    with pytest.raises(ConfigError, match="'AlohaToPi' is a component of flux; choose another"):
        register_components({"AlohaToPi": "acme:Recorder"})


def test_a_table_of_older_distributions_still_gives_its_names(site: Path) -> None:
    mark = write_distribution(site, "acme-table", "1.0", {"acme": "acme_table:NAMES"})
    assert "Tabled" not in installed() and "acme" not in installed()
    assert component("ResizeImages") and not mark.exists(), "it is read for unknown names only"
    recorder = component("Tabled")
    assert recorder.__module__ == "acme_table" and mark.exists()
    assert type_name(recorder) == "Tabled"


def test_a_class_whose_name_is_in_capitals_is_not_a_table(site: Path) -> None:
    write_distribution(site, "acme-act", "1.0", {"ACT": "acme_act:ACT"})
    (found,) = installed()["ACT"]
    assert found.target == "acme_act:ACT"
    with pytest.raises(ConfigError, match="ACT.type: 'acme_act:ACT' cannot be found"):
        component("ACT", "ACT")


def test_a_table_that_cannot_be_loaded_names_its_distribution(site: Path) -> None:
    write_distribution(site, "acme-torn", "2.1", {"acme": "acme_torn:TABLE"})
    with pytest.raises(ConfigError, match=r"^acme-torn 2.1: its entry point 'acme' .* 'TABLE'"):
        component("NotThere")


def test_writing_a_config_imports_no_other_package(site: Path) -> None:
    names = {"LinearProjectors": "acme_names:LinearProjector", "table": "acme_names:NAMES"}
    mark = write_distribution(site, "acme-names", "1.0", names)
    projector = component("LinearProjector")
    assert type_name(vars(projector)["Config"]) == "LinearProjector"
    assert not mark.exists()


def test_an_entry_point_without_a_class_is_reported_when_it_is_used(site: Path) -> None:
    write_distribution(site, "acme-broken", "1.0", {"Nothing": "acme_broken", "Odd": "a b c :"})
    with pytest.raises(ConfigError, match="model.type: "):
        component("Nothing", "model")
