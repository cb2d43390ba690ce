"""How often the log says what may come with every message."""

import random

import pytest

from m2f_ros.node.throttle import CUT, KINDS, Throttle, cut, kind_of


class Log:
    def __init__(self):
        self.now, self.lines = 0.0, []
        self.say = Throttle(self.lines.append, lambda: self.now)

    def hour(self, line, kind=None, rate=8):
        """`line(n)`, so many times a second."""
        for n in range(3600 * rate):
            self.say(line(n), kind)
            self.now += 1 / rate


def test_what_comes_all_the_time_is_said_ever_less_with_how_often_it_came():
    log = Log()
    log.hour(lambda n: f"frame {n} is bad")
    assert log.lines == ["frame 0 is bad", "frame 480 is bad (479 more such lines were left out)"]
    log.hour(lambda n: f"frame {n} is bad")
    assert len(log.lines) == 3


def test_no_kind_silences_another():
    log = Log()
    log.hour(lambda n: f"{n} is odd" if n % 2 else f"{n} is even")
    assert sum("odd" in line for line in log.lines) == sum("even" in line for line in log.lines) == 2


@pytest.mark.parametrize("quote", ["", "'"])
def test_a_thousand_texts_are_a_few_lines(quote):
    log, letters = Log(), random.Random(0)

    def text(n):
        return f"{quote}{''.join(letters.choices('abcdefgh', k=12))}{quote} is no encoding"

    log.hour(text)
    assert len(log.lines) <= 2 * (1 if quote else KINDS + 1)
    log.hour(lambda n: "the stamps stand still", "stamps")
    assert len(log.say._silences) <= KINDS + 1


def test_after_an_hour_of_silence_a_kind_begins_anew():
    log = Log()
    log.hour(lambda n: "bad")
    log.now += 2 * 3600 + 1
    log.lines.clear()
    log.say("bad")
    log.now += 61
    log.say("bad")
    assert len(log.lines) == 2


def test_a_text_is_cut():
    assert cut("a\n b\t c") == "a b c"
    assert len(cut("word " * 10**6)) == CUT and len(cut("\n" * 10**6)) == 0
    assert kind_of("768x512 'bgr8' of 12.5 s") == kind_of("1x2 'x y' of 3 s")


def test_the_silence_after_the_first_line_can_be_longer():
    log = Log()
    log.say = Throttle(log.lines.append, lambda: log.now, first=3600.0)
    log.hour(lambda n: "it comes")
    log.say("it comes")
    assert log.lines == ["it comes", "it comes (28799 more such lines were left out)"]
