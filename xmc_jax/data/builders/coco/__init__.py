"""COCO-2014: photographs with five captions each."""
