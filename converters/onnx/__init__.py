"""ONNX and ONNX Runtime: any rule as an update graph of plain ``ai.onnx`` operators, and what runs it.

`dialect` lists the native optimizers, `emit` writes the graph, `run` executes it (and the native
operators, for parity). Private: `_functions` turns one program into ONNX functions, `_layout` decides
how tensors share nodes, `_native` runs the native operators.
"""
