"""The world of captioned shapes: scenes, captions, degradations, readers and their accuracy.

Code that needs to know what a shape is belongs here; data pipelines and training do not.
"""
