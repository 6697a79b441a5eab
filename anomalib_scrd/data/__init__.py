"""Data modules: drawn phantom slices, the sets of the MedIAnomaly benchmark, and folders of medical images."""

__all__ = ["MedIAnomaly", "MedicalFolder", "MedicalPredictDataset", "PhantomSlices", "patient_scores"]

from anomalib_scrd.data.medianomaly import MedIAnomaly
from anomalib_scrd.data.medical import MedicalFolder
from anomalib_scrd.data.patient_scores import patient_scores
from anomalib_scrd.data.phantom import PhantomSlices
from anomalib_scrd.data.prediction import MedicalPredictDataset
