"""Segmenters: points on an image to masks, by GrabCut, a small U-Net or Segment Anything."""
