"""Tensors that compute on the CPU but behave as if they lived on an accelerator, on machines without one.

Inside `with PretendedDevice() as device`, what is made on "cuda", or moved there, is a tensor whose numbers are in
ordinary memory, and `device.log` lists what the real one would wait for or copy. Refused is what CUDA refuses: a CPU
tensor among device tensors (but for a number in arithmetic), a CPU generator, `.numpy()`.

    transfer to the device    `.to(device)`, `torch.tensor(..., device=)`, an index that lies on the CPU
    transfer to the CPU       `.cpu()`, `.tolist()`
    wait                      `.item()`, `int()`, `bool()`, an index of no dimensions, `x[mask]`, `nonzero`, `unique`,
                              `bincount`, `equal`, `isin` where it sorts, Cholesky factors and solves that check

To the code of torch the tensors lie on "meta", the device without memory, for which it asks no driver.
"""

import collections
import dataclasses
import sys
from contextlib import ExitStack
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only

TO_DEVICE, TO_CPU, WAIT = "transfer to the device", "transfer to the CPU", "wait"
MEMORY = 2**33  # bytes
WAITING = {  # whose result has a size or a value that the host has to know
    "_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "equal",
    "is_nonzero", "_linalg_check_errors", "bincount",
}  # fmt: skip
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}


@dataclasses.dataclass(frozen=True)
class Event:
    kind: str
    operation: str
    place: str  # in dal_core


class DeviceTensor(torch.Tensor):
    """A tensor on the pretended device; `inner` has its numbers."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner, where):
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, **layout, device="meta")
        made.inner, made.where = inner, where
        return made

    device = property(lambda self: self.where)
    is_cuda = property(lambda self: self.where.type == "cuda")
    is_mps = property(lambda self: self.where.type == "mps")
    is_cpu = is_meta = property(lambda self: False)

    def tolist(self):  # torch refuses it to subclasses
        return self.cpu().tolist()

    def new_tensor(self, data, **options):  # torch would make it on "meta"
        return torch.tensor(data, **({"dtype": self.dtype, "device": self.device} | options))

    def __repr__(self, **_):
        return f"{self.inner} on {self.where}"

    @classmethod
    def __torch_dispatch__(
        cls, function, types, arguments=(), options=None
    ):  # outside of the block: nothing is counted
        where = next(each.where for each in tree_iter((arguments, options)) if isinstance(each, cls))
        return PretendedDevice(where.type).__torch_dispatch__(function, types, arguments, options)


class PretendedDevice(TorchDispatchMode):
    """A device of `kind` "cuda" or "mps", for the time of the block; without `float64` it refuses such tensors."""

    def __init__(self, kind="cuda", *, float64=True):
        super().__init__()
        self.where, self.float64, self.log = torch.device(kind, 0), float64, []

    def __enter__(self):
        self._patches = ExitStack()
        memory = {"mem_get_info": lambda *_: (MEMORY, MEMORY), "memory_reserved": lambda *_: 0}
        nothing = {name: lambda *_: 0 for name in ("memory_allocated", "synchronize")}
        if not torch.cuda.is_available():
            nothing["_lazy_init"] = lambda: None
        self._patches.enter_context(mock.patch.multiple(torch.cuda, **memory, **nothing))
        self._patches.enter_context(mock.patch.multiple(torch.mps, synchronize=lambda: None))
        # Tensors of inference_mode cannot be wrapped.
        self._patches.enter_context(mock.patch.object(torch, "inference_mode", torch.no_grad))
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=) then moves where it can be seen
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        torch._C._set_only_lift_cpu_tensors(False)
        self._patches.close()

    def count(self, *kinds):
        """Return the number of events of these kinds, or of all."""
        return sum(not kinds or event.kind in kinds for event in self.log)

    def report(self):
        """Return the places and how often each came up, for the message of a test."""
        return "\n".join(f"{n:5}  {e.kind}: {e.operation}, {e.place}" for e, n in collections.Counter(self.log).items())

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        options, name = dict(options or {}), function._schema.name.removeprefix("aten::")
        tensors = [each for each in tree_iter((arguments, options)) if isinstance(each, torch.Tensor)]
        on_device = [each for each in tensors if isinstance(each, DeviceTensor)]
        target = options.get("device")
        if target is not None:
            options["device"] = "cpu"
            goes_there = torch.device(target).type in (self.where.type, "meta")
        else:
            goes_there = bool(on_device)
        if not on_device and not goes_there:
            return function(*arguments, **options)
        self._check_mixture(function, name, arguments, tensors, on_device)
        if options.get("generator") is not None and goes_there:
            raise RuntimeError(f"Expected a '{self.where.type}' device type for generator but found 'cpu'")
        self._note(name, arguments, options, tensors, goes_there)
        bare = [tree_map_only(DeviceTensor, lambda each: each.inner, part) for part in (arguments, options)]
        if name == "_to_copy":  # of which the CPU makes no copy where nothing changes
            bare[0] = (bare[0][0].clone(), *bare[0][1:])
        result = function(*bare[0], **bare[1])
        # In place, and out=: the tensor that was handed in.
        known = {id(each.inner if isinstance(each, DeviceTensor) else each): each for each in tensors}

        def wrapped(each):
            return known[id(each)] if id(each) in known else self._made(each)

        return tree_map_only(torch.Tensor, wrapped, result) if goes_there else result

    def _made(self, inner):
        if not self.float64 and inner.dtype in (torch.float64, torch.complex128):
            raise TypeError(f"{self.where.type} has no float64")
        return DeviceTensor(inner, self.where)

    def _check_mixture(self, function, name, arguments, tensors, on_device):
        strangers = [each for each in tensors if not isinstance(each, DeviceTensor)]
        if name in ("copy_", "_to_copy") or not (strangers and on_device):
            return
        refused = any(each.ndim for each in strangers) or torch.Tag.pointwise not in function.tags
        if name in INDEXING:  # indices may be on the CPU
            refused = any(not isinstance(each, DeviceTensor) and each.ndim for each in arguments[2:3])
        if refused or (not isinstance(arguments[0], DeviceTensor) and (function._schema.is_mutable or name == "index")):
            shapes = [tuple(each.shape) for each in strangers]
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found at least two devices, {self.where} and cpu: "
                f"{name} of CPU tensors of shapes {shapes}"
            )

    def _note(self, name, arguments, options, tensors, goes_there):
        kind = None
        if name in ("_to_copy", "copy_"):
            source = isinstance(arguments[name == "copy_"], DeviceTensor)
            target = goes_there if name == "_to_copy" else isinstance(arguments[0], DeviceTensor)
            kind = {(True, False): TO_CPU, (False, True): TO_DEVICE}.get((source, target))
        elif name in INDEXING:
            indices = [each for each in arguments[1] if each is not None]
            filling = "put" in name and arguments[2].numel() == 1  # x[mask] = number is no more than masked_fill
            if not all(isinstance(each, DeviceTensor) for each in indices):
                kind = TO_DEVICE
            elif not filling and any(each.dtype in (torch.bool, torch.uint8) for each in indices):
                kind = WAIT
        elif (
            name in WAITING
            or (name == "repeat_interleave" and options.get("output_size") is None)
            or (name == "isin" and tensors[1].numel() >= 10 * tensors[0].numel() ** 0.145)
        ):
            kind = WAIT
        if kind:
            self.log.append(Event(kind, name, _place()))


def _place():
    """Return where in dal_core the operation was asked for, from the inside out."""
    frame, places = sys._getframe(2), []
    while frame is not None:
        path = frame.f_code.co_filename
        if "/dal_core/" in path:
            places.append(f"{path.rpartition('/')[2]}:{frame.f_lineno} {frame.f_code.co_name}")
        frame = frame.f_back
    return " < ".join(places[:3])
