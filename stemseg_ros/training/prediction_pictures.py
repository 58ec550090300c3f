"""Pictures of the network's predictions during training."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import torch

from stemseg_ros.config import Config
from stemseg_ros.masks import encode
from stemseg_ros.media.overlay import contact_sheet, draw_instances
from stemseg_ros.models.stemseg.clustering import cluster_window, foreground_mask
from stemseg_ros.models.stemseg.network import WindowNetwork
from stemseg_ros.models.stemseg.settings import Settings
from stemseg_ros.models.stemseg.tensors import NetworkOutput, WindowClusters
from stemseg_ros.records import FrameResult, Image, Instance
from stemseg_ros.training.batches import Batch
from stemseg_ros.training.objective import forward

SHEET_WIDTH = 1600


@torch.no_grad()
def draw_predictions(network: WindowNetwork, batch: Batch, config: Settings) -> Image:
    """The first clip of a batch, BGR: each frame with the instances that clustering finds, and
    below it the heat map."""
    clip = batch.clips[:1].to(network.device)
    output = NetworkOutput(
        *(field[0].float() for field in network.outputs(forward(network, clip, config)))
    )
    heat, semantic = output.heatmap, output.semantic_logits
    evidence = heat[0] if semantic is None else semantic[-1]
    clusters = cluster_window(output, foreground_mask(evidence, config), config)
    frames = restore_images(clip[0], config)
    overlays = [
        draw_instances(image, _result(index, clusters, image.shape[:2], config))
        for index, image in enumerate(frames)
    ]
    return contact_sheet(overlays + _heat_maps(heat[0], frames), len(frames), width=SHEET_WIDTH)


def restore_images(clip: torch.Tensor, config: Config) -> list[Image]:
    """Turn preprocessed frames (T, 3, H, W), BGR, into images again."""
    pixels = clip.permute(0, 2, 3, 1).float().cpu().numpy()
    pixels = pixels * np.array(config.input.std_bgr) + np.array(config.input.mean_bgr)
    return list(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def _heat_maps(heat: torch.Tensor, frames: list[Image]) -> list[Image]:
    """Heat maps (T, h, w) in colours, as large as the frames."""
    maps = (heat.clamp(0, 1) * 255).byte().cpu().numpy()
    return [
        cv2.resize(cv2.applyColorMap(m, cv2.COLORMAP_INFERNO), image.shape[1::-1])
        for m, image in zip(maps, frames, strict=True)
    ]


def _result(
    index: int, clusters: WindowClusters, size: tuple[int, ...], config: Settings
) -> FrameResult:
    height, width = size
    labels = cv2.resize(clusters.labels[index], (width, height), interpolation=cv2.INTER_NEAREST)
    instances = tuple(
        _instance(int(label), labels == label, clusters, config)
        for label in np.unique(labels[labels > 0])
    )
    return FrameResult(index, 0, height, width, 0, instances)


def _instance(
    label: int, mask: npt.NDArray[np.bool_], clusters: WindowClusters, config: Settings
) -> Instance:
    class_id = 1
    if clusters.class_logits is not None:
        class_id = int(clusters.class_logits[label - 1, 1:].argmax()) + 1
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    name = config.classes[class_id - 1]
    score = float(clusters.scores[label - 1])
    return Instance(label, class_id, name, score, encode(mask), (x, y, width, height))
