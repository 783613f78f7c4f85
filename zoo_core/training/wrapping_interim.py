from contextlib import nullcontext

import torch
from torch.nn.parallel import DistributedDataParallel


def recompute(objective):
    pass


class W:
    def __init__(self, acc):
        self.acc = acc

    def wrap(self, o, *, unused):
        o.to(self.acc.device)
        return DistributedDataParallel(o, find_unused_parameters=unused) if self.acc.num_processes > 1 else o

    def sync(self, wrapped, last):
        return nullcontext() if last or self.acc.num_processes == 1 else wrapped.no_sync()

    def norm(self, ps):
        return torch.nn.utils.get_total_norm([p.grad for p in ps if p.grad is not None])

    def clip(self, ps, norm, m):
        torch.nn.utils.clip_grads_with_norm_(ps, m, norm)

    def whole(self, t):
        return t

    def like(self, full, shard):
        return full

    def state_dict(self, o):
        return o.state_dict()

    def gathered(self, o):
        return nullcontext()


def wrapping(acc, parallel):
    return W(acc)
