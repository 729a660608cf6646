from service.contract.families import FAMILIES
from tests.support.tiny_models import TINY
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.units import Site


def test_the_api_and_the_worker_know_the_same_families() -> None:
    assert set(ARCHITECTURES) == set(FAMILIES)


def test_every_family_has_a_tiny_model() -> None:
    assert {make().config.model_type for make in TINY.values()} == set(ARCHITECTURES)


def test_a_site_survives_its_string_form() -> None:
    site = Site("decoder", 11, "ffn")
    assert str(site) == "decoder.11.ffn"
    assert Site.parse(str(site)) == site
