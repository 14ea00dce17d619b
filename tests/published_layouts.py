"""Small copies of published data sets: each in the folders, and under the names, that the real one has."""

from pathlib import Path

import cv2
import numpy as np
import torch

from evssm.data.published import PUBLISHED

H, W = 24, 40
SEQUENCES = {"train": ("GOPR0372_07_00", "GOPR0374_11_00"), "test": ("GOPR0384_11_00", "GOPR0385_11_01")}
SMALL = {
    "GoPro": PUBLISHED["GoPro"]._replace(counts={"train": 6, "test": 4}, size=(H, W), crops={"train": 3}),
    "HIDE": PUBLISHED["HIDE"]._replace(counts={"train": 3, "test": 4}, size=(H, W)),
    "RealBlur-J": PUBLISHED["RealBlur-J"]._replace(counts={"train": 4, "test": 2}),
    "RealBlur-R": PUBLISHED["RealBlur-R"]._replace(counts={"train": 4, "test": 2}),
    "DPDD": PUBLISHED["DPDD"]._replace(counts={"train": 3, "val": 2, "test": 4}, size=(H, W)),
}
"""What would be published of copies as small as those written here."""


class Camera:
    """Takes pictures of a new random scene each time: frames of a moving texture, as levels of 8 or 16 bits."""

    def __init__(self, bits=8, gain=0.7):
        self.rng, self.top, self.gain = np.random.default_rng(), (1 << bits) - 1, gain
        self.kind = f"uint{bits}"

    def frames(self, n=9):
        coarse = self.rng.random((4, 7, 3))
        scene = cv2.resize(coarse, (W + n, H), interpolation=cv2.INTER_CUBIC) + 0.4 * self.rng.random((H, W + n, 3))
        scene = self.gain * (0.05 + 0.9 * (scene - scene.min()) / np.ptp(scene))
        return [scene[:, k : k + W] for k in range(n)]

    def levels(self, x):
        return np.round(x * self.top).astype(self.kind)

    def pair(self, power=1.0):
        frames = self.frames()
        blurred = np.mean([x**power for x in frames], axis=0) ** (1 / power)
        return self.levels(blurred), self.levels(frames[len(frames) // 2])

    def variants(self):
        frames = self.frames()
        gamma = np.mean([x**2.2 for x in frames], axis=0) ** (1 / 2.2)
        return {"blur": np.mean(frames, axis=0), "blur_gamma": gamma, "sharp": frames[len(frames) // 2]}


def encoded(levels, suffix=".png"):
    return cv2.imencode(suffix, levels)[1].tobytes()


def as_tensor(levels):
    """What cv2 was given (BGR), as RGB in [0, 1]."""
    x = levels[..., ::-1].astype(np.float32) / np.float32(np.iinfo(levels.dtype).max)
    return torch.from_numpy(x).permute(2, 0, 1)


def write(path, levels):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(levels, path.suffix.lower()))


def gopro(root):
    for split, count in SMALL["GoPro"].counts.items():
        for k in range(count):
            for variant, frame in (camera := Camera()).variants().items():
                write(root / split / SEQUENCES[split][k % 2] / variant / f"{k:06d}.png", camera.levels(frame))
    return root


def pairs(folder, names, blurred="input", sharp="target", camera=None, suffix=".png"):
    for name in names:
        b, s = (camera or Camera()).pair()
        write(folder / blurred / f"{name}{suffix}", b)
        write(folder / sharp / f"{name}{suffix}", s)
    return folder


def mprnet(root):
    """GoPro, HIDE and both RealBlur sets side by side, as MPRNet and Restormer test on them."""
    pairs(root / "test" / "GoPro", [f"GOPR0384_11_00-{k:06d}" for k in range(4)])
    pairs(root / "train" / "GoPro", [f"GOPR0372_07_00-{k:06d}" for k in range(6)])
    pairs(root / "test" / "HIDE", [f"{k}fromGOPR0950" for k in range(4)])
    pairs(root / "test" / "RealBlur_J", ["scene001-1", "scene002-1"])
    pairs(root / "test" / "RealBlur_R", ["scene001-1", "scene002-1"], camera=Camera(gain=0.1))
    return root


def hide(root):
    for k, folder in enumerate(("train",) * 3 + ("test/test-close-ups", "test/test-long-shot") * 2):
        b, s = Camera().pair()
        write(root / folder / f"{k}fromGOPR0950.png", b)
        write(root / "GT" / f"{k}fromGOPR0950.png", s)
    return root


def realblur(root, kinds="JR", lists=True):
    folders = {
        "J": "RealBlur-J_ECC_IMCORR_centroid_itensity_ref",
        "R": "RealBlur-R_BM3D_ECC_IMCORR_centroid_itensity_ref",
    }
    for kind in kinds:
        lines = []
        for scene, number in ((s, n) for s in ("scene001", "scene002", "scene050") for n in (1, 2)):
            b, s = Camera(gain=0.7 if kind == "J" else 0.1).pair()
            places = [f"{folders[kind]}/{scene}/{role}/{role}_{number}.png" for role in ("gt", "blur")]
            write(root / places[0], s)
            write(root / places[1], b)
            lines.append(" ".join(places) + "\n")
        if lists:
            (root / f"RealBlur_{kind}_train_list.txt").write_text("".join(lines[:4]))
            (root / f"RealBlur_{kind}_test_list.txt").write_text("".join(lines[4:]))
    return root


def views(camera):
    frames = camera.frames()
    left, right, both = (np.mean(part, axis=0) for part in (frames[:5], frames[4:], frames))
    return {role: camera.levels(x) for role, x in zip("lrc", (left, right, both), strict=True)}, camera.levels(
        frames[4]
    )


def dpdd(root):
    number = 0
    for split, count in SMALL["DPDD"].counts.items():
        for _ in range(count):
            number += 2  # each shot has a number of its own: the sharp one was taken first
            blurred, sharp = views(Camera(16))
            for view, levels in blurred.items():
                write(root / f"{split}_{view}" / "source" / f"1P0A{number + 1:04d}.png", levels)
                write(root / f"{split}_{view}" / "target" / f"1P0A{number:04d}.png", sharp)
    return root


def dpdd_restormer(root):
    for k in range(SMALL["DPDD"].counts["test"]):
        blurred, sharp = views(Camera(16))
        for view, levels in (*blurred.items(), ("", sharp)):
            folder = f"input{view.upper()}" if view else "target"
            write(root / "test" / "DPDD" / folder / f"{k:03d}.png", levels)
    return root


def database(folder, images, meta=None):
    """An LMDB as BasicSR makes it; `meta` replaces lines of its list by number."""
    import lmdb

    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=1 << 24) as made, made.begin(write=True) as writing:
        for key, data in images.items():
            writing.put(key.encode(), data)
    lines = [f"{key}.png ({H},{W},3) 1" for key in images]
    for number, line in (meta or {}).items():
        lines[number : number + 1] = [line] if line else []
    (folder / "meta_info.txt").write_text("".join(f"{line}\n" for line in lines))
    return folder


def crops(root, names=("000001_s001", "000001_s002", "000002_s001"), **wrong):
    """GoPro's training crops as databases; `wrong` holds replaced meta lines of the blurred one."""
    made = {name: Camera().pair() for name in names}
    home = root / "GoPro" / "train"
    database(home / "blur_crops.lmdb", {name: encoded(b) for name, (b, _) in made.items()}, **wrong)
    database(home / "sharp_crops.lmdb", {name: encoded(s) for name, (_, s) in made.items()})
    return root, made


def linked(folder, count, blurred="input", sharp="target"):
    """As many pairs as a real set has, of one picture: every file is a hard link to it."""
    pairs(folder, ["00000"], blurred, sharp)
    for role in (blurred, sharp):
        for k in range(1, count):
            Path(folder / role / f"{k:05d}.png").hardlink_to(folder / role / "00000.png")
    return folder
