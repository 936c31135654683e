"""Logits that Hugging Face transformers computes in f64 of folders that a run of training wrote: runtime/train/model/exported.test.ts asks.

usage: python logits_of.py FOLDER... < ids.json     (torch 2.15, transformers 5.24)

Prints {folder: {"logits": [[...]], "missing": [...]}}: one list of ids is one text; a name is missing that the folder should have.
"""
import json
import sys

import torch
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)
ids = torch.tensor([json.load(sys.stdin)])
found = {}
for folder in sys.argv[1:]:
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, attn_implementation="eager", experts_implementation="eager", output_loading_info=True)
    with torch.no_grad():
        logits = model.eval()(ids).logits[0]
    names = sorted({*info["missing_keys"], *info["unexpected_keys"]})
    found[folder] = {"logits": logits.tolist(), "missing": names}
print(json.dumps(found))
