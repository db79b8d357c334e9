"""Selection of boxes."""

from __future__ import annotations

import torch

from deploy.onnx_graph.node import OnnxNode, operator

Tensor = torch.Tensor


@operator("NonMaxSuppression")
def non_maximum_suppression(
    node: OnnxNode,
    boxes: Tensor,
    scores: Tensor,
    most: Tensor | None = None,
    overlap: Tensor | None = None,
    least: Tensor | None = None,
) -> Tensor:
    """Return [batch, class, box] of the selected boxes: by batch, class and falling score, as ONNX Runtime does."""
    import torchvision  # takes seconds, as it imports torch._dynamo

    count = 0 if most is None else int(most.item())
    threshold = 0.0 if overlap is None else float(overlap.item())
    if node.get("center_point_box", 0):
        center, half = boxes[..., :2], boxes[..., 2:] / 2
        first, second = center - half, center + half
    else:
        first, second = boxes[..., :2], boxes[..., 2:]
    corners = torch.cat([torch.minimum(first, second), torch.maximum(first, second)], dim=-1)
    rows = []
    for batch, (sample, classes) in enumerate(zip(corners, scores, strict=True)):
        for label, values in enumerate(classes):
            kept = torch.arange(values.shape[0])
            if least is not None:
                kept = torch.nonzero(values > least.reshape(())).squeeze(1)
            chosen = kept[torchvision.ops.nms(sample[kept], values[kept], threshold)][: max(count, 0)]
            place = torch.tensor([[batch, label]]).expand(chosen.shape[0], 2)
            rows.append(torch.cat([place, chosen.unsqueeze(1)], dim=1))
    return torch.cat(rows) if rows else torch.zeros((0, 3), dtype=torch.int64)
