"""Model cards: a checkpoint, its uses and its scores, on one page of Markdown.

All figures come from results of `m2f eval` and `m2f bench`; data, licence and use, which cannot be measured, from a
card.yaml, see m2f_ros.evaluation.card.about.
"""

from m2f_ros.evaluation.card.about import About
from m2f_ros.evaluation.card.card import Card, Request, find_about, make_card, write_card

__all__ = ["About", "Card", "Request", "find_about", "make_card", "write_card"]
