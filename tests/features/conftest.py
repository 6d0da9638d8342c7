"""Fixtures of the tests on features."""
import pytest

from semilib.networks import encoders


@pytest.fixture(scope="module", autouse=True)
def exports_once():
    """Each encoder is exported once, however many folders its ONNX file is kept in."""
    export, files = encoders.exported, {}

    def exported(encoder):
        if encoder.weights not in files:
            files[encoder.weights] = export(encoder)
        return files[encoder.weights]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "exported", exported)
        yield
