"""Prompts and tokens, against openpi's tokenizer on PaliGemma's vocabulary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_core.errors import ConfigError
from flux_core.tokenizers import ByteTokenizer, PretrainedTokenizer
from flux_core.transforms import PreparePromptWithState, ProcessPrompts, TaskPrompter
from flux_core.transforms.prompts import state_bins


@pytest.fixture(scope="module")
def cases(shared_data: Path) -> dict:
    return json.loads((shared_data / "tokenizer" / "cases.json").read_text())


@pytest.fixture(scope="module")
def paligemma(shared_data: Path) -> PretrainedTokenizer:
    path = shared_data / "tokenizer" / "paligemma_rebuilt.model"
    return PretrainedTokenizer(model_path=str(path))


def test_state_bins_equal_openpis(cases: dict) -> None:
    assert state_bins(np.array(cases["state"])).tolist() == cases["state_bins"]


def test_pi0_prompts_give_openpis_tokens(cases: dict, paligemma: PretrainedTokenizer) -> None:
    process = ProcessPrompts(tokenizer=paligemma, max_len=cases["max_len"]["pi0"])
    for case in cases["cases"]:
        sample = process(TaskPrompter()({"task_description": case["prompt"]}))
        assert sample["lang_tokens"].tolist() == case["pi0_tokens"], case["prompt"]
        assert sample["lang_masks"].tolist() == case["pi0_mask"]


def test_pi05_prompts_give_openpis_tokens(cases: dict, paligemma: PretrainedTokenizer) -> None:
    process = ProcessPrompts(tokenizer=paligemma, max_len=cases["max_len"]["pi05"])
    state = np.array(cases["state"], dtype=np.float64)
    for case in cases["cases"]:
        sample = {"task_description": case["prompt"], "states": state, "num_state_dims": len(state)}
        sample = process(PreparePromptWithState()(sample))
        assert sample["lang_tokens"].tolist() == case["pi05_tokens"], case["prompt"]
        assert sample["lang_masks"].tolist() == case["pi05_mask"]


def test_the_state_prompt_names_only_the_real_dimensions() -> None:
    state = np.zeros(32, dtype=np.float32)
    state[0], state[13] = -1.0, 1.0
    sample = {"task_description": "Move_the_block", "states": state, "num_state_dims": 14}
    assert PreparePromptWithState()(sample)["prompt"] == (
        "Task: Move the block, State: 0 128 128 128 128 128 128 128 128 128 128 128 128 255;\n"
        "Action: "
    )


def test_a_long_prompt_is_cut_with_a_warning_that_shows_what_is_dropped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sample = ProcessPrompts(tokenizer=ByteTokenizer(), max_len=5)({"prompt": "grasp it"})
    assert sample["lang_masks"].all() and len(sample["lang_tokens"]) == 5
    assert "'p it'" in caplog.text


WORDS = ("State:", " State", "ab", "abc", " 7")


@given(
    st.lists(st.sampled_from([*WORDS, " -1", " 0", " 255", " 256", "7", " "]) | st.text()),
    st.sampled_from([(), WORDS]),
    st.integers(1, 3),
)
def test_the_byte_tokenizer_loses_nothing(
    parts: list[str], words: tuple[str, ...], number_tables: int
) -> None:
    encodable = "".join(parts).encode(errors="ignore").decode()
    tokenizer = ByteTokenizer(words=words, number_tables=number_tables)
    ids = tokenizer.encode(encodable)
    assert tokenizer.decode(ids) == encodable
    assert all(0 <= token < tokenizer.vocab_size for token in ids)


def test_a_state_bin_is_one_token_of_the_byte_tokenizer() -> None:
    assert ByteTokenizer().encode(" -1 0 128 255") == [2, 260, 261, 389, 516]
    # Numbers that are not canonical stay bytes, so that decoding returns the same text.
    assert len(ByteTokenizer().encode(" 007 256 -2")) == 1 + 4 + 4 + 3


def test_each_joint_has_its_own_bins() -> None:
    tokenizer = ByteTokenizer(number_tables=2)
    assert tokenizer.encode(" -1 -1 -1") == [2, 260, 260 + 257, 260 + 257]
    assert tokenizer.vocab_size == 260 + 2 * 257


def test_a_word_is_one_token_and_the_longest_wins() -> None:
    tokenizer = ByteTokenizer(words=("ab", "abc"))
    assert tokenizer.encode("abcab") == [2, 518, 517]


@pytest.mark.parametrize("fields", [{"words": ("a", "a")}, {"words": ("",)}, {"number_tables": 0}])
def test_an_invalid_byte_tokenizer_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields))):
        ByteTokenizer(**fields)


def test_a_missing_tokenizer_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer\.model or tokenizer\.json at .*nowhere"):
        PretrainedTokenizer(model_path=str(tmp_path / "nowhere")).load()
