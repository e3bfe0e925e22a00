"""The picture of divergence by depth is well-formed, whole, and what its golden file shows."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from itertools import pairwise
from types import SimpleNamespace
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from report_support import SITES, assert_golden, growing, make_capture

from pytest_falsify.checks.side_by_side import conclude
from pytest_falsify.errors import CaptureError
from pytest_falsify.report.picture import floors, picture, write_picture
from pytest_falsify.stages.vocabulary import Site


@dataclass
class SiteNoiseStub:
    """What the picture reads of a judgement."""

    site: Site
    floor: float
    steps: int


SVG = "{http://www.w3.org/2000/svg}"
FIRST = Site(0, 1, "q_post_rope")


def judged(errors, *, control=None, expect=None, stray=None):
    subject = make_capture(errors=errors)
    if stray is not None:
        tensor = subject.tensors[FIRST]
        array = tensor.array.copy()
        array[0, 0, 0] = stray
        subject = replace(subject, tensors={**subject.tensors, FIRST: replace(tensor, array=array)})
    return conclude(subject, make_capture(), control=control, expect=expect).judged


@pytest.fixture
def measured():
    noise = growing(SITES[0], error=2**-10)
    return judged(noise | growing(FIRST, error=0.0625), control=make_capture(errors=noise))


def points(svg, kind):
    return [
        (float(each.get("cx")), float(each.get("cy")))
        for each in ET.fromstring(svg).iter(f"{SVG}circle")
        if each.get("class") == kind
    ]


def texts(svg):
    return [each.text for each in ET.fromstring(svg).iter(f"{SVG}text")]


def test_a_picture_is_its_golden_file(measured):
    assert_golden("divergence.svg", picture(measured))


def test_every_site_has_a_point_of_each_kind_from_left_to_right(measured):
    for kind in ("total", "row"):
        found = points(picture(measured), kind)
        assert len(found) == len(SITES)
        assert all(left[0] < right[0] for left, right in pairwise(found))


def test_a_larger_error_stands_higher_by_its_logarithm():
    errors = {SITES[1]: 2**-10, SITES[2]: 2**-6, SITES[3]: 2**-2}

    found = points(picture(judged(errors)), "total")

    exact, low, middle, high = (y for _, y in found[:4])
    assert exact > low > middle > high
    assert low - middle == pytest.approx(middle - high, abs=0.2)


def test_the_first_site_beyond_is_named_and_marked(measured):
    svg = picture(measured)

    assert any(text.startswith(f"first beyond: {FIRST}, ") for text in texts(svg))
    assert svg.count('class="first"') == 1


def test_nothing_is_marked_where_nothing_is_beyond():
    svg = picture(judged({}))

    assert "first beyond" not in svg
    assert 'class="floor"' not in svg


def test_the_floor_is_drawn_with_a_control_and_the_limit_where_one_is_stated(measured):
    stated = judged(growing(FIRST, error=0.25), expect={"rel_l2": {"max": 1e-3}})

    assert 'class="floor"' in picture(measured)
    assert 'class="limit"' not in picture(measured)
    assert 'class="limit"' in picture(stated)


@pytest.mark.parametrize("stray", [np.nan, np.inf])
def test_what_is_not_finite_stands_above_all_else(stray):
    svg = picture(judged(growing(FIRST, error=0.5), stray=stray))

    heights = [y for _, y in points(svg, "total")]
    assert heights[SITES.index(FIRST)] == min(heights)
    assert heights.count(min(heights)) == 1
    assert "not finite" in texts(svg)
    assert "nan" not in svg


def test_axes_are_labelled_with_what_they_show(measured):
    found = texts(picture(measured))

    assert "relative L2 error |d| / |x| (log scale)" in found
    assert any(text.startswith("layer") for text in found)
    assert {"0", "1", "2"} <= set(found)


def test_everything_stands_within_the_picture(measured):
    svg = ET.fromstring(picture(measured))
    width, height = (float(svg.get(name)) for name in ("width", "height"))

    for each in svg.iter(f"{SVG}text"):
        assert 0 <= float(each.get("x")) <= width
        assert 0 <= float(each.get("y")) <= height
    for kind in ("total", "row"):
        assert all(0 < x < width and 0 < y < height for x, y in points(picture(measured), kind))


def test_a_name_with_markup_in_it_stays_text(measured):
    svg = picture(replace(measured, label="<script>&"))

    assert "Divergence by depth, input `<script>&`" in texts(svg)


def test_only_svg_is_written_and_only_of_something(measured, tmp_path):
    write_picture(measured, tmp_path / "out.svg")

    assert (tmp_path / "out.svg").read_text(encoding="utf-8") == picture(measured)
    with pytest.raises(CaptureError, match=r"\.jpg"):
        write_picture(measured, tmp_path / "out.jpg")
    nothing = replace(measured, comparison=replace(measured.comparison, sites=()))
    with pytest.raises(CaptureError, match="nothing to draw"):
        write_picture(nothing, tmp_path / "none.svg")
    assert [each.name for each in tmp_path.iterdir()] == ["out.svg"]


def test_pooled_decode_steps_have_their_pools_floor_at_every_step():
    sites = [Site(step, 0, "attn_out") for step in range(4)]
    pool = SiteNoiseStub(site=sites[2], floor=0.25, steps=3)
    prefill = SiteNoiseStub(site=sites[0], floor=0.5, steps=1)
    seen = SimpleNamespace(sites=[SimpleNamespace(site=site) for site in sites])

    found = floors(SimpleNamespace(noise=(prefill, pool), comparison=seen))

    assert found == [(0, 0.5), (1, 0.25), (2, 0.25), (3, 0.25)]


def test_a_png_shows_the_first_site_beyond_where_the_svg_does(measured, tmp_path):
    pytest.importorskip("matplotlib", reason="the optional part [plot]")
    for name, each in (("beyond", measured), ("honest", judged({}))):
        write_picture(each, tmp_path / f"{name}.png")

    image = pytest.importorskip("matplotlib.image")
    beyond, honest = (image.imread(tmp_path / f"{name}.png") for name in ("beyond", "honest"))
    assert red_columns(beyond) == 1
    assert red_columns(honest) == 0


def red_columns(pixels):
    """Count the vertical lines in the colour of the first site beyond."""
    red = np.array([0xCF, 0x22, 0x2E]) / 255
    is_red = np.abs(pixels[..., :3] - red).max(axis=2) < 0.25
    columns = is_red.sum(axis=0) > pixels.shape[0] / 2
    return int((np.diff(columns.astype(int)) == 1).sum())


def test_without_matplotlib_a_png_is_refused_with_what_installs_it(measured, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "pytest_falsify.report.plot", raising=False)

    with pytest.raises(CaptureError) as caught:
        write_picture(measured, tmp_path / "out.png")

    assert 'pip install "pytest-falsify[plot]"' in caught.value.remedy
    assert not (tmp_path / "out.png").exists()
