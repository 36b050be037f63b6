"""ONNX files of an exported model, for ONNX Runtime in Python, browsers and elsewhere.

`graph.py` alone imports the package onnx, which is optional.
"""
