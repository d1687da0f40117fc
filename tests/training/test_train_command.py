"""``./hilum train``: a recipe to a bundle with its card, stopped and resumed; and what goes wrong in one line."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image
from samples import write_sample

from models.bundle import load_bundle
from training import __main__ as command
from training import loop, run
from training.labels import settle
from training.recipe import load_recipe, recipe_names

TOML = """
name = "mine"
about = "Pneumothorax of a table of files"

[data]
set = "plain"
findings = ["pneumothorax"]

[split]
official = false
val = 0.3
test = 0.3

[picture]
size = 64

[network]
_target_ = "models.networks.TransitionClassifier"
outputs = 1
trunk = "resnet18"
transition = 0
pooling = "mean"

[task]
kind = "classification"

[loss]
kind = "bce"

[augmentation]
degrees = 5.0
log_scale = 0.05
shift = 0.05

[schedule]
epochs = 2
batch = 3
rate = 1e-3

[evaluation]
watch = "loss"
report = ["auroc", "calibration"]
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample("plain", tmp_path_factory.mktemp("plain"))


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(TOML)
    return path


def called(*arguments: object) -> int:
    return command.main([*map(str, arguments), "--threads", "1"])


def test_a_recipe_becomes_a_bundle_and_the_card_is_told(
    recipe: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine"
    assert called(recipe, "--data", data, "--out", out, "--epochs", 1, "--pictures", tmp_path / "pictures") == 0
    assert f"its card is {out / 'docs' / 'card.html'}" in capsys.readouterr().err
    assert load_bundle(out).identity.name == "mine"
    told = json.loads((out / "configs" / "metadata.json").read_text())["hilum"]["provenance"]
    assert told["command"] == "./hilum train mine --epochs 1 --seed 7"
    assert (out / "run" / "last.pt").exists()
    assert list((tmp_path / "pictures").iterdir())


def test_ctrl_c_is_told_and_resume_goes_on_to_the_same_weights(
    recipe: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert called(recipe, "--data", data, "--out", whole) == 0
    epochs = []
    original = loop._Trainer._epoch

    def interrupted(self: loop._Trainer, epoch: int, *rest: object) -> dict[str, float]:
        epochs.append(epoch)
        if len(epochs) == 2:
            raise KeyboardInterrupt
        return original(self, epoch, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(loop._Trainer, "_epoch", interrupted)
        assert called(recipe, "--data", data, "--out", parts) == command.INTERRUPTED
    assert "--resume goes on" in capsys.readouterr().err
    assert not (parts / "configs").exists()
    assert called(recipe, "--data", data, "--out", parts) == 1
    assert "resume it, or name another folder" in capsys.readouterr().err
    assert called(recipe, "--data", data, "--out", parts, "--resume") == 0
    assert epochs == [0, 1]
    digests = [load_bundle(folder).identity.weights_digest for folder in (whole, parts)]
    assert digests[0] == digests[1]


def test_pictures_that_cannot_be_read_end_a_run_before_it_begins(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe.write_text(TOML.replace('set = "plain"', 'set = "nih"'))  # whose reader opens no picture
    data, followed = write_sample("nih", tmp_path / "nih"), load_recipe(str(recipe))
    for record in run.divide(settle(run.read(followed, data), followed.data, 7), followed, 7)["val"]:
        record.image.write_bytes(b"no picture")
    assert called(recipe, "--data", data, "--out", tmp_path / "mine") == 1
    told = capsys.readouterr().err
    assert "0 to choose by could be read: none of one (" in told
    assert "Traceback" not in told
    assert not (tmp_path / "mine" / "run" / "last.pt").exists()


def test_what_was_left_out_is_told_with_its_first_rows_and_where_all_of_them_are(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = write_sample("plain", tmp_path / "plain"), tmp_path / "mine"
    (table,) = data.glob("*.csv")
    for i in range(7):
        table.write_text(table.read_text() + f"nowhere{i}.png,p9\n")
    lines = len(table.read_text().splitlines())
    followed = load_recipe(str(recipe))
    first = run.divide(settle(run.read(followed, data), followed.data, 7), followed, 7)["test"][0]
    with Image.open(first.image) as picture:
        size = picture.size
    first.image.write_bytes(_without_pixels(*size))  # a whole header, so that it is missed when it is rendered alone
    assert called(recipe, "--data", data, "--out", out, "--epochs", 1) == 0
    told = capsys.readouterr().err
    facts = json.loads((out / "run" / "run.json").read_text())
    rows = [one["row"] for one in facts["left_out"]]
    assert f"{table.name}:{lines}" in rows
    assert rows[-1] == first.row
    assert f"hilum: {len(rows) - 1} rows, images or parts of them were left out; {out / 'run' / 'run.json'}" in told
    assert "hilum: 1 rows, images" in told
    for one in (*facts["left_out"][:5], facts["left_out"][-1]):
        assert f"  {one['row']}: {one['reason']}\n" in told
    assert f"{table.name}:{lines}:" not in told
    assert json.loads((out / "configs" / "metadata.json").read_text())["hilum"]["provenance"]["left_out"] == len(rows)


def _without_pixels(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()[:50]


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_a_package_that_an_export_lacks_is_told_before_anything_is_read(
    name: str, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert called(recipe, "--data", tmp_path, "--out", tmp_path / "out", "--export", name) == 1
    assert f"pip install {name}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_finished_run_is_judged_again_without_training(recipe: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    assert called(recipe, "--data", data, "--out", out, "--epochs", 1) == 0
    before = (out / "run" / "log.jsonl").read_bytes()
    (out / "docs" / "card.html").unlink()
    assert called(recipe, "--data", data, "--out", out, "--epochs", 1, "--resume") == 0
    assert (out / "docs" / "card.html").exists()
    assert (out / "run" / "log.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nihh"], "there is no recipe nihh"),
        (["nih_densenet121"], "learns from nih: name the folder of that data set with --data"),
        (["nih_densenet121", "--data", "nowhere"], "nowhere is not there: unpack the data set nih"),
        (["lung_fields", "--resume"], "lung_fields is trained in one go"),
        (["chest_findings", "--device", "cuda"], "want a recipe"),
        (["nih_densenet121", "--data", ".", "--device", "cuda"], "no CUDA device here"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command.torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    assert called(*arguments, *(["--out", "out"] if "--resume" not in arguments else [])) == 1
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1
    assert said.startswith("hilum: ")


def test_a_recipe_that_cannot_be_followed_is_told_before_anything_is_read(
    recipe: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe.write_text(TOML.replace('"calibration"', '"dice"'))
    assert called(recipe, "--data", data, "--out", tmp_path / "out") == 1
    assert "names dice, and classification gives" in capsys.readouterr().err
    recipe.write_text(TOML.replace("size = 64", 'size = 64\nlungs = "crop"'))
    assert called(recipe, "--data", data, "--out", tmp_path / "out") == 1
    assert "whole radiographs" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_list_names_every_recipe_and_bundle(capsys: pytest.CaptureFixture[str]) -> None:
    assert called("--list") == 0
    said = capsys.readouterr().out
    for name in (*recipe_names(), "pixel_gate", "lung_fields", "chest_findings"):
        assert name in said


def test_nothing_named_is_a_usage_error() -> None:
    with pytest.raises(SystemExit):
        called()


def test_what_is_written_beside_another_has_no_folder_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        called("lung_opacity", "--out", "somewhere")
    assert "./hilum train chest_findings --out DIR" in capsys.readouterr().err


def test_a_run_goes_by_default_where_git_does_not_look() -> None:
    ignored = (Path(run.__file__).parent.parent / ".gitignore").read_text().splitlines()
    assert "/runs/" in ignored
