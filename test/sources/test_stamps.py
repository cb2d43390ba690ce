"""Files of stamps: exact to the nanosecond, by order or by name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2f_ros.errors import SourceError
from m2f_ros.sources.stamps import rate_of, read_stamps


@pytest.fixture
def stamps(tmp_path):
    def read(text, names):
        (tmp_path / "stamps.txt").write_text(text)
        return read_stamps(tmp_path / "stamps.txt", names)

    return read


def test_seconds_nanoseconds_and_dates(stamps):
    text = "# recorded in Karlsruhe\n1317042185.964389445\n\n1317042186000000001  # ns\n2011-09-26 13:03:07.5\n"
    assert stamps(text, ["a", "b", "c"]) == [1317042185964389445, 1317042186000000001, 1317042187500000000]
    assert stamps("2011-09-26T13:02:25Z", ["a"]) == [1317042145000000000]


def test_a_mark_of_the_byte_order_is_no_part_of_a_stamp(tmp_path):
    (tmp_path / "s.txt").write_bytes(b"\xef\xbb\xbf1.5\r\n1.6\r\n")
    assert read_stamps(tmp_path / "s.txt", ["a", "b"]) == [1_500_000_000, 1_600_000_000]


def test_names_decide_where_there_are_any(stamps):
    text = "3.5 rgb/c.png\n1.5 rgb/a.png\n2.5 rgb/b.png\n"
    assert stamps(text, ["a", "b"]) == [1_500_000_000, 2_500_000_000]
    with pytest.raises(SourceError, match=r"stamps.txt: none for d \(1 of 2 images\)"):
        stamps(text, ["a", "d"])


@given(st.lists(st.integers(1, 2**31 * 10**9 - 1), min_size=1, max_size=5, unique=True).map(sorted))
def test_seconds_lose_nothing(tmp_path_factory, wanted):
    path = tmp_path_factory.mktemp("stamps") / "stamps.txt"
    path.write_text("\n".join(f"{ns // 10**9}.{ns % 10**9:09d}" for ns in wanted))
    assert read_stamps(path, [str(i) for i in range(len(wanted))]) == wanted


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1\n2\n3", "3 stamps for 2 images"),
        ("1\n1", r"that of b \(1000000000 ns\) is not after"),
        ("1\nsoon", "line 2: 'soon' does not begin with a stamp"),
        ("1\n-2", "line 2: '-2' does not begin"),
        ("1\n2011-13-40 00:00:00", "line 2: '2011-13-40 00:00:00' does not begin"),
        ("1\n2x", "line 2: '2x' does not begin"),
        ("0\n1", "line 1: '0' does not begin"),
        ("1\n9999999999.5", "line 2: '9999999999.5' does not begin"),
    ],
)
def test_refusals(stamps, text, says):
    with pytest.raises(SourceError, match=f"stamps .*stamps.txt.*: {says}|stamps .*stamps.txt, {says}") as caught:
        stamps(text, ["a", "b"])
    assert "\n" not in str(caught.value)


def test_a_file_that_is_none(tmp_path):
    with pytest.raises(SourceError, match=r"nowhere.txt: cannot be read \(No such file or directory\)"):
        read_stamps(tmp_path / "nowhere.txt", [])
    (tmp_path / "x").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SourceError, match=r"x: cannot be read \(no text\)"):
        read_stamps(tmp_path / "x", [])


def test_rate():
    assert rate_of([0, 50_000_000, 100_000_000, 400_000_000]) == 20
    assert rate_of([5]) is None
    assert rate_of([5, 5]) is None
