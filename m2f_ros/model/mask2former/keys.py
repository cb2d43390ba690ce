"""Keys of a Mask2Former's weights in Hugging Face's files."""

import re

from m2f_ros.model.keys import KeyMap

# The files keep these legacy keys, although transformers has renamed its modules in memory.
_TO_DISK = [
    (r"^decoder\.class_predictor\.", r"class_predictor."),
    (r"^decoder\.query_embed\.", r"model.transformer_module.queries_embedder."),
    (r"^decoder\.query_features\.", r"model.transformer_module.queries_features."),
    (r"^decoder\.level_embed\.", r"model.transformer_module.level_embed."),
    (r"^decoder\.mask_embed\.(\d)\.", r"decoder.mask_predictor.mask_embedder.\1.0."),
    (r"^decoder\.norm\.", r"decoder.layernorm."),
    (r"^decoder\.(.*)\.norm1\.", r"decoder.\1.cross_attn_layer_norm."),
    (r"^decoder\.(.*)\.norm2\.", r"decoder.\1.self_attn_layer_norm."),
    (r"^decoder\.(.*)\.norm3\.", r"decoder.\1.final_layer_norm."),
    (r"^decoder\.(.*)\.cross_attn\.in_proj\.", r"decoder.\1.cross_attn.in_proj_"),
    (r"^decoder\.mask_projection\.", r"model.pixel_level_module.decoder.mask_projection."),
    (r"^decoder\.", r"model.transformer_module.decoder."),
    (r"^pixel_decoder\.lateral\.", r"pixel_decoder.adapter_1."),
    (r"^pixel_decoder\.output\.", r"pixel_decoder.layer_1."),
    (r"^pixel_decoder\.(.*)\.norm1\.", r"pixel_decoder.\1.self_attn_layer_norm."),
    (r"^pixel_decoder\.(.*)\.norm2\.", r"pixel_decoder.\1.final_layer_norm."),
    (r"^pixel_decoder\.layers\.", r"pixel_decoder.encoder.layers."),
    (r"^pixel_decoder\.", r"model.pixel_level_module.decoder."),
    (r"(\.blocks\.\d+)\.norm1\.", r"\1.layernorm_before."),
    (r"(\.blocks\.\d+)\.norm2\.", r"\1.layernorm_after."),
    (r"(\.blocks\.\d+)\.fc1\.", r"\1.intermediate.dense."),
    (r"(\.blocks\.\d+)\.fc2\.", r"\1.output.dense."),
    (r"\.attn\.proj\.", r".attention.output.dense."),
    (r"\.attn\.qkv\.", r".attention.self.qkv."),
    (r"\.attn\.bias_table$", r".attention.self.relative_position_bias_table"),
    (r"^backbone\.norms\.0\.", r"backbone.hidden_states_norms.stage1."),
    (r"^backbone\.norms\.1\.", r"backbone.hidden_states_norms.stage2."),
    (r"^backbone\.norms\.2\.", r"backbone.hidden_states_norms.stage3."),
    (r"^backbone\.norms\.3\.", r"backbone.hidden_states_norms.stage4."),
    (r"^backbone\.stages\.(\d+\.(?:blocks|downsample))\.", r"backbone.encoder.layers.\1."),
    (r"^backbone\.patch_norm\.", r"backbone.embeddings.norm."),
    (r"^backbone\.patch_embed\.", r"backbone.embeddings.patch_embeddings.projection."),
    (r"^backbone\.", r"model.pixel_level_module.encoder."),
]
# Swin's keys in a state_dict of transformers 5, whose files keep the older ones.
_SWIN_IN_MEMORY = [
    (r"^(model\.pixel_level_module\.encoder)\.swin\.(embeddings|encoder)\.", r"\1.\2."),
    (r"(\.blocks\.\d+\.attention)\.relative_position_bias\.", r"\1.self."),
    (r"(\.blocks\.\d+\.attention)\.q_proj\.", r"\1.self.query."),
    (r"(\.blocks\.\d+\.attention)\.k_proj\.", r"\1.self.key."),
    (r"(\.blocks\.\d+\.attention)\.v_proj\.", r"\1.self.value."),
    (r"(\.blocks\.\d+\.attention)\.o_proj\.", r"\1.output.dense."),
    (r"(\.blocks\.\d+)\.mlp\.fc1\.", r"\1.intermediate.dense."),
    (r"(\.blocks\.\d+)\.mlp\.fc2\.", r"\1.output.dense."),
]

KEYS = KeyMap(
    to_disk=_TO_DISK,
    fused={
        ".attention.self.qkv.": (".attention.self.query.", ".attention.self.key.", ".attention.self.value."),
        ".self_attn.in_proj.": (".self_attn.q_proj.", ".self_attn.k_proj.", ".self_attn.v_proj."),
    },
    to_file=_SWIN_IN_MEMORY,
    # Class weights of the loss, an index table, and a norm that Swin's features bypass.
    ignored=re.compile(r"^criterion\.|relative_position_index$|\.encoder\.(swin\.)?layernorm\."),
    landmark="class_predictor.weight",
)
