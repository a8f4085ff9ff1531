"""Train a watermarked classifier: python train.py watermark=noise dataset=cifar10."""

from wmlightning.cli import train

if __name__ == "__main__":
    train()
