"""The format `onnx`: one file ONNX Runtime loads, with the policy's own values in it.

A clustered weight is stored as 2-, 4- or 8-bit indices and a lookup table, a quantized one as 2-,
4- or 8-bit levels and its scale: only standard operators, folded by the runtime when it loads the
file. Where the policy rounds activations, QuantizeLinear / DequantizeLinear pairs around the layer
let the runtime use its 8-bit integer kernels (unsigned activations, signed weights).
"""
