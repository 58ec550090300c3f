"""What the measures of a report mean, in a sentence each."""

from __future__ import annotations

MEANINGS = {
    "sMOTSA": "MOTS accuracy with overlaps: (sum of the IoUs of found masks - false masks - id "
    "switches) / true masks; may be negative.",
    "MOTSA": "(found masks - false masks - id switches) / true masks; may be negative.",
    "MOTSP": "Mean IoU of the found masks.",
    "HOTA": "Geometric mean of DetA and AssA, averaged over 19 thresholds of the IoU.",
    "DetA": "Found masks / (found + missed + false), averaged over thresholds: how well objects "
    "are found.",
    "AssA": "How well the masks of an object keep one id, averaged over found masks and "
    "thresholds.",
    "IDF1": "F1 of the masks that carry the right id, for the best pairing of whole tracks.",
    "IDS": "Id switches: an object is found under another id than the last time.",
    "TP": "True masks that were found (IoU of 0.5 or more).",
    "FP": "False masks.",
    "FN": "True masks that were missed.",
    "MT": "Objects found in more than 80 % of their frames (BDD100K: in 80 % or more).",
    "ML": "Objects found in less than 20 % of their frames.",
    "Frag": "How often an object was found, then not found, then found again.",
    "J&F": "Mean of J and F.",
    "J-Mean": "J: IoU of an object's masks, averaged over frames and objects.",
    "J-Recall": "Share of the frames with J above 0.5.",
    "J-Decay": "J in the first quarter of the sequence minus that in the last.",
    "F-Mean": "F: how well the boundaries of masks agree, F1 of boundary pixels, averaged.",
    "F-Recall": "Share of the frames with F above 0.5.",
    "F-Decay": "F in the first quarter of the sequence minus that in the last.",
    "AP": "Average precision of tracks, averaged over thresholds of the track's IoU from 0.5 to "
    "0.95.",
    "AP50": "AP at an IoU of 0.5.",
    "AP75": "AP at an IoU of 0.75.",
    "AR1": "Share of the true tracks found with one result a class and video.",
    "AR10": "The same with ten.",
}
