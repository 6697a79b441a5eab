"""Report and gallery: contents, no external resources, rendering in a browser."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from PIL import Image

from anomalib_scrd.edge.__main__ import main
from anomalib_scrd.edge.journal import Journal
from anomalib_scrd.edge.records import Record
from anomalib_scrd.edge.report.truth import Truth
from anomalib_scrd.imaging import Orientation, VolumeOptions, list_pictures
from tests.edge.browser import document
from tests.edge.conftest import build_onnx, save_grey

Make = Callable[..., str]


class Page(HTMLParser):
    """Everything of a page that could point elsewhere, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self._silent = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._silent = tag in {"style", "script"}
        self.addresses += [value or "" for name, value in attributes if name in {"src", "href", "srcset", "data"}]

    def handle_endtag(self, tag: str) -> None:
        self._silent = False

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.text += data


def assert_alone(text: str, pages: tuple[str, ...] = ()) -> Page:
    """No address of anything outside the file, in attributes, styles and scripts."""
    page = Page(text)
    assert all(address.startswith("data:image/webp;base64,") or address in pages for address in page.addresses)
    assert not {"link", "iframe", "object", "embed", "base"} & set(page.tags)
    without_images = re.sub(r"data:image/webp;base64,[A-Za-z0-9+/=]+", "", text)
    assert not re.search(r"https?:|//[a-z]|url\(|@import|fetch\(|XMLHttp|WebSocket|import\(", without_images)
    assert "default-src 'none'" in text
    return page


@pytest.fixture
def masks(images: Path, tmp_path: Path) -> Path:
    """Masks of the three anomalous images: the half that holds their bright pixel."""
    for index in range(3):
        mask = np.zeros((16, 16), np.uint8)
        mask[:8] = 255
        path = tmp_path / "masks" / "spot" / "deep" / f"{index}_mask.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path)
    return tmp_path / "masks"


@pytest.fixture
def make(images: Path, tmp_path: Path, xml_file: Path) -> Make:
    """Run a command; gives the page that it wrote."""

    def make(command: str, *words: object, model: Path = xml_file, status: int = 0) -> str:
        output = tmp_path / "results"
        line = [command, model, images, "--output", output, "--quiet", *words]
        assert main([str(word) for word in line]) == status
        return (output / f"{command}.html").read_text(encoding="utf-8") if status == 0 else ""

    return make


class TestTruth:
    @pytest.mark.parametrize(
        ("image", "masks", "expected"),
        [
            ("scan.1.png", ["scan.png", "scan.1.png"], "scan.1.png"),
            ("scan.1.png", ["scan.png", "scan.1_mask.bmp"], "scan.1_mask.bmp"),
            ("scan.1.png", ["scan.png"], None),
            ("scan.2.bmp", ["scan.2.png", "scan.2.bmp"], "scan.2.bmp"),
            ("IM.0001", ["IM.png", "IM.0001.png"], "IM.0001.png"),
            ("scan.PNG", ["scan.tif"], "scan.tif"),
            ("a.b.nii.gz", ["a.png", "a.b.nii.png", "a.b.png"], "a.b.png"),
        ],
    )
    def test_mask_of_a_name_with_dots(
        self, image: str, masks: list[str], expected: str | None, images: Path, tmp_path: Path
    ) -> None:
        """Each mask marks another pixel."""
        for index, name in enumerate(masks):
            mask = np.zeros((16, 16), np.uint8)
            mask[index, index] = 255
            (tmp_path / "masks").mkdir(exist_ok=True)
            Image.fromarray(mask).save(tmp_path / "masks" / name)
        (info,) = list_pictures(images / "good" / "0.png")
        truth = Truth(None, tmp_path / "masks", [])
        found = truth.mask(PurePosixPath(image), info, VolumeOptions(), Orientation())
        if expected is None:
            assert found is None
        else:
            index = masks.index(expected)
            assert found is not None
            assert np.argwhere(found).tolist() == [[index, index]]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("path,label\na.png\n", r"a row must have a path and a label, got path 'a.png' and label None"),
            ("label,path\n1\n", r"a row must have a path and a label, got path None and label '1'"),
            ("path,label\na.png,1\nb.png,0\na.png,0\n", r"'a.png' has both labels, 0 and 1"),
            ("file,label\n", r"needs the columns path and label, got \['file', 'label'\]"),
            ("", r"needs the columns path and label, got \[\]"),
        ],
    )
    def test_damaged_tables_are_refused(self, text: str, message: str, tmp_path: Path) -> None:
        (tmp_path / "labels.csv").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=rf"--labels '.*labels.csv'.*{message}"):
            Truth(tmp_path / "labels.csv", None, [])

    @pytest.mark.parametrize("name", ["-1.png", "'-1.png"])
    def test_names_of_the_table_of_scores_are_known(self, name: str, tmp_path: Path) -> None:
        (tmp_path / "labels.csv").write_text(f"path,label\n{name},1\n", encoding="utf-8")
        assert Truth(tmp_path / "labels.csv", None, []).label(PurePosixPath("-1.png")) is True

    def test_equal_rows_are_one(self, tmp_path: Path) -> None:
        (tmp_path / "labels.csv").write_text("path,label\na.png,1\na.png,anomalous\n", encoding="utf-8")
        assert Truth(tmp_path / "labels.csv", None, []).label(PurePosixPath("a.png")) is True


class TestReport:
    def test_contents_of_the_report(self, make: Make, images: Path, masks: Path) -> None:
        save_grey(images / "good" / "high.png", 210)
        (images / "cut <b>.png").write_bytes(b"\x89PNG")
        text = make("report", "--masks", masks, "--seconds", "0.05")
        page = assert_alone(text)
        said = " ".join(page.text.split())
        assert "10pictures scored1files left out4called anomalous" in said
        assert "false-alarm rate0.143 [0.026, 0.513]7 normal pictures" in said  # Wilson, 1 of 7
        assert "sensitivity1.000 [0.439, 1.000]3 anomalous pictures" in said
        # 210 lies above one of the three anomalous scores, 200, 220 and 240: 20 of 21 pairs are in order.
        assert "image AUROC0.952 [" in said
        assert "]10 pictures" in said
        assert "pixel AUROC" in said
        assert "10 pictures whose true regions are known" in said
        assert "cut <b>.pngit is not an image file of a known format" in said
        assert "images42" in said
        assert "files_sha256" in said
        assert "No scores of the training were given (--training)." in said
        assert page.tags.count("svg") == 1
        assert page.tags.count("img") >= 2 * 10
        assert "script" not in page.tags

    def test_name_of_the_model_is_text(self, make: Make, tmp_path: Path) -> None:
        model = build_onnx(tmp_path / "<img src=x>.onnx")
        page = assert_alone(make("report", "--seconds", "0", model=model))
        assert "<img src=x>.onnx, " in page.text

    def test_without_truth(self, make: Make, images: Path) -> None:
        (images / "good").rename(images / "first")
        said = " ".join(assert_alone(make("report", "--seconds", "0")).text.split())
        assert "so there are no metrics" in said
        assert "Nearest to the threshold" in said
        assert "Speed" not in said

    def test_labels_from_a_table(self, make: Make, images: Path, tmp_path: Path) -> None:
        table = tmp_path / "labels.csv"
        rows = [f"good/{index}.png,{int(index > 2)}" for index in range(6)]
        table.write_text("path,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
        said = " ".join(Page(make("report", "--labels", table, "--seconds", "0")).text.split())
        assert "image AUROC1.000 [" in said
        assert "6 pictures" in said
        table.write_text("path,label\ngood/0.png,maybe\n", encoding="utf-8")
        make("report", "--labels", table, status=2)

    def test_agreement_with_the_training(self, make: Make, tmp_path: Path) -> None:
        names = [f"good/{index}.png" for index in range(6)] + [f"spot/deep/{index}.png" for index in range(3)]
        values = [20, 40, 60, 80, 100, 120, 200, 220, 240]
        for name, shift in (("near", 3e-5), ("far", 0.02)):
            journal = Journal(tmp_path / name, {"format": 1})
            for path, value in zip(names, values, strict=True):
                journal.append([Record(path, score=value / 255 + shift, anomalous=value > 120)])
            journal.close()
            (tmp_path / name / "scales" / "spot" / "deep").mkdir(parents=True)
            maps = np.random.default_rng(0).random((2, 4, 4)).astype(np.float16)
            np.savez(
                tmp_path / name / "scales" / "spot" / "deep" / "2.png.0000.npz",
                maps=maps,
                weights=np.array([0.25, 0.75]),
                layers=np.array(["layer1", "layer2"]),
            )
        near = " ".join(assert_alone(make("report", "--training", tmp_path / "near", "--seconds", "0")).text.split())
        assert "The scores equal those of the training." in near
        assert "largest difference3.00e-05" in near
        assert "pictures with another decision0 of 9" in near
        assert "layer1 0.250, layer2 0.750" in near
        far = " ".join(Page(make("report", "--training", tmp_path / "far", "--seconds", "0")).text.split())
        assert "The largest difference exceeds 0.0001" in far

    def test_names_are_hidden_with_a_salt(self, make: Make, images: Path, tmp_path: Path) -> None:
        save_grey(images / "good" / "Miller_Anna.png", 90)
        text = make("report", "--salt", tmp_path / "salt", "--seconds", "0")
        assert "Miller" not in text
        assert "10pictures scored" in " ".join(Page(text).text.split())

    def test_in_a_browser(self, make: Make, images: Path, masks: Path, tmp_path: Path) -> None:
        make("report", "--masks", masks, "--seconds", "0.05")
        script = """
            const images = [...document.images];
            document.body.dataset.found = JSON.stringify([images.length, images.filter(i => !i.naturalWidth).length,
              document.querySelectorAll('svg rect').length, document.documentElement.scrollWidth <= innerWidth]);
        """
        images_shown, broken, bars, fits = found(document(tmp_path / "results" / "report.html", script))
        assert images_shown >= 18
        assert broken == 0
        assert bars >= 3
        assert fits


class TestGallery:
    def test_holds_all_pictures_by_score(self, make: Make, images: Path) -> None:
        save_grey(images / 'a "b" <i>.png', 10)
        page = assert_alone(make("gallery"))
        assert page.tags.count("img") == 2 * 10
        names = re.findall(r"(?:good|spot)\S*\.png|a \"b\" <i>\.png", page.text)
        assert names[:4] == ["spot/deep/2.png", "spot/deep/1.png", "spot/deep/0.png", "good/5.png"]
        assert names[-1] == 'a "b" <i>.png'

    def test_has_pages(self, make: Make, tmp_path: Path) -> None:
        names = ("gallery.html", "gallery-2.html", "gallery-3.html")
        assert_alone(make("gallery", "--per-page", "4"), names)
        pages = [(tmp_path / "results" / name).read_text(encoding="utf-8") for name in names]
        assert [text.count('class="card"') for text in pages] == [4, 4, 1]
        make("gallery")
        assert not (tmp_path / "results" / "gallery-2.html").exists()

    def test_slider_in_a_browser(self, make: Make, images: Path, tmp_path: Path) -> None:
        make("gallery")
        page = tmp_path / "results" / "gallery.html"
        script = """
            const found = [], set = (name, value) => {
              const field = document.getElementById(name);
              field.value = value; field.dispatchEvent(new Event('input'));
            };
            const read = () => found.push([counts.textContent,
              document.querySelectorAll('.card.above').length, document.querySelectorAll('.card:not([hidden])').length,
              gallery.firstElementChild.textContent.includes('spot/deep/2.png'),
              [...document.images].filter(i => !i.naturalWidth).length, document.querySelector('.map').style.opacity]);
            read();
            set('number', '0.3'); set('show', 'above'); set('order', 'up'); set('opacity', '0.4');
            read();
            document.body.dataset.found = JSON.stringify(found);
        """
        first, moved = found(document(page, script))
        assert first[0] == (
            "Above 0.5000: 3 of 9 (33.3 %) pictures; false alarms 0 of 6 (0.0 %); found 3 of 3 (100.0 %)."
        )
        assert first[1:5] == [3, 9, True, 0]
        # 80, 100 and 120 of 255 lie above 0.3 as well
        assert moved[0].startswith("Above 0.3000: 6 of 9 (66.7 %) pictures; false alarms 3 of 6 (50.0 %); found 3 of 3")
        assert moved[1:4] == [6, 6, False]
        assert moved[5] == "0.4"

    def test_first_counts_are_those_of_the_exact_threshold(self, make: Make, tmp_path: Path) -> None:
        """The threshold lies 1e-7 below the highest score; with four or six digits, it would not."""
        text = make("gallery", "--threshold", repr(240 / 255 - 1e-7))
        data = json.loads(re.search(r'id="data">(.*?)</script>', text)[1])
        assert sum(score > data["threshold"] for score in data["scores"]) == 1
        assert re.findall(r'data-score="(.*?)"', text) == [repr(score) for score in data["scores"]]
        first = document(tmp_path / "results" / "gallery.html")
        assert "1 of 9 (11.1 %) pictures" in first
        assert first.count('class="card above"') == 1

    def test_shows_the_scales_of_the_training(self, make: Make, tmp_path: Path) -> None:
        (tmp_path / "training" / "scales" / "good").mkdir(parents=True)
        np.savez(
            tmp_path / "training" / "scales" / "good" / "3.png.0000.npz",
            maps=np.random.default_rng(0).random((2, 4, 4)).astype(np.float16),
            weights=np.array([0.25, 0.75]),
            layers=np.array(["layer1", "layer2"]),
        )
        text = make("gallery", "--training", tmp_path / "training")
        page = assert_alone(text)
        assert page.tags.count("img") == 2 * 9 + 2
        assert 'alt="map of layer2" title="layer2"><figcaption>0.75</figcaption>' in text
        make("gallery", "--training", tmp_path / "missing", status=2)

    def test_raw_scores_have_no_threshold(self, images: Path, tmp_path: Path) -> None:
        model = build_onnx(tmp_path / "raw.onnx", None)
        assert main(["gallery", str(model), str(images), "--output", str(tmp_path / "raw"), "--quiet"]) == 0
        text = (tmp_path / "raw" / "gallery.html").read_text(encoding="utf-8")
        data = json.loads(re.search(r'id="data">(.*?)</script>', text)[1])
        assert len(data["scores"]) == 9


def found(text: str) -> list:
    """Result that a script has stored in the page."""
    value = re.search(r'data-found="([^"]*)"', text)
    assert value, text[-2000:]
    return json.loads(value[1].replace("&quot;", '"').replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
