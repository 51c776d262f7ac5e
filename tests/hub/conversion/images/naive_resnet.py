"""ResNets with torchvision's names, written from their definition (He et al. 2016, with the stride on the 3x3)."""

import torch
from torch import Tensor, nn


def conv(incoming: int, outgoing: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(incoming, outgoing, size, stride=stride, padding=(size - 1) // 2, bias=False)


class Block(nn.Module):
    """A residual block: three convolutions 1x1, 3x3, 1x1 of which the middle one strides, or two 3x3."""

    def __init__(self, incoming: int, inner: int, stride: int, *, bottleneck: bool) -> None:
        super().__init__()
        outgoing = 4 * inner if bottleneck else inner
        if bottleneck:
            shapes = [(incoming, inner, 1, 1), (inner, inner, 3, stride), (inner, outgoing, 1, 1)]
        else:
            shapes = [(incoming, inner, 3, stride), (inner, inner, 3, 1)]
        self.num_convs = len(shapes)
        for i, shape in enumerate(shapes, start=1):
            setattr(self, f"conv{i}", conv(*shape))
            setattr(self, f"bn{i}", nn.BatchNorm2d(shape[1]))
        self.downsample = None
        if stride != 1 or incoming != outgoing:
            self.downsample = nn.Sequential(conv(incoming, outgoing, 1, stride), nn.BatchNorm2d(outgoing))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for i in range(1, self.num_convs + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            if i < self.num_convs:
                y = torch.clamp(y, min=0)
        return torch.clamp(y + (x if self.downsample is None else self.downsample(x)), min=0)


class ResNet(nn.Module):
    """Its children are in torchvision's order, which `nn.Sequential(*resnet.children())` depends on."""

    def __init__(self, width: int, depths: tuple[int, ...], *, bottleneck: bool, small_stem: bool = False) -> None:
        super().__init__()
        self.conv1 = conv(3, width, 3) if small_stem else conv(3, width, 7, 2)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.maxpool = nn.Identity() if small_stem else nn.MaxPool2d(3, stride=2, padding=1)
        incoming = width
        for stage, depth in enumerate(depths):
            inner, blocks = width * 2**stage, []
            for block in range(depth):
                stride = 2 if stage > 0 and block == 0 else 1
                blocks.append(Block(incoming, inner, stride, bottleneck=bottleneck))
                incoming = 4 * inner if bottleneck else inner
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.num_stages = len(depths)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) to the last feature map."""
        x = self.maxpool(torch.clamp(self.bn1(self.conv1(x)), min=0))
        for stage in range(1, self.num_stages + 1):
            x = getattr(self, f"layer{stage}")(x)
        return x


def resnet(
    width: int = 8, depths: tuple[int, ...] = (2, 1, 2, 1), *, bottleneck: bool = True, small_stem: bool = False
) -> ResNet:
    """With random weights and statistics, of which no two are alike, in evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    model = ResNet(width, depths, bottleneck=bottleneck, small_stem=small_stem)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * (2 / weight[0].numel()) ** 0.5)
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.weight.copy_(0.5 + torch.rand(norm.weight.shape, generator=generator))
                norm.bias.copy_(0.2 * torch.randn(norm.bias.shape, generator=generator))
                norm.running_mean.copy_(0.2 * torch.randn(norm.bias.shape, generator=generator))
                norm.running_var.copy_(0.5 + torch.rand(norm.bias.shape, generator=generator))
                norm.num_batches_tracked.fill_(7)
    return model.eval()
