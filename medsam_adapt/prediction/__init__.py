"""Trained runs on new volumes: the predictor, what it is prompted with, and the files of many cases."""
