"""Ask a suspect whether it knows the owner's triggers: python verify.py key=owner.key suspect.path=runs/NAME."""

from wmlightning.cli import verify

if __name__ == "__main__":
    verify()
