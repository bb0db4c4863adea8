"""Networks as people write them, where libraries do not: 3 channels, 10 classes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations


def conv(channels: int, kernels: int, size: int = 3, **more) -> nn.Conv2d:
    """A convolution that keeps the side."""
    return nn.Conv2d(channels, kernels, size, **{"padding": size // 2, **more})


class PaddedShortcuts(nn.Module):
    """A ResNet whose shortcuts pad channels with zeros."""

    class Block(nn.Module):
        def __init__(self, channels: int, kernels: int, stride: int) -> None:
            super().__init__()
            self.conv1, self.bn1 = conv(channels, kernels, stride=stride, bias=False), nn.BatchNorm2d(kernels)
            self.conv2, self.bn2 = conv(kernels, kernels, bias=False), nn.BatchNorm2d(kernels)
            self.missing, self.stride = kernels - channels, stride

        def forward(self, x: Tensor) -> Tensor:
            y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
            if self.missing:
                half = self.missing // 2
                x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, half), "constant", 0)
            y += x
            return F.relu(y)

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = conv(3, 8, bias=False), nn.BatchNorm2d(8)
        self.blocks = nn.Sequential(self.Block(8, 8, 1), self.Block(8, 16, 2), self.Block(16, 16, 1))
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.bn(self.conv(x))))
        x = F.avg_pool2d(x, x.size()[3])
        return self.fc(x.view(x.size(0), -1))


class PreActivation(nn.Module):
    """Batch norm and activations of f(0) != 0 behind additions, and log_softmax at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0, self.conv1, self.conv2 = conv(3, 16), conv(16, 24), conv(24, 16)
        self.bn1, self.bn2, self.bn3 = nn.BatchNorm2d(16), nn.BatchNorm2d(24), nn.BatchNorm2d(16)
        self.fc = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv0(x)
        x = x + self.conv2(F.gelu(self.bn2(self.conv1(F.silu(self.bn1(x))))))
        x = F.adaptive_avg_pool2d(torch.sigmoid(self.bn3(x)), 4)
        return F.log_softmax(self.fc(torch.flatten(x, 1)), dim=1)


class ChannelAndSpatialAttention(nn.Module):
    """A gate for each channel, then one for each pixel from the channels' mean and maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(3, 32), conv(32, 48, padding="same")
        self.squeeze, self.excite = nn.Linear(32, 8), nn.Linear(8, 32)
        self.spatial, self.fc = conv(2, 1, 7), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.conv1(x))
        gate = sum(self.excite(F.relu(self.squeeze(pooled))) for pooled in (x.mean((2, 3)), x.amax((2, 3))))
        x = x * torch.sigmoid(gate)[:, :, None, None]
        maps = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], 1)
        x = F.relu(self.conv2(x * torch.sigmoid(self.spatial(maps))))
        return self.fc(x.mean(dim=[-1, -2]))


class Shuffled(nn.Module):
    """Grouped convolutions with a channel shuffle between them: tying groups would tie everything."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.grouped1 = conv(3, 24), conv(24, 24, 1, groups=3)
        self.depthwise, self.grouped2 = conv(24, 24, groups=24), conv(24, 48, 1, groups=3)
        self.shuffle, self.fc = nn.ChannelShuffle(3), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shuffle(F.relu(self.grouped1(F.relu(self.conv(x)))))
        return self.fc(F.relu(self.grouped2(self.depthwise(x))).mean((2, 3)))


class CalledTwice(nn.Module):
    """A layer called twice, a loop on the map's size, a slope for each channel, a dict of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.again, self.bn = conv(3, 16), conv(16, 16), nn.BatchNorm2d(16)
        self.prelu, self.hidden, self.fc = nn.PReLU(16), nn.Linear(256, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        assert x.shape[1] == 3
        x = self.prelu(self.conv(x))
        for _ in range(2):
            x = F.relu(self.bn(self.again(x)))
        while x.shape[-1] > 4:
            x = F.max_pool2d(x, 2)
        x = F.relu(self.hidden(x.flatten(1)))
        return {"logits": self.fc(F.dropout(x, training=self.training)), "features": x}


class SelfAttention(nn.Module):
    """Attention between pixels, which is not known, and group norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm, self.conv2 = conv(3, 32, stride=2), nn.GroupNorm(4, 32), conv(32, 32, stride=2)
        self.attention, self.conv3 = nn.MultiheadAttention(32, 4, batch_first=True), conv(32, 24, 1)
        self.fc = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv2(F.relu(self.norm(self.conv1(x)))))
        images, channels, height, width = x.shape
        pixels = x.flatten(2).transpose(1, 2)
        pixels = pixels + self.attention(pixels, pixels, pixels)[0]
        x = pixels.transpose(1, 2).reshape(images, channels, height, width)
        return self.fc(F.relu(self.conv3(x)).mean((2, 3)))


class Parametrised(nn.Module):
    """Weight norm, spectral norm, a centred input, pixel shuffle, and channels swapped in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = parametrizations.weight_norm(conv(3, 32))
        self.conv2 = parametrizations.spectral_norm(conv(32, 32))
        self.conv3, self.fc = conv(8, 20, padding_mode="reflect"), nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x - x.mean((2, 3), keepdim=True)))
        x = F.pixel_shuffle(F.elu(self.conv2(x)), 2)
        swapped = torch.zeros_like(x)
        swapped[:, :4] = x[:, 4:]
        swapped[:, 4:] = x[:, :4]
        return self.fc(F.relu(self.conv3(swapped)).flatten(2).mean(2))


class Maxout(nn.Module):
    """The larger of two halves, a gated linear unit, squeeze and excitation by convolutions, an einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = conv(3, 32, 5, stride=2), conv(16, 32), conv(16, 16)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 4, 1), nn.ReLU(), nn.Conv2d(4, 16, 1), nn.Hardsigmoid()
        )
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.conv1(x).chunk(2, 1)
        x = F.relu(self.conv3(F.glu(self.conv2(torch.max(first, second)), dim=1)))
        return self.fc(torch.einsum("bchw->bc", x * self.gate(x)) / 100)


class FixedSizes(nn.Module):
    """The number of features written into the code."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = conv(3, 8), conv(8, 8), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        return self.fc(F.max_pool2d(F.relu(self.conv2(x)), 2).view(-1, 128))


class DecidesByPixels(nn.Module):
    """Control flow that depends on what the maps hold."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = conv(3, 8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        if x.mean() > 0:
            x = x * 2
        return self.fc(x.mean((2, 3)))


class PartialConvolutions(nn.Module):
    """A convolution on some channels, uneven parts, part of the channels reversed, depthwise with two kernels each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.partial = conv(3, 24, 2, stride=2, padding="valid"), conv(8, 8)
        self.depthwise, self.point = conv(24, 48, groups=24, dilation=2, padding=2), conv(48, 20, 1)
        self.left, self.right, self.fc = conv(13, 9), conv(7, 9), nn.Linear(18, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.stem(x))
        some, others = torch.split(x, [8, 16], 1)
        x = torch.cat([self.partial(some), others.flip(1)], 1)
        x = F.mish(self.point(F.hardswish(self.depthwise(x))))
        left, right = x[:, :13], x[:, 13:]
        x = torch.cat((self.left(left), self.right(right).relu_()), dim=1)
        return self.fc(F.adaptive_max_pool2d(x, 1).squeeze(-1).squeeze(-1))


class ChannelsLast(nn.Module):
    """Linear layers on permuted maps, layer norm, layer scale, root mean squares written out, blocks of pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = conv(12, 16), nn.LayerNorm(16)
        self.depthwise, self.widen, self.narrow = conv(16, 16, 5, groups=16), nn.Linear(16, 40), nn.Linear(40, 16)
        self.layer_scale = nn.Parameter(torch.ones(16, 1, 1))
        self.scale, self.conv, self.fc = nn.Parameter(torch.ones(1, 16, 1, 1)), conv(16, 12), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(F.pixel_unshuffle(x, 2))
        y = self.depthwise(x).permute(0, 2, 3, 1)
        y = self.narrow(F.gelu(self.widen(self.norm(y)))).permute(0, 3, 1, 2)
        x = x + self.layer_scale * y
        x = x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6) * self.scale
        return self.fc(F.softplus(self.conv(x)).mean((-2, -1)))


class UpAndDown(nn.Module):
    """Skips by concatenation, resizing, a transposed convolution, instance norm, logits of a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = conv(3, 12, stride=2), conv(12, 20, stride=2), conv(20, 20)
        self.norm, self.up = nn.InstanceNorm2d(20, affine=True), nn.ConvTranspose2d(20, 8, 2, stride=2)
        self.merge1, self.merge2, self.logits = conv(32, 14), conv(22, 10), nn.Conv2d(10, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = F.relu(self.down1(x))
        second = F.celu(self.norm(self.down2(first)))
        bottom = F.relu(self.bottom(second))
        up = F.interpolate(bottom, scale_factor=2, mode="bilinear", align_corners=False)
        merged = torch.tanh(self.merge1(torch.cat([up, first], 1)))
        merged = self.merge2(torch.cat([merged, F.relu(self.up(second))], 1))
        return self.logits(F.relu(merged)).mean((2, 3)).softmax(-1)


class SelectedKernels(nn.Module):
    """A softmax over two branches for each channel, written into in place; a norm that two convolutions share."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.small, self.large = conv(3, 16), conv(16, 16), conv(16, 16, 5)
        self.bn, self.squeeze, self.select = nn.BatchNorm2d(16), nn.Linear(16, 8), nn.Linear(8, 32)
        self.last, self.fc = conv(16, 12), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.stem(x))
        small, large = self.bn(self.small(x)), self.bn(self.large(x))
        gates = self.select(F.relu(self.squeeze((small + large).mean((2, 3)))))
        gates = gates.view(-1, 2, 16).softmax(1)[:, :, :, None, None]
        y = torch.stack([small, large], 1).mul_(gates).sum(1)
        y += x
        before = y.clone()
        same = y.view_as(y)
        same.clamp_(min=-0.1)  # writes into y as well, but not into the copy
        return self.fc((self.last(y) + self.last(before)).relu_().amax((2, 3)))


class WrittenBehindDropout(nn.Module):
    """A dropout that drops nothing gives its own input, so what is written into its output is written there."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = conv(3, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        same = F.dropout(x, training=self.training)
        same.clamp_(min=-0.1)
        return self.fc(x.mean((2, 3)))


class Standardised(nn.Module):
    """Standardised weights, a fixed blur, constants for the images, the network's own channel shuffle, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = conv(3, 16), conv(16, 16, groups=2), conv(16, 24)
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1))
        self.register_buffer("blur", torch.ones(16, 1, 3, 3) / 9, persistent=False)
        self.fc, self.other = nn.Linear(24, 10), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = (x - self.mean) / torch.tensor([0.2, 0.25, 0.3]).to(x).view(3, 1, 1)
        weight = self.conv1.weight
        mean, deviation = weight.mean((1, 2, 3), keepdim=True), weight.std((1, 2, 3), keepdim=True)
        x = F.relu(F.conv2d(x, (weight - mean) / deviation, self.conv1.bias, padding=1))
        x = F.conv2d(x, self.blur, stride=2, padding=1, groups=16)
        x = F.relu(self.conv2(x))
        images, channels, height, width = x.shape
        x = x.view(images, 2, channels // 2, height, width).transpose(1, 2).contiguous()
        x = F.relu(self.conv3(x.view(images, channels, height, width))).flatten(2).mean(-1)
        return self.fc(x), self.other(x)


class RepeatedChannels(nn.Module):
    """Channels padded by others: each way of padding that repeats values, over channels in the last dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc = conv(3, 16), nn.Linear(12, 10)
        self.mirrored, self.replicated, self.circular = conv(18, 12), conv(15, 12), conv(17, 12)
        self.last = conv(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x)).permute(0, 2, 3, 1)
        x = F.pad(x, (1, 1, 0, 0), mode="reflect").permute(0, 3, 1, 2)
        x = F.relu(self.mirrored(x))
        x = F.pad(x, (0, 0, 0, 0, 1, 2), mode="replicate")
        x = F.relu(self.replicated(x)).permute(0, 2, 3, 1)
        x = F.pad(x, (3, 2, 0, 0), mode="circular").permute(0, 3, 1, 2)
        return self.fc(F.relu(self.last(F.relu(self.circular(x)))).mean((2, 3)))


class NamedAsAttributes(nn.Module):
    """Layers that have the names of methods and attributes, and constants of the code in the images' precision."""

    def __init__(self) -> None:
        super().__init__()
        self.run, self.program, self._constants = conv(3, 16), conv(16, 16), conv(16, 12)
        self.fc = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.run(x * torch.arange(1, 4).to(x).view(3, 1, 1)))
        x = F.relu(self._constants(F.relu(self.program(x))))
        return self.fc(x.mean((2, 3))) * torch.arange(10).to(x)


class Coordinates(nn.Module):
    """Maps of the pixels' coordinates for each image, next to the images and to maps."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("grid", torch.linspace(-1, 1, 16).view(1, 1, 1, 16))
        self.conv1, self.conv2, self.conv3, self.fc = conv(4, 16), conv(17, 16), conv(18, 12), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        images, _, side, _ = x.shape
        x = F.relu(self.conv1(torch.cat([x, self.grid.expand(images, -1, side, -1)], 1)))
        x = F.relu(self.conv2(torch.cat([self.grid.transpose(2, 3).repeat(images, 1, 1, side), x], 1)))
        steps = torch.arange(16).to(x).view(1, 1, 1, 16) / 16
        x = F.relu(self.conv3(torch.cat([x, steps.expand(images, 2, side, 16)], 1)))
        return self.fc(x.mean((2, 3)))


class ClassToken(nn.Module):
    """Attention of a learned token for each image, next to the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(3, 32), conv(32, 24, stride=4)
        self.token, self.place = nn.Parameter(torch.zeros(1, 1, 24)), nn.Parameter(torch.zeros(1, 17, 24))
        self.attention, self.fc = nn.MultiheadAttention(24, 2, batch_first=True), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv2(F.relu(self.conv1(x)))).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.place
        return self.fc((x + self.attention(x, x, x, need_weights=False)[0])[:, 0])


TRACEABLE = (
    PaddedShortcuts,
    PreActivation,
    ChannelAndSpatialAttention,
    Shuffled,
    CalledTwice,
    SelfAttention,
    Parametrised,
    Maxout,
    FixedSizes,
    PartialConvolutions,
    ChannelsLast,
    UpAndDown,
    SelectedKernels,
    Standardised,
    RepeatedChannels,
    NamedAsAttributes,
    Coordinates,
    ClassToken,
)
