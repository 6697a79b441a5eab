"""No identifier of a patient is in anything that a run writes: all files, lines and file names are searched."""

import logging
from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger

from anomalib_scrd import MedicalFolder, MedicalPredictDataset
from tests.data.test_medical_folder import engine, grey, small_model, write_as
from tests.export.conftest import export
from tests.imaging.writing import IDENTIFYING

PATIENTS = [f"PID-77319{index:02d}" for index in range(12)]
SECRETS = [*IDENTIFYING.values(), *PATIENTS, *IDENTIFYING["PatientName"].split("^"), "Hieronymus"]


def found_in(content: bytes) -> list[str]:
    """Secrets in some bytes, in the encodings that files use."""
    lowered = content.lower()
    return [
        secret
        for secret in SECRETS
        if any(secret.lower().encode(encoding) in lowered for encoding in ("utf-8", "utf-16-le", "utf-16-be"))
    ]


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    write_as("dicom", tmp_path / "a", grey(0), PatientID=PATIENTS[3])
    assert set(found_in((tmp_path / "a.dcm").read_bytes())) >= {PATIENTS[3], IDENTIFYING["PatientName"]}


@pytest.mark.filterwarnings("default")
def test_nothing_that_a_run_writes_identifies_a_patient(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    images, results = tmp_path / "images", tmp_path / "results"
    for part, count in (("normal", 12), ("bad", 4)):
        for index in range(count):
            pixels = grey(index + 100 * (part == "bad"))
            # pydicom warns about values that violate the standard, and quotes them.
            extra = {"PatientAge": "PID-7731900"} if index == 0 else {}
            patient = PATIENTS[index // 2 + 6 * (part == "bad")]
            write_as("monochrome1", images / part / f"{index:02d}", pixels, PatientID=patient, **extra)
    (images / "normal/broken.dcm").write_bytes((images / "normal/03.dcm").read_bytes()[:-99])
    write_as("dicom", images / "normal/empty", grey(0), PatientID=PATIENTS[11], PixelData=None)
    recwarn.clear()
    caplog.clear()
    capfd.readouterr()
    with caplog.at_level(logging.DEBUG):
        data = MedicalFolder(
            "study",
            "normal",
            images,
            "bad",
            on_error="skip",
            patient_salt=tmp_path / "salt",
            train_batch_size=4,
            num_workers=0,
            seed=0,
        )
        model = small_model(visualizer=True)
        runner = engine(tmp_path, logger=CSVLogger(results), enable_progress_bar=True)
        runner.fit(model, datamodule=data)
        runner.test(model, datamodule=data)
        again = MedicalPredictDataset(images, model, on_error="skip", patient_salt=tmp_path / "salt")
        runner.predict(model, dataset=again)
        # to OpenVINO by way of ONNX, whose files are kept
        export(results / "exports", lambda folder: model.to_openvino(folder, input_size=(32, 32)))
        shown = [data.left_out, model.window, data.train_data.samples.to_string(), data.train_data[0]]
        for broken in ("broken", "empty"):
            with pytest.raises(OSError, match=rf"{broken}\.dcm") as raised:
                runner.predict(model, data_path=images / f"normal/{broken}.dcm")
            shown += [raised.value, *raised.value.args]
    written = [path for path in results.rglob("*") if path.is_file()]
    assert {".csv", ".ckpt", ".onnx", ".xml", ".png"} <= {path.suffix for path in written}
    leaks = {str(path): found_in(path.read_bytes() + str(path).encode()) for path in written}
    leaks["output"] = found_in("".join(capfd.readouterr()).encode())
    leaks["objects"] = found_in(" ".join(map(repr, shown)).encode())
    leaks["log"] = found_in(caplog.text.encode())
    leaks["warnings"] = found_in(" ".join(str(item.message) for item in recwarn).encode())
    assert not {place: secrets for place, secrets in leaks.items() if secrets}
    pseudonyms = set(data.train_data.samples.patient) | set(data.test_data.samples.patient)
    assert all(len(pseudonym) == 16 for pseudonym in pseudonyms)
    for name in ("patient_scores.csv", "predictions.csv"):
        tables = [path.read_text(encoding="utf-8") for path in written if path.name == name]
        assert any(pseudonym in table for pseudonym in pseudonyms for table in tables), name
    assert np.isfinite(model.window["limits"]).all()
