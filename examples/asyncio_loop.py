"""The same as three_lines.py inside an asyncio program: `await ps.astep()`.

psedge server                                  # in one terminal
python examples/asyncio_loop.py                # in another
"""

from __future__ import annotations

import asyncio
import sys

import torch
from torch import nn

import psedge

STEPS = 200


async def main() -> None:
    url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:7700"
    torch.manual_seed(0)
    model = nn.Linear(8, 1)
    target = torch.arange(8.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    async with await psedge.aconnect(url, model, optimizer=optimizer) as ps:
        for step in range(STEPS):
            x = torch.randn(32, 8)
            loss = ((model(x).squeeze(1) - x @ target) ** 2).mean()
            loss.backward()
            await ps.astep()
            if step % 50 == 0:
                print(f"step {step}: loss {loss.item():.3f}", flush=True)
    print(f"step {STEPS}: loss {loss.item():.5f}")


if __name__ == "__main__":
    asyncio.run(main())
