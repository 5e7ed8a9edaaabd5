"""The decoder: a GPT-2 by name, from a folder, or from scratch."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from utils.cli import UserError, loading
from utils.loading import quiet_transformers


def load_decoder(options, tokenizer):
    """The GPT-2 that the options name or describe, its words those of the tokenizer."""
    if options.decoder == "scratch":
        if options.n_embd % options.n_head:
            raise UserError(
                f"--n_embd {options.n_embd}: not a multiple of --n_head {options.n_head}"
            )
        config = GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=options.n_positions,
            n_embd=options.n_embd,
            n_layer=options.n_layer,
            n_head=options.n_head,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        decoder = GPT2LMHeadModel(config)
    else:
        advice = "--decoder takes a name on the hub, a local directory, or scratch (no download)"
        with loading(f"--decoder {options.decoder}", advice), quiet_transformers():
            decoder, report = GPT2LMHeadModel.from_pretrained(
                options.decoder, dtype=torch.float32, output_loading_info=True
            )
            if report["missing_keys"]:
                raise UserError(
                    f"--decoder {options.decoder}: not a GPT-2 (it lacks "
                    f"{sorted(report['missing_keys'])[0]})"
                )
        if len(tokenizer) < decoder.config.vocab_size:
            raise UserError(
                f"--decoder {options.decoder}: has {decoder.config.vocab_size} words, the data's "
                "tokenizer only "
                f"{len(tokenizer)}; preprocess with that decoder's tokenizer (python dataset.py "
                "--tokenizer …)"
            )
        decoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        decoder.config.bos_token_id, decoder.config.eos_token_id = (
            tokenizer.bos_token_id,
            tokenizer.eos_token_id,
        )
    for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
        setattr(decoder.config, name, options.dropout)
    return decoder
