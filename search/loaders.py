"""What goes beside an exported file to load it: a few lines that need only the runtime."""

__all__ = ["loader_of"]

_ONNX = '''\
"""Loads {name} and runs it once on zeros. Needs: pip install onnxruntime"""

from pathlib import Path

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(
    str(Path(__file__).with_name({name!r})), providers=["CPUExecutionProvider"]
)
given = session.get_inputs()[0]
# A size that is no number, such as the batch, may be any: here 1.
shape = [size if isinstance(size, int) else 1 for size in given.shape]
dtype = {{"tensor(float)": np.float32, "tensor(int64)": np.int64}}[given.type]
outputs = session.run(None, {{given.name: np.zeros(shape, dtype)}})
print(given.name, shape, "->", list(outputs[0].shape))
'''

_MLPACKAGE = '''\
"""Loads {name} and runs it once on zeros. Needs a Mac (macOS 15): pip install coremltools"""

from pathlib import Path

import coremltools as ct
import numpy as np

model = ct.models.MLModel(str(Path(__file__).with_name({name!r})), compute_units=ct.ComputeUnit.ALL)
given = model.get_spec().description.input[0]
shape = list(given.type.multiArrayType.shape)
outputs = model.predict({{given.name: np.zeros(shape, np.float32)}})
print(given.name, shape, "->", [list(np.shape(values)) for values in outputs.values()])
'''

_TFLITE = '''\
"""Loads {name} and runs it once on zeros. Needs: pip install ai-edge-litert"""

from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

interpreter = Interpreter(model_path=str(Path(__file__).with_name({name!r})))
interpreter.allocate_tensors()
(given,), (found,) = interpreter.get_input_details(), interpreter.get_output_details()
# Where the types are int8, a value is (integer - zero point) * scale: these two are in
# given["quantization"] and found["quantization"].
interpreter.reset_all_variables()  # a recurrent layer's state would outlive the sample
interpreter.set_tensor(given["index"], np.zeros(given["shape"], given["dtype"]))
interpreter.invoke()
outputs = interpreter.get_tensor(found["index"])
print(given["name"], given["shape"].tolist(), "->", list(outputs.shape))
'''

_PACKED = '''\
"""Decodes {name} to arrays. Needs: pip install numpy; pip install --no-deps compression-search

Without numba decoding takes some 7 s for 100,000 weights; pip install numba for larger networks.
"""

from pathlib import Path

from evaluators.artifacts.packed import decode, dense

weights = dense(decode(Path(__file__).with_name({name!r}).read_bytes()))
for tensor, values in weights.items():
    print(tensor, list(values.shape))
# In torch: model.load_state_dict({{name: torch.from_numpy(v) for name, v in weights.items()}})
# With LSTMs or GRUs before that: model = evaluators.backends.pytorch.recurrent.parted(model)
'''

_TEMPLATES = {"onnx": _ONNX, "mlpackage": _MLPACKAGE, "packed": _PACKED, "tflite": _TFLITE}


def loader_of(artifact_format: str, name: str) -> str:
    """The snippet for a file.

    Args:
        artifact_format: of the file.
        name: of the file, which lies beside the snippet.
    """
    return _TEMPLATES[artifact_format].format(name=name)
