"""A page that classifies images with the model beside it: python app.py. `distcls push --space` makes a copy."""

import json
from pathlib import Path

import gradio
import numpy as np
import onnxruntime

from distcls.data.decoding.decode import BadImageError, Decoding, decode

MOST_SHOWN, MOST_NAMED = 5, 20

session = onnxruntime.InferenceSession(Path(__file__).with_name("model.onnx"), providers=["CPUExecutionProvider"])
about = session.get_modelmeta().custom_metadata_map
# File names, and so classes, may contain bytes that are not UTF-8; a page cannot.
class_names = [name.encode("utf-8", "replace").decode() for name in json.loads(about["class_names"])]
prepared = json.loads(about["preprocessing"])
decoding = Decoding(**{name: prepared[name] for name in Decoding.__dataclass_fields__ if name in prepared})


def classify(path: str | None) -> dict[str, float]:
    """Return the probability of each class for an image file; nothing without one."""
    if path is None:
        return {}
    try:
        pixels = decode(path, decoding)
    except BadImageError as error:
        raise gradio.Error(f"This image cannot be read: {error}") from error
    probabilities = np.asarray(session.run(None, {"images": pixels[None]})[0])[0]
    return dict(zip(class_names, map(float, probabilities), strict=True))


named = ", ".join(class_names[:MOST_NAMED]) + (" …" if len(class_names) > MOST_NAMED else "")
demo = gradio.Interface(
    classify,
    # image_mode=None leaves the file as it is: the decoder knows about transparency and cameras held sideways.
    gradio.Image(type="filepath", image_mode=None, label="image"),
    gradio.Label(num_top_classes=min(MOST_SHOWN, len(class_names)), label="classes"),
    title="Image classifier",
    description=f"Tells {len(class_names)} classes apart: {named}",
    flagging_mode="never",
)

if __name__ == "__main__":
    demo.launch()
