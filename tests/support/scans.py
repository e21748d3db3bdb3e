"""DICOM files and GeoTIFFs of drawn values."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

CT = "1.2.840.10008.5.1.4.1.1.2"


def scan(path: Path, array: np.ndarray, interpretation: str = "MONOCHROME2", **elements: object) -> None:
    """A DICOM file of values (H, W), (H, W, 3) or, with NumberOfFrames, (N, H, W)."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CT, "1.2.3"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    file.SOPClassUID, file.SOPInstanceUID, file.Modality = CT, "1.2.3", "CT"
    colour = interpretation in ("RGB", "YBR_FULL")
    file.Rows, file.Columns = array.shape[-3:-1] if colour else array.shape[-2:]
    file.SamplesPerPixel, file.PhotometricInterpretation = (3 if colour else 1), interpretation
    if colour:
        file.PlanarConfiguration = 0
    file.BitsAllocated = file.BitsStored = 8 * array.dtype.itemsize
    file.HighBit, file.PixelRepresentation = file.BitsStored - 1, int(array.dtype.kind == "i")
    for name, value in elements.items():
        setattr(file, name, value)
    file.PixelData = array.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path)


def geotiff(
    path: Path, array: np.ndarray, names: Sequence[str] = ("blue", "green", "red", "nir", "swir"), **options: object
) -> None:
    """(C, H, W) as a GeoTIFF whose bands have names."""
    items = "".join(
        f'<Item name="DESCRIPTION" sample="{i}" role="description">{name}</Item>' for i, name in enumerate(names)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(
        path, array, photometric="minisblack", planarconfig="separate", metadata=None,
        extratags=[(42112, "s", 0, f"<GDALMetadata>{items}</GDALMetadata>", True)], **options,
    )  # fmt: skip
