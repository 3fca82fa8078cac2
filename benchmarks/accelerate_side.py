"""ResNet-9 on CIFAR-10 as the examples of accelerate have it: one side of benchmarks/time_to_accuracy.py.

The recipe is that of configs/cifar10_resnet9.yaml, in float32: torchvision's transforms on JPEG files in two loader
processes, SGD, one cycle, four micro-batches of 128 images a step. It looks at the test images once, at the end, and
prints its accuracy. Only the network is imported from distcls.

    python benchmarks/accelerate_side.py DATA EPOCHS SEED
"""

import math
import sys

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torchvision import datasets, transforms

from distcls.models.build import MODELS

MICRO_BATCH, ACCUMULATED = 128, 4
LR = 0.4
NORMALIZE = [transforms.ToTensor(), transforms.Normalize([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616])]
AUGMENT = [transforms.RandomCrop(32, padding=4, padding_mode="reflect"), transforms.RandomHorizontalFlip()]
CUTOUT = 8  # pixels: a quarter of the image


def cutout(image: torch.Tensor) -> torch.Tensor:
    """Set a square around a random pixel to the mean; it may reach over the border. image: float32 (3, H, W)."""
    y, x = (int(torch.randint(size, ())) for size in image.shape[1:])
    half = CUTOUT // 2
    image[:, max(y - half, 0) : y + half, max(x - half, 0) : x + half] = 0
    return image


def main() -> None:
    data, epochs, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    set_seed(seed)
    accelerator = Accelerator(cpu=True, mixed_precision="no", gradient_accumulation_steps=ACCUMULATED)
    train = datasets.ImageFolder(f"{data}/train", transforms.Compose([*AUGMENT, *NORMALIZE, cutout]))
    test = datasets.ImageFolder(f"{data}/test", transforms.Compose(NORMALIZE))
    loader = torch.utils.data.DataLoader(
        train, MICRO_BATCH, shuffle=True, num_workers=2, drop_last=True, persistent_workers=True
    )
    test_loader = torch.utils.data.DataLoader(test, 512, num_workers=2)
    model = MODELS["resnet9"](10, 32).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    decayed = [weight for weight in model.parameters() if weight.ndim > 1]
    others = [weight for weight in model.parameters() if weight.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 5e-4}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, LR, momentum=0.9, nesterov=True)
    updates = math.ceil(len(loader) / ACCUMULATED) * epochs
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, updates, pct_start=0.25, cycle_momentum=False)
    model, optimizer, loader, test_loader, schedule = accelerator.prepare(
        model, optimizer, loader, test_loader, schedule
    )
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    for _ in range(epochs):
        model.train()
        for images, labels in loader:
            with accelerator.accumulate(model):
                loss = criterion(model(images), labels)
                accelerator.backward(loss)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
    model.eval()
    right = 0
    with torch.no_grad():
        for images, labels in test_loader:
            predicted, given = accelerator.gather_for_metrics((model(images).argmax(1), labels))
            right += int((predicted == given).sum())
    print(right / len(test))


if __name__ == "__main__":
    main()
