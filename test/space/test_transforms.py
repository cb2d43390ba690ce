"""The buffer of transforms: values by hand, the rules of tf2, and each fault with its kind on one line."""

import math
import pickle
import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation, Slerp

from m2f_ros.space.transforms import OPTICAL, TransformError, Transforms, from_quaternion, interpolate, inverse, pose

S = 10**9
HALF = math.sqrt(0.5)


def moved(x: float = 0.0, y: float = 0.0, z: float = 0.0, yaw: float = 0.0) -> np.ndarray:
    return pose([x, y, z, 0, 0, yaw])


def kind(call, *args, **kwargs) -> str:
    """The kind of the error, which is of one line."""
    with pytest.raises(TransformError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 2100
    return caught.value.kind


def at(matrix: np.ndarray, *point: float) -> list[float]:
    return [round(value, 9) + 0.0 for value in (matrix @ [*point, 1])[:3].tolist()]


numbers = st.floats(-100, 100)
angles = st.floats(-math.pi, math.pi)
poses = st.tuples(numbers, numbers, numbers, angles, angles, angles).map(pose)


# Matrices


def test_a_pose_by_hand():
    assert at(moved(1, 2, 3, math.pi / 2), 1, 0, 0) == [1, 3, 3]
    assert at(pose([0, 0, 0, math.pi / 2, 0, 0]), 0, 1, 0) == [0, 0, 1]
    assert at(pose([0, 0, 0, 0, math.pi / 2, 0]), 1, 0, 0) == [0, 0, -1]  # nose down
    assert at(pose([0, 0, 0, math.pi / 2, 0, math.pi / 2]), 0, 1, 0) == [0, 0, 1]  # roll first, then yaw


@given(poses=st.tuples(numbers, numbers, numbers, angles, angles, angles))
def test_a_pose_is_that_of_urdf(poses):
    assert np.allclose(pose(poses)[:3, :3], Rotation.from_euler("xyz", poses[3:]).as_matrix(), atol=1e-12)


def test_optical_axes():
    """The middle of the image is ahead, right in the image is right, down is down."""
    assert [at(OPTICAL, *axis) for axis in np.eye(3)] == [[0, -1, 0], [0, 0, -1], [1, 0, 0]]
    assert np.array_equal(inverse(OPTICAL) @ OPTICAL, np.eye(4))


@given(q=st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: math.hypot(*q) > 0.1), off=st.floats(0.9951, 1.0049))
def test_quaternions(q, off):
    unit = np.array(q) / math.hypot(*q)
    matrix = from_quaternion((1, 2, 3), (unit * off).tolist())
    assert np.allclose(matrix[:3, :3], Rotation.from_quat(unit).as_matrix(), atol=1e-12)
    assert matrix[:, 3].tolist() == [1, 2, 3, 1]


@pytest.mark.parametrize(
    "rotation",
    [(0, 0, 0, 0), (0, 0, 0, 1.01), (0, 0, 0, math.nan), (math.inf, 0, 0, 1), (0, 0, 1), (0, 0, 0, "1"), (1e200,) * 4],
)
def test_quaternions_that_are_none(rotation):
    assert kind(from_quaternion, (0, 0, 0), rotation) == "invalid"


@pytest.mark.parametrize("translation", [(0, 0), (0, 0, math.nan), (0, math.inf, 0), None])
def test_translations_that_are_none(translation):
    assert kind(from_quaternion, translation, (0, 0, 0, 1)) == "invalid"


@pytest.mark.parametrize("values", [[], [0] * 5, [0] * 7, [0, 0, 0, 0, 0, math.nan], ["a"] * 6, 3, [math.inf] * 6])
def test_poses_that_are_none(values):
    assert kind(pose, values) == "invalid"


def test_an_error_keeps_its_kind_on_its_way_to_another_process():

    error = pickle.loads(pickle.dumps(TransformError("words", "stale")))
    assert (str(error), error.kind) == ("words", "stale")


# Interpolation


def test_half_way_by_hand():
    middle = interpolate(moved(0, 0, 0, 0), moved(4, 2, 0, math.pi / 2), 0.5)
    assert at(middle, 0, 0, 0) == [2, 1, 0]
    assert np.allclose(middle[:2, :2], [[HALF, -HALF], [HALF, HALF]], atol=1e-15)


def test_the_shorter_way_round():
    """From 170 to -170 degrees through 180, not through 0."""
    middle = interpolate(moved(yaw=math.radians(170)), moved(yaw=math.radians(-170)), 0.25)
    assert math.degrees(math.atan2(middle[1, 0], middle[0, 0])) == pytest.approx(175)


@given(first=poses, second=poses, share=st.floats(0, 1))
def test_slerp_is_that_of_scipy(first, second, share):
    both = Rotation.from_matrix([first[:3, :3], second[:3, :3]])
    if (both[0].inv() * both[1]).magnitude() > 3.1:
        return  # at half a turn both ways are as short
    found = interpolate(first, second, share)
    assert np.allclose(found[:3, :3], Slerp([0, 1], both)(share).as_matrix(), atol=1e-9)
    assert np.allclose(found[:3, 3], (1 - share) * first[:3, 3] + share * second[:3, 3], atol=1e-9)


@given(first=poses, turn=st.floats(0, 1e-6), share=st.floats(0, 1))
def test_small_turns_are_exact(first, turn, share):
    found = inverse(first) @ interpolate(first, first @ moved(yaw=turn), share)
    assert found[1, 0] == pytest.approx(share * turn, abs=1e-15)


@given(first=poses, share=st.floats(0, 1), axis=st.integers(0, 2))
def test_half_a_turn_goes_some_way(first, share, axis):
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_rotvec(math.pi * np.eye(3)[axis]).as_matrix()
    found = interpolate(first, first @ turn, share)[:3, :3]
    assert np.allclose(found @ found.T, np.eye(3), atol=1e-9)
    away = Rotation.from_matrix(first[:3, :3].T @ found).magnitude()
    assert away == pytest.approx(share * math.pi, abs=1e-6)


# Lookups


@pytest.fixture
def car() -> Transforms:
    """map - odom - base - (mast - lidar, camera): 10 m/s along the x of odom, the lidar half a metre over its mast."""
    tree = Transforms()
    tree.put("base", "mast", moved(1, 0, 2), 0, static=True)
    tree.put("mast", "lidar", moved(0, 0, 0.5, math.pi / 2), 0, static=True)
    tree.put("base", "camera", moved(2, 0, 1) @ OPTICAL, 0, static=True)
    for second in range(5):
        tree.put("odom", "base", moved(10 * second, 0, 0), second * S)
        tree.put("map", "odom", moved(0, 100, 0), second * S)
    return tree


def test_up_down_and_across(car):
    assert at(car.lookup("odom", "base", 2 * S + S // 2), 1, 0, 0) == [26, 0, 0]
    assert at(car.lookup("base", "odom", 2 * S + S // 2), 26, 0, 0) == [1, 0, 0]
    assert at(car.lookup("map", "lidar", 1 * S), 1, 0, 0) == [11, 101, 2.5]
    # One metre ahead of the lidar, which looks to the left: left of the camera by 1, behind it by 1, above it by 1.5.
    assert at(car.lookup("camera", "lidar", 1 * S), 1, 0, 0) == [-1, -1.5, -1]


def test_frames_that_share_a_static_part_need_no_moving_one(car):
    """Only what lies between the frames has to be there at the stamp."""
    assert at(car.lookup("camera", "lidar", 999 * S), 0, 0, 0) == [0, -1.5, -1]
    assert kind(car.lookup, "odom", "lidar", 999 * S) == "stale"


def test_a_frame_in_itself(car):
    assert np.array_equal(car.lookup("lidar", "lidar", 0), np.eye(4))
    assert np.array_equal(car.lookup("unheard", "/unheard", None), np.eye(4))


@given(data=st.data())
def test_a_random_tree(data):
    """Every pair of frames of a random tree: the product of the poses in the root."""
    parents = [data.draw(st.integers(0, child)) for child in range(data.draw(st.integers(1, 12)))]
    tree, world = Transforms(), [np.eye(4)]
    order = data.draw(st.permutations(range(len(parents))))
    links = [data.draw(poses) for _ in parents]
    for child in order:
        static = data.draw(st.booleans())
        tree.put(f"f{parents[child]}", f"f{child + 1}", links[child], 7, static)
    for parent, link in zip(parents, links, strict=True):
        world.append(world[parent] @ link)
    a, b = data.draw(st.integers(0, len(parents))), data.draw(st.integers(0, len(parents)))
    assert np.allclose(tree.lookup(f"f{a}", f"f{b}", 7), np.linalg.inv(world[a]) @ world[b], atol=1e-6)


def test_between_two_stamps(car):
    """A post 20 m ahead of the mast at 1 s is 15 m ahead half a second later."""
    args = ("mast", 1 * S + S // 2, "mast", 1 * S)
    assert at(car.lookup_between(*args, fixed="odom"), 20, 0, 0) == [15, 0, 0]
    assert at(car.lookup_between(*args, fixed="map"), 20, 0, 0) == [15, 0, 0]
    turned = car.lookup_between("camera", 1 * S + S // 2, "lidar", 1 * S, "odom")
    assert at(turned, 0, 0, 0) == [0, -1.5, -6]


def test_equal_stamps_need_no_fixed_frame(car):
    assert at(car.lookup_between("camera", 999 * S, "lidar", 999 * S, "nowhere"), 0, 0, 0) == [0, -1.5, -1]
    assert kind(car.lookup_between, "camera", 2 * S, "lidar", 1 * S, "nowhere") == "missing"


@pytest.mark.parametrize("stamp", [None, 3 * S])
def test_none_is_the_newest_that_all_have(stamp):
    tree = Transforms()
    for second in range(6):
        tree.put("a", "b", moved(second), second * S)
        if second <= 3:
            tree.put("b", "c", moved(0, second), second * S)
    assert at(tree.lookup("a", "c", stamp), 0, 0, 0) == [3, 3, 0]


def test_zero_is_a_stamp_like_any_other(car):
    assert at(car.lookup("odom", "base", 0), 0, 0, 0) == [0, 0, 0]
    car.put("odom", "late", moved(), 5 * S)
    assert kind(car.lookup, "odom", "late", 0) == "past"


def test_transforms_out_of_order_are_sorted():
    tree = Transforms()
    for second in (3, 0, 2, 1):
        tree.put("a", "b", moved(second**2), second * S)
    assert at(tree.lookup("a", "b", 2 * S + S // 2), 0, 0, 0) == [6.5, 0, 0]


def test_the_later_one_of_the_same_stamp_counts():
    tree = Transforms()
    tree.put("a", "b", moved(1), S)
    tree.put("a", "b", moved(2), S)
    assert at(tree.lookup("a", "b", S), 0, 0, 0) == [2, 0, 0]


def test_nothing_is_extrapolated(car):
    tree = Transforms()
    tree.put("a", "b", moved(1), S)
    assert at(tree.lookup("a", "b", S), 0, 0, 0) == [1, 0, 0]
    assert kind(tree.lookup, "a", "b", S + 1) == "stale"
    assert kind(tree.lookup, "a", "b", S - 1) == "past"
    tree.put("a", "b", moved(2), 2 * S)
    assert kind(tree.lookup, "a", "b", 2 * S + 1) == "stale"
    assert kind(tree.lookup, "b", "a", S - 1) == "past"


def test_an_end_holds_within_the_tolerance():
    tree = Transforms(tolerance=0.1)
    tree.put("a", "b", moved(1), S)
    tree.put("a", "b", moved(2), 2 * S)
    assert at(tree.lookup("a", "b", 2 * S + S // 10), 0, 0, 0) == [2, 0, 0]
    assert at(tree.lookup("a", "b", S - S // 10), 0, 0, 0) == [1, 0, 0]
    assert kind(tree.lookup, "a", "b", 2 * S + S // 10 + 1) == "stale"
    assert kind(tree.lookup, "a", "b", S - S // 10 - 1) == "past"


def test_missing_and_unconnected(car):
    assert kind(car.lookup, "base", "radar", S) == "missing"
    assert kind(car.lookup, "radar", "base", S) == "missing"
    assert kind(Transforms().lookup, "a", "b", S) == "missing"
    car.put("trailer", "radar", moved(), 0, static=True)
    assert kind(car.lookup, "base", "radar", S) == "unconnected"
    with pytest.raises(TransformError, match="radar is in the tree of trailer, base in that of map"):
        car.lookup("base", "radar", S)


def test_a_lookup_says_what_it_found():
    tree = Transforms()
    tree.put("odom", "base", moved(), 3 * S)
    words = "from base to odom at 4.250000000: the newest of base in odom is of 3.000000000, 1.250 s too old"
    with pytest.raises(TransformError, match=words):
        tree.lookup("odom", "base", 4 * S + S // 4)


def test_what_was_put_and_found_belongs_to_nobody_else(car):
    mine = moved(1)
    car.put("base", "hook", mine, 0, static=True)
    mine[:] = 0
    found = car.lookup("base", "hook", 0)
    assert at(found, 0, 0, 0) == [1, 0, 0]
    found[:] = 0
    assert at(car.lookup("base", "hook", 0), 0, 0, 0) == [1, 0, 0]


# Bad input


@pytest.mark.parametrize(
    "matrix",
    [
        np.full((4, 4), np.nan),
        np.zeros((4, 4)),
        np.diag([1.0, 1, -1, 1]),
        np.diag([2.0, 2, 2, 1]),
        np.diag([1.0, 1, 1, 2]),
        np.diag([2.0, 0.5, 1, 1]),
        np.array([[1.0, 0, 0, np.inf], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
        np.array([[1.0, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
        np.eye(3),
    ],
)
def test_matrices_that_are_no_transform(matrix):
    tree = Transforms()
    assert kind(tree.put, "a", "b", matrix, 0) == "invalid"
    assert kind(tree.lookup, "a", "b", 0) == "missing"


@pytest.mark.parametrize(
    ("parent", "child"),
    [("", "b"), ("a", ""), ("/", "b"), ("a", "a"), ("a", "/a"), ("a", "b" * 9999), ("a" * 9999, "b")],
)
def test_names_that_are_none(parent, child):
    assert kind(Transforms().put, parent, child, np.eye(4), 0) == "invalid"


def test_a_slash_in_front_is_left_out():
    tree = Transforms()
    tree.put("/a", "/b", moved(1), 0, static=True)
    assert at(tree.lookup("a", "/b", 0), 0, 0, 0) == [1, 0, 0]


@given(length=st.integers(2, 6), static=st.booleans())
def test_what_closes_a_loop_is_refused(length, static):
    tree = Transforms()
    for number in range(length - 1):
        tree.put(f"f{number}", f"f{number + 1}", moved(1), S, static)
    assert kind(tree.put, f"f{length - 1}", "f0", moved(1), S, static) == "loop"
    assert at(tree.lookup("f0", f"f{length - 1}", S), 0, 0, 0) == [length - 1, 0, 0]


def test_a_new_parent_cannot_close_a_loop():
    tree = Transforms()
    tree.put("a", "b", moved(1), S)
    tree.put("b", "c", moved(1), S)
    assert kind(tree.put, "c", "b", moved(1), 2 * S) == "loop"
    assert at(tree.lookup("a", "c", S), 0, 0, 0) == [2, 0, 0]


def test_a_frame_may_change_its_parent():
    tree = Transforms()
    tree.put("world", "hand", moved(0, 1), 0, static=True)
    tree.put("world", "box", moved(1), 1 * S)
    tree.put("hand", "box", moved(2), 2 * S)
    assert at(tree.lookup("world", "box", 2 * S), 0, 0, 0) == [2, 1, 0]
    assert kind(tree.lookup, "world", "box", 1 * S) == "past"


def test_two_parents_in_turns():
    """Nothing says which is right, until one of the publishers is silent for the ten seconds that are kept."""
    tree = Transforms()
    for parent in ("a", "b"):
        tree.put("world", parent, moved(), 0, static=True)
    for tenth in range(30):
        tree.put("ab"[tenth % 2], "c", moved(), tenth * S // 10)
    assert kind(tree.lookup, "world", "c", 29 * S // 10) == "conflict"
    with pytest.raises(TransformError, match="the parent of c is b and a in turns"):
        tree.lookup("world", "c", 29 * S // 10)
    for tenth in range(30, 132):
        tree.put("a", "c", moved(), tenth * S // 10)
    assert np.array_equal(tree.lookup("world", "c", 131 * S // 10), np.eye(4))
    tree.put("b", "c", moved(), 132 * S // 10)  # long after: no turn
    assert np.array_equal(tree.lookup("world", "c", 132 * S // 10), np.eye(4))


def test_two_static_parents_are_said_and_the_newer_counts():
    tree = Transforms()
    tree.put("a", "c", moved(1), 0, static=True)
    tree.put("a", "c", moved(2), 0, static=True)
    assert at(tree.lookup("a", "c", 0), 0, 0, 0) == [2, 0, 0]
    assert kind(tree.put, "b", "c", moved(3), 0, static=True) == "conflict"
    assert at(tree.lookup("b", "c", 0), 0, 0, 0) == [3, 0, 0]
    assert kind(tree.lookup, "a", "c", 0) == "missing"


def test_static_and_moving_are_said_and_the_newer_counts():
    tree = Transforms()
    tree.put("a", "c", moved(1), 0, static=True)
    assert kind(tree.put, "a", "c", moved(2), 5 * S) == "conflict"
    assert at(tree.lookup("a", "c", 5 * S), 0, 0, 0) == [2, 0, 0]
    assert kind(tree.lookup, "a", "c", 4 * S) == "past"
    assert kind(tree.put, "a", "c", moved(1), 0, static=True) == "conflict"
    assert at(tree.lookup("a", "c", 77 * S), 0, 0, 0) == [1, 0, 0]


# Time and memory


def test_ten_seconds_are_kept():
    tree = Transforms(seconds=10)
    for second in range(21):
        tree.put("a", "b", moved(second), second * S)
    assert at(tree.lookup("a", "b", 10 * S), 0, 0, 0) == [10, 0, 0]
    assert kind(tree.lookup, "a", "b", 10 * S - 1) == "past"
    assert kind(tree.put, "a", "b", moved(), 10 * S - 1) == "old"
    assert at(tree.lookup("a", "b", 20 * S), 0, 0, 0) == [20, 0, 0]


def test_a_clock_that_was_set_back():
    """A bag that starts again: after ten transforms from before, the frame begins anew with all of them."""
    tree = Transforms()
    tree.put("a", "b", moved(99), 1000 * S)
    for second in range(9):
        assert kind(tree.put, "a", "b", moved(second), second * S) == "old"
    assert kind(tree.lookup, "a", "b", 3 * S) == "past"
    tree.put("a", "b", moved(9), 9 * S)
    assert at(tree.lookup("a", "b", S // 2), 0, 0, 0) == [0.5, 0, 0]
    assert kind(tree.lookup, "a", "b", 1000 * S) == "stale"


def test_a_stray_stamp_heals():
    tree = Transforms()
    tree.put("a", "b", moved(), 2**31 * S)
    for second in range(20):
        try:
            tree.put("a", "b", moved(second), second * S)
        except TransformError as error:
            assert error.kind == "old" and second < 9
    assert at(tree.lookup("a", "b", 19 * S), 0, 0, 0) == [19, 0, 0]


def test_old_ones_among_new_ones_are_no_jump():
    tree = Transforms()
    for second in range(100, 200):
        tree.put("a", "b", moved(second), second * S)
        assert kind(tree.put, "a", "b", moved(), (second - 60) * S) == "old"
    assert at(tree.lookup("a", "b", 199 * S), 0, 0, 0) == [199, 0, 0]


def test_clear_keeps_what_is_static(car):
    car.clear()
    assert at(car.lookup("base", "lidar", 0), 0, 0, 0) == [1, 0, 2.5]
    assert kind(car.lookup, "odom", "base", S) == "missing"
    car.put("odom", "base", moved(7), 0)
    assert at(car.lookup("odom", "base", 0), 0, 0, 0) == [7, 0, 0]


def test_a_cleared_buffer_forgets_parents_that_took_turns():
    tree = Transforms()
    for tenth in range(3):
        tree.put("ab"[tenth % 2], "c", moved(), tenth)
    assert kind(tree.lookup, "a", "c", 2) == "conflict"
    tree.clear()
    tree.put("a", "c", moved(), 0)
    assert np.array_equal(tree.lookup("a", "c", 0), np.eye(4))


def test_too_many_frames():
    tree = Transforms()
    for number in range(1000):
        tree.put("a", f"f{number}", moved(), 0)
    assert kind(tree.put, "a", "one more", moved(), 0) == "full"
    tree.put("a", "f5", moved(1), S)
    assert at(tree.lookup("a", "f5", S), 0, 0, 0) == [1, 0, 0]


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr("m2f_ros.space.transforms._SAMPLES", 1000)
    tree = Transforms()
    matrix = moved()
    tracemalloc.start()
    try:
        for number in range(20_000):  # of 0.2 s, all within the ten that are kept
            tree.put("a", f"f{number % 4}", matrix, number * 10_000)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1000 * 600
    tree.lookup("a", "f0", 19_996 * 10_000)


def test_threads_do_not_disturb_each_other():
    """Lookups while the buffer grows, is pruned and cleared: a right answer or an error, never another."""
    tree, wrong, end = Transforms(seconds=0.01), [], threading.Event()

    def write() -> None:
        for number in range(3000):
            tree.put("odom", "base", moved(number), number * 1_000_000)
            if number % 500 == 0:
                tree.clear()
        end.set()

    def read() -> None:
        while not end.is_set():
            try:
                stamp = int(tree.lookup("odom", "base", None)[0, 3]) * 1_000_000
                x = tree.lookup("odom", "base", stamp - 500_000)[0, 3]
            except TransformError:
                continue
            if not math.isclose(x, stamp / 1_000_000 - 0.5):
                wrong.append((stamp, x))

    threads = [threading.Thread(target=write), *(threading.Thread(target=read) for _ in range(3))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


operations = st.tuples(
    st.sampled_from(["put", "static", "lookup", "between", "clear"]),
    st.sampled_from(["a", "/a", "b", "c", "d", ""]),
    st.sampled_from(["a", "b", "/b", "c", "d", "\n"]),
    st.integers(-20, 40),
)


@given(st.lists(operations, max_size=60))
def test_any_order_of_calls(calls):
    """A finite rigid transform or an error of one line, whatever came before."""
    tree = Transforms()
    for number, (what, first, second, second_of) in enumerate(calls):
        stamp = second_of * S
        try:
            if what == "clear":
                tree.clear()
            elif what == "lookup":
                found = tree.lookup(first, second, stamp)
                assert np.allclose(found[:3, :3] @ found[:3, :3].T, np.eye(3), atol=1e-9) and np.isfinite(found).all()
            elif what == "between":
                tree.lookup_between(first, stamp, second, stamp + S, "c")
            else:
                tree.put(first, second, moved(number, yaw=number), stamp, what == "static")
        except TransformError as error:
            assert "\n" not in str(error)
