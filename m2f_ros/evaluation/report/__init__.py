"""The report of an evaluation: one page of HTML, the same as Markdown, and the result as JSON."""

from m2f_ros.evaluation.report.worst import Worst, WorstFrame
from m2f_ros.evaluation.report.write import PREVIOUS, check_out, set_aside, write_report

__all__ = ["PREVIOUS", "Worst", "WorstFrame", "check_out", "set_aside", "write_report"]
