"""Writes small DICOM files with identifying values in their headers."""

__all__ = ["IDENTIFYING", "write_dicom"]

from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

IDENTIFYING = {
    "PatientName": "Zaphodius^Quexley",
    "PatientID": "PID-7731902",
    "PatientBirthDate": "19470312",
    "StudyDate": "20240229",
    "AccessionNumber": "ACC4455667",
    "InstitutionName": "Saint Elsewhere 99",
    "ReferringPhysicianName": "Doctorow^Hieronymus",
}


def write_dicom(path: Path, pixels: np.ndarray, syntax: str = ExplicitVRLittleEndian, **elements: object) -> Path:
    """Write pixels as a DICOM file.

    Args:
        path: The file.
        pixels: (H, W), (N, H, W) frames, or with three colours behind; 8 or 16 bits, signed or not.
        syntax: Transfer syntax; pydicom's encoders compress.
        **elements: Further elements by keyword; None leaves one out.

    Returns:
        The path.
    """
    colour = pixels.shape[-1] == 3 and pixels.ndim > 2
    frames = pixels.ndim - 2 - colour
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.StudyInstanceUID, data.SeriesInstanceUID = generate_uid(), generate_uid()
    for name, value in IDENTIFYING.items():
        setattr(data, name, value)
    bits = pixels.dtype.itemsize * 8
    data.Rows, data.Columns = pixels.shape[frames : frames + 2]
    data.BitsAllocated, data.BitsStored, data.HighBit = bits, bits, bits - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.SamplesPerPixel = 3 if colour else 1
    data.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        data.PlanarConfiguration = 0
    if frames:
        data.NumberOfFrames = pixels.shape[0]
    data.PixelData = np.ascontiguousarray(pixels).tobytes()
    data["PixelData"].VR = "OW" if bits > 8 else "OB"
    for name, value in elements.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    if syntax != ExplicitVRLittleEndian:
        data.compress(syntax, generate_instance_uid=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path)
    return path
