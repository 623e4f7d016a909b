"""The relations between the regions of a picture, sentence by sentence, and against a plain reference."""

import itertools
import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_hamlearning import SPATIAL_RELATIONS, spatial_relations


SQUARE = (1000, 1000)
CLASSES = tuple(f"class{k}" for k in range(1, 9))


def relations(boxes, size=SQUARE, mask=None):
    """Names of the relations of one picture's nodes, node 0 the picture; boxes are (x_c, y_c, h, w)."""
    mask = torch.ones(1, len(boxes)) if mask is None else torch.tensor([mask])
    ids = spatial_relations(torch.tensor([boxes]), torch.tensor([size]), mask)[0]
    return [[SPATIAL_RELATIONS[index] for index in row] for row in ids.tolist()]


def relation(box_i, box_j, size=SQUARE):
    return relations([box_i, box_j], size)[1][2]


def box_at(x, y, height=0.02, width=0.02):
    return (x, y, height, width)


def test_the_relations_have_their_names_in_order():
    assert SPATIAL_RELATIONS == ("none", "inside", "cover", "overlap", *CLASSES)


# ------------------------------------------------------------------------------------------------------ each by itself


def test_a_box_that_contains_the_other_is_inside_and_back_it_is_cover():
    large, small = (0.5, 0.5, 0.8, 0.6), (0.4, 0.6, 0.2, 0.1)
    assert relation(large, small) == "inside"
    assert relation(small, large) == "cover"


def test_height_comes_before_width():
    flat, tall = (0.5, 0.5, 0.1, 0.8), (0.5, 0.5, 0.8, 0.1)
    assert relation(flat, (0.2, 0.5, 0.05, 0.05)) == "inside"
    assert relation(tall, (0.2, 0.5, 0.05, 0.05)) != "inside"


@pytest.mark.parametrize(
    "small",
    [
        (0.2, 0.5, 0.1, 0.2),  # left edges touch
        (0.8, 0.5, 0.1, 0.2),  # right
        (0.5, 0.2, 0.2, 0.1),  # top
        (0.5, 0.8, 0.2, 0.1),  # bottom
        (0.5, 0.5, 0.8, 0.4),  # top and bottom
        (0.3, 0.3, 0.4, 0.4),  # a corner
    ],
)
def test_edges_may_touch_inside(small):
    assert relation((0.5, 0.5, 0.8, 0.8), small) == "inside"


def test_more_than_half_of_the_union_in_common_is_overlap():
    # Boxes of width 4/8 and moved by 1/8: 3 of 5. Of width 3/8: 2 of 4, exactly half, which is not enough.
    assert relation((0.5, 0.5, 0.5, 0.5), (0.625, 0.5, 0.5, 0.5)) == "overlap"
    assert relation((0.5, 0.5, 0.5, 0.375), (0.625, 0.5, 0.5, 0.375)) == "class1"


def test_boxes_with_one_centre_overlap_however_little_they_share():
    assert relation((0.5, 0.5, 0.9, 0.02), (0.5, 0.5, 0.02, 0.9)) == "overlap"
    assert relation((0.5, 0.5, 0.9, 0.02), (0.51, 0.5, 0.02, 0.9)) == "class1"


def test_identical_boxes_overlap():
    box = (0.3, 0.7, 0.2, 0.1)
    assert relation(box, box) == "overlap"
    assert relation((0.5, 0.5, 1.0, 1.0), (0.5, 0.5, 1.0, 1.0)) == "overlap"


@pytest.mark.parametrize(
    "box_j, name",
    [
        (box_at(0.7, 0.6), "class1"),  # to the right, a little lower on the screen
        (box_at(0.6, 0.7), "class2"),
        (box_at(0.4, 0.7), "class3"),
        (box_at(0.3, 0.6), "class4"),
        (box_at(0.3, 0.4), "class5"),
        (box_at(0.4, 0.3), "class6"),
        (box_at(0.6, 0.3), "class7"),
        (box_at(0.7, 0.4), "class8"),
    ],
)
def test_near_boxes_have_the_sector_of_the_arrow_from_i_to_j_with_y_downwards(box_j, name):
    assert relation(box_at(0.5, 0.5), box_j) == name


@pytest.mark.parametrize("step", [0.0625, 0.125, 0.25])
def test_a_sector_begins_at_its_border(step):
    right_then_clockwise = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    names = [relation(box_at(0.5, 0.5), box_at(0.5 + step * dx, 0.5 + step * dy)) for dx, dy in right_then_clockwise]
    assert names == list(CLASSES)


def test_far_boxes_have_no_relation():
    assert relation(box_at(0.05, 0.05), box_at(0.95, 0.95)) == "none"
    assert relation(box_at(0.1, 0.1), box_at(0.55, 0.55)) == "class2"


@pytest.mark.parametrize("size", [SQUARE, (1200, 300), (333, 777), (1, 1)])
def test_half_the_diagonal_is_near(size):
    assert relation(box_at(0.25, 0.25), box_at(0.75, 0.75), size) in CLASSES
    assert relation(box_at(0.25, 0.25), box_at(0.75, 0.7501), size) == "none"


# ---------------------------------------------------------------------------------------------------- which is first


def test_inside_is_tested_before_overlap():
    # Their IoU is 0.81 and they have one centre.
    assert relation((0.5, 0.5, 1.0, 1.0), (0.5, 0.5, 0.9, 0.9)) == "inside"
    assert relation((0.5, 0.5, 0.9, 0.9), (0.5, 0.5, 1.0, 1.0)) == "cover"


def test_inside_is_tested_before_distance():
    # The centres are far apart.
    assert relation((0.5, 0.5, 1.0, 1.0), (0.02, 0.02, 0.02, 0.02)) == "inside"


def test_overlap_is_tested_before_distance():
    assert relation((0.4, 0.5, 0.6, 0.6), (0.5, 0.5, 0.6, 0.6)) == "overlap"


# --------------------------------------------------------------------------------------------------------- tolerance


@pytest.mark.parametrize("shift, name", [(0.5e-6, "inside"), (1e-5, "class3")])
def test_an_edge_may_stand_out_by_rounding_only(shift, name):
    assert relation((0.5, 0.5, 0.8, 0.8), (0.5, 0.5 + shift, 0.8, 0.4)) == name


@pytest.mark.parametrize("shift", [0.0, 3e-7, -3e-7])
def test_boxes_that_differ_by_rounding_are_identical(shift):
    assert relation((0.4, 0.6, 0.3, 0.2), (0.4 + shift, 0.6, 0.3, 0.2 - shift)) == "overlap"
    assert relation((0.4 + shift, 0.6, 0.3, 0.2 - shift), (0.4, 0.6, 0.3, 0.2)) == "overlap"


@pytest.mark.parametrize("shift, name", [(0.5e-6, "overlap"), (1e-5, "class1")])
def test_centres_may_differ_by_rounding_only(shift, name):
    assert relation((0.5, 0.5, 0.9, 0.1), (0.5 + shift, 0.5, 0.1, 0.9)) == name


def test_a_centre_that_differs_by_rounding_does_not_change_the_sector():
    for dy in (-3e-7, 0.0, 3e-7):
        assert relation(box_at(0.5, 0.5), box_at(0.7, 0.5 + dy)) == "class1"
        assert relation(box_at(0.5, 0.5), box_at(0.3, 0.5 + dy)) == "class5"
        assert relation(box_at(0.5, 0.5), box_at(0.5 + dy, 0.7)) == "class3"
        assert relation(box_at(0.5, 0.5), box_at(0.5 + dy, 0.3)) == "class7"


# ------------------------------------------------------------------------------------------------------------ pixels


def test_angles_are_those_of_the_picture_as_it_is_seen():
    # Twice as far down as to the right in shares of the picture, but half as far in pixels of a wide one.
    i, j = box_at(0.5, 0.5), box_at(0.6, 0.7)
    assert relation(i, j, (1000, 1000)) == "class2"
    assert relation(i, j, (1000, 250)) == "class1"


def test_distances_are_those_of_the_picture_as_it_is_seen():
    # From top to bottom is far in a tall picture, and next to nothing in a wide one.
    i, j = box_at(0.5, 0.05), box_at(0.5, 0.95)
    assert relation(i, j, (300, 1200)) == "none"
    assert relation(i, j, (1200, 300)) == "class3"


def test_only_the_shape_of_the_picture_matters():
    generator = random.Random(0)
    boxes = [tuple(generator.uniform(0.2, 0.6) for _ in range(4)) for _ in range(12)]
    assert relations(boxes, (64, 48)) == relations(boxes, (1280, 960))


# ----------------------------------------------------------------------------------------------------- whole pictures


def test_the_picture_contains_every_region_and_nothing_relates_to_itself():
    table = relations([(0.5, 0.5, 1.0, 1.0), (0.2, 0.2, 0.1, 0.1), (0.9, 0.9, 0.5, 0.5)])
    assert table[0] == ["none", "inside", "inside", "inside"]
    assert [row[0] for row in table] == ["none", "cover", "cover", "cover"]
    assert [table[i][i] for i in range(4)] == ["none"] * 4


def test_padding_has_no_relation():
    boxes = [(0.4, 0.4, 0.3, 0.3), (0.5, 0.5, 1.0, 1.0), (0.5, 0.4, 0.3, 0.3)]
    table = relations(boxes, mask=[1, 0, 1])
    assert table[2] == ["none"] * 4 and [row[2] for row in table] == ["none"] * 4
    without = relations([boxes[0], boxes[2]])
    assert [[row[0], row[1], row[3]] for row in (table[0], table[1], table[3])] == without


def test_a_picture_with_no_region_has_no_relation():
    assert spatial_relations(torch.zeros(2, 0, 4), torch.ones(2, 2), torch.ones(2, 0)).tolist() == [[[0]], [[0]]]


def test_the_pictures_of_a_batch_are_independent():
    torch.manual_seed(0)
    boxes, sizes, mask = torch.rand(6, 5, 4), torch.randint(100, 900, (6, 2)), torch.rand(6, 5) < 0.7
    together = spatial_relations(boxes, sizes, mask)
    for b in range(6):
        alone = spatial_relations(boxes[b : b + 1], sizes[b : b + 1], mask[b : b + 1])
        assert torch.equal(together[b : b + 1], alone)


def test_the_order_of_the_regions_permutes_the_table():
    torch.manual_seed(0)
    boxes, sizes, order = torch.rand(1, 9, 4), torch.tensor([[640, 480]]), torch.randperm(9)
    table = spatial_relations(boxes, sizes, torch.ones(1, 9))[0, 1:, 1:]
    permuted = spatial_relations(boxes[:, order], sizes, torch.ones(1, 9))[0, 1:, 1:]
    assert torch.equal(permuted, table[order][:, order])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_boxes_and_sizes_of_any_precision_are_read(dtype):
    boxes = torch.tensor([[[0.5, 0.5, 0.75, 0.75], [0.5, 0.25, 0.125, 0.125], [0.75, 0.5, 0.75, 0.5]]])
    exact = spatial_relations(boxes, torch.tensor([[640, 512]]), torch.ones(1, 3))
    got = spatial_relations(boxes.to(dtype), torch.tensor([[640, 512]], dtype=dtype), torch.ones(1, 3, dtype=dtype))
    assert torch.equal(got, exact)


# --------------------------------------------------------------------------------------------------------- properties

SWAPPED = {"none": "none", "inside": "cover", "cover": "inside", "overlap": "overlap"}
SWAPPED |= {name: CLASSES[(k + 4) % 8] for k, name in enumerate(CLASSES)}

shares = st.floats(0, 1, width=32)
free_boxes = st.tuples(shares, shares, st.floats(2**-10, 1, width=32), st.floats(2**-10, 1, width=32))


@st.composite
def boxes_on_a_grid(draw):
    """Boxes of a grid of pixels: centres in line, edges that touch and angles of 45 degrees are common."""
    step = draw(st.sampled_from([4, 7, 10, 16]))
    cell = st.integers(0, step)
    box = st.tuples(cell, cell, st.integers(1, step), st.integers(1, step))
    return [tuple(value / step for value in values) for values in draw(st.lists(box, min_size=2, max_size=8))]


@settings(max_examples=200)
@given(st.one_of(boxes_on_a_grid(), st.lists(free_boxes, min_size=2, max_size=8)), st.integers(1, 2000), st.data())
def test_swapping_two_regions_reverses_their_relation(boxes, width, data):
    height = data.draw(st.one_of(st.just(width), st.integers(1, 2000)))
    table = relations(boxes, (width, height))
    for i, j in itertools.product(range(len(boxes) + 1), repeat=2):
        assert table[j][i] == SWAPPED[table[i][j]]


def reference(box_i, box_j, size):
    """The relation of box i to box j, one pair at a time and without an angle."""

    def edges(box):
        x, y, height, width = box
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2

    def contains(outer, inner):
        (left, top, right, bottom), (inner_left, inner_top, inner_right, inner_bottom) = edges(outer), edges(inner)
        return all(
            difference <= 1e-6
            for difference in (left - inner_left, top - inner_top, inner_right - right, inner_bottom - bottom)
        )

    def area(box):
        return box[2] * box[3]

    if contains(box_i, box_j) and not contains(box_j, box_i):
        return "inside"
    if contains(box_j, box_i) and not contains(box_i, box_j):
        return "cover"
    (left, top, right, bottom), (left_j, top_j, right_j, bottom_j) = edges(box_i), edges(box_j)
    common_width = max(0.0, min(right, right_j) - max(left, left_j))
    common_height = max(0.0, min(bottom, bottom_j) - max(top, top_j))
    common = common_width * common_height
    if contains(box_i, box_j) or common / (area(box_i) + area(box_j) - common) > 0.5:
        return "overlap"
    dx, dy = box_j[0] - box_i[0], box_j[1] - box_i[1]
    if abs(dx) <= 1e-6 and abs(dy) <= 1e-6:
        return "overlap"
    dx, dy = dx * size[0], dy * size[1]
    if dx**2 + dy**2 > (size[0] ** 2 + size[1] ** 2) / 4:
        return "none"
    # The sector between two borders holds what lies clockwise from the first and not from the second.
    borders = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0)]
    (sector,) = (
        k
        for k, ((ax, ay), (bx, by)) in enumerate(itertools.pairwise(borders))
        if ax * dy - ay * dx >= 0 and bx * dy - by * dx < 0
    )
    return CLASSES[sector]


@pytest.mark.parametrize("grid", [None, 16, 64], ids=["anywhere", "coarse grid", "fine grid"])
def test_a_plain_reference_agrees(grid):
    """Grids are of powers of two, so that edges, areas and borders are met exactly."""
    generator = random.Random(grid)
    boxes, sizes, expected = [], [], []
    for _ in range(1000):
        if grid is None:
            pair = torch.tensor([[generator.random() for _ in range(4)] for _ in range(2)]).tolist()
        else:
            pair = [[generator.randint(1, grid) / grid for _ in range(4)] for _ in range(2)]
        size = generator.choice([(256, 256), (640, 480), (300, 900), (1024, 128)])
        boxes.append(pair)
        sizes.append(size)
        expected.append((reference(*pair, size), reference(*pair[::-1], size)))
    table = spatial_relations(torch.tensor(boxes), torch.tensor(sizes), torch.ones(1000, 2))
    got = [(SPATIAL_RELATIONS[ids[1][2]], SPATIAL_RELATIONS[ids[2][1]]) for ids in table.tolist()]
    assert got == expected
    assert {name for pair in expected for name in pair} == set(SPATIAL_RELATIONS)


def test_the_reference_has_the_angle_s_sector():
    """The reference itself against floor(angle / 45 degrees), away from the borders."""
    for degrees in range(1, 360):
        if degrees % 45:
            dx, dy = 0.2 * math.cos(math.radians(degrees)), 0.2 * math.sin(math.radians(degrees))
            name = reference(box_at(0.5, 0.5), box_at(0.5 + dx, 0.5 + dy), SQUARE)
            assert name == CLASSES[degrees // 45]
