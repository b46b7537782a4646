"""Label scans from boxes on every fifth slice and propagation, as a person would without any brush; print the DSC.

    MEDSAM_ADAPT_REAL_DATA=FOLDER python benchmarks/scripted_annotator.py [--data abdomen_mr] [--structure liver]
        [--model lite_medsam] [--every 5] [--part all] [--output FOLDER]

The boxes are the tight ones around the true label on the slices 0, 5, 10, ... that show the structure. They go through
the same code as those drawn on the annotation page: proposals, then propagation to all other slices. With ``--output``
the labels are kept there as a session of ``medsam-adapt annotate``, which ``train --data`` takes. ``--part dev`` takes
the development patients alone, on which settings of the propagation are chosen.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np
import torch
from real_patients import split_of

from medsam_adapt.annotation.drawing import Drawing, box_of
from medsam_adapt.annotation.opening import open_session
from medsam_adapt.annotation.proposals import Proposals, load_proposals
from medsam_adapt.annotation.session import Session
from medsam_adapt.data.datasets.cases import find_cases
from medsam_adapt.data.slices.geometry import volume_to_slices
from medsam_adapt.data.volumes.io import read_label, to_ras

TARGET = 0.85


def annotate(session: Session, scan: str, proposals: Proposals, truth: np.ndarray, every: int) -> tuple[int, Drawing]:
    """Draw boxes and propagate; how many boxes, and the drawing."""
    slices = volume_to_slices(truth, "axial")
    boxes = {index: box_of(slices[index]) for index in range(0, len(slices), every) if slices[index].any()}
    model = proposals.prompted.author
    with session.changing(scan) as drawing:
        for index, box in boxes.items():
            mask = proposals.propose(drawing, "axial", index, box)
            drawing.paint("axial", {index: mask.astype(np.uint8)}, model, prompts={(1, index): box})
        keys = drawing.key_boxes(1, "axial")
        for index, mask in proposals.propagate(drawing, "axial", keys, range(len(slices))):
            drawing.paint("axial", {index: mask.astype(np.uint8)}, model)
    return len(boxes), drawing


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """DSC of two masks."""
    return 2 * float((first & second).sum()) / max(float(first.sum() + second.sum()), 1.0)


def main() -> None:
    """Annotate every patient and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="abdomen_mr", help="folder below MEDSAM_ADAPT_REAL_DATA")
    parser.add_argument("--structure", default="liver")
    parser.add_argument("--model", default="lite_medsam", help="weights or a run that takes boxes")
    parser.add_argument("--every", type=int, default=5, help="slices from one box to the next")
    parser.add_argument("--part", choices=["all", "test", "dev", "pool"], default="all")
    parser.add_argument("--output", type=Path, help="keep the labels in this folder")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = Path(os.environ["MEDSAM_ADAPT_REAL_DATA"]) / options.data
    cases = find_cases(data)
    numbers = {name: number for number, name in cases.classes.items()}
    wanted = [case for case in cases.cases if options.part == "all" or case.id in split_of(data)[options.part]]
    session = open_session(data / "images", [options.structure], options.output)
    proposals = load_proposals(options.model, [options.structure])
    print(f"| patient | DSC | boxes | s |\n|---|---:|---:|---:|  {options.structure}, {options.model}")
    scores, boxes, seconds = [], 0, 0.0
    for case in wanted:
        assert case.label is not None, "the data set is labelled"
        label, header = read_label(case.label, like=case.image)
        truth = to_ras(label, header.affine)[0] == numbers[options.structure]
        session.drawing(case.id)  # reading the file is not counted
        began = time.perf_counter()
        count, drawing = annotate(session, case.id, proposals, truth, options.every)
        took = time.perf_counter() - began
        scores.append(dice(drawing.label == 1, truth))
        boxes, seconds = boxes + count, seconds + took
        print(f"| {case.id} | {scores[-1]:.3f} | {count} | {took:.0f} |", flush=True)
        if options.output is not None:
            session.set_labelled(case.id, True)
    reached = sum(score >= TARGET for score in scores)
    print(f"| mean | {np.mean(scores):.3f} | {boxes / len(scores):.1f} | {seconds / len(scores):.0f} |")
    print(f"{reached} of {len(scores)} patients reach {TARGET}; {boxes} boxes, {seconds:.0f} s in all.")
    if options.output is not None:
        session.training_folder()
    proposals.close()


if __name__ == "__main__":
    main()
