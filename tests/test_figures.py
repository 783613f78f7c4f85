"""Figures: pictures that stay pixel by pixel what they are, and words that can be read."""

import itertools

import numpy
import pytest
import torch
from matplotlib.colors import to_hex
from PIL import Image

from zoo_core import DataError
from zoo_core.figures import COLOURS, MARKS, Plane, labelled_grid, latent_map, save_figure
from zoo_core.images import GAP


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def drawn(figure, tmp_path):
    """The pixels of a figure's file, (H, W, 3)."""
    with Image.open(save_figure(figure, tmp_path / "figure.png")) as picture:
        return numpy.asarray(picture.convert("RGB"))


def inside(pixels, axes):
    """The pixels of a figure that one of its axes covers."""
    height, width, _ = pixels.shape
    left, bottom, right, top = (axes.get_position().extents * [width, height, width, height]).round().astype(int)
    return pixels[height - top : height - bottom, left:right]


def texts(axes):
    """The words in and around axes that are shown."""
    (left, right), (low, high) = sorted(axes.get_xlim()), sorted(axes.get_ylim())
    ticks = [t for t in axes.get_xticklabels() if left <= t.get_position()[0] <= right]
    ticks += [t for t in axes.get_yticklabels() if low <= t.get_position()[1] <= high]
    legend = axes.get_legend().get_texts() if axes.get_legend() else []
    return [t for t in (*ticks, axes.xaxis.label, axes.yaxis.label, *axes.texts, *legend) if t.get_text()]


def overlaps(figure):
    """Pairs of words that touch, and words that leave the figure."""
    figure.draw_without_rendering()
    shown = [(text.get_text(), text.get_window_extent()) for axes in figure.axes for text in texts(axes)]
    touching = [(a, b) for (a, box), (b, other) in itertools.combinations(shown, 2) if box.overlaps(other)]
    width, height = figure.bbox.size
    return touching + [a for a, b in shown if min(b.x0, b.y0) < 0 or b.x1 > width or b.y1 > height]


ROWS, COLUMNS = ["$z_{12}$  KL 1.23 nats", "$z_3$  KL 0.01 nats"], ["-2.25", "0", "2.25"]


class TestLabelledGrid:
    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("enlarge", [1, 3])
    def test_every_pixel_of_every_image_is_a_square_of_that_side(self, tmp_path, channels, enlarge):
        levels = torch.randint(0, 256, (2, 3, channels, 20, 31), dtype=torch.uint8)
        figure = labelled_grid(levels / 255, ROWS, COLUMNS, enlarge=enlarge)
        pixels = inside(drawn(figure, tmp_path), figure.axes[0])
        large = numpy.kron(levels.numpy(), numpy.ones((enlarge, enlarge), numpy.uint8))
        for r, c in itertools.product(range(2), range(3)):
            top, left = GAP + r * (20 * enlarge + GAP), GAP + c * (31 * enlarge + GAP)
            image = pixels[top : top + 20 * enlarge, left : left + 31 * enlarge]
            assert (image == large[r, c].transpose(1, 2, 0)).all()

    def test_an_image_that_is_a_pixel_wider_makes_the_figure_a_pixel_wider(self):
        images = (torch.zeros(1, 1, 1, 8, width) for width in range(60, 76))
        widths = [int(labelled_grid(image, ["a"], ["b"], enlarge=1).bbox.width) for image in images]
        assert widths == list(range(widths[0], widths[0] + 16))

    @pytest.mark.parametrize("size", [(8, 8), (28, 28), (64, 48), (256, 256)])
    def test_words_are_inside_and_apart(self, size):
        figure = labelled_grid(torch.rand(2, 3, 1, *size), ROWS, COLUMNS, caption="what the columns are " * 2)
        assert overlaps(figure) == []
        assert [text.get_text() for text in texts(figure.axes[0])][:5] == [*COLUMNS, *ROWS]

    def test_labels_stand_at_the_middle_of_their_images(self):
        figure = labelled_grid(torch.rand(2, 3, 1, 8, 8), ROWS, COLUMNS, enlarge=10)
        figure.draw_without_rendering()
        box = figure.axes[0].get_window_extent()
        for c, label in enumerate(figure.axes[0].get_xticklabels()):
            extent = label.get_window_extent()
            assert (extent.x0 + extent.x1) / 2 == pytest.approx(box.x0 + GAP + c * (80 + GAP) + 40, abs=1)
            assert extent.y0 >= box.y1
        for r, label in enumerate(figure.axes[0].get_yticklabels()):
            extent = label.get_window_extent()
            assert (extent.y0 + extent.y1) / 2 == pytest.approx(box.y1 - GAP - r * (80 + GAP) - 40, abs=3)
            assert extent.x1 <= box.x0


class TestMap:
    def test_every_point_is_drawn_once_with_its_group(self):
        points, groups = torch.randn(90, 2), [i % 3 for i in range(90)]
        (axes,) = latent_map(points, ("a", "b"), groups=groups, legend="label").axes
        assert len(axes.collections) == 3
        for k, collection in enumerate(axes.collections):
            assert collection.get_offsets().data == pytest.approx(points[k::3].numpy())
            assert to_hex(collection.get_facecolor()[0]) == COLOURS[k]
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["0", "1", "2"]
        assert axes.get_legend().get_title().get_text() == "label"

    def test_the_name_of_a_group_stands_at_its_median(self):
        points, groups = torch.randn(41, 2), ["cat", "dog"] * 20 + ["cat"]
        (axes,) = latent_map(points, ("a", "b"), groups=groups, legend="kind").axes
        assert {text.get_text(): text.get_position() for text in axes.texts} == {
            "cat": pytest.approx(tuple(numpy.median(points[0::2], 0))),
            "dog": pytest.approx(tuple(numpy.median(points[1::2], 0))),
        }

    def test_twenty_groups_differ_in_colour_or_mark(self):
        assert len({(COLOURS[i % len(COLOURS)], MARKS[i % len(MARKS)]) for i in range(20)}) == 20
        groups = list(range(20)) * 2
        figure = latent_map(torch.randn(40, 2), ("a", "b"), groups=groups, legend="label")
        assert len(figure.axes[0].collections) == 20

    def test_more_groups_are_numbers_on_a_colour_bar(self, tmp_path):
        groups = list(range(21))
        figure = latent_map(torch.randn(21, 2), ("a", "b"), groups=groups, legend="position")
        assert figure.axes[0].get_legend() is None
        assert figure.axes[0].collections[0].get_array().tolist() == groups
        figure.draw_without_rendering()
        (bar,) = figure.axes[0].child_axes
        assert bar.get_ylabel() == "position"
        assert bar.get_tightbbox().x1 < figure.bbox.x1

    def test_more_groups_that_are_no_numbers_are_told(self):
        with pytest.raises(DataError, match="'word' has 21 different values"):
            latent_map(torch.randn(21, 2), ("a", "b"), groups=[f"w{i}" for i in range(21)], legend="word")

    def test_a_name_with_dollars_is_no_formula(self, tmp_path):
        groups = ["$5", "$x_$y$", "a_b"]
        figure = latent_map(torch.randn(3, 2), ("a", "b"), groups=groups, legend="$x_$")
        save_figure(figure, tmp_path / "x.png")
        shown = [text.get_text().replace(r"\$", "$") for text in figure.axes[0].get_legend().get_texts()]
        assert shown == groups

    def test_without_groups_there_is_no_legend(self):
        (axes,) = latent_map(torch.randn(7, 2), ("a", "b")).axes
        assert axes.get_legend() is None
        assert len(axes.collections[0].get_offsets()) == 7

    def test_a_unit_is_as_long_upwards_as_to_the_right(self):
        figure = latent_map(torch.randn(50, 2) * torch.tensor([9.0, 1.0]), ("a", "b"))
        figure.draw_without_rendering()
        (x_0, y_0), (x_1, y_1) = figure.axes[0].transData.transform([(0, 0), (1, 1)])
        assert x_1 - x_0 == pytest.approx(y_1 - y_0)

    @pytest.mark.parametrize("size", [(8, 8), (28, 28), (32, 48)])
    def test_a_plane_is_shown_pixel_by_pixel_and_framed_in_the_scatter(self, tmp_path, size):
        levels = torch.randint(0, 256, (3, 4, 3, *size), dtype=torch.uint8)
        plane = Plane(levels / 255, torch.tensor([-1.0, 0.0, 0.5, 2.0]), torch.tensor([-3.0, 0.0, 3.0]))
        figure = latent_map(torch.randn(30, 2), ("$z_0$", "$z_1$"), groups=[0, 1, 2] * 10, legend="label", plane=plane)
        scatter, pictures = figure.axes
        pixels = inside(drawn(figure, tmp_path), pictures)
        scale = (pixels.shape[0] - GAP) // 3 // size[0]
        assert max(pixels.shape) >= 480
        last = numpy.kron(levels[2, 3].numpy(), numpy.ones((scale, scale), numpy.uint8)).transpose(1, 2, 0)
        assert (pixels[-GAP - size[0] * scale : -GAP, -GAP - size[1] * scale : -GAP] == last).all()
        (frame,) = scatter.patches
        assert frame.get_bbox().extents.tolist() == [-1, -3, 2, 3]
        assert [t.get_text() for t in pictures.get_yticklabels()] == ["3.0", "0.0", "-3.0"]

    def test_words_are_inside_and_apart(self):
        plane = Plane(torch.rand(13, 13, 1, 8, 8), torch.linspace(-20, 20, 13), torch.linspace(-20, 20, 13))
        points = torch.rand(20, 2) * 20
        names = ("$z_0$", "$z_1$")
        for figure in (
            latent_map(points, names, groups=["a rather long name"] * 20, legend="kind", plane=plane),
            latent_map(torch.randn(99, 2), ("principal component 1 (12.3% of the variance)", "principal component 2")),
        ):
            assert overlaps(figure) == []


class TestFiles:
    def test_equal_figures_give_equal_bytes(self, tmp_path):
        images, points = torch.rand(2, 3, 1, 8, 8), torch.randn(40, 2)
        for draw in (
            lambda: labelled_grid(images, ROWS, COLUMNS, caption="$z$"),
            lambda: latent_map(points, ("a", "b"), groups=[0, 1] * 20, legend="label"),
        ):
            first, again = (save_figure(draw(), tmp_path / f"{i}.png").read_bytes() for i in range(2))
            assert first == again

    def test_a_file_that_cannot_be_written_is_named(self):
        with pytest.raises(DataError, match=r"cannot write /proc/none/x\.png"):
            save_figure(labelled_grid(torch.rand(1, 1, 1, 8, 8), ["a"], ["b"]), "/proc/none/x.png")
