"""GR00T's prompts: text, ids, padding and bad tasks, against NVIDIA's own processor."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_core.errors import ConfigError, DataError
from flux_core.tokenizers import ByteTokenizer, PretrainedTokenizer, save_tokenizer
from flux_core.transforms import NormalizeImages, Pipeline, ProcessPromptsWithImage
from flux_core.transforms.gr00t import prompt_words
from flux_data.samples.collate import DictCollator

from ...conftest import MakeOnce
from ...qwen_files import write_qwen_files

IMAGE_TOKENS = 256


@pytest.fixture(scope="module")
def cases(shared_data: Path) -> dict[str, Any]:
    return json.loads((shared_data / "parity-gr00t" / "prompt_cases.json").read_text())


@pytest.fixture(scope="module")
def qwen(shared_data: Path, made_once: MakeOnce) -> PretrainedTokenizer:
    source = shared_data / "parity-gr00t"
    folder = made_once("qwen_tokenizer", lambda folder: write_qwen_files(source, folder))
    return PretrainedTokenizer(model_path=str(folder))


def expanded(ids: Sequence[Any]) -> list[int]:
    """[id, n] is n times id."""
    return [i for each in ids for i in ([each[0]] * each[1] if isinstance(each, list) else [each])]


def process(tokenizer: PretrainedTokenizer | ByteTokenizer, **settings: Any):
    return ProcessPromptsWithImage(tokenizer=tokenizer, **settings)


def test_all_prompts_have_nvidias_ids(cases: dict, qwen: PretrainedTokenizer) -> None:
    for case in cases["cases"]:
        length, brackets = case["num_tokens"], "brackets" in case["how"]
        step = process(
            qwen, max_len=length + 3, num_images=case["cameras"], task_in_brackets=brackets
        )
        sample = step({"task_description": case["task"][0]})
        assert sample["lang_tokens"].dtype == np.int64
        assert sample["lang_masks"].tolist() == [False] * 3 + [True] * length
        assert sample["lang_tokens"][3:].tolist() == expanded(case["ids"]), case["how"]
        assert sample["lang_tokens"][:3].tolist() == [cases["special"]["<|endoftext|>"]] * 3


def test_the_text_is_nvidias(cases: dict, qwen: PretrainedTokenizer) -> None:
    case = cases["cases"][2]
    step = process(qwen, num_images=2)
    text = case["text"]
    for number in (1, 2):
        places = f"<image {number}><img>{'<IMG_CONTEXT>' * IMAGE_TOKENS}</img>"
        text = text.replace(f"<image-{number}>", places)
    assert step.text_of(case["task"][0]) == text
    assert step.write_prompt({"task_description": case["task"][0]})["prompt"] == text


def test_a_batch_is_padded_as_nvidias(cases: dict, qwen: PretrainedTokenizer) -> None:
    batch = cases["left_padded_batch"]
    step = process(qwen, max_len=289, num_images=1)
    for task, ids, mask in zip(batch["tasks"], batch["ids"], batch["mask"], strict=True):
        sample = step({"task_description": task, "actions": None})
        assert sample["lang_tokens"].tolist() == expanded(ids)
        assert sample["lang_masks"].tolist() == [bool(i) for i in expanded(mask)]


def test_every_sample_of_a_batch_has_its_own_task(qwen: PretrainedTokenizer) -> None:
    step = process(qwen, max_len=40, num_images=1, image_tokens=4)
    tasks = ["fold the towel", "拿起红色的杯子", "fold the towel.", "", "Fold the towel"]
    collate = DictCollator(keys=("lang_tokens", "lang_masks"))
    batch = collate([step({"task_description": task}) for task in tasks])
    assert batch["lang_tokens"].shape == (5, 40)
    tokenizer = qwen.load()
    for task, ids, mask in zip(tasks, batch["lang_tokens"], batch["lang_masks"], strict=True):
        words = tokenizer.decode(ids[mask].tolist())  # without special tokens
        assert words.endswith(f"<image 1>{task}\nassistant\n")


@pytest.mark.parametrize("task", ["put <IMG_CONTEXT> away", "<IMG_CONTEXT>"])
def test_a_task_with_the_place_of_an_image_is_refused(task: str) -> None:
    step = process(ByteTokenizer(words=prompt_words(2)), image_tokens=4)
    with pytest.raises(DataError, match=r"task: expected words, got .*<IMG_CONTEXT>"):
        step({"task_description": task})


def test_a_long_prompt_is_refused_in_training_and_loses_the_tasks_end_on_the_robot(
    qwen: PretrainedTokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    step = process(qwen, max_len=285, num_images=1)
    task = {"task_description": "pick up the squash from the counter"}
    with pytest.raises(DataError, match=r"max_len: the prompt of 'pick up .* has 289 tokens"):
        step({**task, "actions": np.zeros((2, 2))})
    sample = step(task)
    assert "' squash from the counter'" in caplog.text
    whole = process(qwen, max_len=285, num_images=1)({"task_description": "pick up the"})
    kept = whole["lang_tokens"][whole["lang_masks"]]
    assert sample["lang_masks"].all()
    assert sample["lang_tokens"].tolist()[-len(kept) :] == kept.tolist()
    with pytest.raises(DataError, match="expected at most 281"):
        process(qwen, max_len=281, num_images=1)(task)


def test_another_number_of_cameras_is_refused() -> None:
    step = process(ByteTokenizer(), num_images=2, image_tokens=1)
    sample = {"task_description": "fold", "image_masks": np.ones(3, np.bool_)}
    with pytest.raises(DataError, match=r"num_images: expected 3 \(the sample's cameras\), got 2"):
        step(sample)
    assert step.with_cameras([0, 2, 3]).num_images == 3
    assert step(sample | {"image_masks": np.array([True, False])})["lang_masks"].any()


@pytest.mark.parametrize("fields", [{"num_images": 10}, {"image_tokens": 0}, {"max_len": 0}])
def test_settings_that_no_network_can_read_are_refused(fields: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields))):
        process(ByteTokenizer(), **fields)


def test_the_byte_tokenizer_has_a_token_for_each_fixed_part() -> None:
    tokenizer = ByteTokenizer(words=prompt_words(2))
    step = process(tokenizer, num_images=2, image_tokens=4, max_len=40)
    sample = step({"task_description": "fold"})
    image = tokenizer.encode("<IMG_CONTEXT>")[1]
    # BOS, beginning, per camera a label, <img>, its places and </img>, the task's bytes, ending.
    assert sample["lang_masks"].sum() == 1 + 1 + 2 * (1 + 1 + 4 + 1) + 4 + 1
    assert (sample["lang_tokens"] == image).sum() == 8


def test_the_pipeline_needs_no_prompter() -> None:
    step = process(ByteTokenizer(), num_images=1, image_tokens=2)
    pipeline = Pipeline((step,))
    assert pipeline.prompt({"task_description": "fold"})["prompt"] == step.text_of("fold")
    with pytest.raises(ConfigError, match="expected one TaskPrompter"):
        Pipeline((NormalizeImages(means=(), stds=()),)).prompt({"task_description": "fold"})


def test_the_robots_prompt_is_compared_without_the_tokenizers_path() -> None:
    step = process(PretrainedTokenizer(model_path="somewhere"), num_images=3)
    assert step.for_robot(2, 7) == process(PretrainedTokenizer(), num_images=2)


def test_qwens_tokenizer_is_saved_as_one_file_that_gives_the_same_ids(
    cases: dict, qwen: PretrainedTokenizer, tmp_path: Path
) -> None:
    save_tokenizer(qwen, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["tokenizer.json"]
    saved = PretrainedTokenizer().load(tmp_path)
    whole = qwen.load()
    assert saved.vocab_size == whole.vocab_size == 151680
    assert saved.pad_id == whole.pad_id == cases["special"]["<|endoftext|>"]
    for text in (
        "don't  touch\n\n 12345 Ünïcode 拿起\tx",
        "<|im_end|><think>a</think>",
        "",
        "é e\u0301",
    ):
        assert saved.encode(text) == whole.encode(text)
    assert saved.decode(saved.encode("Fold the towel, 3 times!")) == "Fold the towel, 3 times!"
    assert saved.encode("e\u0301") == saved.encode("é"), "text is composed first (NFC)"


def test_qwens_tokenizer_needs_neither_torch_nor_transformers(qwen: PretrainedTokenizer) -> None:
    script = (
        "import sys\n"
        "from flux_core.tokenizers import PretrainedTokenizer\n"
        f"assert PretrainedTokenizer(model_path={qwen.model_path!r}).load().encode('wipe')\n"
        "assert not {'torch', 'transformers'} & set(sys.modules), sorted(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_files_of_different_tokenizers_are_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1, "ab": 2}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    (tmp_path / "added_tokens.json").write_text('{"<|endoftext|>": 7}')
    with pytest.raises(ConfigError, match=r"expected <\|endoftext\|> to have id 3.*got 7"):
        PretrainedTokenizer(model_path=str(tmp_path)).load()


def test_a_malformed_file_is_named(tmp_path: Path) -> None:
    for name in ("vocab.json", "merges.txt", "added_tokens.json"):
        (tmp_path / name).write_text("[]")
    with pytest.raises(ConfigError, match=r"vocab\.json: expected tokens and their ids"):
        PretrainedTokenizer(model_path=str(tmp_path)).load()
