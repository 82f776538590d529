"""The vectors of examples by the encoder as it was before training, which teachers and anchors read.

Of a pre-trained encoder they are written beside the prepared data, for all trials of the run that begin with the same
weights:

    data/vectors/KEY.npy   (n, H) float32, then a CRC-32 of them

KEY is a hash of the weights, of what is read of an example, and of the examples.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raysearch.data.arrays import CHECKSUM_BYTES, checked, checksum_of, read_array
from raysearch.data.prepared import Split
from raysearch.modalities.batch import BatchBuilder
from raysearch.models.network import READ_TOGETHER, Network
from raysearch.plan import TrialPlan


def initial_vectors(
    plan: TrialPlan, network: Network, batches: BatchBuilder, split: Split, rows: NDArray[np.int64], folder: Path
) -> NDArray[np.float32]:
    """Returns the vectors (len(rows), H) of examples of a split; `network` has the parameters that a trial begins with.

    `folder` is that of the vectors.
    """
    if not getattr(network, "is_pretrained", False) or plan.training.reinit_layers:
        return _compute(network, batches, split, rows)
    path = folder / f"{_key(plan, network, split, rows)}.npy"
    shape = (len(rows), network.width)
    stored = read_array(path, shape, np.dtype(np.float32))
    if stored is not None:
        return np.asarray(stored)
    vectors = _compute(network, batches, split, rows)
    _write(path, vectors)
    return vectors


def _compute(network: Network, batches: BatchBuilder, split: Split, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    was_training, device = network.training, next(network.parameters()).device
    vectors = np.empty((len(rows), network.width), dtype=np.float32)
    order = np.argsort(np.asarray(split.lengths)[rows], kind="stable")
    network.eval()
    try:
        with torch.no_grad():
            for places in np.array_split(order, range(READ_TOGETHER, len(order), READ_TOGETHER)):
                batch = batches.end_task_batch(split, torch.from_numpy(rows[places])).to(device)
                hidden = network.hidden(*batch.inputs)
                vectors[places] = network.vectors(hidden, batch.targets.real).float().cpu().numpy()
    finally:
        network.train(was_training)
    return vectors


def _key(plan: TrialPlan, network: Network, split: Split, rows: NDArray[np.int64]) -> str:
    model: dict[str, Any] = {name: value for name, value in plan.model.items() if name not in ("path", "package")}
    digest = hashlib.sha256(json.dumps([model, plan.training.max_length], sort_keys=True).encode())
    for name, tensor in sorted(network.body.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    for row in rows.tolist():
        content = np.asarray(split.row(row)).tobytes()
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()[:32]


def _write(path: Path, vectors: NDArray[np.float32]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.stem}.{os.getpid()}.{uuid.uuid4().hex[:8]}.npy")
    try:
        np.save(draft, vectors)
        with draft.open("ab") as file:
            file.write(checksum_of(vectors).to_bytes(CHECKSUM_BYTES, "little"))
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    checked.add(str(path))
