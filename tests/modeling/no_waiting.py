"""What makes the host wait for an accelerator, refused where there is none."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class NoWaiting(TorchDispatchMode):
    """Refuses what makes the host wait for an accelerator: numbers read back, and shapes that depend on values."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "_unique2", "equal")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        indices = args[1] if name in ("index", "index_put", "index_put_") else ()
        is_boolean = any(index is not None and index.dtype == torch.bool for index in indices)
        assert name not in self.WAITING, name
        assert not is_boolean, name
        return function(*args, **(kwargs or {}))
