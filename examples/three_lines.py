"""An existing training loop, made distributed by three lines.

    psedge server                                  # in one terminal
    python examples/three_lines.py                 # in a second one, and in a third

Each program that runs this loop is a worker: start it on as many machines as you like, with the
join line that the server printed as its argument.
"""

from __future__ import annotations

import sys

import torch
from sklearn.datasets import load_digits
from torch import nn

import psedge

EPOCHS = 8


def main() -> None:
    url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:7700"
    digits = load_digits()
    inputs = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    targets = torch.tensor(digits.target)
    dataset = torch.utils.data.TensorDataset(inputs, targets)
    loader = torch.utils.data.DataLoader(dataset, batch_size=32, shuffle=True)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 8 * 8, 10),
    )
    loss_fn = nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)

    ps = psedge.connect(url, model, optimizer=optimizer)  # line 1
    for epoch in range(EPOCHS):
        for x, y in loader:
            loss = loss_fn(model(x), y)
            loss.backward()
            ps.step()  # line 2: push gradients, receive fresh parameters, zero the gradients
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}", flush=True)
    ps.close()  # line 3

    model.eval()
    with torch.no_grad():
        accuracy = (model(inputs).argmax(1) == targets).float().mean().item()
    print(f"accuracy on the training data: {accuracy:.1%}")


if __name__ == "__main__":
    main()
