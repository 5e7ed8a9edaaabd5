"""A small GPT-2 that is pretrained here, on lines of text: what stands in for the published one."""

import random

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import GPT2Config, GPT2LMHeadModel

from utils.losses import linear_cross_entropy
from utils.tokenizer import encode


def running_text(tokenizer, texts):
    """Each text as ids between two ends of text."""
    eos = tokenizer.eos_token_id
    return [torch.tensor([eos, *ids, eos]) for ids in encode(tokenizer, texts)]


def word_losses(decoder, ids):
    """−log p of every token of `ids` but the first, summed, and how many."""
    inputs = pad_sequence([x[:-1] for x in ids], True, 0)
    hidden = decoder.transformer(inputs, use_cache=False).last_hidden_state
    hidden = torch.cat([hidden[i, : len(x) - 1] for i, x in enumerate(ids)])
    words = torch.cat([x[1:] for x in ids])
    return linear_cross_entropy(words, hidden, decoder.lm_head.weight), len(words)


def pretrain(tokenizer, texts, steps, batch_size=16, lr=1e-3, report=print, **sizes):
    """A GPT-2 trained on texts, batch by batch of like length; the last 200 are held out."""
    torch.manual_seed(0)
    eos = tokenizer.eos_token_id
    sizes = dict(n_embd=256, n_layer=4, n_head=4, n_positions=512) | sizes
    config = GPT2Config(vocab_size=len(tokenizer), bos_token_id=eos, eos_token_id=eos, **sizes)
    decoder = GPT2LMHeadModel(config).train()
    ids = running_text(tokenizer, texts)
    train, held_out = ids[:-200], ids[-200:]
    rng = random.Random(0)
    adamw = torch.optim.AdamW(decoder.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adamw, lr, total_steps=steps, pct_start=0.05)
    batches = []
    for step in range(steps):
        if not batches:
            order = sorted(train, key=lambda x: len(x) + 5 * rng.random())
            batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
            rng.shuffle(batches)
        loss, count = word_losses(decoder, batches.pop())
        (loss / count).backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        adamw.step(), schedule.step(), adamw.zero_grad()
        if step % 100 == 0 or step == steps - 1:
            with torch.no_grad():
                decoder.eval()
                losses = [word_losses(decoder, held_out[i : i + 20]) for i in range(0, 200, 20)]
                decoder.train()
            total, words = (sum(x) for x in zip(*losses))
            report(f"step {step}: {loss / count:.3f}, held out {total / words:.3f} nats per token")
    return decoder.eval()


if __name__ == "__main__":
    import sys

    from utils.tokenizer import load_tokenizer

    texts_path, tokenizer_path, output, steps = sys.argv[1:]
    tokenizer = load_tokenizer(tokenizer_path)
    with open(texts_path) as file:
        texts = [line.strip() for line in file if line.strip()]
    decoder = pretrain(
        tokenizer, texts, int(steps), batch_size=8, report=lambda x: print(x, flush=True)
    )
    decoder.save_pretrained(output)
    tokenizer.save_pretrained(output)
