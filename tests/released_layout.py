"""EVSSM once more, as the released code lays it out: plain `b c h w`, FFTs, one autograd step per operation.

A second, slower derivation: tests hold `evssm.models.evssm` equal to it, benchmarks measure against it. The modules
carry the official names, so `to_official(net)` loads as it is.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evssm.scan import selective_scan


class Norm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Module()
        self.body.weight, self.body.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        x = x.permute(0, 2, 3, 1).reshape(b, h * w, c)
        x = x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.body.weight + self.body.bias
        return x.reshape(b, h, w, c).permute(0, 3, 1, 2)


class Attn(nn.Module):
    def __init__(self, width: int, scan: Callable[..., Tensor]) -> None:
        super().__init__()
        inner, rank = 2 * width, -(-width // 16)
        self.rank, self.scan = rank, scan
        self.x_proj_weight = nn.Parameter(torch.randn(1, rank + 16, inner) / inner**0.5)
        self.dt_projs_weight = nn.Parameter(torch.randn(1, inner, rank) / rank**0.5)
        self.dt_projs_bias = nn.Parameter(torch.full((1, inner), -4.0))
        self.A_logs = nn.Parameter(torch.arange(1.0, 9).log().repeat(inner, 1))
        self.Ds = nn.Parameter(torch.ones(inner))
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)
        self.conv2d = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.x_conv = nn.Conv1d(rank + 16, rank + 16, 7, padding=3, groups=rank + 16)
        self.out_norm = nn.LayerNorm(inner)
        self.out_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        u, z = self.in_proj(x.permute(0, 2, 3, 1)).chunk(2, dim=-1)
        u = F.gelu(self.conv2d(u.permute(0, 3, 1, 2).contiguous())).flatten(2)
        s = self.x_conv(torch.einsum("bdl,sd->bsl", u, self.x_proj_weight[0]))
        t, B, C = s.split((self.rank, 8, 8), dim=1)
        delta = torch.einsum("brl,dr->bdl", t, self.dt_projs_weight[0])
        A = -self.A_logs.exp()
        y = self.scan(u, delta, A, B, C, self.Ds, delta_bias=self.dt_projs_bias[0], delta_softplus=True)
        y = self.out_norm(y.transpose(1, 2).contiguous().view(b, h, w, -1))
        return self.out_proj(y * F.gelu(z)).permute(0, 3, 1, 2)


class FFN(nn.Module):
    def __init__(self, width: int, expansion: int) -> None:
        super().__init__()
        hidden = expansion * width
        self.fft = nn.Parameter(torch.ones(width, 1, 1, 8, 5))
        self.project_in = nn.Conv2d(width, 2 * hidden, 1, bias=False)
        self.dwconv = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=False)
        self.project_out = nn.Conv2d(hidden, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        a, g = self.dwconv(self.project_in(x)).chunk(2, dim=1)
        x = self.project_out(F.gelu(a) * g)
        b, c, h, w = x.shape
        x = x.reshape(b, c, h // 8, 8, w // 8, 8).transpose(3, 4)
        x = torch.fft.irfft2(torch.fft.rfft2(x) * self.fft, s=(8, 8))
        return x.transpose(3, 4).reshape(b, c, h, w)


class EVS(nn.Module):
    def __init__(self, width: int, index: int, scan: Callable[..., Tensor], expansion: int) -> None:
        super().__init__()
        self.odd = index % 2 == 1
        self.norm1, self.attn = Norm(width), Attn(width, scan)
        self.norm2, self.ffn = Norm(width), FFN(width, expansion)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.flip(x, dims=(-2, -1)).contiguous() if self.odd else x.transpose(-2, -1).contiguous()
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class ReleasedEVSSM(nn.Module):
    """The training network: sides must be multiples of 32."""

    def __init__(
        self,
        width: int,
        depths: tuple[int, int, int],
        scan: Callable[..., Tensor] = selective_scan,
        ffn_expansion: int = 3,
    ) -> None:
        super().__init__()

        def level(i: int) -> nn.Module:
            stage = nn.Module()
            for j in range(depths[i]):
                stage.add_module(f"block{j}", EVS(width << i, j, scan, ffn_expansion))
            return stage

        def resize(i: int, o: int, scale: float) -> nn.Module:
            module = nn.Module()
            up = nn.Upsample(scale_factor=scale, mode="bilinear", align_corners=False)
            module.body = nn.Sequential(up, nn.Conv2d(width << i, width << o, 3, padding=1, bias=False))
            return module

        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.encoder_level1, self.encoder_level2, self.encoder_level3 = (level(i) for i in range(3))
        self.decoder_level1, self.decoder_level2, self.decoder_level3 = (level(i) for i in range(3))
        self.down1_2, self.down2_3 = resize(0, 1, 0.5), resize(1, 2, 0.5)
        self.up3_2, self.up2_1 = resize(2, 1, 2), resize(1, 0, 2)
        self.output = nn.Conv2d(width, 3, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        def run(stage: nn.Module, y: Tensor) -> Tensor:
            for block in stage.children():
                y = block(y)
            return y

        e1 = run(self.encoder_level1, self.patch_embed.proj(x))
        e2 = run(self.encoder_level2, self.down1_2.body(e1))
        y = run(self.decoder_level3, run(self.encoder_level3, self.down2_3.body(e2)))
        y = run(self.decoder_level2, self.up3_2.body(y) + e2)
        y = run(self.decoder_level1, self.up2_1.body(y) + e1)
        return self.output(y) + x
