"""Features against torchvision's pipeline, and the fingerprint of what they are of."""

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from lookalike.data import BrokenImage, open_source
from lookalike.evaluation import features, fingerprint, with_statistics
from lookalike.evaluation.features import crop


class Pictures:
    """A source of images in memory; None stands for a broken one."""

    def __init__(self, images: list[Tensor | None], labels: Tensor | None = None) -> None:
        self.images, self.labels = images, labels
        self.label_sets = None
        self.keys = torch.arange(len(images))
        self.classes = None if labels is None else ("a", "b")
        self.channels = next(len(image) for image in images if image is not None)

    def __len__(self) -> int:
        return len(self.images)

    def name(self, i: int) -> str:
        return f"{i}.png"

    def read(self, i: int, decode_size: int | None) -> Tensor:
        assert decode_size is None  # the reference protocol decodes in full
        if (image := self.images[i]) is None:
            raise BrokenImage(self.name(i), "it is truncated")
        return image


def picture(height, width, seed=0, channels=3):
    """Smooth shapes with some noise, uint8."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, channels, 6, 6, generator=g)
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]
    return (smooth * 230 + torch.rand(channels, height, width, generator=g) * 25).to(torch.uint8)


PLAIN = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
SIZES = [(60, 90), (90, 61), (37, 37), (20, 33), (300, 130), (32, 200)]


@pytest.mark.parametrize("size", [32, 56])
def test_features_meet_the_pipeline_of_torchvision(size):
    from torchvision import transforms as T

    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    reference = T.Compose(
        [
            T.Resize(round(size * 256 / 224), T.InterpolationMode.BICUBIC),
            T.CenterCrop(size),
            T.ToTensor(),
            T.Normalize(mean, std),
        ]
    )
    images = [picture(h, w, seed) for seed, (h, w) in enumerate(SIZES)]
    made = features(nn.Flatten(), Pictures(images), image_size=size, mean=mean, std=std)
    for row, image in zip(made.features, images):
        expected = reference(Image.fromarray(image.permute(1, 2, 0).numpy()))
        difference = (row.view(3, size, size) - expected).abs() * torch.tensor(std).view(3, 1, 1) * 255
        assert difference.max() < 1.01  # Pillow's and torch's fixed-point sums differ by one level at most
        assert difference.mean() < 0.25


def test_other_types_give_the_same_picture():
    image = picture(70, 50)
    wide = (image.to(torch.int32) * 257).to(torch.uint16)
    from_float, from_wide = crop(image.float() / 255, 32), crop(wide, 32)
    torch.testing.assert_close(from_wide, from_float)
    assert from_float.dtype == torch.float32
    assert (crop(image, 32).float() / 255 - from_float).abs().max() < 1.01 / 255
    made = features(nn.Flatten(), Pictures([image, wide, image.float() / 255]), image_size=32, **PLAIN)
    assert (made.features - made.features[0]).abs().max() < 1.01 / 255
    edge = torch.zeros(1, 40, 40)
    edge[..., 20:] = 1.0
    assert crop(edge, 32).min() == 0  # bicubic overshoots
    assert crop(edge, 32).max() == 1


@pytest.mark.parametrize("channels", [1, 4])
def test_any_number_of_channels(channels):
    source = Pictures([picture(40, 40, channels=channels)])
    made = features(nn.Flatten(), source, image_size=32, mean=(0.5,) * channels, std=(0.25,) * channels)
    assert made.features.shape == (1, channels * 32 * 32)
    with pytest.raises(ValueError, match=f"images have {channels} channels?, but mean has 3"):
        features(nn.Flatten(), source, image_size=32, **PLAIN)


def small_encoder():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_features_do_not_depend_on_batch_size_or_workers(workers):
    source = Pictures([picture(40, 50, seed) for seed in range(11)], torch.arange(11) % 2)
    encoder = small_encoder()
    whole = features(encoder, source, image_size=32, **PLAIN)
    seen = []
    parts = features(
        encoder,
        source,
        image_size=32,
        batch_size=4,
        workers=workers,
        progress=lambda done, of: seen.append((done, of)),
        **PLAIN,
    )
    torch.testing.assert_close(parts.features, whole.features, rtol=1e-5, atol=1e-6)
    assert seen == [(4, 11), (8, 11), (11, 11)]
    assert whole.features.shape == (11, 8)
    assert whole.features.dtype == torch.float32
    assert torch.equal(parts.labels, source.labels)
    assert parts.names == [f"{i}.png" for i in range(11)]
    assert parts.index.tolist() == list(range(11))


def test_an_untrained_encoder_gets_the_statistics_of_the_images():
    source = Pictures([picture(40, 40, seed) for seed in range(40)])
    fresh = small_encoder()
    state = {name: value.clone() for name, value in fresh.state_dict().items()}
    ready = with_statistics(fresh, source, image_size=32, **PLAIN)
    assert all(torch.equal(value, state[name]) for name, value in fresh.state_dict().items())
    inputs = features(nn.Flatten(), source, image_size=32, **PLAIN).features.view(40, 3, 32, 32)
    maps = fresh[0](inputs).detach()
    torch.testing.assert_close(ready[1].running_mean, maps.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ready[1].running_var, maps.var((0, 2, 3)), rtol=1e-3, atol=1e-5)
    assert ready[1].momentum == fresh[1].momentum
    assert not any(module.training for module in ready.modules())
    without = with_statistics(nn.Sequential(nn.Flatten()), source, image_size=32, **PLAIN)
    assert isinstance(without[0], nn.Flatten)


def test_features_leave_encoder_and_generator_as_they_were():
    encoder = small_encoder().train()
    encoder[1].eval()
    state = {name: value.clone() for name, value in encoder.state_dict().items()}
    modes = [module.training for module in encoder.modules()]
    assert len(set(modes)) == 2
    before = torch.get_rng_state()
    made = features(encoder, Pictures([picture(40, 40)]), image_size=32, **PLAIN)
    assert torch.equal(torch.get_rng_state(), before)
    assert [module.training for module in encoder.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in encoder.state_dict().items())
    weight = torch.ones(8, requires_grad=True)
    (made.features @ weight).sum().backward()  # an inference tensor would refuse

    class Failing(nn.Module):
        def forward(self, x):
            raise RuntimeError("out of memory")

    failing = nn.Sequential(Failing()).train()
    with pytest.raises(RuntimeError, match="out of memory"):
        features(failing, Pictures([picture(40, 40)]), image_size=32, **PLAIN)
    assert failing.training


def test_broken_images_are_left_out_and_listed():
    images = [picture(40, 40, seed) for seed in range(6)]
    good = features(small_encoder(), Pictures(images), image_size=32, **PLAIN)
    holes = [None if i in (1, 2, 5) else image for i, image in enumerate(images)]
    source = Pictures(holes, torch.tensor([0, 1, 0, 1, 1, 0]))
    made = features(small_encoder(), source, image_size=32, batch_size=2, **PLAIN)
    torch.testing.assert_close(made.features, good.features[[0, 3, 4]], rtol=1e-5, atol=1e-6)
    assert made.labels.tolist() == [0, 1, 1]
    assert made.names == ["0.png", "3.png", "4.png"]
    assert made.index.tolist() == [0, 3, 4]
    assert made.broken == [(f"{i}.png", "it is truncated") for i in (1, 2, 5)]
    source.images = [None, None]
    with pytest.raises(ValueError, match=r"None of the 2 images could be read; the first is 0\.png: it is truncated"):
        features(small_encoder(), source, image_size=32, **PLAIN)


def test_an_encoder_must_give_vectors():
    with pytest.raises(ValueError, match=r"\(1, 8, 15, 15\); expected \(B, D\)"):
        features(small_encoder()[:1], Pictures([picture(40, 40)]), image_size=32, **PLAIN)


def photos(folder, change=None):
    """Forty photos in two class folders, one of them broken."""
    for i in range(40):
        path = folder / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = i + 100 if change == "content" else i
        Image.fromarray(picture(40, 44, seed).permute(1, 2, 0).numpy()).save(path)
    (folder / "b/39.png").write_bytes(b"")
    if change == "name":
        (folder / "a/0.png").rename(folder / "a/zero.png")
    if change == "class":
        (folder / "a/0.png").rename(folder / "b/0.png")
    if change == "missing":
        (folder / "a/0.png").unlink()
    return folder


def test_features_of_a_folder(tmp_path):
    source = open_source(photos(tmp_path), labelled=True)
    made = features(small_encoder(), source, image_size=32, workers=2, batch_size=8, **PLAIN)
    assert len(made.features) == 39
    assert [source.classes[y] for y in made.labels] == [name[0] for name in made.names]
    assert [name for name, _ in made.broken] == ["b/39.png"]
    assert made.names == [source.name(i) for i in made.index.tolist()]


def test_fingerprint_notices_every_kind_of_change(tmp_path):
    def of(folder, change=None, labelled=True):
        return fingerprint(open_source(photos(tmp_path / folder, change), labelled=labelled))

    plain = of("plain")
    assert of("elsewhere") == plain
    assert len(plain) == 64
    others = {of(change, change) for change in ("name", "class", "missing", "content")} | {
        of("unlabelled", labelled=False)
    }
    assert len(others - {plain}) == 5
    one, two = (open_source(tmp_path / name, labelled=True) for name in ("plain", "name"))
    assert fingerprint(one, two) != fingerprint(two, one)


def test_fingerprint_does_not_depend_on_file_order(tmp_path):
    photos(tmp_path)
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png"))
    (tmp_path / "list.txt").write_text("\n".join(names))
    (tmp_path / "turned.txt").write_text("\n".join(reversed(names)))
    one, two, whole = (open_source(tmp_path / name, labelled=True) for name in ("list.txt", "turned.txt", ""))
    assert one.name(0) != two.name(0)
    assert fingerprint(one) == fingerprint(two) == fingerprint(whole)
