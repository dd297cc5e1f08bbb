"""Training graphs: a forward model, its gradient and its update in one graph of plain ``ai.onnx`` operators.

`forward` takes a model in, `tape` writes nodes, `backward` differentiates with one rule an operator
(``gradients/``), `losses` makes the scalar; ``converters/onnx/training_graph.py`` puts them together.
"""
