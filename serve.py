"""Serve a stored model by the Open Inference Protocol: python serve.py run=runs/NAME."""

from wmlightning.ownership.serve import serve

if __name__ == "__main__":
    serve()
