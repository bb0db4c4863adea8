"""Small networks of random layers in a random order."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS = (4, 6, 8, 12)
NUM_LAYERS = 9
KINDS = ["conv"] * 3 + ["act"] * 2 + ["add"] * 2 + ["grouped", "depthwise", "batch_norm", "group_norm", "layer_norm"]
KINDS += ["pool", "cat", "chunk", "shuffle", "gate", "glu", "spatial", "padded", "reversed"]


class RandomNetwork(nn.Module):
    """Some maps, each made of earlier ones by a layer drawn at random; linear layers on all of the last ones.

    All maps have the same side; the maps of one image are kept in a list, so that any may be read again.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = np.random.default_rng(seed)
        self.steps: list[tuple] = [("conv", 0)]
        self.widths = [3, 8]
        self.layers = nn.ModuleDict({"1": nn.Conv2d(3, 8, 3, stride=2, padding=1)})
        for _ in range(NUM_LAYERS):
            self._add(len(self.widths))
        read = sum(self.widths[-3:])
        self.hidden, self.fc = nn.Linear(read, 16), nn.Linear(16, 10)

    def _pick(self, maps: list[int]) -> int:
        # Late maps more often, so that networks get deep.
        return maps[-1 - min(int(self.random.geometric(0.5)) - 1, len(maps) - 1)]

    def _add(self, number: int) -> None:
        source = self._pick(list(range(1, number)))
        width = self.widths[source]
        kernels = int(self.random.choice(CHANNELS))
        kind = str(self.random.choice(KINDS))
        step: tuple = (kind, source)
        if kind == "conv":
            self.layers[str(number)] = nn.Conv2d(width, kernels, int(self.random.choice([1, 3])), padding="same")
        elif kind == "grouped":
            self.layers[str(number)] = nn.Conv2d(width, 2 * width, 3, padding=1, groups=2)
            kernels = 2 * width
        elif kind == "add":
            alike = [other for other in range(1, number) if self.widths[other] == width]
            step, kernels = (kind, source, self._pick(alike)), width
        elif kind == "cat":
            other = self._pick(list(range(1, number)))
            step, kernels = (kind, source, other), width + self.widths[other]
        elif kind in ("chunk", "glu"):
            kernels = width // 2
        elif kind == "padded":
            kernels = width + 2
        else:
            kernels = width
            made = {
                "spatial": lambda: nn.Conv2d(2, 1, 3, padding=1),
                "depthwise": lambda: nn.Conv2d(width, width, 3, padding=1, groups=width),
                "batch_norm": lambda: nn.BatchNorm2d(width),
                "group_norm": lambda: nn.GroupNorm(2, width),
                "layer_norm": lambda: nn.LayerNorm(width),
                "act": lambda: [nn.ReLU(inplace=True), nn.Sigmoid(), nn.SiLU(), nn.PReLU(width)][
                    self.random.integers(4)
                ],
                "pool": lambda: [nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1)][self.random.integers(2)],
                "gate": lambda: nn.Sequential(nn.Linear(width, 3), nn.ReLU(), nn.Linear(3, width), nn.Sigmoid()),
            }.get(kind)
            if made is not None:
                self.layers[str(number)] = made()
        if kernels % 2:  # so that every map can be halved
            step, kernels = ("act", source), width
            self.layers[str(number)] = nn.Tanh()
        self.steps.append(step)
        self.widths.append(kernels)

    def forward(self, images: Tensor) -> Tensor:
        maps = [images]
        for number, (kind, source, *others) in enumerate(self.steps, start=1):
            x = maps[source]
            layer = dict(self.layers.items()).get(str(number))
            if kind == "add":
                x = x + maps[others[0]]
            elif kind == "cat":
                x = torch.cat([x, maps[others[0]]], 1)
            elif kind == "chunk":
                first, second = x.chunk(2, 1)
                x = torch.maximum(first, second) if number % 2 else second
            elif kind == "glu":
                x = F.glu(x, 1)
            elif kind == "shuffle":
                n, c, h, w = x.shape
                x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
            elif kind == "padded":
                x = F.pad(x, (0, 0, 0, 0, 1, 1))
            elif kind == "reversed":
                x = torch.cat([x[:, 1:].flip(1), x[:, :1]], 1)
            elif kind == "spatial":
                x = x * torch.sigmoid(layer(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)))
            elif kind == "gate":
                x = x * layer(x.mean((2, 3)))[:, :, None, None]
            elif kind == "layer_norm":
                x = layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            elif kind == "act":
                x = layer(x.clone())  # in place on a copy: the map may be read again
            else:
                x = layer(x)
            maps.append(x)
        features = torch.cat(maps[-3:], 1).mean((2, 3))
        return self.fc(F.relu(self.hidden(features)))
