"""Swin."""

import torch

from m2f_ros.model.mask2former import swin


def test_a_network_that_was_built_for_inference_leaves_others_trainable():
    swin.relative_position_index.cache_clear()
    with torch.inference_mode():
        swin.WindowAttention(32, 1, 4, 0)
    attention = swin.WindowAttention(32, 1, 4, 0)
    bias = attention.plan(swin.windows_of(8, 8, 4, 0, attention.bias_table)).bias
    bias.sum().backward()
    assert attention.bias_table.grad.sum() == 4**4
