"""The kinds of input that are no volumes: settings, JSON files, weights and archives."""

import json
import shutil

from tests.fuzz import mutations
from tests.fuzz.kinds import command, door, kind, predict
from tests.fuzz.mutations import pick
from tests.fuzz.weight_files import changed_checkpoint, changed_safetensors
from tests.fuzz.zip_files import changed_zip

# -------------------------------------------------------------------------------------------------------------- JSON


@kind
def settings(rng, samples, folder):
    from medsam_adapt.bundle.contents import bundle_names
    from medsam_adapt.bundle.settings import knobs_model

    bundle = pick(rng, bundle_names())
    names = list(knobs_model(bundle).model_fields)
    pairs = []
    for _ in range(int(rng.integers(1, 4))):
        value = mutations.strange_value(rng)
        text = json.dumps(value) if rng.random() < 0.5 else str(value)
        name = pick(rng, names) if rng.random() < 0.9 else str(mutations.strange_value(rng))
        pairs += ["--set", f"{name}={text}".replace("\0", "\\0").encode("utf-8", "replace").decode()]
    where = samples.folder / ("nowhere" if rng.random() < 0.9 else "data")
    if where.name == "data":  # a data set that is rejected because its class is missing, when all settings are right
        pairs += ["--set", 'classes=["lung"]']
    return command("train", "--bundle", bundle, "--data", where, "--output", folder / "out", *pairs)


def _run_with(rng, samples, folder, name, content, *commands):
    samples.linked_run("run", folder / "run", name).write_bytes(content)
    run = folder / "run"
    chosen = pick(rng, commands)
    if chosen == "predict":
        (folder / "a.nii").write_bytes(samples.image)
        return command(
            "predict",
            run,
            "-i",
            folder / "a.nii",
            "-o",
            folder / "out",
            "--device",
            "cpu",
            "--report",
            folder / "home" / "report.json",
        )
    if chosen == "evaluate":
        return command(
            "evaluate", run, "--data", samples.folder / "data", "--output", folder / "out", "--device", "cpu"
        )
    if chosen == "repeat":
        return command("train", "--repeat", run, "--output", folder / "out", "--data", samples.folder / "nowhere")
    if chosen == "resume":
        return command("train", "--resume", "--output", run, "--data", samples.folder / "nowhere")
    images = ["--no-images"] if rng.random() < 0.3 else []
    return command("report", run, "--output", folder / "home" / "page.html", *images)


@kind
def run_record(rng, samples, folder):
    content = json.loads((samples.folder / "run" / "run.json").read_text())
    changed = mutations.json_bytes(rng, content)
    return _run_with(rng, samples, folder, "run.json", changed, "predict", "report", "repeat", "evaluate", "resume")


@kind
def run_files(rng, samples, folder):
    name = pick(
        rng,
        ("metrics.json", "shown_cases.json", "training.json", "statistics.json", "models/adapter/adapter_config.json"),
    )
    changed = mutations.json_bytes(rng, json.loads((samples.folder / "run" / name).read_text()))
    return _run_with(rng, samples, folder, name, changed, "predict" if name == "statistics.json" else "report")


@kind
def splits(rng, samples, folder):
    from medsam_adapt.bundle.catalogue import resolve_knobs
    from medsam_adapt.data import TrainingData

    one = {"seed": 0, "train": ["case_0", "case_1"], "held_out": ["case_2"]}
    folds = rng.random() < 0.5
    path = folder / "splits.json"
    path.write_bytes(mutations.json_bytes(rng, {"seed": 0, "folds": [one, one]} if folds else one))
    knobs = resolve_knobs("lora", sets={"split_file": str(path), **({"fold": 1} if folds else {})})
    return door(TrainingData.of, samples.folder / "data", knobs)


@kind
def data_lists(rng, samples, folder):
    data = folder / "data"
    shutil.copytree(samples.folder / "data", data)
    cases = [{"image": f"images/case_{n}.nii.gz", "label": f"labels/case_{n}.nii.gz"} for n in range(3)]
    layout = pick(rng, ("datalist", "msd", "nnunet", "folder"))
    if layout == "datalist":
        name, content = "datalist.json", {"labels": {"1": "liver", "2": "spleen"}, "training": cases}
        cases[0]["patient"], cases[1]["id"] = "a", "b"
        if rng.random() < 0.3:
            cases[2]["label"] = {"1": "labels/case_2.nii.gz"}
    elif layout == "msd":
        name, content = "dataset.json", {"labels": {"0": "background", "1": "liver", "2": "spleen"}, "training": cases}
    elif layout == "nnunet":
        (data / "images").rename(data / "imagesTr")
        (data / "labels").rename(data / "labelsTr")
        for path in (data / "imagesTr").iterdir():
            path.rename(path.with_name(path.name.replace(".nii", "_0000.nii")))
        labels = {"background": 0, "liver": 1, "spleen": [1, 2]} if rng.random() < 0.5 else {"liver": 1, "spleen": 2}
        name, content = "dataset.json", {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 3}
        content |= {"file_ending": ".nii.gz", "regions_class_order": [1, 2]}
    else:
        name, content = "labels.json", {"1": "liver", "2": "spleen"}
    (data / name).write_bytes(mutations.json_bytes(rng, content))
    if rng.random() < 0.2:
        return command("data", "split", data, "-o", folder / "home" / "folds.json", "--folds", "3")
    return command("data", "check", data, *(["--layout", layout] if rng.random() < 0.5 else []))


@kind
def label_maps(rng, samples, folder):
    path = folder / "map.json"
    path.write_bytes(
        mutations.json_bytes(rng, {"1": "liver", "2": "liver"} if rng.random() < 0.5 else {"1": 3, "2": 0})
    )
    if rng.random() < 0.5:
        return command("data", "convert", samples.folder / "data", "-o", folder / "out", "--map", path)
    labels = samples.folder / "data" / "labels"
    return command("evaluate", "--pred", labels, "--ref", labels, "--labels", path, "--output", folder / "out")


@kind
def prompts(rng, samples, folder):
    box = {"label": "liver", "units": "voxel", "box": [[1, 1, 1], [4, 5, 3]]}
    point = {"label": 2, "units": "mm-ras", "box": [[-2, -4, 5], [-8, -8, 10]], "points": [{"at": [-10, -8, 5]}]}
    content = {"cases": {"a": [box, point]}} if rng.random() < 0.5 else {"units": "mm-lps", "prompts": [point, box]}
    (folder / "prompts.json").write_bytes(mutations.json_bytes(rng, content))
    (folder / "a.nii").write_bytes(samples.image)
    more = ["--propagate"] if rng.random() < 0.3 else []
    return predict(samples, folder / "a.nii", folder, "--prompts", folder / "prompts.json", *more, run="box")


# ----------------------------------------------------------------------------------------------------------- weights


@kind
def adapters(rng, samples, folder):
    from medsam_adapt.networks import load_adapter

    source = samples.folder / "run" / "models" / "adapter"
    target = folder / "adapter"
    shutil.copytree(source, target)
    if rng.random() < 0.5:
        config = json.loads((source / "adapter_config.json").read_text())
        (target / "adapter_config.json").write_bytes(mutations.json_bytes(rng, config))
    else:
        (target / "adapter_model.safetensors").write_bytes(changed_safetensors(rng, samples.weights["adapter"]))

    return door(load_adapter, samples.segmenter, target)


@kind
def checkpoints(rng, samples, folder):
    from medsam_adapt.networks.checkpoints import load_checkpoint
    from medsam_adapt.weights.backbones import get_variant

    path = folder / pick(rng, ("w.pth", "w.pt", "w.safetensors"))
    changed_checkpoint(rng, samples.weights["sam"], path, folder / "marker")
    if rng.random() < 0.4:
        return command("weights", "import", path, *(["--name", "medsam_vit_b"] if rng.random() < 0.3 else []))
    sam = samples.sams[int(rng.integers(2))]
    return door(load_checkpoint, sam, path, get_variant("vit_nano"), sam.mask_decoder.num_mask_tokens != 4)


@kind
def run_weights(rng, samples, folder):
    path = samples.linked_run("run", folder / "run", "models/model.pt")
    changed_checkpoint(rng, samples.weights["run"], path, folder / "marker")
    (folder / "a.nii").write_bytes(samples.image)
    return command("predict", folder / "run", "-i", folder / "a.nii", "-o", folder / "out", "--device", "cpu")


@kind
def zips(rng, samples, folder):
    path = folder / "a.zip"
    changed_zip(rng, samples, path)
    return predict(samples, path, folder)
