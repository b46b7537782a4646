"""Pretraining of ``sam_nano``, a small SAM that is to ship with the package, from scratch on endless synthetic images.

``shapes`` are outlines, ``scenes`` and ``bodies`` compose them into pictures, and ``images`` turns a picture into what
a camera or scanner gives, with a mask for each of its parts. ``prompts`` clicks on a mask or draws a box around it,
``objective`` is SAM's loss, ``train`` the loop (``python -m pretraining --help``), and ``zero_shot``
judges the outcome. No photograph and no patient is used.
"""
