"""Scores of masks: metrics of one volume, their summary over many, protocols, and masks without a model."""
