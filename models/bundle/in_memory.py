"""What takes the place of loading and saving in a bundle's configuration: volumes in memory come in, results go out.

These classes are named in the rewritten configuration; nobody else calls them.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.transforms import EnsureChannelFirst, MapTransform, Transform
from monai.utils import get_equivalent_dtype
from numpy.typing import NDArray

from coread.errors import ModelError
from coread.models.bundle.grid import GridImage

META_POSTFIX = "meta_dict"
ARRAY_KEY = "image"
"""What stands for the input of a bundle whose transforms take arrays, not dictionaries."""

Channel = MetaTensor | GridImage
"""What a model gets: a tensor, or an image that becomes one when somebody asks for it."""


class Feed:
    """What one run gets and what it gave. The same object serves all runs of a bundle."""

    def __init__(self, keys: Sequence[str | None], *, image_keys: Sequence[str] = ()) -> None:
        """``keys``: of each channel, the name that the manifest gives it; ``image_keys``: the names of the inputs in
        the bundle's metadata.
        """
        self._keys = keys
        self._image_keys = image_keys
        self.loaded: list[Hashable] = []
        """The keys that the bundle's loaders ask for, all of them."""
        self.channels: Sequence[Channel] = ()
        self.item: Mapping[str, Any] = {}
        """What is in the data besides images."""
        self.saved: dict[str, Any] = {}
        """Key → what the bundle would have written to a file."""
        self.captured: list[Any] = []
        """What a handler would have written to a file."""

    def start(self, channels: Sequence[Channel], item: Mapping[str, Any]) -> None:
        """Make ready for a run."""
        self.clear()
        self.channels, self.item = channels, item

    def clear(self) -> None:
        """Forget the run."""
        self.channels, self.item = (), {}
        self.saved, self.captured = {}, []

    def expect(self, keys: Iterable[Hashable]) -> None:
        """A loader of the bundle will ask for these."""
        self.loaded += [key for key in keys if key not in self.loaded]

    def tensor(self, key: Hashable) -> MetaTensor | None:
        """What a loader finds under a key; None for a reference that nobody has.

        Raises ModelError if it cannot be told which channel is meant.
        """
        chosen = self._chosen(key)
        if chosen is None:
            return None
        tensors = [_copy(each) for each in chosen]
        if len(tensors) == 1:
            return tensors[0]
        return _stacked(torch.stack([each.as_tensor() for each in tensors]), like=tensors[0])

    def views(self, key: Hashable) -> tuple[Sequence[NDArray[Any]], MetaTensor] | None:
        """The same without a copy: the voxels of each channel, not to be written to, and a tensor that has all but
        voxels.
        """
        chosen = self._chosen(key)
        if chosen is None:
            return None
        views = [each.view if isinstance(each, GridImage) else each.as_tensor().numpy() for each in chosen]
        first = _stand_in(chosen[0])
        if len(chosen) == 1:
            return views, first
        return views, _stacked(torch.zeros(1).expand(len(chosen), *first.shape), like=first)

    def _chosen(self, key: Hashable) -> Sequence[Channel] | None:
        """The channels that a loader finds under a key, as ``tensor`` says."""
        if any(self._keys):
            found = dict(zip(self._keys, self.channels, strict=True)).get(str(key))
            return None if found is None else [found]
        if len(self.loaded) == 1:
            return self.channels
        images = [each for each in self.loaded if each in self._image_keys]
        if len(images) == 1:
            return self.channels if key in images else None
        if len(self.loaded) == len(self.channels):
            return [self.channels[self.loaded.index(key)]]
        raise ModelError(
            f"expected one input, found that the bundle loads {', '.join(map(str, self.loaded))}; name the `key` of "
            "each series in coread.yaml"
        )

    def __len__(self) -> int:
        """As the bundle's list of cases: always one, whichever is in it. (The evaluator asks for the length once.)"""
        return 1

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        if index != 0:
            raise IndexError(index)
        return dict(self.item)

    def __deepcopy__(self, _memo: object) -> "Feed":
        return self  # the configuration parser copies what it is given; this must be the same one


class TakeImaged(MapTransform):
    """In the place of LoadImaged. Who does not say ``image_only`` gets the metadata beside the image too, as before
    MONAI 1.3: a bundle's own code may look for them there.
    """

    def __init__(
        self,
        keys: Any,
        feed: Feed,
        *,
        dtype: Any = np.float32,
        image_only: Any = False,
        ensure_channel_first: bool = False,
        meta_keys: Any = None,
        meta_key_postfix: str = META_POSTFIX,
        affine_lps_to_ras: bool = True,
        **_of_files: object,
    ) -> None:
        super().__init__(keys)
        feed.expect(self.keys)
        self.feed = feed
        self.dtype = dtype
        self._with_meta = not image_only
        self._channel_first = EnsureChannelFirst() if ensure_channel_first else None
        names = [meta_keys] if isinstance(meta_keys, str) else meta_keys
        self._meta_keys = list(names) if names else [f"{key}_{meta_key_postfix}" for key in self.keys]
        self._in_ras = affine_lps_to_ras

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        loaded = dict(data)
        for key, meta_key in zip(self.keys, self._meta_keys, strict=True):
            tensor = self.feed.tensor(key)
            if tensor is None:
                continue
            loaded[key] = _prepared(tensor, self.dtype, self._channel_first, in_ras=self._in_ras)
            if self._with_meta:
                loaded[meta_key] = dict(loaded[key].meta)
        return loaded

    def stand_in(self, data: Mapping[Hashable, Any]) -> tuple[dict[Hashable, Any], Sequence[NDArray[Any]]] | None:
        """What a call of one key gives, with zeros for voxels; and the voxels of each channel. None: there is no image
        under the key.
        """
        (key,), (meta_key,) = self.keys, self._meta_keys
        found = self.feed.views(key)
        if found is None:
            return None
        views, tensor = found
        loaded = {**data, key: _prepared(tensor, None, self._channel_first, in_ras=self._in_ras)}
        if self._with_meta:
            loaded[meta_key] = dict(loaded[key].meta)
        return loaded, views


class TakeImage(Transform):
    """In the place of LoadImage."""

    def __init__(
        self,
        feed: Feed,
        *,
        dtype: Any = np.float32,
        image_only: Any = True,
        ensure_channel_first: bool = False,
        affine_lps_to_ras: bool = True,
        **_of_files: object,
    ) -> None:
        feed.expect([ARRAY_KEY])
        self._feed = feed
        self._dtype = dtype
        self._with_meta = not image_only
        self._channel_first = EnsureChannelFirst() if ensure_channel_first else None
        self._in_ras = affine_lps_to_ras

    def __call__(self, _path: object) -> Any:
        tensor = self._feed.tensor(ARRAY_KEY)
        if tensor is None:
            raise ModelError(
                "expected an image without a name, found channels with a `key` in coread.yaml; take it out"
            )
        image = _prepared(tensor, self._dtype, self._channel_first, in_ras=self._in_ras)
        return (image, dict(image.meta)) if self._with_meta else image


class Keepd(MapTransform):
    """In the place of SaveImaged and its like: keeps what would have been written."""

    def __init__(self, keys: Any, feed: Feed, **_of_files: object) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self._feed = feed

    def __call__(self, data: Mapping[Hashable, Any]) -> Mapping[Hashable, Any]:
        for key in self.key_iterator(dict(data)):
            self._feed.saved[str(key)] = data[key]
        return data


class Keep(Transform):
    """In the place of SaveImage."""

    def __init__(self, feed: Feed, **_of_files: object) -> None:
        self._feed = feed

    def __call__(self, image: Any) -> Any:
        self._feed.saved["pred"] = image
        return image


class Capture:
    """In the place of handlers that write predictions to a file when an iteration is over."""

    def __init__(
        self, feed: Feed, *, output_transform: Callable[[Any], Any] = lambda x: x, **_of_files: object
    ) -> None:
        self._feed = feed
        self._output_transform = output_transform

    def attach(self, engine: Engine) -> None:
        """As ignite's handlers are."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        self._feed.captured += list(self._output_transform(engine.state.output))


class Nothing:
    """In the place of handlers that only log, or whose work is done elsewhere."""

    def __init__(self, **_arguments: object) -> None:
        pass

    def attach(self, engine: Engine) -> None:
        """As ignite's handlers are."""

    def __call__(self, engine: Engine) -> None:
        """As it is where a bundle calls it by itself."""


def _prepared(tensor: MetaTensor, dtype: Any, channel_first: EnsureChannelFirst | None, *, in_ras: bool) -> MetaTensor:
    """The volume as the loader's options want it."""
    if dtype is not None:
        tensor = MetaTensor(tensor.as_tensor().to(get_equivalent_dtype(dtype, MetaTensor)), meta=dict(tensor.meta))
    if not in_ras:
        flip = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=tensor.affine.dtype))
        tensor.affine = flip @ tensor.affine
        tensor.meta["original_affine"] = tensor.affine.clone()
        tensor.meta["space"] = "LPS"
    return MetaTensor(channel_first(tensor)) if channel_first else tensor


def _stacked(values: torch.Tensor, *, like: MetaTensor) -> MetaTensor:
    """Several channels, as a loader of several files gives them."""
    return MetaTensor(values, meta={**like.meta, "original_channel_dim": 0})


def _copy(channel: Channel) -> MetaTensor:
    """Of its own: transforms may write into what they are given."""
    if isinstance(channel, GridImage):
        return channel.tensor()
    return MetaTensor(channel.as_tensor().clone(), meta=dict(channel.meta))


def _stand_in(channel: Channel) -> MetaTensor:
    """All but the voxels: zeros that take no memory."""
    if isinstance(channel, GridImage):
        return channel.stand_in()
    return MetaTensor(torch.zeros(1).expand(channel.shape), meta=dict(channel.meta))
