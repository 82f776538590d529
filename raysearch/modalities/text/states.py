"""Cached states of frozen layers: the end task's texts go through them once a run, not once a step.

What enters the trained layers of a text depends on nothing that is trained. It is computed when a split is first read
and written beside the prepared data, half precision, for all trials of the run. Folds share the files of the prepared
splits, as their texts are the same:

    data/states/KEY.npy   the states (tokens, H) of all texts of a split, one after another, then a CRC-32 of them

KEY is a hash of the frozen weights, the architecture, the number of layers, the length of texts and the split, so
that a file is never read for anything else. Files appear under their name when they are complete. A damaged one is
computed again. Where nothing of the encoder is trained and its vectors are pooled, the file has one vector (H) of each
text, float32.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import uuid
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raysearch.data.arrays import CHECKSUM_BYTES, checked, checksum_of, read_array
from raysearch.data.folds import LABELLED
from raysearch.data.prepared import RowsOfSplit, Split, Splits
from raysearch.modalities.text.batches import TextBatchBuilder
from raysearch.modalities.text.dataset import TextPreparation
from raysearch.modalities.text.state_files import SplitStates, StoredStates
from raysearch.models.pooling import PooledClassifier, pool

logger = logging.getLogger(__name__)

FORMAT = "1"
BATCH = 64  # texts in a forward
LARGEST_FILE = 8 << 30  # bytes; a larger split is not cached
DISK_SHARE = 0.5  # of the free disk that one file may take
_NEUTRAL = {"num_labels", "id2label", "label2id", "architectures", "_name_or_path", "transformers_version", "dtype"}


class StateCache:
    """Gives the states of the splits that a trial reads; computes those that are not on disk."""

    def __init__(self, network: Any, batches: TextBatchBuilder, folder: Path) -> None:
        """Files lie in `folder`; `batches` builds the batches of texts without states."""
        assert network.frozen is not None
        self.network, self.batches, self.folder = network, batches, folder
        self.is_pooled = network.frozen.is_whole and isinstance(network.end_task, PooledClassifier)
        self.prepared = Splits(folder.parent, TextPreparation().decode)
        self._splits: dict[int, tuple[Split, SplitStates | None]] = {}  # by id; the split is held, so its id is its own
        self._stored: dict[int, StoredStates | None] = {}  # by the number of the prepared split

    def __call__(self, split: Split) -> SplitStates | None:
        """Returns the states of a split, which may be any choice of the labelled texts; None if they are not cached."""
        if id(split) not in self._splits:
            self._splits[id(split)] = (split, self._states_of(split))
        return self._splits[id(split)][1]

    def register(self, split: Split, rows: NDArray[np.int64]) -> None:
        """Computes or opens the states of some texts of an unlabelled split; others of it are not asked for."""
        if id(split) in self._splits:
            return
        stored = self._open_or_compute(RowsOfSplit(split, rows))
        places = {row: (0, place) for place, row in enumerate(rows.tolist())}
        states = None if stored is None else SplitStates({0: stored}, places, self.is_pooled)
        self._splits[id(split)] = (split, states)

    def _states_of(self, split: Split) -> SplitStates | None:
        places = [self._places.get(_content(split, row)) for row in range(len(split))]
        complete = [place for place in places if place is not None]
        if len(complete) < len(places):
            return None
        files = {}
        for number in sorted({number for number, _ in complete}):
            if number not in self._stored:
                self._stored[number] = self._open_or_compute(self.prepared(LABELLED[number]))
            states = self._stored[number]
            if states is None:
                return None
            files[number] = states
        return SplitStates(files, dict(enumerate(complete)), self.is_pooled)

    @cached_property
    def _places(self) -> dict[bytes, tuple[int, int]]:
        """The prepared split and the row of every labelled text, by its tokens."""
        places: dict[bytes, tuple[int, int]] = {}
        for number, name in enumerate(LABELLED):
            if (self.prepared.folder / f"{name}.arrow").exists():
                split = self.prepared(name)
                for row in range(len(split)):
                    places.setdefault(_content(split, row), (number, row))
        return places

    def _open_or_compute(self, split: Split) -> StoredStates | None:
        lengths = np.ones(len(split), np.int64) if self.is_pooled else np.minimum(split.lengths, self.batches.longest)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        dtype = np.dtype(np.float32 if self.is_pooled else np.float16)
        shape = (int(offsets[-1]), self.network.width)
        path = self.folder / f"{self._key(split)}.npy"
        values = read_array(path, shape, dtype)
        if values is None:
            if not self._has_room(shape[0] * shape[1] * dtype.itemsize):
                return None
            values = self._compute(split, offsets, path, shape, dtype)
        return None if values is None else StoredStates(values, offsets)

    def _key(self, split: Split) -> str:
        """Returns the hash of all that the states of a split depend on."""
        network, batches = self.network, self.batches
        assert network.frozen is not None
        pooling = network.pooling if self.is_pooled else ""
        config = {
            name: v for name, v in network.config.to_dict().items() if name not in _NEUTRAL and "dropout" not in name
        }
        parts = [FORMAT, network.frozen.count, batches.longest, pooling, batches.vocabulary.special, config]
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode())
        digest.update(self._weights_digest)
        for row in range(len(split)):
            tokens = _content(split, row)
            digest.update(len(tokens).to_bytes(4, "little") + tokens)
        return digest.hexdigest()[:32]

    @cached_property
    def _weights_digest(self) -> bytes:
        """The hash of the frozen weights."""
        return _hash_frozen(self.network)

    def _has_room(self, size: int) -> bool:
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if size <= min(LARGEST_FILE, free * DISK_SHARE):
            return True
        logger.warning("cache_states: %.1f GB of states are not cached (%.1f GB are free)", size / 1e9, free / 1e9)
        return False

    def _compute(
        self, split: Split, offsets: NDArray[np.int64], path: Path, shape: tuple[int, int], dtype: np.dtype[Any]
    ) -> NDArray[Any] | None:
        """Computes the states of a split and writes them; None if they do not fit into half precision."""
        draft = path.with_name(f".{path.stem}.{os.getpid()}.{uuid.uuid4().hex[:8]}.npy")
        try:
            values = np.lib.format.open_memmap(draft, mode="w+", dtype=dtype, shape=shape)
            self._fill(values, split, offsets)
            if not np.isfinite(values).all():
                logger.warning("cache_states: the states do not fit into half precision and are not cached")
                return None
            values.flush()
            checksum = checksum_of(values)
            del values
            with draft.open("ab") as file:
                file.write(checksum.to_bytes(CHECKSUM_BYTES, "little"))
            draft.chmod(0o644)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        checked.add(str(path))
        return read_array(path, shape, dtype)

    def _fill(self, values: NDArray[Any], split: Split, offsets: NDArray[np.int64]) -> None:
        network, device = self.network, next(self.network.parameters()).device
        was_training = network.training
        network.eval()
        with torch.no_grad():
            for rows in torch.from_numpy(np.argsort(split.lengths, kind="stable")).split(BATCH):
                batch = self.batches.end_task_batch(split, rows).to(device)
                states = network.frozen_states(*batch.inputs)
                if self.is_pooled:
                    values[rows.numpy()] = pool(states, batch.targets.real, network.pooling).float().cpu().numpy()
                    continue
                for row, one in zip(rows.tolist(), states.cpu().numpy(), strict=True):
                    begin, end = offsets[row : row + 2]
                    values[begin:end] = one[: end - begin]
        network.train(was_training)


def _content(split: Split, row: int) -> bytes:
    return np.asarray(split.row(row), dtype=np.int32).tobytes()


def with_states(network: Any, batches: TextBatchBuilder, folder: Path) -> TextBatchBuilder:
    """Returns the builder with a cache, if a part of a pre-trained encoder is frozen; else as it is."""
    frozen = network.frozen
    if frozen is None or not frozen.count or not network.is_pretrained or not network.caches_states:
        return batches
    return replace(batches, states=StateCache(network, batches, folder / "states"))


def _hash_frozen(network: Any) -> bytes:
    """Returns a hash of the frozen weights."""
    assert network.frozen is not None
    names = {module: name for name, module in network.body.named_modules()}
    digest = hashlib.sha256()
    for module in network.frozen.modules:
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            digest.update(f"{names[module]} {name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.digest()
