"""Model cards: what a checkpoint is, what it is for, and what was measured of it, on one page of Markdown.

Figures come from results of `m2f eval` and `m2f bench` and from nowhere else; what no measurement can say (data,
licence, use) from a card.yaml, see m2f_ros.evaluation.card.about.
"""

from m2f_ros.evaluation.card.about import About
from m2f_ros.evaluation.card.card import Card, Request, find_about, make_card, write_card

__all__ = ["About", "Card", "Request", "find_about", "make_card", "write_card"]
